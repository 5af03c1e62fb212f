"""CSV files as people hold them: as such, or in a `.zip`, `.tar`, `.tar.gz` or `.gz`.

An archive is recognised by its content, and read as a stream: nothing is unpacked to disk, and what
a header says of a size is never trusted.  A member is named as if the archive were a folder,
`archive.zip/inner/name.csv`; where none is named, `fer2013.csv` is taken, else
`icml_face_data.csv`, else the only `.csv`.
"""

import contextlib
import dataclasses
import errno
import hashlib
import itertools
import os
import re
import stat
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

from fer_tfdata.errors import InputError

Packing = Literal["none", "gzip", "zip", "tar", "tar.gz"]

# Small enough that NumPy's passes over a block stay in the processor's cache.
_BLOCK_BYTES: Final = 1 << 20

_PREFERRED: Final = ("fer2013.csv", "icml_face_data.csv")
_ARCHIVE_SUFFIXES: Final = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar", ".zst")

# FER2013's CSV packs into a third, and one that repeats a single face into a 140th.
_MOST_GROWTH: Final = 100
_HARMLESS_BYTES: Final = 1 << 26
_MOST_BYTES: Final = 1 << 40
_MOST_MEMBERS: Final = 1_000_000

_TAR_BLOCK: Final = 512
_LONGEST_TAR_HEADER: Final = 1 << 20

_MAGIC: Final = {
    b"PK\x03\x04": "zip",
    b"PK\x05\x06": "zip",  # an empty one
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\x00": "xz",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x28\xb5\x2f\xfd": "zstd",
}


@dataclasses.dataclass(frozen=True)
class CsvFile:
    """A CSV file: one on disk, or one in an archive there.

    Attributes:
      file: what stands on disk.
      packing: how the CSV stands in it.
      member: its name in a zip or tar, as the archive has it; empty for the other packings.
    """

    file: Path
    packing: Packing
    member: str = ""

    @property
    def place(self) -> str:
        """What messages call it."""
        return f"{self.file}/{_shown(_normal(self.member))}" if self.member else str(self.file)

    @property
    def is_stream(self) -> bool:
        """Whether it can only be read from its beginning."""
        return self.packing != "none"

    @property
    def packed_bytes(self) -> int:
        """The size of what stands on disk.

        Raises:
          InputError: it does not stand there any more.
        """
        with _naming_errors(self.file):
            return self.file.stat().st_size

    def blocks(self, start: int = 0, end: int | None = None) -> Iterator[bytes]:
        """Yields the bytes from `start` to `end` (None: its end), at most 1 MiB at a time.

        A stream is unpacked from its beginning whatever `start` is.  Where `end` is None, the
        checksum of a zip's member or a gzip file is checked behind the last block; that of a
        `.tar.gz` is checked by `find_csv`, which goes through all of it.

        Raises:
          InputError: the file cannot be read, or the archive is damaged or unpacks to too much.
        """
        with _naming_errors(self.file):
            if self.is_stream:
                yield from _cut(self._unpacked(), start, end)
            else:
                yield from _range(self.file, start, end)

    def _unpacked(self) -> Iterator[bytes]:
        match self.packing:
            case "gzip":
                return _gunzip(self.file)
            case "zip":
                return _unzip(self.file, self.member)
            case _:
                return _untar(self._tar_blocks(), self.member)

    def _tar_blocks(self) -> Iterator[bytes]:
        return _gunzip(self.file) if self.packing == "tar.gz" else _range(self.file)


def find_csv(path: Path) -> CsvFile:
    """Returns the CSV that a path means: a file, a member of an archive, or an archive's CSV.

    Raises:
      InputError: there is no such file or member, it is not clear which member is meant, or it
        is one that is not read: encrypted, no regular file, an archive itself, named so that
        it would lie outside the archive's folder.
    """
    file, wanted = _split_path(path)
    with _naming_errors(file):
        csv = _find(file, wanted)
        packing = _packing_of(_head(csv.blocks()))
    if packing is not None:
        raise InputError(
            f"{csv.place}: expected a CSV, or one in a .zip, .tar, .tar.gz or .gz; received a"
            f" {packing} file{' in an archive' if csv.is_stream else ''}; unpack it first"
        )
    return csv


def describe_file(path: Path) -> dict[str, Any]:
    """Returns name, bytes and SHA-256 of the file on disk that a path names or leads through.

    Raises:
      InputError: the file cannot be read.
    """
    file, member = _split_path(path)
    with _naming_errors(file), file.open("rb") as opened:
        digest = hashlib.file_digest(opened, "sha256").hexdigest()
        num_bytes = opened.tell()
    name = f"{file.name}/{member}" if member else file.name
    return {"file": name, "bytes": num_bytes, "sha256": digest}


def _split_path(path: Path) -> tuple[Path, str]:
    """Returns the file on disk that a path names or leads through, and what follows it.

    Raises:
      InputError: there is no such file, or it is a directory, a pipe or a device.
    """
    with _naming_errors(path):
        for file in (path, *path.parents):
            # As when a folder is opened: what is no directory ends the search.
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                mode = file.stat().st_mode
                if stat.S_ISREG(mode):
                    return file, "/".join(path.parts[len(file.parts) :])
                if file != path:
                    break
                received = "Is a directory" if stat.S_ISDIR(mode) else "a pipe or a device"
                raise InputError(f"{path}: expected a readable CSV file, received: {received}")
    raise InputError(f"{path}: expected a readable CSV file, received: {os.strerror(errno.ENOENT)}")


@contextlib.contextmanager
def _naming_errors(file: Path) -> Iterator[None]:
    """Turns what goes wrong with a file into an `InputError` that names it."""
    try:
        yield
    except InputError:
        raise
    except OSError as error:
        raise InputError(
            f"{file}: expected a readable CSV file, received: {error.strerror or error}"
        ) from error
    except (
        EOFError,
        NotImplementedError,
        OverflowError,
        ValueError,
        struct.error,
        tarfile.TarError,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        reason = _shown(str(error) or "it ends too early")
        raise InputError(
            f"{file}: expected an undamaged archive, received one that cannot be read ({reason});"
            " fetch or pack it anew"
        ) from error


def _find(file: Path, wanted: str) -> CsvFile:
    packing = _packing_of(_head(_range(file)))
    if packing == "gzip" and _packing_of(_head(_gunzip(file))) == "tar":
        packing = "tar.gz"
    match packing:
        case "zip":
            return CsvFile(file, "zip", _choose(_zip_members(file), wanted, file))
        case "tar" | "tar.gz":
            blocks = _gunzip(file) if packing == "tar.gz" else _range(file)
            members = (member for member, _ in _tar_members(blocks))
            return CsvFile(file, packing, _choose(members, wanted, file))
    if wanted:
        raise InputError(
            f"{file}: expected an archive that holds {_shown(wanted)}, received a file that is no"
            " .zip or .tar; leave the name behind it out"
        )
    return CsvFile(file, "gzip" if packing == "gzip" else "none")


def _packing_of(head: bytes) -> str | None:
    for magic, packing in _MAGIC.items():
        if head.startswith(magic):
            return packing
    return "tar" if _is_tar(head) else None


def _is_tar(head: bytes) -> bool:
    if head[257:262] == b"ustar":
        return True
    try:  # the oldest have a checksum and no magic
        tarfile.TarInfo.frombuf(head[:_TAR_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


def _head(blocks: Iterator[bytes]) -> bytes:
    """Returns the first bytes, enough to tell an archive by."""
    head = b""
    for block in blocks:
        head += block
        if len(head) >= _TAR_BLOCK:
            break
    return head[:_TAR_BLOCK]


# The member that is meant.


@dataclasses.dataclass(frozen=True, slots=True)  # there may be very many
class _Member:
    """What stands in an archive under a name."""

    name: str
    is_regular: bool  # no directory, link or device
    problem: str = ""  # why it cannot be read

    @property
    def is_named_csv(self) -> bool:
        return self.name.lower().endswith(".csv")

    @property
    def is_csv(self) -> bool:
        return self.is_regular and self.is_named_csv

    @property
    def is_archive(self) -> bool:
        return self.is_regular and self.name.lower().endswith(_ARCHIVE_SUFFIXES)

    @property
    def is_leftover(self) -> bool:
        """Whether it is hidden, or put there by macOS."""
        return any(
            part == "__MACOSX" or (part.startswith(".") and part not in (".", ".."))
            for part in _parts(self.name)
        )


def _choose(members: Iterable[_Member], wanted: str, file: Path) -> str:
    """Returns the name of the member that is wanted, or of the one to be read where none is."""
    listed = list(itertools.islice(members, _MOST_MEMBERS + 1))
    if len(listed) > _MOST_MEMBERS:
        raise InputError(f"{file}: expected an archive of at most {_MOST_MEMBERS} members")
    visible = [member for member in listed if not member.is_leftover]
    chosen = _named(listed, visible, wanted, file) if wanted else _likeliest(visible, file)
    if chosen.problem:
        raise InputError(
            f"{file}: expected a member that can be read, received {_shown(chosen.name)}, which"
            f" {chosen.problem}"
        )
    if _escapes(chosen.name):
        raise InputError(
            f"{file}: expected a member with a relative path, received"
            f" {_shown(chosen.name)}, which leads out of the archive's folder or has"
            " backslashes; pack it anew"
        )
    return chosen.name


def _named(
    listed: Sequence[_Member], visible: Sequence[_Member], wanted: str, file: Path
) -> _Member:
    found = [member for member in listed if _normal(member.name) == wanted]
    around = [member for member in listed if wanted.startswith(f"{_normal(member.name)}/")]
    for member in (*found, *around):
        if member.is_archive:
            raise _nested(member, file)
    if not found:
        raise InputError(
            f"{file}: expected a member {_shown(wanted)}, received an archive of"
            f" {_listing(visible)}"
        )
    if len(found) > 1:
        raise InputError(
            f"{file}: expected one member {_shown(wanted)}, received {len(found)}; unpack it and"
            " give the file"
        )
    if not found[0].is_csv:
        raise InputError(
            f"{file}: expected a member that is a regular file ending in .csv, received"
            f" {_shown(wanted)}"
        )
    return found[0]


def _likeliest(visible: Sequence[_Member], file: Path) -> _Member:
    csvs = [member for member in visible if member.is_csv]
    candidates = csvs
    for name in _PREFERRED:
        preferred = [member for member in csvs if _parts(member.name)[-1].lower() == name]
        if preferred:
            candidates = preferred
            break
    if len(candidates) == 1:
        return candidates[0]
    if candidates:
        example = f"{file}/{_shown(_normal(candidates[0].name))}"
        raise InputError(
            f"{file}: expected one .csv in the archive, received {_listing(candidates)}; name the"
            f" one that is meant, as in {example}"
        )
    for member in visible:
        if member.is_archive:
            raise _nested(member, file)
        if member.is_named_csv:
            raise InputError(
                f"{file}: expected a .csv in the archive, received {_shown(member.name)}, which is"
                " a link or another thing that is no regular file; pack the file itself"
            )
    raise InputError(
        f"{file}: expected a .csv in the archive, received an archive of {_listing(visible)}"
    )


def _nested(member: _Member, file: Path) -> InputError:
    return InputError(
        f"{file}: expected a .csv in the archive, received another archive in it,"
        f" {_shown(member.name)}; unpack {file.name} first and give that one"
    )


def _escapes(name: str) -> bool:
    return (
        name.startswith("/")
        or "\\" in name
        or ".." in name.split("/")
        or re.match("[A-Za-z]:", name) is not None
    )


def _parts(name: str) -> list[str]:
    return re.split(r"[/\\]", name)


def _normal(name: str) -> str:
    """Returns a member's name as a path has it, without the `./` that tar writes before it."""
    parts = [part for part in name.split("/") if part not in ("", ".")]
    return ("/" if name.startswith("/") else "") + "/".join(parts)


def _listing(members: Sequence[_Member]) -> str:
    if not members:
        return "nothing"
    names = ", ".join(_shown(member.name) for member in members[:5])
    return f"{names} and {len(members) - 5} more" if len(members) > 5 else names


def _shown(name: str) -> str:
    """Returns a name fit for a message of one line."""
    name = name if len(name) <= 80 else f"{name[:80]}..."
    return name if name.isprintable() else ascii(name)


# Each form as the blocks of its content.


def _range(file: Path, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    with file.open("rb", buffering=0) as opened:
        opened.seek(start)
        while end is None or start < end:
            block = opened.read(_BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - start))
            if not block:
                return
            yield block
            start += len(block)


def _cut(blocks: Iterable[bytes], start: int, end: int | None) -> Iterator[bytes]:
    """Yields what stands from `start` to `end` in the blocks together."""
    position = 0
    for block in blocks:
        inner = block[max(0, start - position) : None if end is None else end - position]
        position += len(block)
        if inner:
            yield inner
        if end is not None and position >= end:
            return


def _gunzip(file: Path) -> Iterator[bytes]:
    return _bounded(_inflate(_range(file)), file, file.stat().st_size)


def _bounded(blocks: Iterable[bytes], file: Path, packed_bytes: int) -> Iterator[bytes]:
    """Yields the blocks until they are more than any honest file packs into so few bytes."""
    most = _most_bytes(packed_bytes)
    num_bytes = 0
    for block in blocks:
        num_bytes += len(block)
        if num_bytes > most:
            raise _too_large(file, packed_bytes)
        yield block


def _most_bytes(packed_bytes: int) -> int:
    return min(_MOST_BYTES, max(_HARMLESS_BYTES, _MOST_GROWTH * packed_bytes))


def _too_large(file: Path, packed_bytes: int) -> InputError:
    most = _most_bytes(packed_bytes)
    growth = f" ({_MOST_GROWTH} times its own)" if most == _MOST_GROWTH * packed_bytes else ""
    return InputError(
        f"{file}: expected an archive that unpacks to at most {most} bytes{growth}, received one"
        " with more; unpack it yourself if you trust it"
    )


def _inflate(packed: Iterator[bytes]) -> Iterator[bytes]:
    """Yields the contents of gzip members that stand one after another, zeros behind them.

    By `zlib`, which checks header and checksum as it goes: `gzip` reads a header byte by byte,
    however long it is.
    """
    data = next(packed, b"")
    while data:
        inflater = zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        while not inflater.eof:
            if not data:
                raise EOFError
            if block := inflater.decompress(data, _BLOCK_BYTES):
                yield block
            data = inflater.unconsumed_tail
            if not (data or inflater.eof):
                data = next(packed, b"")
        data = inflater.unused_data.lstrip(b"\0")
        while not data and (following := next(packed, b"")):
            data = following.lstrip(b"\0")


def _zip_members(file: Path) -> Iterator[_Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_regular = not info.filename.endswith("/") and kind in (0, stat.S_IFREG)
            yield _Member(info.filename, is_regular, _zip_problem(info))


def _zip_problem(info: zipfile.ZipInfo) -> str:
    if info.flag_bits & 0x41:  # encrypted, and strongly so
        return "is encrypted; unpack it and give the file"
    # The standard library unpacks bzip2 and LZMA without a bound on what comes out at once.
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        return f"is packed with method {info.compress_type}; pack it anew with Deflate"
    return ""


def _unzip(file: Path, name: str) -> Iterator[bytes]:
    with zipfile.ZipFile(file) as archive:
        info = archive.getinfo(name)
        packed_bytes = min(info.compress_size, file.stat().st_size)
        if info.file_size > _most_bytes(packed_bytes):
            raise _too_large(file, packed_bytes)
        with archive.open(info) as contents:
            yield from _bounded(iter(lambda: contents.read(_BLOCK_BYTES), b""), file, packed_bytes)


def _untar(blocks: Iterator[bytes], name: str) -> Iterator[bytes]:
    for member, contents in _tar_members(blocks):
        if member.name == name and member.is_regular:
            yield from contents
            return
    raise EOFError(f"{name} is not there any more")


class _Reader:
    """Blocks of bytes, none of them empty, as something to read from."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks = blocks
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Returns the next bytes: at least one and at most `size`, none at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        data, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return data


def _tar_members(blocks: Iterator[bytes]) -> Iterator[tuple[_Member, Iterator[bytes]]]:
    """Yields each member with the blocks of its content, which are to be read before the next.

    `tarfile` reads the headers' fields; what goes from header to header is done here, since it
    takes headers of any length into memory and, in some versions of Python, never returns from
    one that is made for it.
    """
    reader = _Reader(blocks)
    records: dict[bytes, bytes] = {}  # what headers of their own say of the next member
    while (header := _header(reader)).strip(b"\0"):
        info = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
        has_content = not (info.isdir() or info.issym() or info.islnk() or info.isdev())
        size = int(records.get(b"size", info.size)) if has_content else 0
        if size < 0:
            raise tarfile.ReadError("a negative size")
        contents = _exactly(reader, size)
        if info.type == tarfile.XHDTYPE:
            records |= _pax_records(_small(contents, size))
        elif info.type == tarfile.GNUTYPE_LONGNAME:
            records[b"path"] = _small(contents, size).rstrip(b"\0")
        elif info.type not in (tarfile.XGLTYPE, tarfile.GNUTYPE_LONGLINK):
            yield _tar_member(info, records), contents
            records = {}
        for _ in contents:
            pass
        for _ in _exactly(reader, -size % _TAR_BLOCK):
            pass
    for _ in blocks:  # so that the checksum of what packs the tar is met
        pass


def _tar_member(info: tarfile.TarInfo, records: dict[bytes, bytes]) -> _Member:
    path = records.get(b"path")
    name = info.name if path is None else path.decode("utf-8", "surrogateescape")
    is_sparse = info.issparse() or any(key.startswith(b"GNU.sparse") for key in records)
    return _Member(name, info.isreg() and not is_sparse)


def _pax_records(data: bytes) -> dict[bytes, bytes]:
    """Returns the fields of lines "<length> <key>=<value>", the lines' own length in bytes."""
    records = {}
    position = 0
    while position < len(data):
        blank = data.index(b" ", position)
        end = position + int(data[position:blank])
        if not blank < end <= len(data):
            raise tarfile.ReadError("a header that contradicts itself")
        key, _, value = data[blank + 1 : end - 1].partition(b"=")
        records[key] = value
        position = end
    return records


def _small(contents: Iterator[bytes], size: int) -> bytes:
    if size > _LONGEST_TAR_HEADER:
        raise tarfile.ReadError(f"a header of {size} bytes")
    return b"".join(contents)


def _header(reader: _Reader) -> bytes:
    """Returns a tar's next header, an empty one where the tar ends without a mark."""
    first = reader.read(_TAR_BLOCK)
    return first + b"".join(_exactly(reader, _TAR_BLOCK - len(first))) if first else b""


def _exactly(reader: _Reader, size: int) -> Iterator[bytes]:
    while size:
        block = reader.read(min(size, _BLOCK_BYTES))
        if not block:
            raise EOFError
        size -= len(block)
        yield block

import dataclasses
import gzip
import hashlib
import io
import itertools
import stat
import subprocess
import sys
import tarfile
import textwrap
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_tfdata.errors import InputError
from fer_tfdata.sources import KaggleCsv, archives
from fer_tfdata.sources.archives import find_csv
from tests.kaggle_csv_test import HEADER, ROOT, assert_equal, good_line, read

Contents = dict[str, bytes]  # of an archive's members, by their names


def csv_bytes(header: str = HEADER, quote: str = "") -> bytes:
    lines = [header, *(good_line(seed, header, quote) for seed in range(3)), "", "bad"]
    return "\n".join(lines).encode() + b"\n"


CSV_FORMS = {
    "fer2013": csv_bytes(),
    "icml_face_data": csv_bytes("emotion, Usage, pixels"),
    "train": csv_bytes("emotion,pixels"),
    "test": csv_bytes("pixels"),
    "semicolons": csv_bytes("\ufeffemotion;pixels;Usage"),
    "quoted": csv_bytes(quote='"'),
    "CRLF": csv_bytes().replace(b"\n", b"\r\n"),
}
CSV = CSV_FORMS["fer2013"]


def zip_of(contents: Contents, method: int = zipfile.ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        for name, content in contents.items():
            archive.writestr(name, content)
    return file.getvalue()


def tar_of(contents: Contents, tar_format: int = tarfile.PAX_FORMAT) -> bytes:
    return tar_of_members(
        [(tarfile.TarInfo(name), content) for name, content in contents.items()], tar_format
    )


def tar_of_members(
    members: Sequence[tuple[tarfile.TarInfo, bytes]], tar_format: int = tarfile.PAX_FORMAT
) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=tar_format) as archive:
        for info, content in members:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def stored_zip_of(contents: Contents) -> bytes:
    return zip_of(contents, zipfile.ZIP_STORED)


def ustar_of(contents: Contents) -> bytes:
    return tar_of(contents, tarfile.USTAR_FORMAT)


def gnu_tar_of(contents: Contents) -> bytes:
    return tar_of(contents, tarfile.GNU_FORMAT)


def oldest_tar_of(contents: Contents) -> bytes:
    """A tar as of 1979, whose headers have no magic."""
    data = bytearray(ustar_of(contents))
    position = 0
    while data[position : position + 1].strip(b"\0"):
        header = bytearray(data[position : position + 512])
        size = int(header[124:135], 8)
        header[257:] = bytes(255)
        header[148:156] = b" " * 8
        header[148:156] = b"%06o\0 " % sum(header)
        data[position : position + 512] = header
        position += 512 + size + -size % 512
    return bytes(data)


def tgz_of(contents: Contents) -> bytes:
    return gzip.compress(tar_of(contents), mtime=0)


def gz_of(contents: Contents) -> bytes:
    (content,) = contents.values()
    return gzip.compress(content, mtime=0)


def gz_of_pieces(contents: Contents) -> bytes:
    """Several gzip members, as parallel packers write them, and the zeros of a tape."""
    (content,) = contents.values()
    pieces = [content[:10], b"", content[10:5000], content[5000:]]
    return b"".join(gzip.compress(piece, mtime=0) for piece in pieces) + bytes(3000)


FORMS: dict[str, Callable[[Contents], bytes]] = {
    "zip": zip_of,
    "stored zip": stored_zip_of,
    "pax tar": tar_of,
    "ustar": ustar_of,
    "GNU tar": gnu_tar_of,
    "oldest tar": oldest_tar_of,
    "tgz": tgz_of,
    "gz": gz_of,
    "gz of pieces": gz_of_pieces,
}
WITH_MEMBERS = {name: form for name, form in FORMS.items() if not name.startswith("gz")}


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def refusal(path: Path) -> str:
    """The message of the InputError with which reading a file ends."""
    with pytest.raises(InputError) as caught:
        read(path)
    text = str(caught.value)
    assert len(text.splitlines()) == 1
    assert len(text) < 700 + 3 * len(str(path))
    return text


# What is read.


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("content", CSV_FORMS.values(), ids=CSV_FORMS)
def test_every_csv_comes_out_of_every_archive_as_it_is(
    tmp_path: Path, form: Callable[[Contents], bytes], content: bytes
):
    plain = written(tmp_path / "plain.csv", content)
    archive = written(tmp_path / "archive", form({"name.csv": content}))
    expected = read(plain)
    batch = read(archive, num_parts=7)
    place = f"{find_csv(archive).place}, line 6"
    assert [bad.place for bad in expected.bad_rows] == [f"{plain}, line 6"]
    assert [bad.place for bad in batch.bad_rows] == [place]
    bad_rows = [dataclasses.replace(bad, place=place) for bad in expected.bad_rows]
    assert_equal(batch, dataclasses.replace(expected, bad_rows=bad_rows))
    assert b"".join(find_csv(archive).blocks()) == content


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
def test_the_place_of_a_row_names_archive_and_member(
    tmp_path: Path, form: Callable[[Contents], bytes]
):
    path = written(tmp_path / "a.zip", form({"./in/fer2013.csv": CSV}))
    assert read(path).bad_rows[0].place == f"{path}/in/fer2013.csv, line 6"


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("name", ["fer2013.csv", "a.zip", "a.tar.gz", "a.tar", "a.gz", "a", "a.x"])
def test_an_archive_is_known_by_its_content(
    tmp_path: Path, form: Callable[[Contents], bytes], name: str
):
    path = written(tmp_path / name, form({"fer2013.csv": CSV}))
    assert read(path).rows.tolist() == [0, 1, 2]


def test_an_archive_is_one_part_beside_the_many_of_a_plain_file(tmp_path: Path):
    lines = "".join(f"{good_line(seed)}\n" for seed in range(200)).encode()
    plain = written(tmp_path / "plain.csv", HEADER.encode() + b"\n" + lines)
    archive = written(tmp_path / "a.zip", stored_zip_of({"a.csv": plain.read_bytes()}))
    parts = KaggleCsv((archive, plain)).parts(8)
    assert [part.table.csv.file for part in parts] == [archive, *[plain] * 4]
    assert_equal(read(archive, plain, num_parts=8), read(plain, plain))


@pytest.mark.parametrize("block_bytes", [1, 511, 513])
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_blocks_of_any_length(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: Callable[[Contents], bytes],
    block_bytes: int,
):
    content = csv_bytes()[:3000]
    path = written(tmp_path / "archive", form({"fer2013.csv": content}))
    monkeypatch.setattr(archives, "_BLOCK_BYTES", block_bytes)
    csv_file = find_csv(path)
    assert b"".join(csv_file.blocks()) == content
    for start, end in [(0, 0), (0, 1), (1, 2999), (17, 600), (500, 5000), (3000, 3001)]:
        assert b"".join(csv_file.blocks(start, end)) == content[start:end]
        assert b"".join(csv_file.blocks(start)) == content[start:]


def test_what_a_source_says_of_an_archive(tmp_path: Path):
    path = written(tmp_path / "a.zip", zip_of({"in/x.csv": CSV}))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    size = path.stat().st_size
    assert KaggleCsv((path, path / "in" / "x.csv")).describe() == {
        "files": [
            {"file": "a.zip", "bytes": size, "sha256": digest, "member": "in/x.csv"},
            {"file": "a.zip/in/x.csv", "bytes": size, "sha256": digest, "member": "in/x.csv"},
        ]
    }


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
def test_which_of_several_members_was_read_is_said(tmp_path: Path, form):
    names = ["in/train.csv", "in/icml_face_data.csv", "in/test.csv"]
    path = written(tmp_path / "archive", form(dict.fromkeys(names, CSV)))
    assert KaggleCsv((path,)).describe()["member"] == "in/icml_face_data.csv"


def test_a_packed_csv_has_no_member(tmp_path: Path):
    path = written(tmp_path / "a.csv.gz", gzip.compress(CSV))
    assert KaggleCsv((path,)).describe().keys() == {"file", "bytes", "sha256"}


# Which member.

OTHER = b"pixels\n"  # has no rows, so that reading it is an error


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
@pytest.mark.parametrize(
    ("names", "chosen"),
    [
        (["fer2013.csv"], "fer2013.csv"),
        (["README", "fer2013/fer2013.csv", "fer2013/fer2013.bib"], "fer2013/fer2013.csv"),
        (["train.csv", "x/FER2013.CSV", "icml_face_data.csv"], "x/FER2013.CSV"),
        (["train.csv", "test.csv", "x/icml_face_data.csv"], "x/icml_face_data.csv"),
        (["a.txt", "b/some.csv", "c.csv.txt", "d.csv.png"], "b/some.csv"),
        (["__MACOSX/fer2013.csv", "some.csv", "__MACOSX/._some.csv"], "some.csv"),
        (["._fer2013.csv", ".hidden/fer2013.csv", "some.csv"], "some.csv"),
        (["./fer2013.csv"], "./fer2013.csv"),
        (["größe/face.csv"], "größe/face.csv"),
        ([f"{'long/' * 15}x.csv"], f"{'long/' * 15}x.csv"),
    ],
)
def test_the_member_that_is_read_where_none_is_named(
    tmp_path: Path, form: Callable[[Contents], bytes], names: Sequence[str], chosen: str
):
    contents = {name: CSV if name == chosen else OTHER for name in names}
    path = written(tmp_path / "archive", form(contents))
    assert find_csv(path).member == chosen
    assert read(path).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", [tar_of, gnu_tar_of, tgz_of])
def test_names_longer_than_a_header_s_field(tmp_path: Path, form: Callable[[Contents], bytes]):
    name = f"{'größer/' * 60}fer2013.csv"
    path = written(tmp_path / "archive", form({"x/" * 200: b"", name: CSV, "y" * 300: b"."}))
    assert find_csv(path).member == name
    assert read(path).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
@pytest.mark.parametrize("name", ["train.csv", "x/train.csv", "./y/train.csv", ".z/train.csv"])
def test_a_member_may_be_named(tmp_path: Path, form: Callable[[Contents], bytes], name: str):
    names = ["fer2013.csv", "train.csv", "x/train.csv", "./y/train.csv", ".z/train.csv"]
    path = written(
        tmp_path / "archive", form({other: CSV if other == name else OTHER for other in names})
    )
    assert read(path / name).rows.tolist() == [0, 1, 2]


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a.txt", "b.png"], "expected a .csv in the archive, received an archive of a.txt, b.png"),
        ([f"{i}.png" for i in range(9)], "0.png, 1.png, 2.png, 3.png, 4.png and 4 more"),
        (
            ["a.csv", "b/c.csv"],
            "received a.csv, b/c.csv; name the one that is meant, as in {}/a.csv",
        ),
        (["a/fer2013.csv", "b/fer2013.csv", "icml_face_data.csv"], "as in {}/a/fer2013.csv"),
        (["__MACOSX/fer2013.csv", ".fer2013.csv"], "received an archive of nothing"),
        (["a.txt", "in/archive.zip"], "received another archive in it, in/archive.zip; unpack"),
        (["archive.tar.gz"], "received another archive in it, archive.tar.gz; unpack"),
        (["a\nb.txt"], r"received an archive of 'a\nb.txt'"),
    ],
)
def test_where_it_is_not_clear_which_member_is_meant(
    tmp_path: Path, form: Callable[[Contents], bytes], names: Sequence[str], message: str
):
    path = written(tmp_path / "archive", form(dict.fromkeys(names, CSV)))
    text = refusal(path)
    assert text.startswith(f"{path}: ")
    assert message.format(path) in text


def test_an_empty_archive(tmp_path: Path):
    path = written(tmp_path / "a.zip", zip_of({}))
    assert "expected a .csv in the archive, received an archive of nothing" in refusal(path)
    assert "expected the columns" in refusal(written(tmp_path / "a.tar", tar_of({})))  # all zeros


@pytest.mark.parametrize("form", WITH_MEMBERS.values(), ids=WITH_MEMBERS)
@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ("b.csv", "expected a member b.csv, received an archive of a.csv, x.txt, in.zip"),
        ("x.txt", "expected a member that is a regular file ending in .csv, received x.txt"),
        ("in.zip", "received another archive in it, in.zip; unpack archive first"),
        ("in.zip/a.csv", "received another archive in it, in.zip; unpack archive first"),
        ("a.csv/b.csv", "expected a member a.csv/b.csv"),
    ],
)
def test_a_member_that_cannot_be_the_one(
    tmp_path: Path, form: Callable[[Contents], bytes], wanted: str, message: str
):
    contents = {"a.csv": CSV, "x.txt": b"", "in.zip": zip_of({"a.csv": CSV})}
    path = written(tmp_path / "archive", form(contents))
    assert message in refusal(path / wanted)


@pytest.mark.parametrize("content", [CSV, gz_of({"": CSV})], ids=["plain", "gz"])
def test_only_an_archive_has_members(tmp_path: Path, content: bytes):
    path = written(tmp_path / "fer2013.csv.gz", content)
    assert f"{path}: expected an archive that holds a.csv" in refusal(path / "a.csv")


def test_a_path_that_leads_nowhere(tmp_path: Path):
    for path in (tmp_path / "no.zip" / "a.csv", tmp_path / "no" / "a.csv", tmp_path / "no.csv"):
        assert refusal(path) == (
            f"{path}: expected a readable CSV file, received: No such file or directory"
        )


@pytest.mark.parametrize("make", [zip_of, tar_of], ids=["zip", "tar"])
def test_two_members_of_one_name(tmp_path: Path, make: Callable[[Contents], bytes]):
    file = make({"fer2013.csv": CSV, "fer2013_csv": CSV}).replace(b"fer2013_csv", b"fer2013.csv")
    if make is tar_of:
        members = [(tarfile.TarInfo("fer2013.csv"), CSV) for _ in range(2)]
        file = tar_of_members(members)
    path = written(tmp_path / "archive", file)
    assert "received fer2013.csv, fer2013.csv" in refusal(path)
    assert "received 2; unpack it and give the file" in refusal(path / "fer2013.csv")


# What is refused.


@pytest.mark.parametrize("form", [zip_of, tar_of, tgz_of], ids=["zip", "tar", "tgz"])
@pytest.mark.parametrize(
    "name",
    [
        "/fer2013.csv",
        "/etc/fer2013.csv",
        "../fer2013.csv",
        "x/../../fer2013.csv",
        "..\\fer2013.csv",
        "x\\fer2013.csv",
        "\\fer2013.csv",
        "C:\\fer2013.csv",
        "C:fer2013.csv",
        "c:/fer2013.csv",
    ],
)
def test_a_member_whose_path_escapes(tmp_path: Path, form: Callable[[Contents], bytes], name: str):
    path = written(tmp_path / "archive", form({name: CSV}))
    assert "leads out of the archive's folder or has backslashes" in refusal(path)
    # Where it is not the one to be read it does no harm.
    path = written(tmp_path / "archive", form({name: CSV, "other.csv": CSV}))
    assert read(path / "other.csv").rows.tolist() == [0, 1, 2]


def test_a_path_that_escapes_may_not_be_named_either(tmp_path: Path):
    path = written(tmp_path / "a.zip", zip_of({"../fer2013.csv": CSV}))
    assert "leads out of the archive's folder" in refusal(path / ".." / "fer2013.csv")


@pytest.mark.parametrize(
    "kind",
    [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE],
    ids=["symlink", "hard link", "pipe", "device", "directory"],
)
def test_what_is_no_regular_file_does_not_count(tmp_path: Path, kind: bytes):
    odd = tarfile.TarInfo("fer2013.csv")
    odd.type = kind
    odd.linkname = "/etc/passwd"
    path = written(
        tmp_path / "a.tar", tar_of_members([(odd, b""), (tarfile.TarInfo("b.csv"), CSV)])
    )
    assert find_csv(path).member == "b.csv"
    assert "expected a member that is a regular file" in refusal(path / "fer2013.csv")
    path = written(tmp_path / "odd.tar", tar_of_members([(odd, b"")]))
    assert "received fer2013.csv, which is a link or another thing" in refusal(path)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFDIR])
def test_what_is_no_regular_file_in_a_zip_does_not_count(tmp_path: Path, kind: int):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        odd = zipfile.ZipInfo("fer2013.csv")
        odd.create_system = 3
        odd.external_attr = (kind | 0o644) << 16
        archive.writestr(odd, "/etc/passwd")
        archive.writestr("b.csv", CSV)
    path = written(tmp_path / "a.zip", file.getvalue())
    assert find_csv(path).member == "b.csv"
    assert "expected a member that is a regular file" in refusal(path / "fer2013.csv")


def test_a_sparse_member_is_no_regular_file(tmp_path: Path):
    sparse = tarfile.TarInfo("fer2013.csv")
    sparse.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0"}
    path = written(tmp_path / "a.tar", tar_of_members([(sparse, CSV)]))
    assert "expected a .csv in the archive" in refusal(path)


def with_flag(archive: bytes, flag: int) -> bytes:
    """A zip with a flag set in the headers of all its members."""
    data = bytearray(archive)
    for signature, offset in ((b"PK\1\2", 8), (b"PK\3\4", 6)):
        position = data.find(signature)
        while position >= 0:
            data[position + offset] |= flag
            position = data.find(signature, position + 4)
    return bytes(data)


@pytest.mark.parametrize("flag", [0x01, 0x41], ids=["encrypted", "strongly encrypted"])
def test_an_encrypted_member(tmp_path: Path, flag: int):
    path = written(tmp_path / "a.zip", with_flag(stored_zip_of({"fer2013.csv": CSV}), flag))
    assert "received fer2013.csv, which is encrypted; unpack it and give the file" in refusal(path)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_is_not_supported(tmp_path: Path, method: int):
    path = written(tmp_path / "a.zip", zip_of({"fer2013.csv": CSV}, method))
    assert f"which is packed with method {method}; pack it anew with Deflate" in refusal(path)


@pytest.mark.parametrize(
    ("content", "packing"),
    [
        (b"BZh91AY&SY", "bzip2"),
        (b"\xfd7zXZ\x00\x00\x04", "xz"),
        (b"7z\xbc\xaf\x27\x1c\x00\x04", "7z"),
        (b"Rar!\x1a\x07\x01\x00", "rar"),
        (b"\x28\xb5\x2f\xfd\x24\x00", "zstd"),
    ],
)
def test_an_archive_of_another_kind(tmp_path: Path, content: bytes, packing: str):
    path = written(tmp_path / "fer2013.csv", content)
    assert f"received a {packing} file; unpack it first" in refusal(path)


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        *itertools.product(WITH_MEMBERS.values(), [zip_of, tar_of, tgz_of, gz_of]),
        *itertools.product([gz_of, gz_of_pieces], [zip_of, tgz_of, gz_of]),
    ],
)
def test_an_archive_in_an_archive_under_the_name_of_a_csv(
    tmp_path: Path, outer: Callable[[Contents], bytes], inner: Callable[[Contents], bytes]
):
    path = written(tmp_path / "archive", outer({"fer2013.csv": inner({"fer2013.csv": CSV})}))
    assert "file in an archive; unpack it first" in refusal(path)


# Archives made to do harm.


def repeated_row_zip(num_bytes: int) -> bytes:
    file = io.BytesIO()
    row = f"{good_line(0)}\n".encode()
    rows = row * (1_000_000 // len(row))
    with (
        zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("fer2013.csv", "w") as member,
    ):
        member.write(f"{HEADER}\n".encode())
        for _ in range(num_bytes // len(rows)):
            member.write(rows)
    return file.getvalue()


def repeated_row_gz(num_bytes: int, prefix: bytes = b"") -> bytes:
    row = f"{good_line(0)}\n".encode()
    rows = row * (5_000_000 // len(row))
    head = gzip.compress(prefix + f"{HEADER}\n".encode(), mtime=0)
    return head + gzip.compress(rows, mtime=0) * (num_bytes // len(rows))


@pytest.fixture(scope="module")
def bombs() -> dict[str, bytes]:
    """100 MB, most of it one row, packed into less than a hundredth."""
    tar_head = tarfile.TarInfo("fer2013.csv")
    tar_head.size = 100_000_000
    junk = tarfile.TarInfo("junk.png")
    junk.size = 100_000_000
    zeros = gzip.compress(bytes(5_000_000), mtime=0) * 20
    return {
        "zip": repeated_row_zip(100_000_000),
        "gz": repeated_row_gz(100_000_000),
        "tgz": repeated_row_gz(100_000_000, tar_head.tobuf()),
        "tgz with other members": gzip.compress(junk.tobuf()) + zeros + tgz_of({"a.csv": CSV}),
    }


@pytest.mark.parametrize("kind", ["zip", "gz", "tgz", "tgz with other members"])
def test_a_bomb_is_left_before_it_goes_off(tmp_path: Path, bombs: dict[str, bytes], kind: str):
    path = written(tmp_path / "bomb", bombs[kind])
    assert path.stat().st_size < 1_000_000
    assert "expected an archive that unpacks to at most" in refusal(path)


def test_the_bound_is_called_by_its_reason(tmp_path: Path):
    small, large = tmp_path / "small.gz", tmp_path / "large.gz"
    small.write_bytes(repeated_row_gz(90_000_000))
    large.write_bytes(repeated_row_gz(100_000_000))
    assert 100 * small.stat().st_size < 64 << 20 < 100 * large.stat().st_size
    assert "at most 67108864 bytes, received" in refusal(small)
    most = 100 * large.stat().st_size
    assert f"at most {most} bytes (100 times its own), received" in refusal(large)


def with_declared_size(archive: bytes, size: int) -> bytes:
    """A zip of one member with another size in its headers."""
    data = bytearray(archive)
    central, local = data.rindex(b"PK\1\2"), data.index(b"PK\3\4")
    data[central + 24 : central + 28] = size.to_bytes(4, "little")
    data[local + 22 : local + 26] = size.to_bytes(4, "little")
    return bytes(data)


def test_a_bomb_that_lies_about_its_size(tmp_path: Path, bombs: dict[str, bytes]):
    path = written(tmp_path / "a.zip", with_declared_size(bombs["zip"], 50_000_000))
    assert "expected an undamaged archive" in refusal(path)


def test_a_zip_may_have_a_member_without_a_name(tmp_path: Path):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.open(zipfile.ZipInfo(""), "w").close()
        archive.writestr("some.csv", CSV)
    path = written(tmp_path / "a.zip", file.getvalue())
    assert find_csv(path).member == "some.csv"


def test_a_member_that_declares_an_absurd_size(tmp_path: Path):
    path = written(
        tmp_path / "a.zip", with_declared_size(zip_of({"fer2013.csv": CSV}), 4_000_000_000)
    )
    assert "expected an archive that unpacks to at most" in refusal(path)
    info = tarfile.TarInfo("fer2013.csv")
    info.size = 1 << 60
    path = written(tmp_path / "a.tar", info.tobuf(tarfile.GNU_FORMAT) + CSV)
    assert "expected an undamaged archive" in refusal(path)


def tar_header(kind: bytes, size: int, content: bytes = b"") -> bytes:
    info = tarfile.TarInfo("fer2013.csv")
    info.type = kind
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT) + content + bytes(-len(content) % 512)


@pytest.mark.parametrize("make", [bytes, gzip.compress], ids=["tar", "tgz"])
@pytest.mark.parametrize(
    "head",
    [
        tar_header(tarfile.REGTYPE, -512),
        tar_header(tarfile.REGTYPE, -(1 << 60)),
        tar_header(tarfile.XHDTYPE, 1 << 50, b"20 path=fer2013.csv\n"),
        tar_header(tarfile.XHDTYPE, 3_000_000, b"1" * 3_000_000),
        tar_header(tarfile.XHDTYPE, 1_000_000, b"1" * 1_000_000),
        tar_header(tarfile.XHDTYPE, 1_000_000, b"0 " * 500_000),
        tar_header(tarfile.XHDTYPE, 12, b"-9 path=x.y\n"),
        tar_header(tarfile.XHDTYPE, 12, b"99 path=x.y\n"),
        tar_header(tarfile.XHDTYPE, 11, b"11 size=-9\n"),
        tar_header(tarfile.GNUTYPE_LONGNAME, 1 << 40),
        tar_header(b"?", 1 << 50),
    ],
)
def test_headers_of_a_tar_that_are_made_to_do_harm(
    tmp_path: Path, make: Callable[[bytes], bytes], head: bytes
):
    path = written(tmp_path / "a.tar", make(head + tar_of({"fer2013.csv": CSV})))
    assert "expected an undamaged archive" in refusal(path)


def test_a_gzip_header_without_an_end(tmp_path: Path):
    path = written(tmp_path / "a.gz", b"\x1f\x8b\x08\x08" + bytes(6) + b"x" * 20_000_000)
    assert "expected an undamaged archive" in refusal(path)


def test_memory_does_not_grow_with_what_is_in_an_archive(tmp_path: Path):
    rows = "".join(f"{good_line(seed)}\n" for seed in range(100)).encode()
    content_bytes = len(HEADER) + 1 + 100 * len(rows)
    info = tarfile.TarInfo("fer2013.csv")
    info.size = content_bytes
    head, end = info.tobuf() + f"{HEADER}\n".encode(), bytes(-content_bytes % 512 + 1024)
    packed = gzip.compress(rows, compresslevel=1) * 100
    path = written(tmp_path / "a.tgz", gzip.compress(head) + packed + gzip.compress(end))
    program = """
        import re, sys
        from pathlib import Path
        from fer_tfdata.sources import KaggleCsv

        def peak_kib():
            return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

        before = peak_kib()
        (part,) = KaggleCsv((Path(sys.argv[1]),)).parts(1)
        print(sum(len(batch.rows) for batch in part.batches(0)), peak_kib() - before)
    """
    output = subprocess.check_output(
        [sys.executable, "-c", textwrap.dedent(program), str(path)], cwd=ROOT, text=True
    )
    num_rows, growth_kib = map(int, output.split())
    assert num_rows == 10_000
    assert growth_kib < 60_000


# Damage.

SMALL = "\n".join([HEADER, good_line(0), good_line(1)]).encode() + b"\n"


@pytest.mark.parametrize("form", [*WITH_MEMBERS.values(), gz_of], ids=[*WITH_MEMBERS, "gz"])
def test_an_archive_may_be_cut_anywhere(tmp_path: Path, form: Callable[[Contents], bytes]):
    others = {} if form is gz_of else {"a.txt": SMALL[:700]}
    whole = form({**others, "fer2013.csv": SMALL})
    path = tmp_path / "archive"
    # A tar ends in zeros, none of which need be there.
    content_end = len(whole.rstrip(b"\0")) if whole.endswith(bytes(1024)) else len(whole)
    step = max(1, len(whole) // 60)
    for end in {*range(0, content_end, step), *range(30), content_end - 1}:
        path.write_bytes(whole[:end])
        assert refusal(path).startswith(str(path))
    path.write_bytes(whole)
    assert read(path).rows.tolist() == [0, 1]


@pytest.mark.parametrize("form", [zip_of, stored_zip_of, tgz_of, gz_of, gz_of_pieces])
def test_a_changed_byte_never_goes_unseen(tmp_path: Path, form: Callable[[Contents], bytes]):
    whole = form({"fer2013.csv": SMALL})
    path = written(tmp_path / "archive", whole)
    expected = read(path)
    for position in {*range(0, len(whole), max(1, len(whole) // 60)), *range(45)}:
        damaged = bytearray(whole)
        damaged[position] ^= 0x10
        path.write_bytes(damaged)
        try:
            batch = read(path)
        except InputError:
            continue
        assert_equal(batch, expected)  # a byte that says nothing of the content, such as a date


def test_garbage_behind_a_gzip_is_damage(tmp_path: Path):
    path = written(tmp_path / "a.gz", gz_of({"": SMALL}) + b"garbage")
    assert "expected an undamaged archive" in refusal(path)


@st.composite
def mutations(draw: st.DrawFn) -> tuple[str, bytes]:
    """An archive with some bytes changed, removed, inserted or repeated."""
    name = draw(st.sampled_from(sorted(FORMS)))
    contents = {"a/x.txt": b"x" * 600, "fer2013.csv": SMALL}
    data = bytearray(FORMS[name](contents if name in WITH_MEMBERS else {"": SMALL}))
    for _ in range(draw(st.integers(1, 5))):
        # Headers stand near the ends, and near others.
        position = draw(st.integers(0, 600) | st.integers(0, len(data)))
        position = len(data) - position if draw(st.booleans()) else position
        position = min(max(position, 0), len(data))
        length = draw(st.integers(0, 8))
        data[position : position + length] = draw(
            st.binary(max_size=8) | st.sampled_from([b"\xff" * 8, b"\x80" + bytes(7), b"7" * 8])
        )
    return name, bytes(data)


def assert_rows_or_refusal(path: Path) -> None:
    """Whatever a file holds, it gives rows or an InputError."""
    try:
        batch = read(path)
    except InputError as error:
        message = str(error)
        assert message.startswith(str(path)), message
        assert len(message.splitlines()) == 1, message
        return
    rows = [*batch.rows.tolist(), *(bad.row for bad in batch.bad_rows)]
    assert sorted(rows) == list(range(len(rows)))


@settings(max_examples=200, deadline=20_000)
@given(mutations())
def test_a_mutated_archive_gives_rows_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[str, bytes]
):
    path = written(tmp_path_factory.getbasetemp() / "mutated", case[1])
    assert_rows_or_refusal(path)


CSV_PIECES = [
    b",",
    b";",
    b"\t",
    b'"',
    b"\n",
    b"\r\n",
    b"\r",
    b" ",
    b"0",
    b"255",
    b"\0",
    b"\xff\xfe",
]
CSV_PIECES += [b"emotion", b"pixels", b"Usage", b"Training", HEADER.encode(), b"\xef\xbb\xbf"]
CSV_PIECES += [f"\n{good_line(1)}".encode(), f"\n{good_line(2, quote=chr(34))}\n".encode()]
CSV_PIECES += [b"PK\x03\x04", b"\x1f\x8b\x08"]


@settings(max_examples=200, deadline=20_000)
@given(st.lists(st.sampled_from(CSV_PIECES) | st.binary(max_size=4), max_size=25).map(b"".join))
def test_any_bytes_give_rows_or_an_input_error(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
):
    path = tmp_path_factory.getbasetemp() / "fuzzed"
    for head in (b"", f"{HEADER}\n".encode()):
        assert_rows_or_refusal(written(path, head + content))

"""What is to be predicted: files, folders and glob patterns in, pictures out.

Nothing is ever fetched from a network.
"""

import glob
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from fer_tfdata import images, video
from fer_tfdata.errors import InputError
from fer_tfdata.frames import Frame

_EXPECTED: Final = "expected an image or video file, a folder of them or a glob pattern"
_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def find_files(named: str | os.PathLike[str]) -> list[Path]:
    """Returns the files that an input means, sorted.

    Args:
      named: an image or video file; a folder, of which, with its subfolders, the files with an
        image's or a video's suffix count; or a glob pattern, of whose matches the same count.
        Hidden files are passed over always, hidden folders and links to folders unless a pattern
        names them.  A folder that cannot be listed stands among the files, as one that cannot be
        read, if it is named or met below a named one or by `**`; `*` and the like pass over it.

    Raises:
      InputError: nothing there fits, or it is an address on a network.
    """
    text = os.fspath(named)
    if not text:  # which pathlib takes for the working directory
        raise InputError(f"{_EXPECTED}, received an empty name")
    path = Path(text)
    try:
        is_folder, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"{text}: {_EXPECTED}, received: {error.strerror}") from error
    closed: list[Path] = []
    if is_folder:
        candidates: Iterable[Path] = (
            folder / file for folder, files in _walk(path, closed) for file in files
        )
    elif exists:
        return [path]
    elif _ADDRESS.match(text):
        raise InputError(
            f"{text}: expected a file on this machine, received an address; download it first"
        )
    else:
        candidates = _matches(path, closed)
    found = sorted({*filter(_counts, candidates), *closed})
    if not found:
        received = "a folder without any" if is_folder else "nothing there"
        raise InputError(f"{text}: {_EXPECTED}, received {received}")
    return found


def is_video(path: Path) -> bool:
    """Returns whether a file is read as a video, which its suffix says."""
    return path.suffix.lower() in video.VIDEO_SUFFIXES


def read_frames(files: Iterable[Path]) -> Iterator[Frame]:
    """Yields an image's picture and a video's frames, file after file.

    What cannot be read gives, at its place, a frame with an error, and the rest goes on.
    """
    for file in files:
        try:
            if is_video(file):
                yield from video.read_frames(file)
            elif file.is_dir():
                raise InputError(
                    f"{file}: expected a folder that can be listed, received one that cannot"
                )
            else:
                yield Frame(source=file, pixels=images.read_image(file))
        except InputError as error:
            yield Frame(source=file, error=str(error))
        except OSError as error:  # in a folder that is closed to this user
            reason = f"{file}: expected a file to read, received: {error.strerror}"
            yield Frame(source=file, error=reason)


def num_frames(files: Iterable[Path]) -> int:
    """Returns how many frames `read_frames` is expected to yield."""
    return sum(video.num_frames(file) if is_video(file) else 1 for file in files)


def _walk(top: Path, closed: list[Path]) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder and those below it, hidden ones and links aside, and the names of files.

    Folders that cannot be listed join `closed`.
    """

    def bar(error: OSError) -> None:
        closed.append(Path(error.filename))

    for folder, below, files in os.walk(top, onerror=bar):
        below[:] = [name for name in below if not name.startswith(".")]
        yield Path(folder), files


def _matches(pattern: Path, closed: list[Path]) -> Iterator[Path]:
    """Yields what matches a glob pattern, of which `**` may make some of it come twice.

    Folders below `**` that cannot be listed join `closed`; glob passes over others.
    """
    parts = pattern.parts
    if "**" not in parts:
        # pathlib's glob takes no absolute pattern.
        yield from map(Path, glob.iglob(os.fspath(pattern)))  # noqa: PTH207
        return
    # glob's own `**` follows links, to a folder above too.
    place = parts.index("**")
    rest = parts[place + 1 :] or ("*",)
    for top in _matches(Path(*parts[:place]), closed):
        for folder, _ in _walk(top, closed) if _is_folder(top, closed) else ():
            yield from _matches(Path(glob.escape(os.fspath(folder)), *rest), closed)


def _is_folder(match: Path, closed: list[Path]) -> bool:
    """Returns whether a match is a folder; where that cannot be seen, it joins `closed`."""
    try:
        return match.is_dir()
    except OSError:
        closed.append(match)
        return False


def _counts(candidate: Path) -> bool:
    suffixes = images.IMAGE_SUFFIXES | video.VIDEO_SUFFIXES
    return (
        candidate.suffix.lower() in suffixes
        # What file managers leave beside an image; a pattern for hidden files would match it too.
        and not candidate.name.startswith(".")
        and _may_be_file(candidate)
    )


def _may_be_file(candidate: Path) -> bool:
    try:
        return candidate.is_file()
    except OSError:  # who reads it will say so
        return True

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

_ADDRESS: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")


def find_files(named: str | os.PathLike[str]) -> list[Path]:
    """Returns the files that an input means, sorted.

    Args:
      named: an image or video file; a folder, of which, with its subfolders, the files with an
        image's or a video's suffix count; or a glob pattern, of whose matches the same count.
        Hidden files and folders are passed over, and no link is followed to a subfolder, unless a
        pattern names them.

    Raises:
      InputError: nothing there fits, or it is an address on a network.
    """
    text = os.fspath(named)
    path = Path(text)
    if path.is_dir():
        candidates: Iterable[Path] = (
            folder / file for folder, files in _walk(path) for file in files
        )
    elif path.exists():
        return [path]
    elif _ADDRESS.match(text):
        raise InputError(
            f"{text}: expected a file on this machine, received an address; download it first"
        )
    else:
        candidates = _matches(path)
    found = sorted({candidate for candidate in candidates if _counts(candidate)})
    if not found:
        received = "a folder without any" if path.is_dir() else "nothing there"
        raise InputError(
            f"{text}: expected an image or video file, a folder of them or a glob pattern, "
            f"received {received}"
        )
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
            else:
                yield Frame(source=file, pixels=images.read_image(file))
        except InputError as error:
            yield Frame(source=file, error=str(error))


def num_frames(files: Iterable[Path]) -> int:
    """Returns how many frames `read_frames` is expected to yield."""
    return sum(video.num_frames(file) if is_video(file) else 1 for file in files)


def _walk(top: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yields a folder and those below it, hidden ones and links aside, and the names of files."""
    for folder, below, files in os.walk(top):
        below[:] = [name for name in below if not name.startswith(".")]
        yield Path(folder), files


def _matches(pattern: Path) -> Iterator[Path]:
    """Yields what matches a glob pattern, of which `**` may make some of it come twice."""
    parts = pattern.parts
    if "**" not in parts:
        # pathlib's glob takes no absolute pattern.
        yield from map(Path, glob.iglob(os.fspath(pattern)))  # noqa: PTH207
        return
    # glob's own `**` follows links, to a folder above too.
    place = parts.index("**")
    rest = parts[place + 1 :] or ("*",)
    for top in _matches(Path(*parts[:place])):
        for folder, _ in _walk(top):
            yield from _matches(Path(glob.escape(os.fspath(folder)), *rest))


def _counts(candidate: Path) -> bool:
    suffixes = images.IMAGE_SUFFIXES | video.VIDEO_SUFFIXES
    return (
        candidate.suffix.lower() in suffixes
        and not candidate.name.startswith(".")  # what file managers leave beside an image
        and candidate.is_file()
    )

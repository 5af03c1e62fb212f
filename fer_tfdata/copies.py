"""Writes copies of images and videos in which what a model says of the faces is drawn."""

import contextlib
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Final

from PIL import Image

from fer_tfdata import annotation, atomic, inputs
from fer_tfdata.errors import InputError
from fer_tfdata.frames import Frame, VideoCounter
from fer_tfdata.images import Pixels
from fer_tfdata.results import ImagePrediction
from fer_tfdata.video import VideoWriter

_MOST_BYTES: Final = 255  # of a file's name


def name_copies(files: Iterable[Path], output_dir: Path) -> dict[Path, Path]:
    """Returns where the copy of each file goes: its own name, numbered if taken.

    Where that would be more than the 255 bytes that a file system takes, its end is left out.
    A JPEG's copy is a JPEG, another image's a PNG, a video's an MP4.

    Args:
      files: images and videos.
      output_dir: where to.

    Raises:
      InputError: if a file stands in `output_dir` itself, where a copy could replace it, or if
        that is no folder.
    """
    if output_dir.exists() and not output_dir.is_dir():
        raise InputError(f"--output_dir={output_dir}: expected a folder, received a file")
    copies: dict[Path, Path] = {}
    taken: set[str] = set()
    for file in files:
        if file.parent.resolve() == output_dir.resolve():
            raise InputError(
                f"--output_dir={output_dir}: expected a folder without inputs, received that of"
                f" {file}, which a copy could replace; choose another"
            )
        suffix = _copy_suffix(file)
        name, number = _fitting(file.stem, suffix), 1
        while name.casefold() in taken:  # some file systems do not tell cases apart
            number += 1
            name = _fitting(file.stem, f"-{number}{suffix}")
        taken.add(name.casefold())
        copies[file] = output_dir / name
    return copies


def write_copies(
    predicted: Iterable[tuple[Frame, ImagePrediction]], copies: Mapping[Path, Path]
) -> Generator[ImagePrediction, None, None]:
    """Yields the results, and writes each one's picture into its copy before.

    A copy is complete or absent.  That of a damaged video has the frames before the damage.  Of a
    file that comes twice, the second copy replaces the first.

    Args:
      predicted: what `Predictor.predict_frames` yields.
      copies: where to, by file.
    """
    videos = VideoCounter()
    for (source, _), group in itertools.groupby(
        predicted, key=lambda pair: (pair[0].source, videos.number(pair[0]))
    ):
        pairs = iter(group)
        for frame, result in pairs:
            if frame.error is not None:
                yield result
            elif frame.moving:
                rest = itertools.chain([(frame, result)], pairs)
                yield from _write_video(rest, copies[source])
            else:
                _write_image(annotation.annotate(frame.pixels, result.faces), copies[source])
                yield result


def _fitting(stem: str, end: str) -> str:
    while len(os.fsencode(stem + end)) > _MOST_BYTES:
        stem = stem[:-1]  # not by bytes, of which a character may have several
    return stem + end


def _write_image(annotated: Pixels, copy: Path) -> None:
    with atomic.replacing(copy) as temporary:
        Image.fromarray(annotated).save(temporary, quality=95)


def _write_video(
    predicted: Iterator[tuple[Frame, ImagePrediction]], copy: Path
) -> Iterator[ImagePrediction]:
    with (
        atomic.replacing(copy) as temporary,
        temporary.open("wb") as file,
        contextlib.closing(VideoWriter(file)) as writer,
    ):
        for frame, result in predicted:
            if frame.error is None:
                writer.write(annotation.annotate(frame.pixels, result.faces), frame.time)
            yield result


def _copy_suffix(file: Path) -> str:
    if inputs.is_video(file):
        return ".mp4"
    return file.suffix if file.suffix.lower() in (".jpg", ".jpeg") else ".png"

"""A picture on its way to the model."""

import dataclasses
from fractions import Fraction
from pathlib import Path
from typing import Final

import numpy as np

from fer_tfdata.images import Pixels

_NONE: Final = np.zeros((0, 0, 3), np.uint8)


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Frame:
    """An image file's picture, or one of a video's or a camera's pictures.

    Attributes:
      source: the file; `camera:0` and the like for a camera.
      pixels: RGB uint8 `[height, width, 3]`; no rows where there is an error instead.
      index: its place among the video's frames, from 0; None where the source is an image.
      time: seconds since the video's first frame.
      error: why the source, or the rest of it, could not be read, in one line.
    """

    source: Path
    pixels: Pixels = dataclasses.field(default_factory=lambda: _NONE)
    index: int | None = None
    time: Fraction = Fraction(0)
    error: str | None = None

    @property
    def moving(self) -> bool:
        """Whether it is one of several pictures of its source."""
        return self.index is not None


class VideoCounter:
    """Tells the videos of a stream of frames apart, one that comes twice as well."""

    def __init__(self) -> None:
        """Begins a stream."""
        self._number = -1
        self._last: tuple[Path, int] | None = None

    def number(self, frame: Frame) -> int | None:
        """Returns which of the stream's videos its next frame is of, from 0; None for an image."""
        if frame.index is None:
            return None
        if self._last is None or self._last[0] != frame.source or self._last[1] >= frame.index:
            self._number += 1
        self._last = frame.source, frame.index
        return self._number

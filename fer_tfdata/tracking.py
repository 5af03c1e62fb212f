"""Follows faces from frame to frame, and smooths what is said of each over time."""

import dataclasses
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy.optimize import linear_sum_assignment

from fer_tfdata import faces
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box
from fer_tfdata.results import FacePrediction

SMOOTHING: Final = 0.3
"""Seconds after which a new expression counts for 63 %: longer than a detector's tremble, shorter
than an expression, which lasts half a second to four (Ekman 2003)."""

# Boxes of one face in successive frames overlap by more than this, those of two faces by less.
_LEAST_OVERLAP: Final = 0.3
# A face that was out of sight for longer, seconds, is a new one when it comes back.
_REMEMBERED: Final = 1.0


@dataclasses.dataclass(frozen=True)
class _Track:
    """A face, as it was last seen."""

    number: int
    box: Box
    time: float
    probabilities: Mapping[str, float]


class Tracker:
    """Numbers the faces of one video: the same face, the same number.

    The faces of a frame are given to those of before so that their boxes' intersections over
    unions sum up to the most (Kuhn 1955).  The probabilities of each are smoothed exponentially,
    by the time that has passed and not by the frame, so that they do not depend on the frame rate.
    """

    def __init__(self, smoothing: float = SMOOTHING) -> None:
        """Begins a video.

        Args:
          smoothing: the time constant in seconds; 0 leaves the probabilities as they are.

        Raises:
          InputError: it is negative or not finite.
        """
        if not 0 <= smoothing < math.inf:
            raise InputError(f"smoothing: expected seconds of at least 0, received {smoothing:g}")
        self._smoothing = smoothing
        self._tracks: list[_Track] = []
        self._numbers = itertools.count()

    def update(self, faces: Sequence[FacePrediction], time: float) -> list[FacePrediction]:
        """Returns the faces of the next frame, in their order, numbered and smoothed.

        Args:
          faces: of the frame, each for itself.
          time: the frame's, in seconds; not before the last one's.
        """
        known = [track for track in self._tracks if time - track.time <= _REMEMBERED]
        earlier = _matched([track.box for track in known], [face.box for face in faces])
        updated = [
            self._continued(known[earlier[place]], face, time)
            if place in earlier
            else _Track(next(self._numbers), face.box, time, face.probabilities)
            for place, face in enumerate(faces)
        ]
        unseen = [track for place, track in enumerate(known) if place not in earlier.values()]
        self._tracks = updated + unseen
        return [FacePrediction(track.box, track.probabilities, track.number) for track in updated]

    def _continued(self, track: _Track, face: FacePrediction, time: float) -> _Track:
        passed = time - track.time
        share = 1 - math.exp(-passed / self._smoothing) if self._smoothing else 1.0
        probabilities = {
            name: before + share * (face.probabilities[name] - before)
            for name, before in track.probabilities.items()
        }
        return _Track(track.number, face.box, time, probabilities)


def _matched(before: Sequence[Box], now: Sequence[Box]) -> dict[int, int]:
    """Returns which of the boxes before each of the boxes now continues, by their places."""
    overlaps = np.array([[faces.overlap(a, b) for b in now] for a in before])
    overlaps = overlaps.reshape(len(before), len(now))
    overlaps[overlaps < _LEAST_OVERLAP] = 0
    rows, columns = linear_sum_assignment(overlaps, maximize=True)
    return {
        int(column): int(row)
        for row, column in zip(rows, columns, strict=True)
        if overlaps[row, column] > 0
    }

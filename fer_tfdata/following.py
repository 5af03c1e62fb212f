"""Finds the faces of a video's frames without searching all of every frame.

To search all of a frame takes most of the time, and a face is hardly elsewhere a thirtieth of a
second later.  So all of a frame is searched four times a second, and of the last of those that are
given together; the frames between around the faces that were found before and after them, with the
same detector.  A box is always one that was found in its own frame.
"""

import itertools
from collections.abc import Iterable, Sequence
from fractions import Fraction
from typing import Final

from fer_tfdata import detectors, faces
from fer_tfdata.detectors import Detector
from fer_tfdata.faces import Box
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels

INTERVAL: Final = Fraction(1, 4)
"""Seconds from one frame of which all is searched to the next, at most."""

# A face that is found twice overlaps itself by more.
_SAME: Final = 0.3


class Follower:
    """Finds the faces of one video, whose frames it is given in their order."""

    def __init__(self, detector: Detector, *, smallest: float) -> None:
        """Begins a video.

        Args:
          detector: finds faces in an image.
          smallest: see `Detector.detect`; of all of a frame.
        """
        self._detector = detector
        self._smallest = smallest
        self._size: tuple[int, ...] = ()  # of the last frame
        self._searched: Fraction | None = None  # when, all of a frame
        self._known: list[Box] = []  # the faces of the last frame, or where they were last seen

    def find(self, frames: Sequence[Frame], *, live: bool) -> list[list[Box]]:
        """Returns the faces of each frame, the largest first.

        Args:
          frames: the next ones of the video, all of them readable.
          live: no later frame can tell of a face that is new, so that it is found up to `INTERVAL`
            late.  Otherwise all of the last frame is searched, whenever the one before was.
        """
        found: list[list[Box]] = []
        for size, alike in itertools.groupby(frames, key=lambda frame: frame.pixels.shape):
            if size != self._size:  # some videos change it; what was known is elsewhere then
                self._size, self._searched, self._known = size, None, []
            found += self._find_alike(list(alike), live=live)
        return found

    def _find_alike(self, frames: Sequence[Frame], *, live: bool) -> list[list[Box]]:
        """Returns the faces of frames of one size."""
        pictures = [frame.pixels for frame in frames]
        searched = self._searched_places(frames, live=live)
        whole = detectors.find_faces(
            [pictures[place] for place in searched], self._detector, smallest=self._smallest
        )
        found: list[list[Box]] = []
        for place, boxes in zip(searched, whole, strict=True):
            found += self._find_between(pictures[len(found) : place], boxes)
            found.append(boxes)
            self._known = boxes
        found += self._find_between(pictures[len(found) :], [])
        return [sorted(boxes, key=detectors.by_size) for boxes in found]

    def _searched_places(self, frames: Sequence[Frame], *, live: bool) -> list[int]:
        """Returns which of the frames all is searched of."""
        places = []
        for place, frame in enumerate(frames):
            last = place == len(frames) - 1 and not live
            due = self._searched is None or frame.time - self._searched >= INTERVAL
            if last or due or detectors.is_face(frame.pixels):
                places.append(place)
                self._searched = frame.time
        return places

    def _find_between(self, pictures: Sequence[Pixels], after: Sequence[Box]) -> list[list[Box]]:
        """Returns the faces of the frames between those of which all is searched.

        Args:
          pictures: these frames.
          after: the faces of the frame after them.
        """
        found: list[list[Box]] = [[] for _ in pictures]
        for picture, boxes in zip(pictures, found, strict=True):
            seen = [self._find_near(picture, box) for box in self._known]
            self._known = [now or before for now, before in zip(seen, self._known, strict=True)]
            _add_others(boxes, seen)
        # By what the last frame shows: a face that is out of sight may have made way for another.
        new = [box for box in after if not found or not _is_among(box, found[-1])]
        for picture, boxes in zip(reversed(pictures), reversed(found), strict=True):
            new = [box for box in (self._find_near(picture, box) for box in new) if box]
            _add_others(boxes, new)
        return found

    def _find_near(self, picture: Pixels, box: Box) -> Box | None:
        """Returns the face of a picture that was at a box a moment before or after."""
        boxes = self._detector.detect_near(picture, box, smallest=self._smallest)
        nearest = max(boxes, key=lambda face: faces.overlap(face, box), default=None)
        return nearest if nearest and faces.overlap(nearest, box) > _SAME else None


def _add_others(boxes: list[Box], others: Iterable[Box | None]) -> None:
    """Adds those that are not among the boxes yet."""
    for other in others:
        if other is not None and not _is_among(other, boxes):
            boxes.append(other)


def _is_among(box: Box, boxes: Iterable[Box]) -> bool:
    return any(faces.overlap(box, other) > _SAME for other in boxes)

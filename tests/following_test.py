from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import detectors, faces
from fer_tfdata.detectors import HaarDetector
from fer_tfdata.faces import Box
from fer_tfdata.following import Follower
from fer_tfdata.frames import Frame
from fer_tfdata.images import Pixels
from tests.videos import sliding_photograph

SMALLEST = 0.1


class Counting(HaarDetector):
    """Says of how many frames all was searched."""

    def __init__(self) -> None:
        super().__init__()
        self.num_searched = 0

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        self.num_searched += len(images)
        return super().detect(images, smallest=smallest)


def as_frames(pictures: Sequence[Pixels], interval: Fraction = Fraction(1, 30)) -> list[Frame]:
    return [
        Frame(source=Path("a.mp4"), pixels=pixels, index=index, time=index * interval)
        for index, pixels in enumerate(pictures)
    ]


def followed(
    frames: Sequence[Frame], chunk: int, *, live: bool = False
) -> tuple[list[list[Box]], int]:
    """Returns the faces of each frame, and of how many frames all was searched."""
    detector = Counting()
    follower = Follower(detector, smallest=SMALLEST)
    found = []
    for start in range(0, len(frames), chunk):
        found += follower.find(frames[start : start + chunk], live=live)
    return found, detector.num_searched


@pytest.fixture(scope="module")
def pictures() -> list[Pixels]:
    """The photograph slides for 12 frames; then there is a wall for 10; then it slides on."""
    photographs = list(sliding_photograph(24))
    walls = list(sliding_photograph(10, faces=False))
    return photographs[:12] + walls + photographs[12:]


@pytest.fixture(scope="module")
def searched(pictures: list[Pixels]) -> list[list[Box]]:
    """What is found where all of every frame is searched."""
    return HaarDetector().detect(pictures, smallest=SMALLEST)


@pytest.mark.parametrize(("chunk", "most"), [(34, 6), (8, 6), (7, 6), (3, 13)])
def test_a_video_has_the_faces_of_a_search_of_every_frame(
    pictures: list[Pixels], searched: list[list[Box]], chunk: int, most: int
) -> None:
    found, num_searched = followed(as_frames(pictures), chunk)
    assert num_searched <= most
    assert [len(boxes) for boxes in searched] == [1] * 12 + [0] * 10 + [1] * 12
    for boxes, expected in zip(found, searched, strict=True):
        assert len(boxes) == len(expected)
        for box, other in zip(boxes, expected, strict=True):
            assert faces.overlap(box, other) > 0.8


def test_a_cameras_new_face_is_found_a_moment_later_at_most(
    pictures: list[Pixels], searched: list[list[Box]]
) -> None:
    found, num_searched = followed(as_frames(pictures), 1, live=True)
    assert num_searched <= 6
    numbers = [len(boxes) for boxes in found]
    assert numbers[:22] == [1] * 12 + [0] * 10
    first = numbers.index(1, 22)
    assert first < 22 + 8  # a quarter of a second
    assert numbers[first:] == [1] * (34 - first)
    for boxes, expected in zip(found[first:], searched[first:], strict=True):
        assert faces.overlap(boxes[0], expected[0]) > 0.8


def test_of_a_slow_video_all_of_every_frame_is_searched(pictures: list[Pixels]) -> None:
    frames = as_frames(pictures[10:14], Fraction(1, 4))
    found, num_searched = followed(frames, 4)
    assert num_searched == 4
    assert found == HaarDetector().detect(pictures[10:14], smallest=SMALLEST)


def test_faces_at_the_border_and_side_by_side_are_followed(pictures: list[Pixels]) -> None:
    pairs = [
        np.hstack([one[:, 10:], other[:, ::-1]])
        for one, other in zip(pictures[:9], pictures[22:31], strict=True)
    ]
    found, num_searched = followed(as_frames(pairs), 9)
    assert num_searched == 2
    for boxes, expected in zip(found, HaarDetector().detect(pairs, smallest=SMALLEST), strict=True):
        assert len(boxes) == 2
        for box in boxes:
            assert max(faces.overlap(box, other) for other in expected) > 0.7


@pytest.mark.parametrize("sides", [(215, 130), (130, 215)])
def test_a_cut_to_a_face_of_another_size_at_the_same_place_loses_none(
    sides: tuple[int, int],
) -> None:
    pictures = [_with_face(side) for side in [sides[0]] * 4 + [sides[1]] * 6]
    found, num_searched = followed(as_frames(pictures), len(pictures))
    assert num_searched == 3
    searched = HaarDetector().detect(pictures, smallest=SMALLEST)
    for boxes, expected in zip(found, searched, strict=True):
        assert len(boxes) == len(expected) == 1
        assert faces.overlap(boxes[0], expected[0]) > 0.8


def _with_face(side: int) -> Pixels:
    """Returns the photograph, of a side, with its face in the middle of a wall."""
    photograph = next(sliding_photograph(1, height=side, width=side + 1))[:, :side]
    picture = np.full((240, 320, 3), 120, np.uint8)
    left, top = 160 - round(0.44 * side), 70 - round(0.22 * side)
    picture[top : top + side, left : left + side] = photograph
    return picture


@pytest.mark.parametrize("chunk", [8, 3])
@pytest.mark.parametrize("live", [False, True])
def test_a_video_may_change_its_size(pictures: list[Pixels], chunk: int, live: bool) -> None:
    wide = [np.hstack([np.full_like(one, 120), one]) for one in pictures[:4]]
    changing = wide + pictures[:4] + wide
    found, _ = followed(as_frames(changing), chunk, live=live)
    searched = HaarDetector().detect(changing, smallest=SMALLEST)
    for boxes, expected in zip(found, searched, strict=True):
        assert len(boxes) == len(expected) == 1
        assert faces.overlap(boxes[0], expected[0]) > 0.8


@pytest.mark.parametrize("name", ["haar", "none"])
def test_frames_that_are_faces_already_stay_such(name: detectors.DetectorName) -> None:
    small = np.random.default_rng(0).integers(0, 256, (5, 48, 64, 3), dtype=np.uint8)
    follower = Follower(detectors.make_detector(name), smallest=SMALLEST)
    for chunk in (small[:3], small[3:]):
        boxes = follower.find(as_frames(chunk), live=False)
        assert boxes == [[Box(0, 0, 64, 48)]] * len(chunk)


def test_without_a_detector_every_frame_is_a_face(pictures: list[Pixels]) -> None:
    follower = Follower(detectors.make_detector("none"), smallest=SMALLEST)
    assert follower.find(as_frames(pictures), live=False) == [[Box(0, 0, 160, 120)]] * 34

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.results import FacePrediction
from fer_tfdata.tracking import Tracker

ANGRY, HAPPY = 0, 3


def face(box: Box, expression: int = HAPPY) -> FacePrediction:
    return FacePrediction(box, dict(zip(EXPRESSIONS, np.eye(7)[expression].tolist(), strict=True)))


def at(left: int, top: int = 0, side: int = 100) -> Box:
    return Box(left, top, side, side)


def numbers(tracker: Tracker, time: float, *boxes: Box) -> list[int | None]:
    return [face.track for face in tracker.update([face(box) for box in boxes], time)]


boxes = st.builds(
    Box, st.integers(0, 500), st.integers(0, 500), st.integers(1, 300), st.integers(1, 300)
)
distributions = st.lists(st.floats(0.01, 1), min_size=7, max_size=7).map(
    lambda weights: dict(zip(EXPRESSIONS, np.array(weights) / sum(weights), strict=True))
)


# Numbers


def test_faces_that_move_a_little_keep_their_numbers_whatever_their_order() -> None:
    tracker = Tracker()
    assert numbers(tracker, 0, at(0), at(300), at(600)) == [0, 1, 2]
    assert numbers(tracker, 0.1, at(610), at(20), at(290)) == [2, 0, 1]
    assert numbers(tracker, 0.2, at(40), at(280), at(620)) == [0, 1, 2]


def test_the_assignment_is_the_best_of_all_and_not_greedy() -> None:
    tracker = Tracker()
    assert numbers(tracker, 0, at(0), at(45)) == [0, 1]
    # The second lies nearest to the new first one, which has no other to continue.
    assert numbers(tracker, 0.1, at(40), at(75)) == [0, 1]


def test_a_new_face_gets_a_new_number_and_no_number_is_used_twice() -> None:
    tracker = Tracker()
    assert numbers(tracker, 0, at(0)) == [0]
    assert numbers(tracker, 0.1, at(0), at(400)) == [0, 1]
    assert numbers(tracker, 0.2, at(800)) == [2]
    assert numbers(tracker, 9.0, at(0)) == [3]


def test_a_face_that_is_missed_for_a_moment_keeps_its_number() -> None:
    tracker = Tracker()
    assert numbers(tracker, 0, at(0)) == [0]
    assert numbers(tracker, 0.5) == []
    assert numbers(tracker, 0.9, at(5)) == [0]
    assert numbers(tracker, 1.8, at(5)) == [0]
    assert numbers(tracker, 2.9, at(5)) == [1]


@given(st.lists(st.lists(boxes, max_size=6), max_size=8))
def test_no_two_faces_of_a_frame_share_a_number(frames: list[list[Box]]) -> None:
    tracker = Tracker()
    for number, frame in enumerate(frames):
        given_numbers = numbers(tracker, number / 10, *frame)
        assert len(set(given_numbers)) == len(frame)


# Smoothing


def shares_of_angry(tracker: Tracker, times: list[float], turn: float) -> list[float]:
    """Returns the probability of angry of a face that is happy until `turn`, and angry after."""
    return [
        tracker.update([face(at(0), ANGRY if time > turn else HAPPY)], time)[0].probabilities[
            "angry"
        ]
        for time in times
    ]


@pytest.mark.parametrize("frames_per_second", [10, 30, 60])
def test_after_the_time_constant_63_percent_are_reached_at_any_frame_rate(
    frames_per_second: int,
) -> None:
    times = [n / frames_per_second for n in range(2 * frames_per_second + 1)]
    shares = shares_of_angry(Tracker(smoothing=0.5), times, turn=1.0)
    assert max(shares[: frames_per_second + 1]) == 0
    reached = dict(zip(times, shares, strict=True))[1.5]
    assert reached == pytest.approx(1 - np.exp(-1), abs=1e-9)


def test_without_smoothing_each_frame_stands_for_itself() -> None:
    times = [n / 30 for n in range(6)]
    assert shares_of_angry(Tracker(smoothing=0), times, turn=0.1) == [0, 0, 0, 0, 1, 1]


@given(st.lists(distributions, min_size=1, max_size=8), st.floats(0, 5), st.floats(0.001, 1))
def test_smoothed_probabilities_are_probabilities_between_those_seen(
    seen: list[dict[str, float]], smoothing: float, interval: float
) -> None:
    tracker = Tracker(smoothing)
    for number, probabilities in enumerate(seen):
        [smoothed] = tracker.update(
            [FacePrediction(at(0), probabilities)], min(number * interval, number * 0.99)
        )
        assert tuple(smoothed.probabilities) == EXPRESSIONS
        assert sum(smoothed.probabilities.values()) == pytest.approx(1)
        for name, value in smoothed.probabilities.items():
            values = [earlier[name] for earlier in seen[: number + 1]]
            assert min(values) - 1e-12 <= value <= max(values) + 1e-12


def test_each_face_is_smoothed_for_itself() -> None:
    tracker = Tracker(smoothing=1e6)
    tracker.update([face(at(0), HAPPY), face(at(400), ANGRY)], 0)
    left, right = tracker.update([face(at(0), ANGRY), face(at(400), HAPPY)], 0.1)
    assert (left.expression, right.expression) == ("happy", "angry")
    [new] = tracker.update([face(at(900), HAPPY)], 0.2)
    assert new.probabilities["happy"] == 1


def test_boxes_are_not_smoothed() -> None:
    tracker = Tracker()
    for time, box in itertools.product((0, 0.1), (at(0), at(3))):
        assert tracker.update([face(box)], time)[0].box == box


@pytest.mark.parametrize("smoothing", [-0.1, float("nan"), float("inf")])
def test_a_time_constant_that_is_none_is_refused(smoothing: float) -> None:
    with pytest.raises(InputError, match="smoothing: expected seconds of at least 0"):
        Tracker(smoothing)

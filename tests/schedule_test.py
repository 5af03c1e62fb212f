import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_tfdata.errors import InputError
from fer_tfdata.schedule import Schedule, Windows


@st.composite
def schedules(draw: st.DrawFn) -> list[Schedule]:
    """The schedules of all processes that train together."""
    process_count = draw(st.integers(1, 9))
    batch_size = draw(st.integers(1, 70))
    examples = draw(st.integers(batch_size * process_count, 5000))
    return [
        Schedule(
            examples=examples,
            batch_size=batch_size,
            process_index=index,
            process_count=process_count,
        )
        for index in range(process_count)
    ]


@pytest.mark.parametrize(
    ("examples", "batch_size", "process_count", "steps", "shares"),
    [
        (28709, 64, 1, 448, [range(28709)]),
        (28709, 64, 2, 224, [range(14354), range(14354, 28709)]),
        (10, 3, 3, 1, [range(3), range(3, 6), range(6, 10)]),
        (8, 2, 4, 1, [range(2), range(2, 4), range(4, 6), range(6, 8)]),
    ],
)
def test_steps_and_shares(examples, batch_size, process_count, steps, shares) -> None:
    parts = [
        Schedule(
            examples=examples, batch_size=batch_size, process_index=i, process_count=process_count
        )
        for i in range(process_count)
    ]
    assert {part.steps for part in parts} == {steps}
    assert [part.share for part in parts] == shares


@given(schedules())
def test_the_shares_cover_an_epoch_once_and_fill_its_steps(parts) -> None:
    assert [place for part in parts for place in part.share] == list(range(parts[0].examples))
    lengths = {len(part.share) for part in parts}
    assert max(lengths) - min(lengths) <= 1
    for part in parts:
        assert part.steps >= 1
        assert part.steps * part.batch_size <= len(part.share)


@given(schedules(), st.integers(1, 40))
def test_no_window_is_larger_than_the_largest(parts, steps_per_window) -> None:
    for schedule in parts:
        windows = Windows(schedule=schedule, steps_per_window=steps_per_window)
        rest = len(schedule.share) - (windows.per_epoch - 1) * windows.size
        assert max(rest, windows.size * (windows.per_epoch > 1)) <= windows.most
        assert windows.most <= min(len(schedule.share), windows.size + schedule.batch_size)


@given(schedules(), st.integers(1, 40), st.integers(0, 10_000))
def test_windows_hold_every_step_once(parts, steps_per_window, step) -> None:
    for schedule in parts:
        windows = Windows(schedule=schedule, steps_per_window=steps_per_window)
        before_last = (windows.per_epoch - 1) * steps_per_window
        assert before_last < schedule.steps <= before_last + steps_per_window
        # What the last window holds.
        rest = len(schedule.share) - (windows.per_epoch - 1) * windows.size
        assert (schedule.steps - before_last) * schedule.batch_size <= rest
        assert rest <= windows.size + schedule.batch_size

        number, skipped = windows.start_at(step)
        epoch, place = divmod(number, windows.per_epoch)
        assert step == epoch * schedule.steps + place * steps_per_window + skipped
        assert 0 <= skipped < steps_per_window
        assert windows.first_step(number) == step - skipped


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"process_index": 3}, "process_index: expected 0 to 2 .process_count is 3., received 3"),
        ({"process_index": -1}, "process_index: expected 0 to 2"),
        ({"process_count": 0}, "process_count: expected 1 or more, received 0"),
        ({"process_count": -2}, "process_count: expected 1 or more, received -2"),
        ({"process_count": 101}, "process_count: expected at most 100, .* received 101"),
        ({"batch_size": 0}, "batch_size: expected 1 to 33"),
        ({"batch_size": 34}, "batch_size: expected 1 to 33 .* each of 3 processes, received 34"),
    ],
)
def test_what_makes_no_step_is_refused(change, message) -> None:
    arguments = {"examples": 100, "batch_size": 8, "process_index": 0, "process_count": 3}
    with pytest.raises(InputError, match=message):
        Schedule(**(arguments | change))

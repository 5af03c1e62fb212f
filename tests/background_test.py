import threading
import time
from collections.abc import Iterator

import pytest

from fer_tfdata import background


def test_the_items_come_in_order() -> None:
    assert list(background.ahead(range(1000), most=3)) == list(range(1000))
    assert list(background.ahead([], most=3)) == []


def test_at_most_so_many_are_taken_beforehand() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(100):
            taken.append(number)
            yield number

    ahead = background.ahead(items(), most=3)
    for number in range(5):
        assert next(ahead) == number
        most = number + 1 + 3
        while len(taken) < most:  # for ever, if they were not taken
            time.sleep(0.01)
        time.sleep(0.02)
        assert len(taken) == most
    ahead.close()  # type: ignore[attr-defined]
    assert len(taken) <= 9


def test_the_work_is_done_in_another_thread_while_the_first_one_works() -> None:
    both_work = threading.Barrier(2, timeout=5)

    def items() -> Iterator[int]:
        yield threading.get_ident()
        both_work.wait()
        yield threading.get_ident()

    ahead = background.ahead(items(), most=1)
    first = next(ahead)
    both_work.wait()  # would not come back if nobody worked meanwhile
    assert first == next(ahead) != threading.get_ident()


def test_an_error_comes_at_its_place() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("broken")

    ahead = background.ahead(items(), most=5)
    assert next(ahead) == 1
    with pytest.raises(ValueError, match="broken"):
        next(ahead)


def test_no_thread_is_left() -> None:
    before = threading.active_count()
    assert next(background.ahead(range(9), most=2)) == 0
    ahead = background.ahead(range(9), most=2)
    next(ahead)
    assert threading.active_count() == before + 1
    ahead.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_its_own_thread_may_close_it() -> None:
    asked_for, closed = threading.Event(), threading.Event()

    def items() -> Iterator[int]:
        yield 0
        asked_for.wait()
        ahead.close()  # as a collection of garbage in this thread would
        closed.set()

    ahead = background.ahead(items(), most=1)
    assert next(ahead) == 0
    asked_for.set()
    assert closed.wait(60)

import os

import pytest

from fer_tfdata import chatter
from fer_tfdata.errors import InputError


def write(text: str) -> None:
    os.write(2, text.encode())  # as a C++ library does


def test_what_is_written_is_kept_back(capfd) -> None:
    with chatter.kept_back():
        write("chatter\n")
    write("after\n")
    assert capfd.readouterr().err == "after\n"


def test_what_is_asked_for_is_shown_in_its_order(capfd) -> None:
    write("before\n")
    with chatter.kept_back() as show:
        write("one\n")
        show()
        write("two\n")
    write("after\n")
    assert capfd.readouterr().err == "before\none\ntwo\nafter\n"


@pytest.mark.parametrize(
    ("error", "expected"),
    [(RuntimeError, "chatter\n"), (InputError, ""), (KeyboardInterrupt, "")],
)
def test_it_is_shown_where_nobody_can_mend_the_error(capfd, error, expected) -> None:
    def fail() -> None:
        with chatter.kept_back():
            write("chatter\n")
            raise error

    with pytest.raises(error):
        fail()
    assert capfd.readouterr().err == expected

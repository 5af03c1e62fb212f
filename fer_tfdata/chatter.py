"""What libraries write to stderr, kept back: their C++ sides know no other way to be quiet."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

from fer_tfdata.errors import InputError


@contextlib.contextmanager
def kept_back() -> Iterator[Callable[[], None]]:
    """Keeps back what this process writes to stderr within the block, its C++ libraries too.

    It is shown at the end if the block raises an exception that nobody can mend, or calls the
    function that is yielded.
    """
    shown = False

    def show() -> None:
        nonlocal shown
        shown = True

    sys.stderr.flush()
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as chatter:
        os.dup2(chatter.fileno(), 2)
        try:
            yield show
        except InputError:
            raise
        except Exception:
            show()
            raise
        finally:
            sys.stderr.flush()
            if shown:
                chatter.seek(0)
                os.write(stderr, chatter.read())
            os.dup2(stderr, 2)
            os.close(stderr)

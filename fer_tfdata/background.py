"""Work in another thread, a bounded number of steps ahead."""

import threading
from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar

Item = TypeVar("Item")

_END: Final = object()


def ahead(items: Iterable[Item], *, most: int) -> Generator[Item, None, None]:
    """Yields the items in their order, while a thread takes the next ones out.

    What taking an item raises is raised here, at the item's place.  When the iterator is closed,
    the thread ends with the item that it is taking.

    Args:
      items: taken out in one other thread.
      most: how many items it takes at most before they are asked for.
    """
    iterator = iter(items)
    thread = ThreadPoolExecutor(1)
    own = thread.submit(threading.get_ident)
    try:
        taken: deque[Any] = deque(thread.submit(next, iterator, _END) for _ in range(most))
        while (item := taken.popleft().result()) is not _END:
            taken.append(thread.submit(next, iterator, _END))
            yield item
    finally:
        # Who lets go of the iterator without closing it leaves that to whichever thread collects
        # the garbage; this one cannot wait for itself.
        thread.shutdown(wait=own.result() != threading.get_ident(), cancel_futures=True)

"""What runs a conversion's tasks: this process, or a cluster by way of `beam_engine`."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Final, Protocol, TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")


class Engine(Protocol):
    """Runs a function on tasks that know nothing of each other."""

    @property
    def num_parts(self) -> int:
        """Into about how many parts a source is cut."""
        ...

    def map(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task], scratch: Path
    ) -> list[_Result]:
        """Returns the results in the order of the tasks; an exception of a task is raised here.

        Args:
          function: may be called in another process and more than once a task.
          tasks: can be pickled, as the results can.
          scratch: a directory that all who run tasks can write to, under this path.
        """
        ...


class LocalEngine:
    """Runs the tasks here, one after another: each uses several cores where that pays."""

    num_parts = 1

    def map(
        self, function: Callable[[_Task], _Result], tasks: Iterable[_Task], scratch: Path
    ) -> list[_Result]:
        """Returns the results in the order of the tasks."""
        del scratch
        return [function(task) for task in tasks]


LOCAL: Final = LocalEngine()

"""Which place in an epoch's order falls into which batch of which process: arithmetic alone."""

import dataclasses
from typing import Any

from fer_tfdata.errors import InputError


def check_process(index: int, count: int) -> None:
    """Checks that one of so many processes has this index.

    Raises:
      InputError: there is no such process.
    """
    if count < 1:
        raise InputError(f"process_count: expected 1 or more, received {count}")
    if not 0 <= index < count:
        raise InputError(
            f"process_index: expected 0 to {count - 1} (process_count is {count}), received {index}"
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Schedule:
    """How the examples of every epoch are cut into the batches of one process among several.

    Attributes:
      examples: of an epoch, over all processes.
      batch_size: images a batch of one process; a step is a batch in each of them.
      process_index: which of the processes this is, from 0.
      process_count: how many train together.
    """

    examples: int
    batch_size: int
    process_index: int = 0
    process_count: int = 1

    def __post_init__(self) -> None:
        """Checks that there is a step.

        Raises:
          InputError: there is no such process, or the examples do not fill one step.
        """
        check_process(self.process_index, self.process_count)
        most = self.examples // self.process_count
        if not most:
            raise InputError(
                f"process_count: expected at most {self.examples}, as many as there are examples "
                f"that have a label, received {self.process_count}"
            )
        if not 1 <= self.batch_size <= most:
            shared = f" for each of {self.process_count} processes" * (self.process_count > 1)
            raise InputError(
                f"batch_size: expected 1 to {most} (there are {self.examples} examples that have a "
                f"label){shared}, received {self.batch_size}"
            )

    @property
    def steps(self) -> int:
        """Full steps of an epoch; the examples that do not fill one more are left out of it."""
        return self.examples // (self.batch_size * self.process_count)

    @property
    def share(self) -> range:
        """The places in the epoch's order that this process reads where each reads a part.

        The shares are disjoint, cover the epoch, differ in length by one at most, and fill the
        steps.
        """
        first, end = (
            self.examples * index // self.process_count
            for index in (self.process_index, self.process_index + 1)
        )
        return range(first, end)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Windows:
    """How a process's share of an epoch is cut into windows, each shuffled by itself.

    Windows are numbered through the whole run, so that any of them can be read without those
    before it.

    Attributes:
      schedule: of the process.
      steps_per_window: batches a window.
    """

    schedule: Schedule
    steps_per_window: int

    @property
    def size(self) -> int:
        """Examples a window; the last one of an epoch has fewer, or up to a batch more."""
        return self.steps_per_window * self.schedule.batch_size

    @property
    def most(self) -> int:
        """Examples that no window exceeds."""
        return min(self.size + self.schedule.batch_size, len(self.schedule.share))

    @property
    def per_epoch(self) -> int:
        """Windows an epoch."""
        return -(-self.schedule.steps // self.steps_per_window)

    def start_at(self, step: int) -> tuple[int, int]:
        """Returns the window that holds a step of the run, and the steps before it therein."""
        epoch, step_in_epoch = divmod(step, self.schedule.steps)
        window, skipped = divmod(step_in_epoch, self.steps_per_window)
        return epoch * self.per_epoch + window, skipped

    def first_step(self, number: Any) -> Any:
        """Returns the step of the run that a window begins with; of an int or a tensor."""
        epoch, place = number // self.per_epoch, number % self.per_epoch
        return epoch * self.schedule.steps + place * self.steps_per_window

"""What every source yields, and what every source can do."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

OnBadRow = Literal["error", "skip"]


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that cannot be used: which, where it stands, and why."""

    row: int  # counted from 0 over the whole source, as the records' `row`
    place: str  # "fer2013.csv, line 17", "faces/train/happy/7.png"
    reason: str


@dataclasses.dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of a source.

    Attributes:
      images: uint8 [n, size, size, channels].
      labels: int64 [n], ids of the source's expressions; `NO_LABEL` where none is given.
      splits: n names of splits.
      rows: int64 [n], the row of the source each came from, counted from 0, ascending.
      bad_rows: the rows between them that cannot be used.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    splits: Sequence[str]
    rows: npt.NDArray[np.int64]
    bad_rows: Sequence[BadRow] = ()


class Part(Protocol):
    """Consecutive rows of a source that one worker reads; it can be pickled."""

    def count_rows(self) -> int:
        """Returns how many rows there are, the bad ones too, at less cost than reading them."""
        ...

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        """Yields the rows in order and in bounded memory, counting them from `first_row`.

        Raises:
          InputError: the part cannot be read at all.
        """
        ...


class Source(Protocol):
    """A form in which people hold faces with expressions."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        ...

    @property
    def expressions(self) -> tuple[str, ...]:
        """What the labels are ids of: `EXPRESSIONS` or `EIGHT_EXPRESSIONS`."""
        ...

    def describe(self) -> Mapping[str, Any]:
        """Returns what the manifest says of the source, its checksum among it.

        It may read the whole source, and is called beside the reading, in another thread.
        """
        ...

    def parts(self, count: int) -> Sequence[Part]:
        """Cuts the source into at most about `count` parts of about one size, in its order.

        Their rows, one part after another, are the source's whatever the count.
        """
        ...

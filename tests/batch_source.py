"""A source made of batches, for tests that are about what comes after it."""

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.sources import RawBatch


@dataclasses.dataclass(frozen=True)
class BatchSource:
    """Yields batches whose rows are numbered already; `num_parts` deals them out."""

    given: Iterable[RawBatch]
    image_shape: tuple[int, int, int] = (48, 48, 1)
    expressions: tuple[str, ...] = EXPRESSIONS

    def describe(self) -> Mapping[str, Any]:
        return {"file": "source.csv", "bytes": 10, "sha256": "0" * 64}

    def parts(self, count: int) -> list["BatchPart"]:
        if count == 1:
            return [BatchPart(self.given)]
        batches = list(self.given)
        size = -(-len(batches) // count)
        return [BatchPart(batches[i : i + size]) for i in range(0, len(batches), size)]


@dataclasses.dataclass(frozen=True)
class BatchPart:
    given: Iterable[RawBatch]

    def count_rows(self) -> int:
        return sum(len(batch.rows) + len(batch.bad_rows) for batch in self.given)

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        yield from self.given


def random_batch(
    splits: Sequence[str],
    *,
    first_row: int = 0,
    seed: int = 0,
    image_shape: tuple[int, int, int] = (48, 48, 1),
) -> RawBatch:
    """A row of random pixels for each split named."""
    rng = np.random.default_rng((seed, first_row))
    return RawBatch(
        images=rng.integers(0, 256, (len(splits), *image_shape)).astype(np.uint8),
        labels=rng.integers(0, 7, len(splits)),
        splits=splits,
        rows=np.arange(first_row, first_row + len(splits), dtype=np.int64),
    )


def mixed_batches() -> list[RawBatch]:
    """Three batches with the splits in turn: 7 rows of train, 3 of validation, 2 of test."""
    return [
        random_batch(["test", "train", "train", "validation"]),
        random_batch(["train", "train", "validation", "train"], first_row=4),
        random_batch(["validation", "train", "test", "train"], first_row=8),
    ]

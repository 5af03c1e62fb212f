"""The first half of a conversion: the parts of a source into spools of serialized records."""

import contextlib
import dataclasses
import errno
import functools
import itertools
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import audit, ferplus
from fer_tfdata.engines import Engine
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import NO_LABEL
from fer_tfdata.records import FRAME_BYTES, Schema, Serializer
from fer_tfdata.sources import BadRow, OnBadRow, Part, RawBatch, Source

# Of each record: where it ends, and what a plan must know of it.
INDEX: Final = np.dtype(
    [("end", "<i8"), ("row", "<i8"), ("label", "i1"), ("majority", "i1"), ("distribution", "?")]
)

_ENTRIES_A_WRITE: Final = 1 << 14


@dataclasses.dataclass(frozen=True)
class SpoolOptions:
    """What is the same for every part."""

    directory: Path
    schema: Schema
    votes: ferplus.Votes | None
    on_bad_row: OnBadRow
    validation_fraction: float


@dataclasses.dataclass(frozen=True)
class Spool:
    """What came of a part: files whose names begin alike, and what was met in it.

    A TFRecord file is its records one after another, so a record is a range of the file's bytes,
    and the index says which.
    """

    stem: Path
    num_rows: int
    splits: frozenset[str]  # the source's, before any became `validation`
    bad_rows: Sequence[BadRow]
    fates: Counter[ferplus.Fate]  # of the rows, where votes were given

    @property
    def table(self) -> Path:
        """The part's table for the audit."""
        return _table(self.stem)

    def records(self, split: str) -> Path:
        """The records of a split."""
        return _records(self.stem, split)

    def index(self, split: str) -> Path:
        """Where each of them stands, and what a plan must know of it."""
        return _index(self.stem, split)


def _table(stem: Path) -> Path:
    return stem.with_name(f"{stem.name}.table")


def _records(stem: Path, split: str) -> Path:
    return stem.with_name(f"{stem.name}-{split}.tfrecord")


def _index(stem: Path, split: str) -> Path:
    return stem.with_name(f"{stem.name}-{split}.index")


def write_spools(source: Source, options: SpoolOptions, engine: Engine) -> list[Spool]:
    """Reads, checks and serializes a source, part by part.

    Raises:
      InputError: the source or the votes are not as they must be.
    """
    parts = source.parts(engine.num_parts)
    # A part's first row is known when the parts before it are counted; the last needs no count.
    counts = engine.map(_count_rows, parts[:-1], options.directory)
    first_rows = itertools.accumulate(counts, initial=0)
    spools = engine.map(
        functools.partial(_spool_part, options),
        list(zip(parts, first_rows, strict=True)),
        options.directory,
    )
    if not any(spool.splits for spool in spools):
        raise InputError("expected at least one row that can be used, received none")
    if options.votes is not None:
        options.votes.check_joined(sum(spool.num_rows for spool in spools), fates_of(spools))
    if options.validation_fraction and any("validation" in spool.splits for spool in spools):
        raise InputError(
            "validation_fraction: expected a source without validation images, received one that "
            "has its own; leave the flag out"
        )
    return spools


def fates_of(spools: Sequence[Spool]) -> Counter[ferplus.Fate]:
    """Returns how many rows of all parts have which fate; empty where no votes were given."""
    fates: Counter[ferplus.Fate] = Counter()
    for spool in spools:
        fates.update(spool.fates)
    return fates


def _count_rows(part: Part) -> int:
    return part.count_rows()


def _spool_part(options: SpoolOptions, task: tuple[Part, int]) -> Spool:
    part, first_row = task
    # A name of its own for every attempt: a cluster may run a task twice, even at once.
    stem = options.directory / f"{first_row:012d}-{uuid.uuid4().hex}"
    num_rows = 0
    splits: set[str] = set()
    bad_rows: list[BadRow] = []
    fates: Counter[ferplus.Fate] = Counter()
    with contextlib.ExitStack() as stack:
        table = stack.enter_context(audit.TableWriter(_table(stem)))
        files: dict[str, _SpoolFile] = {}
        for batch in part.batches(first_row):
            _check_bad_rows(batch.bad_rows, options.on_bad_row)
            bad_rows.extend(batch.bad_rows)
            num_rows += len(batch.rows) + len(batch.bad_rows)
            if not len(batch.rows):
                continue
            splits.update(batch.splits)
            votes = None
            if options.votes is not None:
                votes = options.votes.of(batch.rows, batch.splits)
                fates.update(options.votes.fates(batch.rows, batch.splits))
            batch = _with_validation(batch, options.validation_fraction)
            table.add(batch.images, batch.labels, batch.splits, batch.rows, votes)
            for name in sorted(set(batch.splits) - set(files)):
                file = _SpoolFile(_records(stem, name), _index(stem, name))
                files[name] = stack.enter_context(file)
            _spool_batch(batch, votes, options.schema, files)
    return Spool(stem, num_rows, frozenset(splits), bad_rows, fates)


def _check_bad_rows(bad_rows: Sequence[BadRow], on_bad_row: OnBadRow) -> None:
    if on_bad_row == "error" and bad_rows:
        bad = bad_rows[0]
        raise InputError(
            f"{bad.place}: {bad.reason}. Mend it, or leave such rows out with --on_bad_row=skip"
        )


def _with_validation(batch: RawBatch, fraction: float) -> RawBatch:
    if not fraction:
        return batch
    chosen = audit.digests_of(batch.images)[:, 0] < np.uint64(int(fraction * 2**64))
    splits = [
        "validation" if split == "train" and is_chosen else split
        for split, is_chosen in zip(batch.splits, chosen.tolist(), strict=True)
    ]
    return dataclasses.replace(batch, splits=splits)


def _spool_batch(
    batch: RawBatch,
    votes: npt.NDArray[np.int64] | None,
    schema: Schema,
    files: Mapping[str, "_SpoolFile"],
) -> None:
    count = len(batch.rows)
    serializer = Serializer(schema)
    labels, rows = batch.labels.tolist(), batch.rows.tolist()
    majorities, has_distribution, votes_of = [NO_LABEL] * count, [False] * count, [()] * count
    if votes is not None:
        majorities = ferplus.majority(votes).tolist()
        has_distribution = ferplus.distribution(votes).any(axis=1).tolist()
        votes_of = votes.tolist()
    for i, split in enumerate(batch.splits):
        serialized = serializer.serialize(batch.images[i], labels[i], rows[i], votes_of[i])
        files[split].write(serialized, (rows[i], labels[i], majorities[i], has_distribution[i]))


class _SpoolFile:
    """The records of one split of one part, and their index."""

    def __init__(self, records: Path, index: Path) -> None:
        self._records = records
        with _system_errors(records):
            self._writer = tf.io.TFRecordWriter(str(records))
        self._index = index.open("wb")
        self._entries: list[tuple[int, int, int, int, bool]] = []
        self._end = 0

    def write(self, serialized: bytes, facts: tuple[int, int, int, bool]) -> None:
        with _system_errors(self._records):
            self._writer.write(serialized)
        self._end += len(serialized) + FRAME_BYTES
        self._entries.append((self._end, *facts))
        if len(self._entries) == _ENTRIES_A_WRITE:
            self._flush_index()

    def _flush_index(self) -> None:
        self._index.write(np.array(self._entries, INDEX).tobytes())
        self._entries.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush_index()
        self._index.close()
        with _system_errors(self._records):
            self._writer.close()


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turns TensorFlow's errors, such as a full disk's, into the system's."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, f"cannot be written: {error.message}", str(path)) from error

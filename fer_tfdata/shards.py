"""The second half of a conversion: the records in the spools into shards.

Every record's shard and place follow from its row, the seed and the counts, so that any number of
workers write the same bytes.
"""

import dataclasses
import functools
import hashlib
import itertools
import math
import os
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fer_tfdata.engines import Engine
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL, SPLITS
from fer_tfdata.records import NAME, Schema, Shard
from fer_tfdata.spools import INDEX, Spool

# With num_shards=0: the fewest shards, a power of two so that processes share them evenly, that
# stay below this size.  FER2013's 69 MB of Training become 8.
_SHARD_BYTES: Final = 16 << 20
_MOST_SHARDS: Final = 1024

_PLACE: Final = np.dtype([("spool", "<i4"), ("bytes", "<i4"), ("start", "<i8")])
_ENTRIES_A_READ: Final = 1 << 16
_RECORDS_A_PASS: Final = 1 << 18
_RECORDS_A_WRITE: Final = 512


def balanced_lengths(examples: int, num_shards: int) -> list[int]:
    """Returns how many of `examples` go into each shard: none empty, none above another by two."""
    count = max(1, min(num_shards, examples))
    return [examples * (i + 1) // count - examples * i // count for i in range(count)]


def choose_num_shards(num_bytes: int) -> int:
    """Returns the smallest power of two that keeps shards of `num_bytes` in all below 16 MiB."""
    count = 1
    while count < _MOST_SHARDS and num_bytes > count * _SHARD_BYTES:
        count *= 2
    return count


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the place of every record is a function of."""

    spools: Sequence[Spool]
    dropped: frozenset[int]
    seed: int
    num_shards: int  # 0: chosen by size
    scratch: Path


@dataclasses.dataclass(frozen=True)
class Contents:
    """What a split holds, without the dropped rows."""

    examples: int
    bytes: int
    labels: Counter[int]
    majorities: Counter[int]
    distributions: int
    comparable: int  # images with a label and a majority
    agreeing: int  # those of them on which the two are the same

    def to_json(self, schema: Schema) -> dict[str, Any]:
        """Returns the manifest's form."""
        described: dict[str, Any] = {
            "examples": self.examples,
            "unlabelled": self.labels[NO_LABEL],
            "per_expression": _by_name(self.labels, schema.expressions),
            "ferplus_examples": {},
        }
        if schema.has_votes:
            described["ferplus_examples"] = {
                "ferplus_majority": self.majorities.total() - self.majorities[NO_LABEL],
                "ferplus_distribution": self.distributions,
            }
            described["per_ferplus_majority"] = _by_name(self.majorities, EIGHT_EXPRESSIONS)
        return described


def _by_name(counts: Counter[int], names: Sequence[str]) -> dict[str, int]:
    return {name: counts[label] for label, name in enumerate(names)}


def _summarize(plan: Plan, split: str) -> Contents:
    examples = num_bytes = distributions = comparable = agreeing = 0
    labels: Counter[int] = Counter()
    majorities: Counter[int] = Counter()
    for entries, places in _kept_records(plan, split):
        examples += len(entries)
        num_bytes += int(places["bytes"].sum())
        labels.update(entries["label"].tolist())
        majorities.update(entries["majority"].tolist())
        distributions += int(entries["distribution"].sum())
        has_both = (entries["label"] != NO_LABEL) & (entries["majority"] != NO_LABEL)
        comparable += int(has_both.sum())
        agreeing += int((has_both & (entries["label"] == entries["majority"])).sum())
    return Contents(examples, num_bytes, labels, majorities, distributions, comparable, agreeing)


def _kept_records(
    plan: Plan, split: str
) -> Iterator[tuple[npt.NDArray[np.void], npt.NDArray[np.void]]]:
    """Yields blocks of the index and of the places, in the source's order."""
    dropped = np.array(sorted(plan.dropped) if split == "train" else [], np.int64)
    for number, spool in enumerate(plan.spools):
        if not spool.index(split).exists():
            continue
        start = 0
        with spool.index(split).open("rb") as file:
            while len(entries := np.fromfile(file, INDEX, _ENTRIES_A_READ)):
                places = np.empty(len(entries), _PLACE)
                places["spool"] = number
                places["start"] = np.concatenate([[start], entries["end"][:-1]])
                places["bytes"] = entries["end"] - places["start"]
                start = int(entries["end"][-1])
                kept = ~np.isin(entries["row"], dropped)
                yield entries[kept], places[kept]


def _in_order_of_writing(plan: Plan, split: str, examples: int) -> Iterator[npt.NDArray[np.void]]:
    """Yields the places of a split's records, block by block."""
    if split != "train":
        yield from (places for _, places in _kept_records(plan, split))
        return
    passes = max(1, math.ceil(examples / _RECORDS_A_PASS))
    bounds = [index * 2**64 // passes for index in range(passes + 1)]
    for low, high in itertools.pairwise(bounds):
        keys, places = [], []
        for entries, of_block in _kept_records(plan, split):
            key = _shuffling_keys(entries["row"], plan.seed)
            chosen = (key >= np.uint64(low)) & (key <= np.uint64(high - 1))
            keys.append(key[chosen])
            places.append(of_block[chosen])
        yield np.concatenate(places)[np.argsort(np.concatenate(keys))]


def _shuffling_keys(rows: npt.NDArray[np.int64], seed: int) -> npt.NDArray[np.uint64]:
    """Returns a number for each row; no two are the same, and their order is random.

    SplitMix64's output function, a bijection (Steele, Lea, Flood: Fast splittable pseudorandom
    number generators, 2014), so that a record's place follows from its row alone.
    """
    keys = rows.astype(np.uint64) ^ _mix(np.array([seed], np.uint64))
    return _mix(keys)


def _mix(numbers: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    mixed = numbers + np.uint64(0x9E3779B97F4A7C15)
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


@dataclasses.dataclass(frozen=True)
class _ShardTask:
    """A shard to be written, and the file that says from where its records come."""

    file: Path
    plan: Path


def write_splits(
    plan: Plan, directory: Path, engine: Engine
) -> dict[str, tuple[Contents, list[Shard]]]:
    """Writes the shards of every split that holds anything; returns what they hold."""
    written = {}
    for split in SPLITS:
        contents = _summarize(plan, split)
        if contents.examples:
            spools = [spool.records(split) for spool in plan.spools]
            shards = engine.map(
                functools.partial(_write_shard, spools),  # sent once, not with every task
                _shard_tasks(plan, split, contents, directory),
                plan.scratch,
            )
            written[split] = contents, shards
    return written


def _shard_tasks(
    plan: Plan, split: str, contents: Contents, directory: Path
) -> Iterator[_ShardTask]:
    num_shards = plan.num_shards or choose_num_shards(contents.bytes)
    lengths = balanced_lengths(contents.examples, num_shards)
    blocks = _in_order_of_writing(plan, split, contents.examples)
    pending = np.empty(0, _PLACE)
    for index, length in enumerate(lengths):
        parts, count = [pending], len(pending)
        while count < length:
            parts.append(next(blocks))
            count += len(parts[-1])
        places = np.concatenate(parts)
        pending = places[length:]
        plan_file = plan.scratch / f"{split}-{index:05d}.plan"
        plan_file.write_bytes(places[:length].tobytes())
        file = directory / f"{NAME}-{split}.tfrecord-{index:05d}-of-{len(lengths):05d}"
        yield _ShardTask(file, plan_file)


def _write_shard(spools: Sequence[Path], task: _ShardTask) -> Shard:
    places = np.fromfile(task.plan, _PLACE)
    sha256 = hashlib.sha256()
    # Renamed when complete, since a cluster may run a task twice, even at once.
    temporary = task.plan.with_name(f"{task.file.name}-{uuid.uuid4().hex}")
    with temporary.open("wb") as file:
        for start in range(0, len(places), _RECORDS_A_WRITE):
            content = b"".join(_read_records(spools, places[start : start + _RECORDS_A_WRITE]))
            sha256.update(content)
            file.write(content)
    temporary.replace(task.file)
    return Shard(task.file.name, len(places), int(places["bytes"].sum()), sha256.hexdigest())


def _read_records(spools: Sequence[Path], places: npt.NDArray[np.void]) -> list[bytes]:
    """Returns the records at the places, one spool open at a time: there may be many."""
    records = [b""] * len(places)
    sizes, starts = places["bytes"].tolist(), places["start"].tolist()
    for number in np.unique(places["spool"]).tolist():
        with spools[number].open("rb", buffering=0) as spool:
            for i in np.flatnonzero(places["spool"] == number).tolist():
                records[i] = os.pread(spool.fileno(), sizes[i], starts[i])
    return records

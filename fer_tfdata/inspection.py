"""What is to be seen of a data directory: counts, statistics of the pixels, the rows with faults.

It comes from the manifest and from one pass over the records, a batch at a time, so that memory
does not grow with the data; `inspection_page` makes a page of it.
"""

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fer_tfdata import ferplus
from fer_tfdata.audit import Audit
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL, SPLITS
from fer_tfdata.records import (
    MANIFEST,
    NAME,
    VERSION,
    Schema,
    Split,
    count_from_json,
    counts_from_json,
    open_split,
    read_batches,
    read_manifest,
    rows_from_json,
)
from fer_tfdata.sources import BadRow

# What is shown of each kind at most.
SAMPLES: Final = 24
GROUPS: Final = 24
IMAGES_OF_A_GROUP: Final = 12
SINGLE_IMAGES: Final = 48
LISTED_ROWS: Final = 50

_SEED: Final = 0
_BATCH_BYTES: Final = 4 << 20

_Batch = Mapping[str, npt.NDArray[Any]]


@dataclasses.dataclass(frozen=True)
class Example:
    """An image, where it stands, and what it is said to show.

    Attributes:
      row: the row of the source, counted from 0.
      split: `train`, `validation` or `test`.
      label: an id of the data set's expressions, or `NO_LABEL`.
      majority: the id of FER+'s majority, or `NO_LABEL`.
      image: uint8 [height, width, channels].
    """

    row: int
    split: str
    label: int
    majority: int
    image: npt.NDArray[np.uint8]


@dataclasses.dataclass(frozen=True)
class PixelStatistics:
    """How often each value stands in each channel of a split, int64 [channels, 256]."""

    histogram: npt.NDArray[np.int64]

    @property
    def mean(self) -> npt.NDArray[np.float64]:
        """The mean of each channel, 0 to 255."""
        mean: npt.NDArray[np.float64] = self._moment(np.arange(256)[np.newaxis])
        return mean

    @property
    def std(self) -> npt.NDArray[np.float64]:
        """The standard deviation of each channel over all pixels."""
        deviations = np.arange(256) - self.mean[:, np.newaxis]
        std: npt.NDArray[np.float64] = np.sqrt(self._moment(deviations**2))
        return std

    @property
    def shares(self) -> npt.NDArray[np.float64]:
        """The share of each value in all the channels together, [256]."""
        shares: npt.NDArray[np.float64] = self.histogram.sum(axis=0) / self.histogram.sum()
        return shares

    def _moment(self, values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        total: npt.NDArray[np.float64] = (self.histogram * values).sum(axis=1)
        return total / self.histogram.sum(axis=1)


@dataclasses.dataclass(frozen=True)
class Fault:
    """Images with one kind of fault.

    Attributes:
      groups: how many there are; an image that is at fault alone is a group of one.
      rows: how many rows these are.
      kept: how many of the rows were not dropped.
      shown: the rows of those groups that are shown, dropped ones among them; of a larger group,
        `IMAGES_OF_A_GROUP` images are shown.
    """

    groups: int
    rows: int
    kept: int
    shown: Sequence[Sequence[int]]


@dataclasses.dataclass(frozen=True)
class Faults:
    """What the audit found in the source, before any row was dropped.

    Attributes:
      repeated: per split, how many images repeat an earlier one of it.
      repeated_dropped: how many repeats fewer `train` has without the dropped rows.
      leaked: per split but `train`, how many images also stand in `train`.
      leaks: equal images in `train` and in another split.
      repeats: other equal images.
      near_duplicates: pairs of nearly equal images, those across splits first; for a row that was
        dropped stands an equal one that was kept, where there is one.
      conflicts: equal images with different labels.
      flat: images of one colour.
      almost_flat: images of nearly one colour.
      not_a_face: what FER+'s voters found to be no face; None where there are no votes.
    """

    repeated: Mapping[str, int]
    repeated_dropped: int
    leaked: Mapping[str, int]
    leaks: Fault
    repeats: Fault
    near_duplicates: Fault
    conflicts: Fault
    flat: Fault
    almost_flat: Fault
    not_a_face: Fault | None

    @property
    def shown_rows(self) -> set[int]:
        """Every row whose image is shown."""
        values = (getattr(self, field.name) for field in dataclasses.fields(self))
        faults = (value for value in values if isinstance(value, Fault))
        groups = itertools.chain.from_iterable(fault.shown for fault in faults)
        return {row for group in groups for row in group[:IMAGES_OF_A_GROUP]}


@dataclasses.dataclass(frozen=True)
class DroppedRow:
    """A row that the conversion left out of `train`.

    Attributes:
      row: the row of the source.
      split: the split it would stand in.
      reason: its faults.
      twin: a row that was kept and has the same image; None where there is none.
    """

    row: int
    split: str
    reason: str
    twin: int | None


@dataclasses.dataclass(frozen=True)
class SourceFile:
    """A file, or a folder of `files`, that was converted."""

    name: str
    bytes: int
    sha256: str
    files: int = 1


@dataclasses.dataclass(frozen=True)
class Agreement:
    """The data set's labels against FER+'s majorities, where an image has both.

    Attributes:
      counts: int64 [number of the data set's expressions, 8].
      sample: random images of the sampled split whose two labels differ.
    """

    counts: npt.NDArray[np.int64]
    sample: Sequence[Example]

    @property
    def total(self) -> int:
        """How many images have both."""
        return int(self.counts.sum())

    @property
    def agreeing(self) -> int:
        """How many of them have the same."""
        return int(np.trace(self.counts))

    @property
    def share(self) -> float:
        """The share of them that have the same."""
        return self.agreeing / self.total

    @property
    def is_by_chance(self) -> bool:
        """Whether so few have the same that the votes must be on other images."""
        return ferplus.agree_by_chance(self.agreeing, self.total)


@dataclasses.dataclass(frozen=True)
class Contents:
    """What the manifest says.

    Attributes:
      sources: what was converted.
      ferplus: the file of the votes; None where none were given.
      validation_fraction: the share of the training images that became `validation`.
      schema: what every record holds.
      splits: those that there are, in their order.
      majorities: per split, how many of each of the eight are FER+'s majority; empty where there
        are no votes.
      faults: what was found in the source.
      dropped: the rows that were left out for their faults.
      skipped: the rows that could not be used.
    """

    sources: Sequence[SourceFile]
    ferplus: SourceFile | None
    validation_fraction: float
    schema: Schema
    splits: Sequence[Split]
    majorities: Mapping[str, Mapping[str, int]]
    faults: Faults
    dropped: Sequence[DroppedRow]
    skipped: Sequence[BadRow]


@dataclasses.dataclass(frozen=True)
class Inspection:
    """All that the page shows.

    Attributes:
      contents: what the manifest says; the rest is what the records say.
      pixels: the statistics of each split.
      sampled_split: what `mean_faces` and the samples are of: `train` where there is one.
      mean_faces: the mean image of each label of the sampled split, uint8.
      samples: random images of each label of the sampled split.
      agreement: None where there are no votes.
      examples: the images of the faults and the twins of the dropped rows, by row; without the
        rows that were dropped.
    """

    contents: Contents
    pixels: Mapping[str, PixelStatistics]
    sampled_split: str
    mean_faces: Mapping[int, npt.NDArray[np.uint8]]
    samples: Mapping[int, Sequence[Example]]
    agreement: Agreement | None
    examples: Mapping[int, Example]


def inspect(data_dir: Path, *, on_read: Callable[[int], object] = lambda count: None) -> Inspection:
    """Reads a data directory once and returns what is to be seen of it.

    Args:
      data_dir: the directory given to the conversion as `--output_dir`.
      on_read: is told the number of records of every batch read.

    Raises:
      InputError: the directory or a shard is missing, or is not as the manifest says.
    """
    contents = _read_contents(data_dir)
    gathering = _Gathering(contents)
    batch_size = max(1, _BATCH_BYTES // math.prod(contents.schema.image_shape))
    for split in contents.splits:
        for batch in read_batches(split, batch_size):
            gathering.add(split.name, batch)
            on_read(len(batch["row"]))
    return Inspection(
        contents=contents,
        pixels={name: PixelStatistics(counts) for name, counts in gathering.histograms.items()},
        sampled_split=gathering.sampled_split,
        mean_faces=gathering.mean_faces(),
        samples={label: sample.examples for label, sample in sorted(gathering.samples.items())},
        agreement=gathering.agreement() if contents.schema.has_votes else None,
        examples=gathering.examples,
    )


# What the manifest says.


def _read_contents(data_dir: Path) -> Contents:
    directory = data_dir / NAME / VERSION
    manifest = read_manifest(directory)
    try:
        splits = [open_split(data_dir, name) for name in manifest["splits"]]
        if not splits:
            raise InputError(f"{directory}: expected a split at least, received none")
        schema = splits[0].schema
        audit = _audit_from_json(manifest["audit"])
        dropped = _rows_of(manifest["rows_dropped"])
        twins = _twins(audit, dropped)
        return Contents(
            sources=_source_files(manifest["source"]),
            ferplus=_source_file(manifest["ferplus"]) if schema.has_votes else None,
            validation_fraction=float(manifest["validation_fraction"]),
            schema=schema,
            splits=splits,
            majorities={
                name: counts_from_json(split["per_ferplus_majority"], EIGHT_EXPRESSIONS)
                for name, split in manifest["splits"].items()
                if schema.has_votes
            },
            faults=_faults(audit, splits, dropped, twins),
            dropped=_dropped_rows(manifest["rows_dropped"], twins),
            skipped=[_bad_row(**row) for row in manifest["rows_skipped"]],
        )
    except InputError:
        raise
    except (AttributeError, KeyError, OverflowError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / MANIFEST}: the manifest is damaged; convert the source again with "
            "--overwrite"
        ) from error


def _source_files(source: Mapping[str, Any]) -> list[SourceFile]:
    if "directory" in source:
        return [
            _source_file({**source, "file": source["directory"]}, count_from_json(source["files"]))
        ]
    return [_source_file(file) for file in source.get("files", [source])]


def _source_file(file: Mapping[str, Any], files: int = 1) -> SourceFile:
    num_bytes = count_from_json(file["bytes"])
    return SourceFile(str(file["file"]), num_bytes, str(file["sha256"]), files)


def _faults(
    audit: Audit, splits: Sequence[Split], dropped: frozenset[int], twins: Mapping[int, int]
) -> Faults:
    leaking = set(itertools.chain.from_iterable(audit.leaked_rows.values()))
    near_leaking = set(itertools.chain.from_iterable(audit.near_leaked_rows.values()))
    near_leaking.update(*(split.near_leaked_rows for split in splits))
    pairs = [[twins.get(row, row) for row in pair] for pair in audit.near_duplicate_pairs]
    near = sorted(pairs, key=lambda pair: near_leaking.isdisjoint(pair))
    groups = audit.duplicate_groups
    not_a_face = audit.not_a_face_rows
    return Faults(
        repeated={split: int(audit.duplicates[split]) for split in SPLITS},
        repeated_dropped=sum(_repeats_dropped(group, leaking, dropped) for group in groups),
        leaked={split: len(rows) for split, rows in audit.leaked_rows.items()},
        leaks=_fault([group for group in groups if not leaking.isdisjoint(group)], dropped),
        repeats=_fault([group for group in groups if leaking.isdisjoint(group)], dropped),
        near_duplicates=_fault(near, dropped),
        conflicts=_fault(audit.conflicting_groups, dropped),
        flat=_single_images(audit.flat_rows, dropped),
        almost_flat=_single_images(audit.almost_flat_rows, dropped),
        not_a_face=None if not_a_face is None else _single_images(not_a_face, dropped),
    )


def _fault(groups: Sequence[Sequence[int]], dropped: frozenset[int], limit: int = GROUPS) -> Fault:
    # What was dropped altogether has no image to show, and comes last.
    by_interest = sorted(groups, key=lambda group: dropped.issuperset(group))
    rows = set(itertools.chain.from_iterable(groups))
    return Fault(len(groups), len(rows), len(rows - dropped), by_interest[:limit])


def _repeats_dropped(group: Sequence[int], leaking: set[int], dropped: frozenset[int]) -> int:
    """Returns how many repeats fewer `train` has of equal images, for the rows that it lost."""
    lost = len(dropped.intersection(group))
    in_train = len(set(group) - leaking)  # if one was dropped: all that are of no other split
    return min(lost, in_train - 1) if lost else 0


def _single_images(rows: Sequence[int], dropped: frozenset[int]) -> Fault:
    return _fault([[row] for row in rows], dropped, SINGLE_IMAGES)


def _twins(audit: Audit, dropped: frozenset[int]) -> dict[int, int]:
    """Returns, of the dropped rows, a row that was kept and has the same image."""
    twins: dict[int, int] = {}
    for group in audit.duplicate_groups:
        kept = [row for row in group if row not in dropped]
        if kept:
            twins.update(dict.fromkeys(dropped.intersection(group), kept[0]))
    return twins


def _dropped_rows(
    listed: Sequence[Mapping[str, Any]], twins: Mapping[int, int]
) -> list[DroppedRow]:
    return [
        DroppedRow(entry["row"], str(entry["split"]), str(entry["reason"]), twins.get(entry["row"]))
        for entry in listed
    ]


def _rows_of(listed: Sequence[Mapping[str, Any]]) -> frozenset[int]:
    return frozenset(rows_from_json([entry["row"] for entry in listed]))


def _bad_row(row: int, place: str, reason: str) -> BadRow:
    return BadRow(count_from_json(row), str(place), str(reason))


def _audit_from_json(value: Mapping[str, Any]) -> Audit:
    audit = Audit(**value)
    not_a_face = audit.not_a_face_rows
    groups = (audit.duplicate_groups, audit.conflicting_groups, audit.near_duplicate_pairs)
    for rows in (
        *itertools.chain.from_iterable(groups),
        *(audit.leaked_rows[split] for split in SPLITS[1:]),
        *(audit.near_leaked_rows[split] for split in SPLITS[1:]),
        *(audit.flat_rows, audit.almost_flat_rows, [] if not_a_face is None else not_a_face),
    ):
        rows_from_json(rows)
    if any(len(pair) != 2 for pair in audit.near_duplicate_pairs):
        raise ValueError
    return dataclasses.replace(audit, duplicates=counts_from_json(audit.duplicates, SPLITS))


def _rows_to_show(contents: Contents) -> npt.NDArray[np.int64]:
    twins = {row.twin for row in contents.dropped[:LISTED_ROWS] if row.twin is not None}
    return np.array(sorted(contents.faults.shown_rows | twins), np.int64)


# What the records say.


class _Sample:
    """The examples with the smallest keys: with random keys, a uniform sample of a stream."""

    def __init__(self) -> None:
        self._kept: list[tuple[float, Example]] = []

    def offer(
        self,
        split: str,
        batch: _Batch,
        keys: npt.NDArray[np.float64],
        chosen: npt.NDArray[np.bool_],
    ) -> None:
        """Takes in the chosen ones of a batch, each with its key."""
        positions = np.flatnonzero(chosen)
        smallest = positions[np.argsort(keys[positions])[:SAMPLES]].tolist()
        offered = [(float(keys[at]), _example(split, batch, at)) for at in smallest]
        self._kept = sorted([*self._kept, *offered], key=lambda pair: pair[0])[:SAMPLES]

    @property
    def examples(self) -> list[Example]:
        """Those kept, by row."""
        return sorted((example for _, example in self._kept), key=lambda example: example.row)


class _Gathering:
    """What one pass over the records gathers."""

    def __init__(self, contents: Contents) -> None:
        names = [split.name for split in contents.splits]
        schema = contents.schema
        self.sampled_split = "train" if "train" in names else names[0]
        self.histograms = {name: np.zeros((schema.image_shape[2], 256), np.int64) for name in names}
        self.samples: dict[int, _Sample] = {}
        self.examples: dict[int, Example] = {}
        self._rows_to_show = _rows_to_show(contents)
        self._sums: dict[int, npt.NDArray[np.int64]] = {}
        self._counts: dict[int, int] = {}
        self._agreement = np.zeros((len(schema.expressions), len(EIGHT_EXPRESSIONS)), np.int64)
        self._disagreements = _Sample()
        self._rng = np.random.default_rng(_SEED)

    def add(self, split: str, batch: _Batch) -> None:
        """Takes in a batch of a split."""
        self._count_values(split, batch["image"])
        majorities = _majorities(batch)
        differ = self._compare(batch["label"], majorities)
        if split == self.sampled_split:
            self._add_to_means(batch)
            # A key for each record, so that the samples do not depend on the batches.
            keys = self._rng.random(len(batch["row"]))
            for label in np.unique(batch["label"]).tolist():
                sample = self.samples.setdefault(label, _Sample())
                sample.offer(split, batch, keys, batch["label"] == label)
            self._disagreements.offer(split, batch, keys, differ)
        for position in np.flatnonzero(np.isin(batch["row"], self._rows_to_show)).tolist():
            example = _example(split, batch, position)
            self.examples[example.row] = example

    def mean_faces(self) -> dict[int, npt.NDArray[np.uint8]]:
        """Returns the mean image of each label."""
        return {
            label: np.round(total / self._counts[label]).astype(np.uint8)
            for label, total in sorted(self._sums.items())
        }

    def agreement(self) -> Agreement:
        """Returns how the labels and FER+'s majorities agree."""
        return Agreement(self._agreement, self._disagreements.examples)

    def _count_values(self, split: str, images: npt.NDArray[np.uint8]) -> None:
        for channel, histogram in enumerate(self.histograms[split]):
            histogram += np.bincount(images[..., channel].ravel(), minlength=256)

    def _add_to_means(self, batch: _Batch) -> None:
        for label in np.unique(batch["label"]).tolist():
            images = batch["image"][batch["label"] == label]
            self._sums[label] = self._sums.get(label, 0) + images.sum(axis=0, dtype=np.int64)
            self._counts[label] = self._counts.get(label, 0) + len(images)

    def _compare(
        self, labels: npt.NDArray[np.int64], majorities: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.bool_]:
        """Counts the pairs of labels, and returns where both are there and differ."""
        both = (labels != NO_LABEL) & (majorities != NO_LABEL)
        np.add.at(self._agreement, (labels[both], majorities[both]), 1)
        differ: npt.NDArray[np.bool_] = both & (labels != majorities)
        return differ


def _majorities(batch: _Batch) -> npt.NDArray[np.int64]:
    if "votes" in batch:
        return ferplus.majority(batch["votes"])
    return np.full(len(batch["row"]), NO_LABEL)


def _example(split: str, batch: _Batch, position: int) -> Example:
    one = {name: values[position : position + 1] for name, values in batch.items()}
    return Example(
        row=int(one["row"][0]),
        split=split,
        label=int(one["label"][0]),
        majority=int(_majorities(one)[0]),
        image=one["image"][0].copy(),  # a view would keep the whole batch
    )

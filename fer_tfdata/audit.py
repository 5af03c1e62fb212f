"""What is wrong with a data set: images that stand in it more than once, flat ones, no faces.

FER2013 holds about 1,850 rows that repeat an earlier image byte for byte; some 280 of PublicTest
also stand in Training.  A network can know those by heart, so they are counted when the records
are written and reported apart when a model is evaluated.

The findings come from a table on disk, some bytes an image, so that memory does not grow with the
data: workers write the table's parts, and the search reads them in passes.
"""

import dataclasses
import hashlib
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self

import numpy as np
import numpy.typing as npt

from fer_tfdata import ferplus, near_duplicates
from fer_tfdata.expressions import NO_LABEL, SPLITS

DropReason = Literal["leaks", "conflicts", "flat", "not_a_face"]

# An image is almost flat where no channel's standard deviation reaches this.  The 32,298 images of
# FER2013's Training and PublicTest hold 12 of one colour, one of 4.1, and none between that and
# 9.1 (a face in the dark).
_ALMOST_FLAT_STD: Final = 8

_TRAIN: Final = SPLITS.index("train")

_FLAT: Final = 1
_ALMOST_FLAT: Final = 2
_NOT_A_FACE: Final = 4

_ENTRY: Final = np.dtype(
    [
        ("digest_high", "<u8"),
        ("digest_low", "<u8"),
        ("row", "<i8"),
        ("label", "<i2"),
        ("split", "u1"),
        ("flags", "u1"),
    ]
)

# What a pass takes in at most, more or less; 7 MB.
_ENTRIES_A_PASS: Final = 1 << 18
_ENTRIES_A_READ: Final = 1 << 16

_Entries = npt.NDArray[np.void]


@dataclasses.dataclass(frozen=True)
class Audit:
    """The findings; everything is named by its row in the source.

    Attributes:
      duplicates: per split, how many images repeat an earlier one of the same split.
      duplicate_groups: the rows of every image that stands in the data more than once.
      leaked_rows: per split but `train`, the rows whose image also stands in `train`.
      conflicting_groups: those of the `duplicate_groups` whose labels differ.
      near_duplicate_pairs: rows of images that are nearly the same (`near_duplicates`); of equal
        images the first stands for all.
      flat_rows: images of one colour.
      almost_flat_rows: images of nearly one colour, the flat ones left out.
      not_a_face_rows: images that FER+'s voters found to be no face; None where there are no votes.
      imbalance: per split, the count of its most frequent expression divided by that of its rarest
        one; None where an expression is missing.
    """

    duplicates: Mapping[str, int]
    duplicate_groups: Sequence[Sequence[int]]
    leaked_rows: Mapping[str, Sequence[int]]
    conflicting_groups: Sequence[Sequence[int]]
    near_duplicate_pairs: Sequence[Sequence[int]]
    near_leaked_rows: Mapping[str, Sequence[int]]
    flat_rows: Sequence[int]
    almost_flat_rows: Sequence[int]
    not_a_face_rows: Sequence[int] | None
    imbalance: Mapping[str, float | None]

    def to_json(self) -> dict[str, Any]:
        """Returns the manifest's form."""
        return dataclasses.asdict(self)


@dataclasses.dataclass(frozen=True)
class Findings:
    """The audit, and what follows from it for the rows of `train`.

    Attributes:
      audit: what was found in the source.
      reasons: of each row of `train` that has a fault, which.
    """

    audit: Audit
    reasons: Mapping[int, Sequence[DropReason]]

    def leaked_rows_without(self, dropped: frozenset[int]) -> dict[str, list[int]]:
        """Returns per split but `train` the rows that still leak when `train` loses some rows."""
        leaking = {row for row, reasons in self.reasons.items() if "leaks" in reasons}
        still_leaks: set[int] = set()
        for group in self.audit.duplicate_groups:
            if any(row in leaking and row not in dropped for row in group):
                still_leaks.update(group)
        return {
            split: [row for row in rows if row in still_leaks]
            for split, rows in self.audit.leaked_rows.items()
        }


class TableWriter:
    """Writes a part of the table: a digest, a signature and some marks of each image."""

    def __init__(self, path: Path) -> None:
        """Opens `path`, and the signatures beside it."""
        self._entries: BinaryIO = path.open("wb")
        self._signatures: BinaryIO = _signatures_of(path).open("wb")

    def add(
        self,
        images: npt.NDArray[np.uint8],
        labels: npt.NDArray[np.int64],
        splits: Sequence[str],
        rows: npt.NDArray[np.int64],
        votes: npt.NDArray[np.int64] | None = None,
    ) -> None:
        """Takes in n images, uint8 [n, ...], with their labels, splits, rows and FER+ votes."""
        entries = np.zeros(len(images), _ENTRY)
        digests = digests_of(images)
        entries["digest_high"], entries["digest_low"] = digests[:, 0], digests[:, 1]
        entries["row"] = rows
        entries["label"] = labels
        entries["split"] = [SPLITS.index(split) for split in splits]
        entries["flags"] = _flatness(images)
        if votes is not None:
            entries["flags"] |= ferplus.not_a_face(votes) * np.uint8(_NOT_A_FACE)
        self._entries.write(entries.tobytes())
        self._signatures.write(near_duplicates.signatures(images).tobytes())

    def __enter__(self) -> Self:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the files."""
        self._entries.close()
        self._signatures.close()


def digests_of(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint64]:
    """Returns 128 bits of BLAKE2 of each image, uint64 [n, 2]."""
    digests = b"".join(
        hashlib.blake2b(image.tobytes(), digest_size=16).digest() for image in images
    )
    return np.frombuffer(digests, "<u8").reshape(-1, 2).astype(np.uint64)


def report(tables: Sequence[Path], scratch: Path, *, num_expressions: int, votes: bool) -> Findings:
    """Returns what was found in all the parts of a table.

    Memory is that of one pass and of the findings.

    Args:
      tables: the parts' paths, in the order of their rows.
      scratch: a directory for a temporary file of the signatures.
      num_expressions: how many expressions the labels are ids of.
      votes: whether FER+ votes were given.
    """
    groups = sorted(_duplicate_groups(tables), key=lambda group: int(group["row"][0]))
    later = {int(row) for group in groups for row in group["row"][1:]}
    flagged = _flagged(tables)
    near = _near_duplicates(tables, later, scratch)
    return Findings(
        Audit(
            duplicates=_count_duplicates(groups),
            duplicate_groups=[group["row"].tolist() for group in groups],
            leaked_rows=_leaked_rows(groups),
            conflicting_groups=[group["row"].tolist() for group in groups if _conflicts(group)],
            near_duplicate_pairs=near["row"].tolist(),
            near_leaked_rows=_near_leaked_rows(near, groups),
            flat_rows=_rows_with(flagged, _FLAT),
            almost_flat_rows=_rows_with(flagged, _ALMOST_FLAT),
            not_a_face_rows=_rows_with(flagged, _NOT_A_FACE) if votes else None,
            imbalance=_imbalance(tables, num_expressions),
        ),
        _reasons(groups, flagged),
    )


def _flatness(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    # Integers, so that the answer is the same on every machine.
    channels = images.reshape(len(images), -1, images.shape[-1]).astype(np.int64)
    count = channels.shape[1]
    sums, squares = channels.sum(axis=1), np.einsum("npc,npc->nc", channels, channels)
    scaled_variance = count * squares - sums * sums
    flat = (scaled_variance == 0).all(axis=1)
    almost = (scaled_variance < _ALMOST_FLAT_STD**2 * count**2).all(axis=1) & ~flat
    flags: npt.NDArray[np.uint8] = (flat * _FLAT + almost * _ALMOST_FLAT).astype(np.uint8)
    return flags


def _read(tables: Sequence[Path]) -> Iterator[_Entries]:
    for table in tables:
        with table.open("rb") as file:
            while len(entries := np.fromfile(file, _ENTRY, _ENTRIES_A_READ)):
                yield entries


def _duplicate_groups(tables: Sequence[Path]) -> Iterator[_Entries]:
    """Yields the entries of each image that stands there more than once, by row."""
    total = sum(table.stat().st_size for table in tables) // _ENTRY.itemsize
    passes = max(1, math.ceil(total / _ENTRIES_A_PASS))
    # Digests are spread evenly, so that equal ranges of them hold about as many each.
    bounds = [index * 2**64 // passes for index in range(passes + 1)]
    for low, high in itertools.pairwise(bounds):
        chosen = [
            block[
                (block["digest_high"] >= np.uint64(low))
                & (block["digest_high"] <= np.uint64(high - 1))
            ]
            for block in _read(tables)
        ]
        yield from _equal_runs(np.concatenate(chosen) if chosen else np.empty(0, _ENTRY))


def _equal_runs(entries: _Entries) -> Iterator[_Entries]:
    order = np.lexsort((entries["row"], entries["digest_low"], entries["digest_high"]))
    entries = entries[order]
    same = (entries["digest_high"][1:] == entries["digest_high"][:-1]) & (
        entries["digest_low"][1:] == entries["digest_low"][:-1]
    )
    starts = np.flatnonzero(same & ~np.concatenate([[False], same[:-1]]))
    ends = np.flatnonzero(same & ~np.concatenate([same[1:], [False]])) + 2
    for start, end in zip(starts, ends, strict=True):
        yield entries[start:end].copy()  # a view would keep the whole pass in memory


def _count_duplicates(groups: Sequence[_Entries]) -> dict[str, int]:
    counts = np.zeros(len(SPLITS), np.int64)
    for group in groups:
        counts += np.maximum(np.bincount(group["split"], minlength=len(SPLITS)) - 1, 0)
    return dict(zip(SPLITS, counts.tolist(), strict=True))


def _leaks(group: _Entries) -> bool:
    return len(np.unique(group["split"] == _TRAIN)) == 2


def _leaked_rows(groups: Sequence[_Entries]) -> dict[str, list[int]]:
    leaked: dict[str, list[int]] = {split: [] for split in SPLITS[1:]}
    for group in groups:
        if _leaks(group):
            for split, row in zip(group["split"].tolist(), group["row"].tolist(), strict=True):
                if split != _TRAIN:
                    leaked[SPLITS[split]].append(row)
    return {split: sorted(rows) for split, rows in leaked.items()}


def _conflicts(group: _Entries) -> bool:
    labels = group["label"][group["label"] != NO_LABEL]
    return len(np.unique(labels)) > 1


def _flagged(tables: Sequence[Path]) -> _Entries:
    found = [block[block["flags"] != 0] for block in _read(tables)]
    return np.concatenate(found) if found else np.empty(0, _ENTRY)


def _rows_with(flagged: _Entries, flag: int) -> list[int]:
    rows: list[int] = flagged["row"][(flagged["flags"] & flag) != 0].tolist()
    return rows


def _imbalance(tables: Sequence[Path], num_expressions: int) -> dict[str, float | None]:
    counts = np.zeros((len(SPLITS), num_expressions), np.int64)
    for block in _read(tables):
        labelled = block[block["label"] != NO_LABEL]
        np.add.at(counts, (labelled["split"], labelled["label"]), 1)
    return {
        split: round(float(of_split.max() / of_split.min()), 4) if of_split.min() else None
        for split, of_split in zip(SPLITS, counts, strict=True)
        if of_split.any()
    }


def _reasons(groups: Sequence[_Entries], flagged: _Entries) -> dict[int, list[DropReason]]:
    reasons: dict[int, list[DropReason]] = {}

    def note(entries: _Entries, reason: DropReason) -> None:
        for row in entries["row"][entries["split"] == _TRAIN].tolist():
            reasons.setdefault(row, []).append(reason)

    for group in groups:
        if _leaks(group):
            note(group, "leaks")
        if _conflicts(group):
            note(group, "conflicts")
    note(flagged[(flagged["flags"] & (_FLAT | _ALMOST_FLAT)) != 0], "flat")
    note(flagged[(flagged["flags"] & _NOT_A_FACE) != 0], "not_a_face")
    return reasons


def _near_duplicates(tables: Sequence[Path], exact_duplicates: set[int], scratch: Path) -> _Entries:
    """Returns pairs of entries, [m, 2], found among the first of each group of equal images."""
    repeats = np.array(sorted(exact_duplicates), np.int64)
    signatures_file, entries_file = scratch / "first.signatures", scratch / "first.entries"
    dtype = near_duplicates.SIGNATURE_DTYPE
    with signatures_file.open("wb") as signatures_out, entries_file.open("wb") as entries_out:
        for table in tables:
            with _signatures_of(table).open("rb") as signatures_in:
                for entries in _read([table]):
                    signatures = np.fromfile(signatures_in, dtype, len(entries))
                    first = ~np.isin(entries["row"], repeats)
                    signatures_out.write(signatures[first].tobytes())
                    entries_out.write(entries[first].tobytes())
    if not entries_file.stat().st_size:
        return np.empty((0, 2), _ENTRY)
    pairs = near_duplicates.find(np.memmap(signatures_file, dtype, "r"))
    found: _Entries = np.asarray(np.memmap(entries_file, _ENTRY, "r")[pairs])
    return found


def _near_leaked_rows(pairs: _Entries, groups: Sequence[_Entries]) -> dict[str, list[int]]:
    """Returns the rows of the other splits that have a near-duplicate in `train`, and no equal."""
    group_of = {int(group["row"][0]): group for group in groups}
    leaked: dict[str, set[int]] = {split: set() for split in SPLITS if split != "train"}
    for pair in pairs:
        sides = [group_of.get(int(entry["row"]), pair[i : i + 1]) for i, entry in enumerate(pair)]
        for side, other in (sides, sides[::-1]):
            if _TRAIN in other["split"] and _TRAIN not in side["split"]:
                for split, row in zip(side["split"].tolist(), side["row"].tolist(), strict=True):
                    leaked[SPLITS[split]].add(row)
    return {split: sorted(rows) for split, rows in leaked.items()}


def _signatures_of(table: Path) -> Path:
    return table.with_name(table.name + ".signatures")

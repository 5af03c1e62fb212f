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
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal, Self

import numpy as np
import numpy.typing as npt
from numpy.lib.recfunctions import repack_fields

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
      near_leaked_rows: per split but `train`, the rows with a near-duplicate in `train`, and no
        equal image there.
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
        return dict(vars(self))  # `asdict` would copy the lists, which may be long


@dataclasses.dataclass(frozen=True)
class _Groups:
    """The images that stand in the data more than once: a group is the rows of one of them.

    Attributes:
      entries: group by group, in the order of their first rows, and by row within a group.
      starts: where each group begins.
    """

    entries: _Entries
    starts: npt.NDArray[np.int64]

    @property
    def rows(self) -> list[list[int]]:
        """The rows of each group."""
        rows = self.entries["row"].tolist()
        bounds = [*self.starts.tolist(), len(rows)]
        return [rows[start:end] for start, end in itertools.pairwise(bounds)]

    @property
    def first_rows(self) -> npt.NDArray[np.int64]:
        """The first row of each group, ascending."""
        rows: npt.NDArray[np.int64] = self.entries["row"][self.starts]
        return rows

    @property
    def repeats(self) -> _Entries:
        """The entries of all rows but the groups' first."""
        return np.delete(self.entries, self.starts)

    def which_have(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Returns which groups have one of the chosen entries."""
        have: npt.NDArray[np.bool_] = np.logical_or.reduceat(chosen, self.starts)
        return have

    def entries_of(self, groups: npt.NDArray[np.bool_]) -> _Entries:
        """Returns the entries of the groups that are chosen."""
        lengths = np.diff(self.starts, append=len(self.entries))
        return self.entries[np.repeat(groups, lengths)]


@dataclasses.dataclass(frozen=True)
class _NearDuplicates:
    """Pairs of images that are nearly equal.

    Attributes:
      pairs: entries [m, 2].
      equal: bool [m], which have the same signature: the first of a pair stands for the second in
        all others.
    """

    pairs: _Entries
    equal: npt.NDArray[np.bool_]

    def near(self, chosen: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
        """Returns which entries of the pairs are near one of the chosen entries, both [m, 2]."""
        rows, places = np.unique(self.pairs["row"], return_inverse=True)
        places = places.reshape(self.pairs.shape)
        signature_of = np.arange(len(rows))
        signature_of[places[self.equal, 1]] = places[self.equal, 0]
        signatures = signature_of[places]
        has_chosen = np.zeros(len(rows), np.bool_)
        has_chosen[signatures[chosen]] = True
        is_near = has_chosen.copy()
        is_near[signatures[has_chosen[signatures[:, ::-1]]]] = True
        near: npt.NDArray[np.bool_] = is_near[signatures]
        return near


@dataclasses.dataclass(frozen=True)
class Findings:
    """The audit, and what follows from it for the rows of `train`.

    Attributes:
      audit: what was found in the source.
      groups: the equal images.
      near: the images that are nearly equal; of a group its first.
      flagged: the entries of flat and almost flat images and of those without a face.
    """

    audit: Audit
    groups: _Groups
    near: _NearDuplicates
    flagged: _Entries

    def rows_to_drop(self, drop: Collection[DropReason]) -> dict[int, list[DropReason]]:
        """Returns the rows of `train` that have one of the faults, each with those it has."""
        flags = self.flagged["flags"]
        faulty: dict[DropReason, _Entries] = {
            "leaks": self.groups.entries_of(_leaking(self.groups)),
            "conflicts": self.groups.entries_of(_conflicting(self.groups)),
            "flat": self.flagged[(flags & (_FLAT | _ALMOST_FLAT)) != 0],
            "not_a_face": self.flagged[(flags & _NOT_A_FACE) != 0],
        }
        reasons: dict[int, list[DropReason]] = {}
        for reason, entries in faulty.items():
            if reason in drop:
                for row in entries["row"][entries["split"] == _TRAIN].tolist():
                    reasons.setdefault(row, []).append(reason)
        return dict(sorted(reasons.items()))

    def leaked_rows_without(self, dropped: Collection[int]) -> dict[str, list[int]]:
        """Returns per split but `train` the rows that still leak when `train` loses some rows."""
        return _leaked_rows(self.groups, dropped)

    def near_leaked_rows_without(self, dropped: Collection[int]) -> dict[str, list[int]]:
        """Returns per split but `train` the rows with a near-duplicate in what `train` keeps.

        Rows that have an equal image there are not among them.
        """
        return _near_leaked_rows(self.near, self.groups, dropped)


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
    groups = _equal_images(tables)
    rows_of_groups = groups.rows
    conflicting = np.flatnonzero(_conflicting(groups)).tolist()
    flagged = _flagged(tables)
    near = _near_duplicates(tables, np.sort(groups.repeats["row"]), scratch)
    audit = Audit(
        duplicates=_count_duplicates(groups),
        duplicate_groups=rows_of_groups,
        leaked_rows=_leaked_rows(groups),
        conflicting_groups=[rows_of_groups[index] for index in conflicting],
        near_duplicate_pairs=near.pairs["row"].tolist(),
        near_leaked_rows=_near_leaked_rows(near, groups),
        flat_rows=_rows_with(flagged, _FLAT),
        almost_flat_rows=_rows_with(flagged, _ALMOST_FLAT),
        not_a_face_rows=_rows_with(flagged, _NOT_A_FACE) if votes else None,
        imbalance=_imbalance(tables, num_expressions),
    )
    return Findings(audit, groups, near, flagged)


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


def _equal_images(tables: Sequence[Path]) -> _Groups:
    """Returns the groups of the images that stand there more than once."""
    total = sum(table.stat().st_size for table in tables) // _ENTRY.itemsize
    passes = max(1, math.ceil(total / _ENTRIES_A_PASS))
    # Digests are spread evenly, so that equal ranges of them hold about as many each.
    bounds = [index * 2**64 // passes for index in range(passes + 1)]
    found = [
        _repeated(_entries_between(tables, low, high)) for low, high in itertools.pairwise(bounds)
    ]
    entries = np.concatenate(found)
    starts = _starts(entries)
    first_rows = np.repeat(entries["row"][starts], np.diff(starts, append=len(entries)))
    entries = entries[np.lexsort((entries["row"], first_rows))]
    return _Groups(_without_digests(entries), _starts(entries))


def _without_digests(entries: _Entries) -> _Entries:
    """Returns what is known of the rows themselves: findings stay in memory."""
    short: _Entries = repack_fields(entries[["row", "label", "split"]])
    return short


def _entries_between(tables: Sequence[Path], low: int, high: int) -> _Entries:
    """Returns the entries whose digest is at least `low` and less than `high`."""
    chosen = [
        block[
            (block["digest_high"] >= np.uint64(low)) & (block["digest_high"] <= np.uint64(high - 1))
        ]
        for block in _read(tables)
    ]
    return np.concatenate(chosen) if chosen else np.empty(0, _ENTRY)


def _repeated(entries: _Entries) -> _Entries:
    """Returns the entries that are not alone with their digest, by digest and row."""
    order = np.lexsort((entries["row"], entries["digest_low"], entries["digest_high"]))
    entries = entries[order]
    as_before = _as_before(entries)
    return entries[as_before | np.append(as_before[1:], False)[: len(entries)]]


def _starts(entries: _Entries) -> npt.NDArray[np.int64]:
    return np.flatnonzero(~_as_before(entries))


def _as_before(entries: _Entries) -> npt.NDArray[np.bool_]:
    """Returns which entries have the digest of the one before."""
    as_before = np.zeros(len(entries), np.bool_)
    as_before[1:] = (entries["digest_high"][1:] == entries["digest_high"][:-1]) & (
        entries["digest_low"][1:] == entries["digest_low"][:-1]
    )
    return as_before


def _count_duplicates(groups: _Groups) -> dict[str, int]:
    duplicates = {}
    for index, split in enumerate(SPLITS):
        counts = np.add.reduceat((groups.entries["split"] == index).astype(np.int64), groups.starts)
        duplicates[split] = int(np.maximum(counts - 1, 0).sum())
    return duplicates


def _leaking(groups: _Groups) -> npt.NDArray[np.bool_]:
    """Returns which groups stand in `train` and in another split."""
    in_train = groups.entries["split"] == _TRAIN
    return groups.which_have(in_train) & groups.which_have(~in_train)


def _conflicting(groups: _Groups) -> npt.NDArray[np.bool_]:
    """Returns which groups have two labels."""
    labels = groups.entries["label"]
    least = np.minimum.reduceat(
        np.where(labels == NO_LABEL, np.iinfo(labels.dtype).max, labels), groups.starts
    )
    conflicting: npt.NDArray[np.bool_] = least < np.maximum.reduceat(labels, groups.starts)
    return conflicting


def _leaked_rows(groups: _Groups, dropped: Collection[int] = ()) -> dict[str, list[int]]:
    """Returns the rows of the other splits with an equal in what `train` keeps."""
    return _by_split(groups.entries_of(groups.which_have(_in_train(groups.entries, dropped))))


def _in_train(entries: _Entries, dropped: Collection[int]) -> npt.NDArray[np.bool_]:
    kept = ~np.isin(entries["row"], np.array(sorted(dropped), np.int64))
    in_train: npt.NDArray[np.bool_] = (entries["split"] == _TRAIN) & kept
    return in_train


def _by_split(entries: _Entries) -> dict[str, list[int]]:
    """Returns the rows of each split but `train`, each once and in order."""
    return {
        split: np.unique(entries["row"][entries["split"] == SPLITS.index(split)]).tolist()
        for split in SPLITS
        if split != "train"
    }


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


def _near_duplicates(
    tables: Sequence[Path], repeats: npt.NDArray[np.int64], scratch: Path
) -> _NearDuplicates:
    """Returns what is found among the images without the repeats of others."""
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
        return _NearDuplicates(_without_digests(np.empty((0, 2), _ENTRY)), np.empty(0, np.bool_))
    found = near_duplicates.search(np.memmap(signatures_file, dtype, "r"))
    entries = np.asarray(np.memmap(entries_file, _ENTRY, "r")[found.pairs])
    return _NearDuplicates(_without_digests(entries), found.equal)


def _near_leaked_rows(
    near: _NearDuplicates, groups: _Groups, dropped: Collection[int] = ()
) -> dict[str, list[int]]:
    """Returns the rows of the other splits with a near-duplicate in what `train` keeps, no equal.

    A pair stands for all that are equal to either of the two.
    """
    pairs = near.pairs
    first_rows = groups.first_rows
    group_of = np.searchsorted(first_rows, pairs["row"])
    is_group = np.isin(pairs["row"], first_rows)
    in_train = _in_train(pairs, dropped)
    group_in_train = groups.which_have(_in_train(groups.entries, dropped))
    in_train[is_group] = group_in_train[group_of[is_group]]
    leaked = near.near(in_train) & ~in_train
    leaked_groups = np.zeros(len(first_rows), np.bool_)
    leaked_groups[group_of[leaked & is_group]] = True
    singles = pairs[leaked & ~is_group]
    return _by_split(np.concatenate([groups.entries_of(leaked_groups), singles]))


def _signatures_of(table: Path) -> Path:
    return table.with_name(table.name + ".signatures")

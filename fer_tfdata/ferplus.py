"""FER+: what ten people saw in each image of FER2013, and the labels that follow from it.

Barsoum et al., "Training deep networks for facial expression recognition with crowd-sourced label
distribution", 2016, and the code published with it.  The votes come in a CSV with a row for each
row of Kaggle's `fer2013.csv`, in the same order.  Copies of FER2013 are about whose images were put
into the order of the votes' `Image name` instead, which leaves out some that are no faces; how
often the votes agree with the labels tells the two apart.
"""

import csv
import dataclasses
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import (
    EIGHT_EXPRESSIONS,
    NO_LABEL,
    SPLIT_OF_USAGE,
    expression_of,
    split_of,
)

COLUMNS: Final = (
    "neutral",
    "happiness",
    "surprise",
    "sadness",
    "anger",
    "disgust",
    "fear",
    "contempt",
    "unknown",
    "NF",  # not a face
)
KINDS: Final = ("ferplus_majority", "ferplus_distribution")

OWN_LABELS: Final = "fer2013"
LABELS: Final = (OWN_LABELS, *KINDS)
"""What a model can learn from: the data set's own labels, or a kind that the votes give."""

Join = Literal["row", "name"]
"""How votes find their image: by their row, or by the number in their `Image name`."""

Fate = Literal["joined", "no votes", "other usage"]
"""What becomes of a row: it has votes, there are none on it, or those are on another usage."""

# People agree with FER2013's labels on 65 % of the images, with another row's on a fifth.
_LEAST_AGREEMENT: Final = 0.4

_USAGE: Final = "Usage"
_IMAGE_NAME: Final = "Image name"
_NUMBER_IN_NAME: Final = re.compile(r"fer(\d{7})\.png")
_NO_SPLIT: Final = ""
_USAGE_OF_SPLIT: Final = {split: usage for usage, split in SPLIT_OF_USAGE.items()}
_COUNT_OF_TEXT: Final = {str(count): count for count in range(256)}

# The order of the columns is not that of our ids.
_COLUMN_OF_ID: Final = np.array(
    [
        [expression_of(column) for column in COLUMNS].index(expression)
        for expression in EIGHT_EXPRESSIONS
    ]
)
_ID_OF_COLUMN: Final = np.full(len(COLUMNS), NO_LABEL, np.int64)
_ID_OF_COLUMN[_COLUMN_OF_ID] = np.arange(len(EIGHT_EXPRESSIONS))


@dataclasses.dataclass(frozen=True, eq=False)
class Votes:
    """The votes on every row of FER2013; can be pickled.

    Attributes:
      path: where they were read.
      counts: uint8 [n, 10], in the order of `COLUMNS`; by name, zeros where none are.
      splits: n names of splits; by name, empty where no votes are.
      join: how they find their image.
    """

    path: Path
    counts: npt.NDArray[np.uint8]
    splits: Sequence[str]
    join: Join = "row"

    def of(self, rows: npt.NDArray[np.int64], splits: Sequence[str]) -> npt.NDArray[np.int64]:
        """Returns the votes on k rows, int64 [k, 10].

        By name, a row on which there are none, or which are on an image of another split, has ten
        zeros, and so neither a majority nor a distribution.

        Args:
          rows: int64 [k], counted from 0 over the whole source.
          splits: what the source says of each of them.

        Raises:
          InputError: by row, the votes end before a row, or are on an image of another split.
        """
        if self.join == "name":
            return self._of_names(rows, splits)
        for row, split in zip(rows.tolist(), splits, strict=True):
            if row >= len(self.splits):
                raise InputError(
                    f"{self.path}: expected votes on every row of the source, received "
                    f"{len(self.splits)} rows, and the source has a row {row} (counted from 0); "
                    "give the FER+ file that belongs to this source"
                )
            if self.splits[row] != split:
                raise InputError(
                    f"{self.path}, row {row} (counted from 0): expected votes on an image of "
                    f"{_USAGE_OF_SPLIT[split]}, as the source says, received votes on one of "
                    f"{_USAGE_OF_SPLIT[self.splits[row]]}; give the source whose rows stand in "
                    "the order of the FER+ file"
                )
        return self.counts[rows].astype(np.int64)

    def fates(self, rows: npt.NDArray[np.int64], splits: Sequence[str]) -> Counter[Fate]:
        """Returns how many of k rows have which fate; of votes that `of` takes."""
        if self.join == "row":
            return Counter({"joined": len(rows)})
        return Counter(map(self._fate, rows.tolist(), splits))

    def _of_names(
        self, rows: npt.NDArray[np.int64], splits: Sequence[str]
    ) -> npt.NDArray[np.int64]:
        votes = np.zeros((len(rows), len(COLUMNS)), np.int64)
        for i, (row, split) in enumerate(zip(rows.tolist(), splits, strict=True)):
            if self._fate(row, split) == "joined":
                votes[i] = self.counts[row]
        return votes

    def _fate(self, row: int, split: str) -> Fate:
        if row >= len(self.splits) or self.splits[row] == _NO_SPLIT:
            return "no votes"
        return "joined" if self.splits[row] == split else "other usage"

    def check_joined(self, num_rows: int, fates: Counter[Fate]) -> None:
        """Checks that the votes are on the source's rows.

        Args:
          num_rows: how many rows the source has, those that cannot be used among them.
          fates: what became of those that can.

        Raises:
          InputError: by row, there are more or fewer votes than rows; by name, none are joined.
        """
        if not fates["joined"]:
            raise InputError(
                f"{self.path}: expected votes on rows of the source by their {_IMAGE_NAME}, "
                f"received none: {fates['no votes']} rows have no votes, and those on "
                f"{fates['other usage']} rows are on images of another {_USAGE}; give the FER+ "
                "file that belongs to this source"
            )
        if self.join == "row" and num_rows != len(self.splits):
            raise InputError(
                f"{self.path}: expected votes on the {num_rows} rows of the source, received "
                f"{len(self.splits)}; give the FER+ file that belongs to this source"
            )


def read_votes(path: Path, *, join: Join = "row") -> Votes:
    """Reads `fer2013new.csv`.

    The columns `Usage` and `COLUMNS`, and `Image name` to join by it, are found by name, in any
    order and case; others are ignored, and blank lines are no rows.

    Args:
      path: the file.
      join: how the votes find their image.

    Raises:
      InputError: the file cannot be read, a column is missing, or a row is not as it must be.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(_read_rows(csv.reader(file), path, join))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(
            f"{path}: expected a readable CSV file of FER+ votes, received: {error}"
        ) from error
    if not rows:
        raise InputError(f"{path}: expected rows below the header, received none")
    places = list(range(len(rows)))
    if join == "name":
        named = _by_name(rows, path)
        places, rows = list(named), list(named.values())
    # Zeros cost no time and no memory before they are written to, however great a number is.
    counts = np.zeros((max(places) + 1, len(COLUMNS)), np.uint8)
    counts[places] = [row.counts for row in rows]
    splits = [_NO_SPLIT] * len(counts)
    for place, row in zip(places, rows, strict=True):
        splits[place] = row.split
    return Votes(path=path, counts=counts, splits=splits, join=join)


@dataclasses.dataclass(frozen=True)
class _Row:
    split: str
    name: str
    counts: Sequence[int]


def _by_name(rows: Sequence[_Row], path: Path) -> dict[int, _Row]:
    """Returns the rows by the number in their name; of several of a name, the first."""
    numbered: dict[int, _Row] = {}
    for row in rows:
        if match := _NUMBER_IN_NAME.fullmatch(row.name):
            numbered.setdefault(int(match[1]), row)
    if not numbered:
        raise InputError(
            f"{path}: expected names such as fer0000017.png in the column {_IMAGE_NAME}, received "
            "none"
        )
    return numbered


def _read_rows(reader: Any, path: Path, join: Join) -> Iterator[_Row]:
    header: list[str] = next(reader, [])
    usage, *columns = _find_columns(header, path, (_USAGE, *COLUMNS))
    (name,) = _find_columns(header, path, (_IMAGE_NAME,)) if join == "name" else (usage,)
    for fields in reader:
        if not any(field.strip() for field in fields):
            continue
        if len(fields) != len(header):
            raise InputError(
                f"{path}, line {reader.line_num}: expected {len(header)} columns as in the header, "
                f"received {len(fields)}"
            )
        split = split_of(fields[usage])
        if split is None:
            raise InputError(
                f"{path}, line {reader.line_num}: expected a Usage of "
                f"{', '.join(SPLIT_OF_USAGE)}, received {fields[usage][:40]!r}"
            )
        counts = [_parse_count(fields[column], path, reader.line_num) for column in columns]
        yield _Row(split, fields[name].strip(), counts)


def _find_columns(header: Sequence[str], path: Path, wanted: Sequence[str]) -> list[int]:
    """Returns where each of the columns stands."""
    names = [name.strip().lower() for name in header]
    if any(names.count(name.lower()) != 1 for name in wanted):
        shown = ", ".join(header)[:200]
        raise InputError(
            f"{path}, line 1: expected the columns {', '.join(wanted)}, each once, in any order; "
            f"received: {shown if shown.isprintable() else ascii(shown)[:200]}"
        )
    return [names.index(name.lower()) for name in wanted]


def _parse_count(text: str, path: Path, line: int) -> int:
    count = _COUNT_OF_TEXT.get(text.strip())
    if count is None:
        raise InputError(
            f"{path}, line {line}: expected votes as whole numbers from 0 to 255, received "
            f"{text[:40]!r}"
        )
    return count


# What follows from the votes.  `xp` is NumPy, or `tf.experimental.numpy` within a graph, so that
# the conversion and the pipeline go by one rule.


def majority(votes: Any, xp: Any = np) -> Any:
    """Returns the expression that most voters agree on.

    The official rule: the votes of a single voter do not count, and the expression needs more than
    half of those that are left.  Images on which no expression has that, or on which "unknown" or
    "not a face" has, are dropped.

    Args:
      votes: int64 [n, 10], in the order of `COLUMNS`.
      xp: the array library of `votes`.

    Returns:
      int64 [n], ids of `EIGHT_EXPRESSIONS`, `NO_LABEL` where the image is dropped.
    """
    agreed = _without_outliers(votes, xp)
    agreeing = 2 * xp.max(agreed, axis=1) > xp.sum(agreed, axis=1)
    winners = xp.take(_ID_OF_COLUMN, xp.argmax(agreed, axis=1))
    return xp.where(agreeing, winners, NO_LABEL)


def distribution(votes: Any, xp: Any = np) -> Any:
    """Returns the shares of the eight expressions in the votes.

    The votes of a single voter do not count.  Images on which the eight expressions together have
    no more than half of the votes that are left are dropped.

    Args:
      votes: int64 [n, 10], in the order of `COLUMNS`.
      xp: the array library of `votes`.

    Returns:
      float32 [n, 8] in the order of `EIGHT_EXPRESSIONS`; rows sum to one, and are zero where the
      image is dropped.
    """
    agreed = _without_outliers(votes, xp)
    of_expressions = xp.take(agreed, _COLUMN_OF_ID, axis=1)
    total = xp.sum(of_expressions, axis=1, keepdims=True)
    kept = 2 * total > xp.sum(agreed, axis=1, keepdims=True)
    return xp.asarray(xp.where(kept, of_expressions / xp.maximum(total, 1), 0.0), np.float32)


def agree_by_chance(agreeing: int, comparable: int) -> bool:
    """Returns whether majorities are the label so seldom that the votes must be on other images.

    Args:
      agreeing: on how many images the two are the same.
      comparable: how many images have both; where none has, nothing can be said.
    """
    return agreeing < _LEAST_AGREEMENT * comparable


def not_a_face(votes: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Returns on which images more than half of all votes, int64 [n, 10], say "not a face"."""
    more_than_half: npt.NDArray[np.bool_] = 2 * votes[:, -1] > votes.sum(axis=1)
    return more_than_half


def _without_outliers(votes: Any, xp: Any) -> Any:
    return xp.where(votes > 1, votes, 0)

"""Reads the forms in which people hold FER2013, in batches and in bounded memory.

Every source yields `RawBatch`es in the source's own order.  So far: the Kaggle CSV.
"""

import csv
import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final, Literal

import numpy as np
import numpy.typing as npt

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, SPLIT_OF_USAGE

IMAGE_SIZE: Final = 48
NUM_PIXELS: Final = IMAGE_SIZE * IMAGE_SIZE

COLUMNS: Final = ("emotion", "pixels", "Usage")

OnBadRow = Literal["error", "skip"]

# NumPy's passes over a block stay in the processor's cache at this size (0.5 to 2 MB measured
# alike, 16 MB a third slower).
_BLOCK_BYTES: Final = 1 << 20

# A row of FER2013 has at most 9,241 bytes; a "line" of this length is some other kind of file.
_LONGEST_LINE: Final = 1 << 18

_SPLIT_OF_USAGE_BYTES: Final = {name.encode(): split for name, split in SPLIT_OF_USAGE.items()}
_LABEL_OF_BYTES: Final = {str(i).encode(): i for i in range(len(EXPRESSIONS))}


@dataclasses.dataclass(frozen=True)
class BadRow:
    """A row that was left out, and why."""

    row: int  # counted from 0, as the records' `row`
    line: int  # counted from 1, as an editor counts
    reason: str


@dataclasses.dataclass(frozen=True)
class RawBatch:
    """Consecutive rows of a source.

    Attributes:
      images: uint8 [n, 48, 48, 1].
      labels: int64 [n], ids of `EXPRESSIONS`.
      splits: n names of splits.
      rows: int64 [n], the row of the source each came from, counted from 0.
      bad_rows: the rows between them that could not be read and were skipped.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int64]
    splits: Sequence[str]
    rows: npt.NDArray[np.int64]
    bad_rows: Sequence[BadRow] = ()


def read_kaggle_csv(path: Path, *, on_bad_row: OnBadRow = "error") -> Iterator[RawBatch]:
    """Yields the rows of a Kaggle CSV (`emotion`, `pixels`, `Usage` in any order).

    Header names may have blanks around them; further columns are ignored; blank lines are no
    rows.  Memory is bounded by the block size, whatever the file's size.

    Args:
      path: the CSV.
      on_bad_row: "error" stops at the first row that is not as it must be; "skip" leaves it out
        and lists it in the batch's `bad_rows`.

    Raises:
      InputError: the file cannot be read, has not the three columns or no row, or, with
        `on_bad_row="error"`, has a bad row.
    """
    try:
        with path.open("rb", buffering=0) as file:
            yield from _read_csv(file, path, on_bad_row)
    except OSError as error:
        raise InputError(
            f"{path}: expected a readable CSV file, received: {error.strerror}"
        ) from error


def _read_csv(file: BinaryIO, path: Path, on_bad_row: OnBadRow) -> Iterator[RawBatch]:
    blocks = _blocks_of_lines(file, path)
    header, first_lines = _split_header(next(blocks, []), path)
    columns = _find_columns(header, path)
    row, line = 0, 2
    for lines in _chain(first_lines, blocks):
        numbered = [(line + i, text) for i, text in enumerate(lines) if text.strip()]
        line += len(lines)
        if not numbered:
            continue
        batch = _parse_fast([text for _, text in numbered], columns, row)
        if batch is None:
            batch = _parse_carefully(numbered, columns, row)
        if on_bad_row == "error" and batch.bad_rows:
            bad = batch.bad_rows[0]
            raise InputError(
                f"{path}, line {bad.line}: {bad.reason}. Mend the row, or leave such rows out "
                "with --on_bad_row=skip"
            )
        row += len(numbered)
        yield batch
    if row == 0:
        raise InputError(f"{path}: expected rows below the header, received none")


def _chain(first: list[bytes], rest: Iterable[list[bytes]]) -> Iterator[list[bytes]]:
    yield first
    yield from rest


def _blocks_of_lines(file: BinaryIO, path: Path) -> Iterator[list[bytes]]:
    """Yields lists of whole lines, without their ends."""
    rest = b""
    while block := file.read(_BLOCK_BYTES):
        lines = (rest + block).split(b"\n")
        rest = lines.pop()
        if len(rest) > _LONGEST_LINE:
            raise InputError(
                f"{path}: expected lines of at most {_LONGEST_LINE} bytes, received a longer one. "
                "Is this the CSV itself?"
            )
        yield lines
    if rest:
        yield [rest]


def _split_header(lines: list[bytes], path: Path) -> tuple[list[str], list[bytes]]:
    if not lines:
        raise InputError(
            f"{path}: expected a CSV with the columns {', '.join(COLUMNS)}; it is empty"
        )
    text = lines[0].decode("utf-8-sig", errors="replace")
    return [name.strip() for name in text.split(",")], lines[1:]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Where the three columns stand, and how many there are."""

    emotion: int
    pixels: int
    usage: int
    count: int


def _find_columns(header: list[str], path: Path) -> _Columns:
    by_name: Mapping[str, int] = {name.lower(): i for i, name in enumerate(header)}
    missing = [name for name in COLUMNS if name.lower() not in by_name]
    if missing or len(by_name) != len(header):
        shown = ", ".join(header)[:200]
        raise InputError(
            f"{path}, line 1: expected the columns {', '.join(COLUMNS)}, each once, in any order; "
            f"received: {shown}"
        )
    emotion, pixels, usage = (by_name[name.lower()] for name in COLUMNS)
    return _Columns(emotion, pixels, usage, len(header))


# The fast way takes what every undamaged file looks like and gives up on anything else; the
# careful way then decides about the same lines one by one.  So only the careful way needs to
# know what is wrong, and only the fast way needs to be fast.


def _parse_fast(lines: list[bytes], columns: _Columns, first_row: int) -> RawBatch | None:
    labels, splits, texts = [], [], []
    for line in lines:
        fields = line.split(b",")
        if len(fields) != columns.count:
            return None
        label = _LABEL_OF_BYTES.get(fields[columns.emotion])
        split = _SPLIT_OF_USAGE_BYTES.get(fields[columns.usage].strip())
        if label is None or split is None:
            return None
        labels.append(label)
        splits.append(split)
        texts.append(fields[columns.pixels].strip())
    pixels = _parse_numbers(texts)
    if pixels is None:
        return None
    return RawBatch(
        images=pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1),
        labels=np.array(labels, np.int64),
        splits=splits,
        rows=np.arange(first_row, first_row + len(lines), dtype=np.int64),
    )


_BLANK: Final = ord(" ")
_NO_DIGIT: Final = 255
_DIGITS: Final = np.full(256, _NO_DIGIT, np.uint8)
_DIGITS[ord("0") : ord("9") + 1] = np.arange(10)
_DIGITS[_BLANK] = 0  # so that the tens of a one-digit number, read off the blank before it, are 0


def _parse_numbers(texts: list[bytes]) -> npt.NDArray[np.uint8] | None:
    """Returns uint8 [len(texts), 2304]; None if one text is not 2,304 numbers and 2,303 blanks."""
    padding = b"  "  # so that every number has two bytes before its last
    text = np.frombuffer(padding + b" ".join(texts) + b" ", np.uint8)
    digits = _DIGITS[text]
    if (digits == _NO_DIGIT).any():
        return None
    ends = np.flatnonzero(text == _BLANK)[len(padding) :]
    if ends.size != len(texts) * NUM_PIXELS:
        return None
    ends_of_texts = np.cumsum([len(t) + 1 for t in texts]) + len(padding) - 1
    if (ends[NUM_PIXELS - 1 :: NUM_PIXELS] != ends_of_texts).any():
        return None
    lengths = np.diff(ends, prepend=len(padding) - 1) - 1
    if lengths.min() < 1 or lengths.max() > 3:
        return None
    values = digits.take(ends - 3).astype(np.uint16)
    values *= lengths == 3
    values *= 10
    values += digits.take(ends - 2)
    values *= 10
    values += digits.take(ends - 1)
    if values.max() > 255:
        return None
    return values.astype(np.uint8).reshape(len(texts), NUM_PIXELS)


def _parse_carefully(
    numbered: list[tuple[int, bytes]], columns: _Columns, first_row: int
) -> RawBatch:
    images, labels, splits, rows, bad_rows = [], [], [], [], []
    for row, (line, text) in enumerate(numbered, start=first_row):
        try:
            label, split, image = _parse_line(text, columns)
        except ValueError as error:
            bad_rows.append(BadRow(row=row, line=line, reason=str(error)))
            continue
        images.append(image)
        labels.append(label)
        splits.append(split)
        rows.append(row)
    return RawBatch(
        images=np.array(images, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1),
        labels=np.array(labels, np.int64),
        splits=splits,
        rows=np.array(rows, np.int64),
        bad_rows=bad_rows,
    )


def _parse_line(line: bytes, columns: _Columns) -> tuple[int, str, list[int]]:
    """Returns label, split and pixels of one line; the ValueError says what is wrong with it."""
    text = line.decode("ascii", errors="backslashreplace")
    try:
        fields = next(csv.reader([text], strict=True))
    except csv.Error as error:
        raise ValueError(f"expected a row of CSV, received one that is not ({error})") from error
    if len(fields) != columns.count:
        raise ValueError(f"expected {columns.count} fields, received {len(fields)}")
    return (
        _parse_label(fields[columns.emotion].strip()),
        _parse_usage(fields[columns.usage].strip()),
        _parse_pixels(fields[columns.pixels].split()),
    )


def _parse_label(text: str) -> int:
    label = _LABEL_OF_BYTES.get(text.encode())
    if label is None:
        raise ValueError(
            f"expected an emotion from 0 to {len(EXPRESSIONS) - 1}, received {_shown(text)}"
        )
    return label


def _parse_usage(text: str) -> str:
    split = SPLIT_OF_USAGE.get(text)
    if split is None:
        raise ValueError(
            f"expected a Usage of {', '.join(SPLIT_OF_USAGE)}, received {_shown(text)}"
        )
    return split


def _parse_pixels(numbers: list[str]) -> list[int]:
    if len(numbers) != NUM_PIXELS:
        raise ValueError(f"expected {NUM_PIXELS} pixels, received {len(numbers)}")
    for position, number in enumerate(numbers):
        # isdecimal and isascii: int() also takes signs, underscores and other scripts' digits.
        if not (number.isascii() and number.isdecimal() and len(number) < 10 and int(number) < 256):
            raise ValueError(
                f"expected pixels that are whole numbers from 0 to 255, received {_shown(number)} "
                f"as pixel {position}"
            )
    return [int(number) for number in numbers]


def _shown(text: str) -> str:
    return repr(text if len(text) <= 40 else text[:40] + "...")

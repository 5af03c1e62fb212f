"""Reads the forms in which people hold FER2013, in batches and in bounded memory.

Every source yields `RawBatch`es in the source's own order.  So far: the Kaggle CSV.
"""

import collections
import csv
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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

# Small enough that NumPy's passes over a block stay in the processor's cache.
_BLOCK_BYTES: Final = 1 << 20

_BLOCKS_AHEAD: Final = 4

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
    num_rows = 0
    for batch in _parse_ahead(_number(itertools.chain([first_lines], blocks)), columns):
        if on_bad_row == "error" and batch.bad_rows:
            bad = batch.bad_rows[0]
            raise InputError(
                f"{path}, line {bad.line}: {bad.reason}. Mend the row, or leave such rows out "
                "with --on_bad_row=skip"
            )
        num_rows += len(batch.rows) + len(batch.bad_rows)
        yield batch
    if num_rows == 0:
        raise InputError(f"{path}: expected rows below the header, received none")


@dataclasses.dataclass(frozen=True)
class _Block:
    """Consecutive rows: their lines' numbers and texts."""

    first_row: int
    line_numbers: list[int]
    texts: list[bytes]


def _number(blocks: Iterable[list[bytes]]) -> Iterator[_Block]:
    """Numbers lines and rows; blank lines are lines and no rows."""
    row, line = 0, 2
    for lines in blocks:
        numbered = [(number, text) for number, text in enumerate(lines, line) if text.strip()]
        if numbered:
            yield _Block(row, [number for number, _ in numbered], [text for _, text in numbered])
        row += len(numbered)
        line += len(lines)


def _parse_ahead(blocks: Iterable[_Block], columns: "_Columns") -> Iterator[RawBatch]:
    """Parses in a thread beside the caller's, a few blocks ahead of it.

    NumPy lets go of the interpreter's lock, so that parsing one block and writing another overlap.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: collections.deque[Future[RawBatch]] = collections.deque()
        for block in blocks:
            pending.append(pool.submit(_parse, block, columns))
            if len(pending) > _BLOCKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


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
        if lines:
            yield lines
    if rest:
        yield [rest]


def _split_header(lines: list[bytes], path: Path) -> tuple[list[str], list[bytes]]:
    if not lines:
        raise InputError(
            f"{path}: expected a CSV with the columns {', '.join(COLUMNS)}; it is empty"
        )
    text = lines[0].decode("utf-8-sig", errors="replace")
    try:
        names = next(csv.reader([text]), [])
    except csv.Error:
        names = [text]  # which the error about the columns then shows
    return [name.strip() for name in names], lines[1:]


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Where the three columns stand, and how many there are."""

    emotion: int
    pixels: int
    usage: int
    count: int


def _find_columns(header: list[str], path: Path) -> _Columns:
    names = [name.lower() for name in header]
    if any(names.count(name.lower()) != 1 for name in COLUMNS):
        shown = ", ".join(header)[:200]
        raise InputError(
            f"{path}, line 1: expected the columns {', '.join(COLUMNS)}, each once, in any order; "
            f"received: {shown}"
        )
    emotion, pixels, usage = (names.index(name.lower()) for name in COLUMNS)
    return _Columns(emotion, pixels, usage, len(header))


# The fast way takes what every undamaged file looks like and gives up on anything else; the
# careful way then decides about the same lines one by one.  So only the careful way needs to
# know what is wrong, and only the fast way needs to be fast.


def _parse(block: _Block, columns: _Columns) -> RawBatch:
    return _parse_fast(block, columns) or _parse_carefully(block, columns)


def _parse_fast(block: _Block, columns: _Columns) -> RawBatch | None:
    labels, splits, texts = [], [], []
    for text in block.texts:
        line = text.removesuffix(b"\r")
        if b'"' in line or b"\r" in line:
            return None
        fields = line.split(b",")
        if len(fields) != columns.count:
            return None
        label = _LABEL_OF_BYTES.get(fields[columns.emotion])
        split = _SPLIT_OF_USAGE_BYTES.get(fields[columns.usage].strip(b" "))
        if label is None or split is None:
            return None
        labels.append(label)
        splits.append(split)
        texts.append(fields[columns.pixels].strip(b" "))
    pixels = _parse_numbers(texts)
    if pixels is None:
        return None
    return RawBatch(
        images=pixels.reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 1),
        labels=np.array(labels, np.int64),
        splits=splits,
        rows=np.arange(block.first_row, block.first_row + len(labels), dtype=np.int64),
    )


_ZERO: Final = np.uint8(ord("0"))
_BLANK: Final = np.uint8(ord(" "))
_PADDING: Final = b"  "  # so that two bytes stand before every number's last digit


def _parse_numbers(texts: list[bytes]) -> npt.NDArray[np.uint8] | None:
    """Returns uint8 [len(texts), 2304]; None if one text is not 2,304 numbers and 2,303 blanks.

    Every byte is first taken for the last digit of a number: its value is its own digit, ten times
    the one before and a hundred times the one before that, as far as these are digits.  What stands
    before a blank is one.  A dozen passes over small integers, which cost less than to gather the
    digits of each number.
    """
    text = np.frombuffer(_PADDING + b" ".join(texts) + b" ", np.uint8)
    blank = text == _BLANK
    ends = np.flatnonzero(blank)[len(_PADDING) :]
    if ends.size != len(texts) * NUM_PIXELS:
        return None
    ends_of_texts = np.cumsum([len(text) + 1 for text in texts]) + len(_PADDING) - 1
    if (ends[NUM_PIXELS - 1 :: NUM_PIXELS] != ends_of_texts).any():
        return None
    digits = text - _ZERO  # uint8: what is less than "0" becomes large
    is_digit = digits < 10
    if np.count_nonzero(is_digit) + ends.size + len(_PADDING) != text.size:
        return None
    if (blank[1:-1] & blank[2:]).any():  # an empty number
        return None
    pairs = is_digit[1:] & is_digit[:-1]
    if (pairs[2:] & pairs[:-2]).any():  # four digits
        return None
    digits *= is_digit
    values = digits[:-2].astype(np.uint16)
    values *= is_digit[1:-1]
    values *= 10
    values += digits[1:-1]
    values *= 10
    values += digits[2:]
    numbers = values.take(ends - 3)
    if numbers.max() > 255:
        return None
    return numbers.astype(np.uint8).reshape(len(texts), NUM_PIXELS)


def _parse_carefully(block: _Block, columns: _Columns) -> RawBatch:
    images, labels, splits, rows, bad_rows = [], [], [], [], []
    numbered = zip(block.line_numbers, block.texts, strict=True)
    for row, (line, text) in enumerate(numbered, start=block.first_row):
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

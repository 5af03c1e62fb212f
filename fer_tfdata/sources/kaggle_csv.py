"""The Kaggle CSV in all its forms: FER2013's own, the competition's, and those of re-exports.

A row is a line.  The header says where the columns stand (`emotion`, `pixels` and `Usage` in any
case and order, further ones ignored) and what separates them: a comma, a semicolon or a tab.
Blanks behind a separator do not count, nor does the case of a usage.  Without `emotion` the rows
have no labels.  Without `Usage` they are of `train`, or, where they have no labels either, of
`test`, as the competition's two files are.  Blank lines are no rows.
"""

import collections
import csv
import dataclasses
import functools
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, NO_LABEL, SPLIT_OF_USAGE
from fer_tfdata.sources.archives import CsvFile, describe_file, find_csv
from fer_tfdata.sources.batches import BadRow, RawBatch

IMAGE_SIZE: Final = 48
NUM_PIXELS: Final = IMAGE_SIZE * IMAGE_SIZE

COLUMNS: Final = ("emotion", "pixels", "Usage")
_COLUMNS_IN_LOWER_CASE: Final = tuple(name.lower() for name in COLUMNS)

_SEPARATORS: Final = (",", ";", "\t")

_MIN_PART_BYTES: Final = 1 << 18

# More good rows never stand in a block of 1 MiB, but of short and bad ones there may be many.
_BLOCK_ROWS: Final = 256
_BLOCKS_AHEAD: Final = 4

# A row of FER2013 has at most 9,241 bytes; a "line" of this length is some other kind of file.
_LONGEST_LINE: Final = 1 << 18

_SPLIT_OF_USAGE_BYTES: Final = {  # in any case
    name.lower().encode(): split for name, split in SPLIT_OF_USAGE.items()
}
_LABEL_OF_BYTES: Final = {str(i).encode(): i for i in range(len(EXPRESSIONS))}


@dataclasses.dataclass(frozen=True)
class KaggleCsv:
    """CSV files, as a `Source`.

    Attributes:
      paths: the files, read one after another: each a CSV, a `.gz` of one, or a `.zip`, `.tar` or
        `.tar.gz` that holds one (`archives.find_csv` says which of several).
    """

    paths: tuple[Path, ...]

    def __post_init__(self) -> None:
        if not self.paths:
            raise InputError("expected at least one CSV file, received none")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return IMAGE_SIZE, IMAGE_SIZE, 1

    @property
    def expressions(self) -> tuple[str, ...]:
        """What the labels are ids of."""
        return EXPRESSIONS

    def describe(self) -> Mapping[str, Any]:
        """Returns name, bytes and SHA-256 of the file as it stands on disk; of several, a list.

        Of a zip or tar also which `member` is read.

        Raises:
          InputError: a file cannot be read, or there is no such member.
        """
        # Checksums first: meanwhile `parts`, in another thread, finds the members.
        files = [describe_file(path) for path in self.paths]
        for file, csv_file in zip(files, self._csv_files, strict=True):
            if csv_file.member:
                file["member"] = csv_file.member
        return files[0] if len(files) == 1 else {"files": files}

    def parts(self, count: int) -> Sequence["KaggleCsvPart"]:
        """Cuts the files at line ends into about `count` parts of about one size, 256 KiB or more.

        A part never goes over the end of a file, and a file in an archive, which can be read from
        its beginning alone, is one part.

        Raises:
          InputError: a file cannot be read, is no CSV, has not the columns, or has no rows.
        """
        tables = [_open_table(csv_file) for csv_file in self._csv_files]
        sizes = [table.csv.packed_bytes for table in tables]
        return [
            KaggleCsvPart(table, start, end)
            for table, size in zip(tables, sizes, strict=True)
            for start, end in _ranges(table, size, round(count * size / sum(sizes)))
        ]

    @functools.cached_property
    def _csv_files(self) -> list[CsvFile]:
        return [find_csv(path) for path in self.paths]


@dataclasses.dataclass(frozen=True)
class KaggleCsvPart:
    """Consecutive rows of one file: a `Part`.

    Attributes:
      table: the file.
      start: the byte at which the first row's line begins.
      end: the byte behind the last row's line; None: the file's end.
    """

    table: "_Table"
    start: int
    end: int | None

    def count_rows(self) -> int:
        """Returns the number of lines that are not blank.

        Raises:
          InputError: as `batches`.
        """
        return sum(len(lines) - sum(map(_is_blank, lines)) for lines in self._lines())

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        """Yields the rows in order and in bounded memory, counting them from `first_row`.

        Raises:
          InputError: the file cannot be read, has a line of more than 256 KiB, or is in an archive
            that is damaged or unpacks to too much.
        """
        return _parse_ahead(self._blocks(first_row), self)

    def place(self, line: int) -> str:
        """Returns where the part's given line (counted from 0) stands, counted in the file from 1.

        The lines before the part are counted when this is first asked, since most files have no
        row of which one would.
        """
        return f"{self.table.csv.place}, line {self._lines_before + line + 1}"

    @functools.cached_property
    def _lines_before(self) -> int:
        return sum(block.count(b"\n") for block in self.table.csv.blocks(0, self.start))

    def _lines(self) -> Iterator[list[bytes]]:
        return _whole_lines(self.table.csv.blocks(self.start, self.end), self.table.csv)

    def _blocks(self, first_row: int) -> Iterator["_Block"]:
        """Numbers lines and rows; blank lines are lines and no rows."""
        row, line = first_row, 0
        for lines in self._lines():
            numbered = [(i, text) for i, text in enumerate(lines, line) if not _is_blank(text)]
            for start in range(0, len(numbered), _BLOCK_ROWS):
                some = numbered[start : start + _BLOCK_ROWS]
                yield _Block(row, [i for i, _ in some], [text for _, text in some])
                row += len(some)
            line += len(lines)


@dataclasses.dataclass(frozen=True)
class _Block:
    """Consecutive rows: their lines' numbers in the part, and their texts."""

    first_row: int
    line_numbers: list[int]
    texts: list[bytes]


def _parse_ahead(blocks: Iterable[_Block], part: KaggleCsvPart) -> Iterator[RawBatch]:
    """Parses in a thread beside the caller's, a few blocks ahead of it.

    NumPy lets go of the interpreter's lock, so that parsing one block and writing another overlap.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: collections.deque[Future[RawBatch]] = collections.deque()
        for block in blocks:
            pending.append(pool.submit(_parse, block, part))
            if len(pending) > _BLOCKS_AHEAD:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


# Lines.


def _whole_lines(blocks: Iterable[bytes], csv_file: CsvFile) -> Iterator[list[bytes]]:
    """Yields lists of whole lines, without their ends."""
    rest = b""
    for block in blocks:
        lines = (rest + block).split(b"\n")
        if max(map(len, lines)) > _LONGEST_LINE:
            raise _too_long(csv_file)
        rest = lines.pop()
        if lines:
            yield lines
    if rest:
        yield [rest]


def _is_blank(text: bytes) -> bool:
    return not text or text.isspace()


def _ranges(table: "_Table", size: int, count: int) -> Iterator[tuple[int, int | None]]:
    """Yields the bytes at which each part of a file of `size` bytes starts and ends."""
    if table.csv.is_stream:
        yield table.start, None
        return
    count = min(count, size // _MIN_PART_BYTES)
    start = table.start
    for index in range(1, count):
        target = table.start + (size - table.start) * index // count
        end = _line_end(table.csv, max(target, start + _MIN_PART_BYTES))
        if size - end < _MIN_PART_BYTES:
            break
        yield start, end
        start = end
    yield start, size


def _line_end(csv_file: CsvFile, position: int) -> int:
    """Returns the first byte behind the line that `position` is in."""
    searched = b"".join(csv_file.blocks(position, position + _LONGEST_LINE + 1))
    if b"\n" not in searched and len(searched) > _LONGEST_LINE:
        raise _too_long(csv_file)
    return position + len(searched.partition(b"\n")[0]) + 1


def _too_long(csv_file: CsvFile) -> InputError:
    return InputError(
        f"{csv_file.place}: expected lines of at most {_LONGEST_LINE} bytes, received a longer one."
        " Is this the CSV itself?"
    )


# The header.


@dataclasses.dataclass(frozen=True)
class _Columns:
    """Where the columns stand, how many there are, and what separates them."""

    emotion: int | None
    pixels: int
    usage: int | None
    count: int
    separator: str

    @property
    def only_split(self) -> str:
        """The split of rows without a usage."""
        return "test" if self.emotion is None else "train"


@dataclasses.dataclass(frozen=True)
class _Table:
    """A CSV file whose header is known.

    Attributes:
      csv: the file.
      columns: what the header says.
      start: the byte behind the header's line.
    """

    csv: CsvFile
    columns: _Columns
    start: int


def _open_table(csv_file: CsvFile) -> _Table:
    header = next(itertools.chain.from_iterable(_whole_lines(csv_file.blocks(), csv_file)), None)
    if header is None:
        raise InputError(
            f"{csv_file.place}: expected a CSV with the columns {', '.join(COLUMNS)}; it is empty"
        )
    table = _Table(csv_file, _find_columns(header, csv_file.place), len(header) + 1)
    # Not line by line: a small archive may unpack to very many that are blank.
    if all(map(_is_blank, csv_file.blocks(table.start))):
        raise InputError(f"{csv_file.place}: expected rows below the header, received none")
    return table


def _find_columns(header: bytes, place: str) -> _Columns:
    if header.startswith((b"\xff\xfe", b"\xfe\xff")) or b"p\0i\0x\0e\0l\0s" in header.lower():
        raise InputError(
            f"{place}, line 1: expected a CSV in UTF-8 or ASCII, received one in UTF-16; save it"
            " as UTF-8"
        )
    text = header.decode("utf-8-sig", errors="replace")
    separator = max(_SEPARATORS, key=lambda sep: len(_known(_column_names(text, sep))))
    names = _column_names(text, separator)
    known = _known(names)
    is_text = all(map(str.isprintable, names))  # else some archive's header may be part of a name
    if not is_text or "pixels" not in known or len(known) != len(set(known)):
        shown = ", ".join(names)[:200]
        raise InputError(
            f"{place}, line 1: expected the columns {', '.join(COLUMNS)}, each once, in any order"
            " (emotion and Usage may be missing); received:"
            f" {shown if shown.isprintable() else ascii(shown)[:200]}"
        )
    position = {name.lower(): index for index, name in enumerate(names)}
    return _Columns(
        position.get("emotion"), position["pixels"], position.get("usage"), len(names), separator
    )


def _column_names(header: str, separator: str) -> list[str]:
    try:
        names = next(csv.reader([header], delimiter=separator, skipinitialspace=True), [])
    except csv.Error:
        names = [header]  # which the error about the columns then shows
    return [name.strip() for name in names]


def _known(names: Iterable[str]) -> list[str]:
    """Returns those that are `COLUMNS`, in lower case."""
    return [name.lower() for name in names if name.lower() in _COLUMNS_IN_LOWER_CASE]


# The fast way takes what every undamaged file looks like and gives up on anything else; the
# careful way then decides about the same lines one by one.  So only the careful way needs to
# know what is wrong, and only the fast way needs to be fast.


def _parse(block: _Block, part: KaggleCsvPart) -> RawBatch:
    return _parse_fast(block, part.table.columns) or _parse_carefully(block, part)


def _parse_fast(block: _Block, columns: _Columns) -> RawBatch | None:
    labels, splits, texts = [], [], []
    for line in block.texts:
        fields = _fields_fast(line.removesuffix(b"\r"), columns)
        if fields is None:
            return None
        label: int | None = NO_LABEL
        if columns.emotion is not None:
            label = _LABEL_OF_BYTES.get(fields[columns.emotion])
        split: str | None = columns.only_split
        if columns.usage is not None:
            split = _SPLIT_OF_USAGE_BYTES.get(fields[columns.usage].strip(b" ").lower())
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


def _fields_fast(line: bytes, columns: _Columns) -> list[bytes] | None:
    """Returns the fields; None where there are more or fewer, or quotes other than around one."""
    if b"\r" in line:
        return None
    fields = line.split(columns.separator.encode())
    if len(fields) != columns.count:
        return None
    return _without_quotes(fields) if b'"' in line else fields


def _without_quotes(fields: list[bytes]) -> list[bytes] | None:
    bare = []
    for field in fields:
        field = field.lstrip(b" ")
        num_quotes = field.count(b'"')
        if num_quotes == 0:
            bare.append(field)
        elif num_quotes == 2 and field.startswith(b'"') and field.endswith(b'"'):
            bare.append(field[1:-1])
        else:
            return None
    return bare


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


def _parse_carefully(block: _Block, part: KaggleCsvPart) -> RawBatch:
    images, labels, splits, rows, bad_rows = [], [], [], [], []
    numbered = zip(block.line_numbers, block.texts, strict=True)
    for row, (line, text) in enumerate(numbered, start=block.first_row):
        try:
            label, split, image = _parse_line(text, part.table.columns)
        except ValueError as error:
            bad_rows.append(BadRow(row, part.place(line), str(error)))
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
        reader = csv.reader([text], delimiter=columns.separator, skipinitialspace=True, strict=True)
        fields = next(reader)
    except csv.Error as error:
        raise ValueError(f"expected a row of CSV, received one that is not ({error})") from error
    if len(fields) != columns.count:
        raise ValueError(f"expected {columns.count} fields, received {len(fields)}")
    return (
        NO_LABEL if columns.emotion is None else _parse_label(fields[columns.emotion].strip()),
        columns.only_split
        if columns.usage is None
        else _parse_usage(fields[columns.usage].strip()),
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
    split = _SPLIT_OF_USAGE_BYTES.get(text.lower().encode())
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

"""Folders of images, one folder an expression.

    ROOT/<split>/<expression>/**/*.png
    ROOT/<expression>/**/*.png            # all of it the split `train`

Folders are mapped by name, in any case and with synonyms (`expression_of`, `split_of`), never by
position: of a corpus that numbers its expressions one says what the numbers mean.  Kaggle's folder
`test/` mixes PublicTest and PrivateTest, but its files' names begin with their Usage
(`PublicTest_123.jpg`); where a name does, it decides the split and the folder does not.

Every file in an expression's folder is a row, and what is no image a bad row, so that nothing is
left out unsaid.  No rows are: dotfiles and `Thumbs.db`, `desktop.ini` and `__MACOSX`, which file
managers leave, and files of other kinds (a README) outside the expressions' folders.
"""

import array
import collections
import dataclasses
import functools
import hashlib
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np

from fer_tfdata import images
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import (
    EIGHT_EXPRESSIONS,
    EXPRESSIONS,
    SPLIT_OF_USAGE,
    SPLITS,
    expression_of,
    split_of,
)
from fer_tfdata.images import IMAGE_SUFFIXES, Pixels
from fer_tfdata.sources.batches import BadRow, RawBatch

_LEFTOVERS: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
_SPLIT_OF_PREFIX: Final = {f"{usage}_": split for usage, split in SPLIT_OF_USAGE.items()}

_MIN_PART_FILES: Final = 16

# Decoding lets go of the interpreter's lock, the work around it does not: where that is most of
# the work, a second thread gets in the way.  Measured on two cores, images a second with one
# thread and two: FER2013's images as PNG (2 KB) 7,600 and 3,900, photographs of 640x480 as JPEG
# (80 KB) 1,000 and 1,600; about even at 11 KB.
_PARALLEL_FILE_BYTES: Final = 1 << 14
# Each holds a photograph as it was taken; more than two were not measured.
_MOST_THREADS: Final = 4

_BATCH_ROWS: Final = 128
_BATCH_ROWS_OF_LARGE_FILES: Final = 16  # who stops reading waits for the batches begun
_BATCH_BYTES: Final = 1 << 23
_BATCHES_AHEAD: Final = 4


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """Images in folders named after their expressions, as a `Source`.

    The rows stand in the order of their paths' bytes, the same on every machine.  The folder is
    listed once, by the first call that needs it.  Links to files are followed; links to folders
    too, but none is read twice.  Images of other sizes are fitted into the square
    (`images.fit`).

    Attributes:
      root: the folder.
      image_size: height and width of the images that it yields.
      channels: 1 for gray, 3 for RGB.
      expression_names: what further names of folders mean, in lower case
        (`parse_expression_names`).
    """

    root: Path
    image_size: int = 48
    channels: int = 1
    expression_names: Mapping[str, str] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.image_size < 1:
            raise InputError(f"image_size must be at least 1. Got: {self.image_size}")
        if self.channels not in (1, 3):
            raise InputError(f"channels must be 1 (gray) or 3 (RGB). Got: {self.channels}")

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels of every image."""
        return self.image_size, self.image_size, self.channels

    @property
    def expressions(self) -> tuple[str, ...]:
        """`EIGHT_EXPRESSIONS` if there is a folder of contempt, else `EXPRESSIONS`.

        Raises:
          InputError: as `parts`.
        """
        return EIGHT_EXPRESSIONS if self._listing.has_contempt else EXPRESSIONS

    def describe(self) -> Mapping[str, Any]:
        r"""Returns the folder's name, its number of files, their bytes, and a SHA-256.

        Where names were given a meaning, that too.

        The SHA-256 is that of the lines "path\tsize\n", the paths relative to the root and in the
        rows' order: it identifies the listing, not the pixels.

        Raises:
          InputError: as `parts`.
        """
        paths, sizes = self._listing.paths, self._listing.sizes
        digest = hashlib.sha256()
        for path, size in zip(paths, sizes, strict=True):
            digest.update(_as_bytes(f"{path}\t{size}\n"))
        description = {
            "directory": self.root.absolute().name,
            "files": len(paths),
            "bytes": sum(sizes),
            "sha256": digest.hexdigest(),
        }
        if self.expression_names:
            description["expression_names"] = dict(sorted(self.expression_names.items()))
        return description

    def parts(self, count: int) -> Sequence["ImageFolderPart"]:
        """Cuts the files into at most `count` consecutive parts of one size, 16 files or more.

        Raises:
          InputError: the folder is not there or cannot be listed, has no images or an empty
            folder of an expression, a folder of another name, or an image outside the
            expressions' folders.
        """
        paths, sizes = self._listing.paths, self._listing.sizes
        num_parts = max(1, min(count, len(paths) // _MIN_PART_FILES))
        bounds = [len(paths) * index // num_parts for index in range(num_parts + 1)]
        large = sum(sizes) >= _PARALLEL_FILE_BYTES * len(sizes)
        num_threads = min(joblib.cpu_count(), _MOST_THREADS) if large else 1
        return [
            ImageFolderPart(
                self.root,
                tuple(paths[start:end]),
                self.image_size,
                self.channels,
                num_threads,
                self.expression_names,
            )
            for start, end in itertools.pairwise(bounds)
        ]

    @functools.cached_property
    def _listing(self) -> "_Listing":
        return _list_folder(self.root, self.expression_names)


def parse_expression_names(texts: Sequence[str]) -> dict[str, str]:
    """Returns what names of folders mean, the names in lower case.

    Args:
      texts: `NAME=EXPRESSION`, the expression under any of its names.

    Raises:
      InputError: one is not of that form, its expression is none, or its name stands there twice
        or means an expression or a split already.
    """
    expressions: dict[str, str] = {}
    for text in texts:
        name, _, meaning = (part.strip().lower() for part in text.partition("="))
        expression = expression_of(meaning)
        if not name or "/" in name or expression is None:
            raise InputError(
                "expression_names: expected the name of a folder, = and one of"
                f" {', '.join(EIGHT_EXPRESSIONS)}, received {text!r}"
            )
        known = expressions.get(name) or expression_of(name) or split_of(name)
        if known is not None:
            raise InputError(
                f"expression_names: expected each name once, and none that has a meaning of its"
                f" own, received {text!r}, and {name!r} means {known} already"
            )
        expressions[name] = expression
    return expressions


@dataclasses.dataclass(frozen=True)
class ImageFolderPart:
    """Consecutive files of an `ImageFolder`: a `Part`.

    Attributes:
      root: the folder.
      paths: the files, relative to `root`, with `/` between the names.
      image_size: height and width of the images that it yields.
      channels: 1 for gray, 3 for RGB.
      num_threads: how many decode.
      expression_names: what further names of folders mean.
    """

    root: Path
    paths: Sequence[str]
    image_size: int
    channels: int
    num_threads: int
    expression_names: Mapping[str, str]

    def count_rows(self) -> int:
        """Returns the number of files."""
        return len(self.paths)

    def batches(self, first_row: int) -> Iterator[RawBatch]:
        """Yields the rows in order, counting them from `first_row`.

        A file that is no image, is damaged or too large becomes a bad row, and its path the
        row's place.
        """
        pool = ThreadPoolExecutor(self.num_threads)
        try:
            pending: collections.deque[Future[RawBatch]] = collections.deque()
            num_rows = self._batch_rows()
            for start in range(0, len(self.paths), num_rows):
                paths = self.paths[start : start + num_rows]
                pending.append(pool.submit(self._read_batch, paths, first_row + start))
                if len(pending) > _BATCHES_AHEAD:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _batch_rows(self) -> int:
        most = _BATCH_ROWS if self.num_threads == 1 else _BATCH_ROWS_OF_LARGE_FILES
        return max(1, min(most, _BATCH_BYTES // (self.image_size**2 * self.channels)))

    def _read_batch(self, paths: Sequence[str], first_row: int) -> RawBatch:
        pixels, labels, splits, rows, bad_rows = [], [], [], [], []
        for row, path in enumerate(paths, start=first_row):
            place = self.root / path
            try:
                pixels.append(self._read(place))
            except InputError as error:
                reason = str(error).removeprefix(f"{place}: ")
                bad_rows.append(BadRow(row, str(place), reason))
                continue
            split, label = _split_and_label(path, self.expression_names)
            labels.append(label)
            splits.append(split)
            rows.append(row)
        return RawBatch(
            images=np.array(pixels, np.uint8).reshape(
                -1, self.image_size, self.image_size, self.channels
            ),
            labels=np.array(labels, np.int64),
            splits=splits,
            rows=np.array(rows, np.int64),
            bad_rows=bad_rows,
        )

    def _read(self, path: Path) -> Pixels:
        if not _is_image(path.name):
            raise InputError(
                f"expected an image's suffix ({', '.join(sorted(IMAGE_SUFFIXES))}), received"
                f" {path.suffix or 'none'!r}"
            )
        return images.read_square(path, self.image_size, channels=self.channels)


def _split_and_label(path: str, expression_names: Mapping[str, str]) -> tuple[str, int]:
    """Returns what the names of the folders and the file say; `path` is relative to the root."""
    first, second, *_ = path.split("/")
    split = split_of(first)
    expression = _expression_of(first if split is None else second, expression_names)
    for prefix, official_split in _SPLIT_OF_PREFIX.items():
        if _name(path).casefold().startswith(prefix.casefold()):
            split = official_split
    return split or "train", EIGHT_EXPRESSIONS.index(expression)


@dataclasses.dataclass(frozen=True)
class _Listing:
    """The files of all expressions: paths relative to the root in the order of their bytes."""

    paths: Sequence[str]
    sizes: Sequence[int]
    has_contempt: bool


# While listing, a folder's path ends in "/": so sorted among the files beside it, it stands where
# the files in it belong.
_Entry = tuple[str, int]  # path relative to the root, bytes


def _list_folder(root: Path, expression_names: Mapping[str, str]) -> _Listing:
    folders = list(_expression_folders(root, expression_names))
    seen = _identities(root, folders)
    paths: list[str] = []
    sizes = array.array("q")
    for folder in folders:
        num_before = len(paths)
        for path, size in _files_below(root, folder, seen):
            paths.append(path)
            sizes.append(size)
        if len(paths) == num_before:
            raise InputError(
                f"{root / folder}: expected images, received an empty folder; remove it if there"
                " are none"
            )
    if not any(map(_is_image, paths)):
        raise InputError(
            f"{root}: expected images ({', '.join(sorted(IMAGE_SUFFIXES))}), received"
            f" {len(paths)} files of other kinds, such as {paths[0]}"
        )
    has_contempt = any(
        _expression_of(_name(folder), expression_names) == "contempt" for folder in folders
    )
    return _Listing(paths, sizes, has_contempt)


def _expression_of(name: str, expression_names: Mapping[str, str]) -> str | None:
    return expression_of(name) or expression_names.get(name.strip().lower())


def _expression_folders(root: Path, expression_names: Mapping[str, str]) -> Iterator[str]:
    expressions, splits = ", ".join(EIGHT_EXPRESSIONS), ", ".join(SPLITS)
    for folder in _subfolders(root, ""):
        if split_of(_name(folder)) is not None:
            for inner in _subfolders(root, folder):
                if _expression_of(_name(inner), expression_names) is None:
                    raise _unknown_name(root, inner, f"an expression ({expressions})")
                yield inner
        elif _expression_of(_name(folder), expression_names) is None:
            expected = f"an expression ({expressions}) or a split ({splits})"
            raise _unknown_name(root, folder, expected)
        else:
            yield folder


def _subfolders(root: Path, folder: str) -> list[str]:
    """Returns the folders in one that holds the expressions' folders, and no images itself."""
    paths = [path for path, _ in _entries(root, folder)]
    for path in paths:
        if _is_image(path):
            raise InputError(
                f"{root / path}: expected images in folders named after expressions alone; move"
                " this one into the folder of its expression"
            )
    subfolders = [path for path in paths if path.endswith("/")]
    if not subfolders:
        raise InputError(
            f"{root / folder}: expected folders named after expressions"
            f" ({', '.join(EIGHT_EXPRESSIONS)}), received none"
        )
    return subfolders


def _unknown_name(root: Path, folder: str, expected: str) -> InputError:
    name = _name(folder)
    remedy = "rename it, or give the folder in which the expressions' stand"
    if name.isdecimal():
        remedy = (
            f"say what each number means in this corpus, as in --expression_names={name}=happy, or"
            " move away a folder that means no expression"
        )
    return InputError(
        f"{root / folder}: expected a folder named after {expected}, received {name!r}; {remedy}"
    )


def _identities(root: Path, folders: Sequence[str]) -> set[tuple[int, int]]:
    """Returns the identities of the root, the splits' and the expressions' folders.

    A link in an expression's folder to one of these is not followed.
    """
    seen: set[tuple[int, int]] = set()
    for folder in folders:
        if not _is_first_visit(root / folder, seen):
            raise InputError(
                f"{root / folder}: expected a folder of its own, received a link to one that is"
                " read under another name; remove the link"
            )
    for above in {root, *((root / folder).parent for folder in folders)}:
        _is_first_visit(above, seen)
    return seen


def _files_below(root: Path, folder: str, seen: set[tuple[int, int]]) -> Iterator[_Entry]:
    """Yields the files in a folder and in those within it, in the order of their paths' bytes.

    Args:
      root: what the paths are relative to.
      folder: the folder.
      seen: folders that are not to be read again; those that are read join them.
    """
    pending: list[_Entry] = _entries(root, folder)[::-1]
    while pending:
        path, size = pending.pop()
        if not path.endswith("/"):
            yield path, size
        elif _is_first_visit(root / path, seen):
            pending.extend(reversed(_entries(root, path)))


def _entries(root: Path, folder: str) -> list[_Entry]:
    """Returns what stands in a folder, leftovers aside, in the order of the paths' bytes."""
    try:
        with os.scandir(root / folder) as entries:
            found = [_entry(folder, entry) for entry in entries if not _is_leftover(entry.name)]
    except OSError as error:
        raise InputError(
            f"{root / folder}: expected a folder that can be listed, received: {error.strerror}"
        ) from error
    return sorted(found, key=lambda entry: _as_bytes(entry[0]))


def _entry(folder: str, entry: os.DirEntry[str]) -> _Entry:
    path = f"{folder}{entry.name}"
    try:
        return (f"{path}/", 0) if entry.is_dir() else (path, entry.stat().st_size)
    except OSError:  # a link to nothing: a row that cannot be read
        return path, 0


def _is_first_visit(folder: Path, seen: set[tuple[int, int]]) -> bool:
    try:
        status = folder.stat()
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that can be listed, received: {error.strerror}"
        ) from error
    identity = (status.st_dev, status.st_ino)
    is_first = identity not in seen
    seen.add(identity)
    return is_first


def _is_leftover(name: str) -> bool:
    return name.startswith(".") or name.casefold() in _LEFTOVERS


def _is_image(path: str) -> bool:
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES  # noqa: PTH122 (of every file)


def _name(path: str) -> str:
    return path.rstrip("/").rpartition("/")[2]


def _as_bytes(text: str) -> bytes:
    """Undoes how Python reads file names, which need not be UTF-8."""
    return text.encode("utf-8", "surrogateescape")

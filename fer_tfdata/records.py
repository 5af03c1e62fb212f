"""The sharded TFRecords: their schema, the writer, the manifest and the checked reader.

A data directory is one of TensorFlow Datasets (`DIR/fer2013/1.0.0/`), with a manifest beside
TFDS's own metadata.  It is written under another name and renamed last, so it is complete or
absent.
"""

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import atomic
from fer_tfdata.audit import Auditor
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, SPLITS
from fer_tfdata.sources import IMAGE_SIZE, BadRow, RawBatch

NAME: Final = "fer2013"
VERSION: Final = "1.0.0"
SCHEMA_VERSION: Final = 1
MANIFEST: Final = "manifest.json"

IMAGE_SHAPE: Final = (IMAGE_SIZE, IMAGE_SIZE, 1)

_WRITTEN_BY: Final = "fer_tfdata"
_METADATA_FILES: Final = (MANIFEST, "dataset_info.json", "features.json", "label.labels.txt")

# With --num_shards=0: the fewest shards, a power of two so that processes share them evenly,
# that stay below this size.  FER2013's 69 MB of Training become 8.
_SHARD_BYTES: Final = 16 << 20
_MOST_SHARDS: Final = 1024

# What a TFRecord adds to its payload: the length (8) and two checksums (4 and 4).
_FRAME_BYTES: Final = 16

# What tf.data raises where a shard is not what the manifest says.
READ_ERRORS: Final = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.NotFoundError,
)

_READ_BUFFER: Final = 8 << 20
_READ_BATCH: Final = 2048


# The schema.  Writing and reading are one thing seen from two sides; the round trip is tested.


class Serializer:
    """Turns examples into the bytes of `tf.train.Example`s.

    One message is filled anew for each example: half the time goes into making messages.
    """

    def __init__(self) -> None:
        self._example = tf.train.Example()
        features = self._example.features.feature
        self._image = features["image"].bytes_list.value
        self._label = features["label"].int64_list.value
        self._row = features["row"].int64_list.value

    def serialize(self, image: npt.NDArray[np.uint8], label: int, row: int) -> bytes:
        """Returns one example.

        Args:
          image: uint8 [48, 48, 1].
          label: an id of `EXPRESSIONS`.
          row: the row of the source, counted from 0.
        """
        self._image[:] = [image.tobytes()]
        self._label[:] = [label]
        self._row[:] = [row]
        serialized: bytes = self._example.SerializeToString(deterministic=True)
        return serialized


def parse_batch(serialized: tf.Tensor) -> dict[str, tf.Tensor]:
    """Parses a batch of examples, string [n], into its features.

    A batch at a time, and raw bytes rather than an encoded image: ten times the speed of parsing
    and decoding example by example.

    Returns:
      `image` uint8 [n, 48, 48, 1], `label` int64 [n], `row` int64 [n].
    """
    features = tf.io.parse_example(
        serialized,
        {
            "image": tf.io.FixedLenFeature([], tf.string),
            "label": tf.io.FixedLenFeature([], tf.int64),
            "row": tf.io.FixedLenFeature([], tf.int64),
        },
    )
    pixels = tf.io.decode_raw(features["image"], tf.uint8)
    return {**features, "image": tf.reshape(pixels, (-1, *IMAGE_SHAPE))}


# The manifest.


@dataclasses.dataclass(frozen=True)
class Shard:
    """One file of a split."""

    file: str
    records: int
    bytes: int
    sha256: str


@dataclasses.dataclass(frozen=True)
class Split:
    """A split of a data directory, ready to be read.

    Attributes:
      directory: where the shards stand.
      name: `train`, `validation` or `test`.
      examples: how many.
      per_expression: how many of each expression.
      shards: the files, in order.
      leaked_rows: the source rows of this split whose image also stands in `train`.
      manifest_sha256: the checksum of the manifest this was read from.
    """

    directory: Path
    name: str
    examples: int
    per_expression: Mapping[str, int]
    shards: Sequence[Shard]
    leaked_rows: frozenset[int]
    manifest_sha256: str

    @property
    def files(self) -> list[str]:
        """The shards' paths, in order."""
        return [str(self.directory / shard.file) for shard in self.shards]


@dataclasses.dataclass(frozen=True)
class WriteReport:
    """What a conversion wrote and left out."""

    directory: Path
    manifest: Mapping[str, Any]
    bad_rows: Sequence[BadRow]


# Writing.


def write_dataset(
    batches: Iterable[RawBatch],
    data_dir: Path,
    *,
    source: Path,
    num_shards: int = 0,
    overwrite: bool = False,
) -> WriteReport:
    """Writes `DIR/fer2013/1.0.0/`; the same batches give the same bytes.

    The directory appears under its name when it is complete.  Whatever stops the writing before
    leaves at most a hidden directory, which the next call clears away.

    Args:
      batches: what a source yields.
      data_dir: DIR, a TFDS data directory; made where it is missing.
      source: the file the batches come from; its name, size and SHA-256 go into the manifest.
      num_shards: shards a split; 0 chooses by size.
      overwrite: replaces a directory that this function wrote.

    Raises:
      InputError: the directory exists (and `overwrite` is off, or it holds anything that was not
        written here), another process is writing it, or a batch's source found bad input.
    """
    if num_shards < 0 or num_shards > 99_999:
        raise InputError(f"num_shards: expected 0 to 99999, received {num_shards}")
    final = data_dir / NAME / VERSION
    with _removing_empty_parents(final), _exclusive_directory(final) as (work, publish):
        _check_replaceable(final, overwrite)
        with ThreadPoolExecutor(max_workers=1) as pool:
            # The checksum takes a third of the parsing's time, and runs on another core.
            source_sha256 = pool.submit(sha256_of, source)
            spools, auditor, bad_rows = _spool(batches, work)
            shards = {name: spools[name].cut(num_shards) for name in SPLITS if name in spools}
            _write_tfds_metadata(work, shards)
            manifest = {
                "written_by": _WRITTEN_BY,
                "schema_version": SCHEMA_VERSION,
                "source": {
                    "file": source.name,
                    "bytes": source.stat().st_size,
                    "sha256": source_sha256.result(),
                },
                "splits": {
                    name: {
                        "examples": sum(shard.records for shard in shards[name]),
                        "per_expression": spools[name].per_expression(),
                        "shards": [dataclasses.asdict(shard) for shard in shards[name]],
                    }
                    for name in shards
                },
                "audit": auditor.report().to_json(),
                "rows_skipped": [dataclasses.asdict(bad) for bad in bad_rows],
            }
        (work / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n", encoding="utf-8")
        for file in sorted(work.iterdir()):
            atomic.sync(file)
        atomic.sync(work)
        publish()
    return WriteReport(directory=final, manifest=manifest, bad_rows=bad_rows)


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


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


@contextlib.contextmanager
def _system_errors(path: Path) -> Iterator[None]:
    """Turns TensorFlow's errors, such as a full disk's, into the system's."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(errno.EIO, f"cannot be written: {error.message}", str(path)) from error


class _Spool:
    """The records of one split in one file, to be cut into shards when their number is known.

    A TFRecord file is its records one after another, so a shard is a range of the spool's bytes.
    """

    def __init__(self, directory: Path, split: str) -> None:
        self._path = directory / f"{split}.spool"
        self._split = split
        self._writer = tf.io.TFRecordWriter(str(self._path))
        self._sizes: list[int] = []
        self._labels: Counter[int] = Counter()

    def write(self, serialized: bytes, label: int) -> None:
        with _system_errors(self._path):
            self._writer.write(serialized)
        self._sizes.append(len(serialized) + _FRAME_BYTES)
        self._labels[label] += 1

    def per_expression(self) -> dict[str, int]:
        return {name: self._labels[label] for label, name in enumerate(EXPRESSIONS)}

    def close(self) -> None:
        with _system_errors(self._path):
            self._writer.close()

    def cut(self, num_shards: int) -> list[Shard]:
        """Cuts the spool into shards in the order of writing, and removes it."""
        self.close()
        ends = np.concatenate([[0], np.cumsum(self._sizes)])
        lengths = balanced_lengths(len(self._sizes), num_shards or choose_num_shards(int(ends[-1])))
        shards, first = [], 0
        with self._path.open("rb") as spool:
            for index, length in enumerate(lengths):
                file = f"{NAME}-{self._split}.tfrecord-{index:05d}-of-{len(lengths):05d}"
                content = spool.read(int(ends[first + length] - ends[first]))
                (self._path.parent / file).write_bytes(content)
                sha256 = hashlib.sha256(content).hexdigest()
                shards.append(Shard(file, length, len(content), sha256))
                first += length
        self._path.unlink()
        return shards


def _spool(
    batches: Iterable[RawBatch], directory: Path
) -> tuple[dict[str, _Spool], Auditor, list[BadRow]]:
    spools: dict[str, _Spool] = {}
    auditor = Auditor()
    serializer = Serializer()
    bad_rows: list[BadRow] = []
    try:
        for batch in batches:
            bad_rows.extend(batch.bad_rows)
            auditor.add(batch.images, batch.labels, batch.splits, batch.rows)
            for image, label, split, row in zip(
                batch.images, batch.labels.tolist(), batch.splits, batch.rows.tolist(), strict=True
            ):
                if split not in spools:
                    spools[split] = _Spool(directory, split)
                spools[split].write(serializer.serialize(image, label, row), label)
    finally:
        for spool in spools.values():
            spool.close()
    if not spools:
        raise InputError("expected at least one row that can be read, received none")
    return spools, auditor, bad_rows


def _write_tfds_metadata(directory: Path, shards: Mapping[str, Sequence[Shard]]) -> None:
    # Here, since it takes a second to import, and only writing needs it.
    import tensorflow_datasets as tfds

    features = tfds.features.FeaturesDict(
        {
            "image": tfds.features.Tensor(
                shape=IMAGE_SHAPE,
                dtype=np.uint8,
                encoding=tfds.features.Encoding.BYTES,
                doc="The face, grayscale.",
            ),
            "label": tfds.features.ClassLabel(names=list(EXPRESSIONS), doc="The expression."),
            "row": tfds.features.Scalar(np.int64, doc="The row of the source, counted from 0."),
        }
    )
    template = tfds.core.ShardedFileTemplate(
        data_dir=directory,
        dataset_name=NAME,
        filetype_suffix="tfrecord",
        template=tfds.core.naming.DEFAULT_FILENAME_TEMPLATE,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=directory,
        features=features,
        version=VERSION,
        split_infos=[
            tfds.core.SplitInfo(
                name=name,
                shard_lengths=[shard.records for shard in of_split],
                num_bytes=sum(shard.bytes - shard.records * _FRAME_BYTES for shard in of_split),
                filename_template=template.replace(split=name),
            )
            for name, of_split in shards.items()
        ],
        supervised_keys=("image", "label"),
        description="FER2013: faces of 48x48 in grayscale with one of seven expressions.",
        citation=(
            "@inproceedings{goodfellow2013challenges, title={Challenges in Representation "
            "Learning: A Report on Three Machine Learning Contests}, author={Goodfellow, Ian J. "
            "and others}, booktitle={ICONIP}, year={2013}}"
        ),
        check_data=False,
    )


@contextlib.contextmanager
def _exclusive_directory(final: Path) -> Iterator[tuple[Path, Any]]:
    """Yields an empty hidden directory beside `final`, and what renames it to `final`.

    The lock ends with the process, however it ends, so a directory that a killed process left
    can be told from one that is being written.
    """
    work = final.with_name(f".{final.name}.incomplete")
    try:
        work.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(work, os.O_RDONLY)
    except OSError as error:
        raise InputError(
            f"{work.parent}: expected a directory that can be written to, received: "
            f"{error.strerror}"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if work.stat().st_ino != os.fstat(descriptor).st_ino:
                raise FileNotFoundError  # the other process renamed it in this very moment
        except (BlockingIOError, FileNotFoundError):
            raise InputError(
                f"{final}: another process is writing it; wait until it ends"
            ) from None
        replaced = final.with_name(f".{final.name}.replaced")
        if replaced.exists():  # killed between the two renames of publish(), or just after
            if final.exists():
                shutil.rmtree(replaced)
            else:
                replaced.rename(final)
        _clear(work)

        published = False

        def publish() -> None:
            nonlocal published
            if final.exists():
                final.rename(replaced)
            work.rename(final)
            published = True
            atomic.sync(final.parent)
            shutil.rmtree(replaced, ignore_errors=True)

        try:
            yield work, publish
        finally:
            if not published:
                shutil.rmtree(work)
    finally:
        os.close(descriptor)


def _clear(directory: Path) -> None:
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


@contextlib.contextmanager
def _removing_empty_parents(final: Path) -> Iterator[None]:
    """Removes, if the block fails, the directories above `final` that it made."""
    made = [parent for parent in final.parents if not parent.exists()]
    try:
        yield
    except BaseException:
        for parent in made:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


def _check_replaceable(final: Path, overwrite: bool) -> None:
    if not final.exists():
        return
    if not overwrite:
        raise InputError(f"{final}: exists already; replace it with --overwrite")
    try:
        manifest = _load_manifest(final)
        ours = {shard["file"] for split in manifest["splits"].values() for shard in split["shards"]}
    except (InputError, AttributeError, KeyError, TypeError):
        raise InputError(
            f"{final}: expected a directory that this program wrote, received one without its "
            f"{MANIFEST}; --overwrite leaves such a directory alone"
        ) from None
    foreign = sorted({path.name for path in final.iterdir()} - ours - set(_METADATA_FILES))
    if foreign:
        raise InputError(
            f"{final}: holds files that this program did not write ({', '.join(foreign[:3])}); "
            "move them away before --overwrite"
        )


# Reading.


def open_split(data_dir: Path, name: str, *, verify: bool = False) -> Split:
    """Finds a split and checks it against the manifest.

    Always: every shard is there and has its size, and the counts agree.  The counts of the
    records themselves, and their checksums, are checked as they are read.

    Args:
      data_dir: the directory given to the conversion as `--output_dir`.
      name: `train`, `validation` or `test`.
      verify: also reads every shard and compares its SHA-256.

    Raises:
      InputError: the directory, the split or a shard is missing, or is not as the manifest says.
    """
    directory = data_dir / NAME / VERSION
    manifest = _load_manifest(directory)
    try:
        split = _split_from_manifest(directory, manifest, name)
        _check_shards(split)
    except (AttributeError, KeyError, TypeError) as error:
        raise InputError(
            f"{directory / MANIFEST}: the manifest is damaged; remove the directory and convert "
            "the source again"
        ) from error
    if verify:
        verify_checksums(split)
    return split


def _split_from_manifest(directory: Path, manifest: Mapping[str, Any], name: str) -> Split:
    splits = manifest["splits"]
    if name not in splits:
        raise InputError(
            f"{directory}: expected a split {name!r}, received a data set with {', '.join(splits)}"
        )
    return Split(
        directory=directory,
        name=name,
        examples=splits[name]["examples"],
        per_expression=splits[name]["per_expression"],
        shards=[Shard(**shard) for shard in splits[name]["shards"]],
        leaked_rows=frozenset(manifest["audit"]["leaked_rows"].get(name, [])),
        manifest_sha256=sha256_of(directory / MANIFEST),
    )


def load_split(split: Split) -> dict[str, npt.NDArray[Any]]:
    """Reads a whole split into memory, in the source's order.

    Returns:
      `image` uint8 [n, 48, 48, 1], `label` int64 [n], `row` int64 [n].

    Raises:
      InputError: a shard is damaged; the message names it.
    """
    arrays: dict[str, npt.NDArray[Any]] = {
        "image": np.empty((split.examples, *IMAGE_SHAPE), np.uint8),
        "label": np.empty(split.examples, np.int64),
        "row": np.empty(split.examples, np.int64),
    }
    position = 0
    for shard in split.shards:
        end = position + shard.records
        path = split.directory / shard.file
        try:
            dataset = tf.data.TFRecordDataset(str(path), buffer_size=_READ_BUFFER)
            for features in dataset.batch(_READ_BATCH).map(parse_batch).prefetch(2):
                count = len(features["label"])
                if position + count > end:
                    raise InputError(f"{path}: expected {shard.records} records, received more")
                for key, array in arrays.items():
                    array[position : position + count] = features[key].numpy()
                position += count
        except (tf.errors.DataLossError, tf.errors.InvalidArgumentError) as error:
            raise InputError(_damaged(path)) from error
        except tf.errors.NotFoundError as error:
            raise InputError(f"{path}: the shard has vanished while it was read") from error
        if position != end:
            received = shard.records - (end - position)
            raise InputError(f"{path}: expected {shard.records} records, received {received}")
    return arrays


def verify_checksums(split: Split) -> None:
    """Compares every shard's SHA-256 with the manifest's.

    Raises:
      InputError: one differs; the message names the file.
    """
    for shard in split.shards:
        path = split.directory / shard.file
        try:
            received = sha256_of(path)
        except OSError as error:
            raise InputError(f"{path}: cannot be read: {error.strerror}") from error
        if received != shard.sha256:
            raise InputError(
                f"{_damaged(path)} (SHA-256 expected {shard.sha256}, received {received})"
            )


def _damaged(path: Path) -> str:
    return f"{path}: the shard is damaged; convert the source again with --overwrite"


def _load_manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not found; expected a data directory as tools/make_tfrecords writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a readable manifest, received: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("written_by") != _WRITTEN_BY:
        raise InputError(f"{path}: expected a manifest written by {_WRITTEN_BY}, received another")
    if manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: expected schema version {SCHEMA_VERSION}, received "
            f"{manifest.get('schema_version')}; convert the source again"
        )
    return manifest


def _check_shards(split: Split) -> None:
    for shard in split.shards:
        path = split.directory / shard.file
        if not path.is_file():
            raise InputError(
                f"{path}: the shard is missing; convert the source again with --overwrite"
            )
        received = path.stat().st_size
        if received != shard.bytes:
            raise InputError(
                f"{path}: expected {shard.bytes} bytes, received {received}: the shard is "
                "truncated or was changed; convert the source again with --overwrite"
            )
    counted = sum(shard.records for shard in split.shards)
    if not counted == split.examples == sum(split.per_expression.values()):
        raise InputError(
            f"{split.directory / MANIFEST}: the counts of split {split.name!r} disagree; convert "
            "the source again with --overwrite"
        )

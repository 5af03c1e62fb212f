"""The sharded TFRecords as they stand on disk: their schema, the manifest and the checked reader.

A data directory is one of TensorFlow Datasets (`DIR/fer2013/1.0.0/`), with a manifest beside
TFDS's own metadata; `conversion` writes it.
"""

import contextlib
import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import joblib
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import ferplus
from fer_tfdata.dataset_options import untuned
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL, SPLITS

NAME: Final = "fer2013"
VERSION: Final = "1.0.0"
SCHEMA_VERSION: Final = 3
MANIFEST: Final = "manifest.json"
WRITTEN_BY: Final = "fer_tfdata"

NUM_VOTES: Final = 10

# What a TFRecord adds to its payload: the length (8) and two checksums (4 and 4).
FRAME_BYTES: Final = 16

# What tf.data raises where a shard is not what the manifest says.
READ_ERRORS: Final = (
    tf.errors.DataLossError,
    tf.errors.FailedPreconditionError,
    tf.errors.InvalidArgumentError,
    tf.errors.NotFoundError,
)

_MOST: Final = 2**63 - 1  # of rows and bytes

_READ_BUFFER: Final = 1 << 20
_READ_BATCH: Final = 256  # few enough to stay in the processor's cache until they are parsed
_MOST_AT_ONCE: Final = 8
_ALIGNMENT: Final = 64
_MOST_RECORDS: Final = 2**62


# The schema.  Writing and reading are one thing seen from two sides; the round trip is tested.


@dataclasses.dataclass(frozen=True)
class Schema:
    """What every record of a data directory holds.

    Attributes:
      image_shape: height, width and channels.
      expressions: what the labels are ids of.
      has_votes: whether the ten FER+ votes are there.
    """

    image_shape: tuple[int, int, int]
    expressions: tuple[str, ...]
    has_votes: bool = False


class Serializer:
    """Turns examples into the bytes of `tf.train.Example`s.

    One message is filled anew for each example: half the time goes into making messages.  Whatever
    the message held is freed with it alone, so take a new serializer for every few hundred.
    """

    def __init__(self, schema: Schema) -> None:
        self._example = tf.train.Example()
        features = self._example.features.feature
        self._image = features["image"].bytes_list.value
        self._label = features["label"].int64_list.value
        self._row = features["row"].int64_list.value
        self._votes = features["votes"].int64_list.value if schema.has_votes else None

    def serialize(
        self, image: npt.NDArray[np.uint8], label: int, row: int, votes: Sequence[int] = ()
    ) -> bytes:
        """Returns one example.

        Args:
          image: uint8, of the schema's shape.
          label: an id of the schema's expressions, or `NO_LABEL`.
          row: the row of the source, counted from 0.
          votes: the ten FER+ votes in the order of `ferplus.COLUMNS`, where the schema has them.
        """
        self._image[:] = [image.tobytes()]
        self._label[:] = [label]
        self._row[:] = [row]
        if self._votes is not None:
            self._votes[:] = votes
        serialized: bytes = self._example.SerializeToString(deterministic=True)
        return serialized


def parse_batch(
    serialized: tf.Tensor, schema: Schema, features: Collection[str] | None = None
) -> dict[str, tf.Tensor]:
    """Parses a batch of examples, string [n], into its features.

    A batch at a time, and raw bytes rather than an encoded image: ten times the speed of parsing
    and decoding example by example.

    Args:
      serialized: the examples.
      schema: what they hold.
      features: which are parsed; all of them where none are named.

    Returns:
      `image` uint8 [n, *schema.image_shape], `label` int64 [n], `row` int64 [n], and, where the
      schema has them, `votes` int64 [n, 10].
    """
    specs = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
        "row": tf.io.FixedLenFeature([], tf.int64),
    }
    if schema.has_votes:
        specs["votes"] = tf.io.FixedLenFeature([NUM_VOTES], tf.int64)
    parsed = tf.io.parse_example(serialized, {name: specs[name] for name in features or specs})
    if "image" in parsed:
        pixels = tf.io.decode_raw(parsed["image"], tf.uint8)
        # Not -1: images of another size could be as many bytes together.
        parsed["image"] = tf.reshape(pixels, (tf.shape(serialized)[0], *schema.image_shape))
    return dict(parsed)


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
      schema: what each record holds.
      examples: how many.
      unlabelled: how many of them have no label.
      per_expression: how many of each expression.
      ferplus_examples: how many can be used with FER+ labels, by kind (`ferplus.KINDS`); empty
        where no votes were given.
      ferplus_comparable: how many images of the whole data set have a label and FER+'s majority.
      ferplus_agreeing: on how many of them the two are the same.
      shards: the files, in order.
      leaked_rows: the source rows of this split whose image also stands in `train` as written.
      near_leaked_rows: those with a near-duplicate there, and no equal image.
      manifest_sha256: the checksum of the manifest this was read from.
    """

    directory: Path
    name: str
    schema: Schema
    examples: int
    unlabelled: int
    per_expression: Mapping[str, int]
    ferplus_examples: Mapping[str, int]
    ferplus_comparable: int
    ferplus_agreeing: int
    shards: Sequence[Shard]
    leaked_rows: frozenset[int]
    near_leaked_rows: frozenset[int]
    manifest_sha256: str

    @property
    def files(self) -> list[str]:
        """The shards' absolute paths, in order: a graph may be run elsewhere than it was made."""
        return [str((self.directory / shard.file).absolute()) for shard in self.shards]


def sha256_of(path: Path) -> str:
    """Returns a file's SHA-256, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_manifest(directory: Path, *, any_version: bool = False) -> dict[str, Any]:
    """Returns the manifest of `DIR/fer2013/1.0.0/`.

    Args:
      directory: where it stands.
      any_version: takes one of another schema version too.

    Raises:
      InputError: it is missing, damaged, or of another program or schema version.
    """
    path = directory / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(
            f"{path}: not found; expected a data directory as tools/make_tfrecords writes it"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: expected a readable manifest, received: {error}") from error
    if not isinstance(manifest, dict) or manifest.get("written_by") != WRITTEN_BY:
        raise InputError(f"{path}: expected a manifest written by {WRITTEN_BY}, received another")
    if not any_version and manifest.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{path}: expected schema version {SCHEMA_VERSION}, received "
            f"{manifest.get('schema_version')!r}; convert the source again with --overwrite"
        )
    return manifest


# Reading.


def open_split(data_dir: Path, name: str, *, verify: bool = False) -> Split:
    """Finds a split and checks it against the manifest.

    Always: every shard is there and has its size, which is one that its records can take, and the
    counts agree.  The counts of the records themselves, and their checksums, are checked as they
    are read.

    Args:
      data_dir: the directory given to the conversion as `--output_dir`.
      name: `train`, `validation` or `test`.
      verify: also reads every shard and compares its SHA-256.

    Raises:
      InputError: the directory, the split or a shard is missing, or is not as the manifest says.
    """
    directory = data_dir / NAME / VERSION
    manifest = read_manifest(directory)
    try:
        split = _split_from_manifest(directory, manifest, name)
        _check_shards(split)
        _check_sizes(split)
    except InputError:
        raise
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{directory / MANIFEST}: the manifest is damaged; remove the directory and convert "
            "the source again"
        ) from error
    if verify:
        verify_checksums(split)
    return split


_REMEDIES: Final = {
    "validation": "; take some of the training images for it: convert again with "
    "--validation_fraction=0.1"
}


# Whatever JSON stands in a manifest, what comes of it is a split or an error of those that
# `open_split` takes for damage.


def _split_from_manifest(directory: Path, manifest: Mapping[str, Any], name: str) -> Split:
    splits = manifest["splits"]
    if not splits or not splits.keys() <= set(SPLITS):
        raise ValueError
    if name not in splits:
        raise InputError(
            f"{directory}: expected a split {name!r}, received a data set with "
            f"{', '.join(splits)}{_REMEDIES.get(name, '')}"
        )
    written = splits[name]
    schema = _schema_from_manifest(manifest)
    examples = count_from_json(written["examples"])
    kinds = ferplus.KINDS if schema.has_votes else ()
    comparable = agreeing = 0
    if schema.has_votes:
        comparable = count_from_json(manifest["ferplus"]["images_with_label_and_majority"])
        agreeing = count_from_json(manifest["ferplus"]["images_where_they_agree"], most=comparable)
    return Split(
        directory=directory,
        name=name,
        schema=schema,
        examples=examples,
        unlabelled=count_from_json(written["unlabelled"]),
        per_expression=counts_from_json(written["per_expression"], schema.expressions),
        ferplus_examples=counts_from_json(written["ferplus_examples"], kinds, most=examples),
        ferplus_comparable=comparable,
        ferplus_agreeing=agreeing,
        shards=_shards_from_json(written["shards"], name),
        leaked_rows=frozenset(rows_from_json(written["leaked_rows"])),
        near_leaked_rows=frozenset(rows_from_json(written["near_leaked_rows"])),
        manifest_sha256=sha256_of(directory / MANIFEST),
    )


def _schema_from_manifest(manifest: Mapping[str, Any]) -> Schema:
    height, width, channels = map(count_from_json, manifest["image_shape"])
    if not 0 < height == width or channels not in (1, 3):
        raise ValueError
    expressions = tuple(manifest["expressions"])
    if expressions not in (EXPRESSIONS, EIGHT_EXPRESSIONS):
        raise ValueError
    has_votes = manifest["ferplus"] is not None
    return Schema((height, width, channels), expressions, has_votes=has_votes)


def _shards_from_json(value: Any, split: str) -> list[Shard]:
    shards = [Shard(**shard) for shard in value]
    for index, shard in enumerate(shards):
        count_from_json(shard.bytes)
        expected_file = f"{NAME}-{split}.tfrecord-{index:05d}-of-{len(shards):05d}"
        if not count_from_json(shard.records) or shard.file != expected_file:
            raise ValueError
        if re.fullmatch("[0-9a-f]{64}", shard.sha256) is None:
            raise ValueError
    return shards


def rows_from_json(value: Any) -> list[int]:
    """Returns the rows in a manifest's list.

    Raises:
      TypeError, ValueError: it is none.
    """
    if not isinstance(value, list):
        raise TypeError
    return [count_from_json(row) for row in value]


def counts_from_json(value: Any, names: Sequence[str], *, most: float = _MOST) -> dict[str, int]:
    """Returns a manifest's count of each of the names.

    Raises:
      AttributeError, TypeError, ValueError: they are not exactly these, or one is no count.
    """
    if value.keys() != set(names):
        raise ValueError
    return {name: count_from_json(value[name], most=most) for name in names}


def count_from_json(value: Any, *, most: float = _MOST) -> int:
    """Returns a manifest's whole number from 0 to `most`.

    Raises:
      ValueError: it is none.
    """
    if type(value) is not int or not 0 <= value <= most:  # a bool is an int too
        raise ValueError
    return value


def joined(first: Split, second: Split) -> Split:
    """Returns two splits of a data directory as one; what leaks is not asked of it."""

    def added(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
        return {name: count + other[name] for name, count in one.items()}

    return dataclasses.replace(
        first,
        name=f"{first.name}+{second.name}",
        examples=first.examples + second.examples,
        unlabelled=first.unlabelled + second.unlabelled,
        per_expression=added(first.per_expression, second.per_expression),
        ferplus_examples=added(first.ferplus_examples, second.ferplus_examples),
        shards=[*first.shards, *second.shards],
        leaked_rows=frozenset(),
        near_leaked_rows=frozenset(),
    )


def load_split(split: Split, features: Sequence[str] | None = None) -> dict[str, npt.NDArray[Any]]:
    """Reads a whole split into memory, in the order of the shards.

    Args:
      split: as `open_split` returns it.
      features: which to keep; all of them where none are named.  What is not kept is not parsed.

    Returns:
      `image` uint8 [n, *image_shape], `label` int64 [n], `row` int64 [n], and, where they were
      given, `votes` int64 [n, 10]; each aligned as TensorFlow wants its own tensors.

    Raises:
      InputError: a shard is damaged; the message names it.  The records' checksums, their number
        and their labels are checked whatever is kept, other features only where they are.
    """
    shapes = {"image": split.schema.image_shape, "label": (), "row": (), "votes": (NUM_VOTES,)}
    given = [name for name in shapes if name != "votes" or split.schema.has_votes]
    arrays = {
        name: _aligned((split.examples, *shapes[name]), np.uint8 if name == "image" else np.int64)
        for name in features or given
    }
    shards = [shard for shard in split.shards if shard.records]
    dataset = tf.data.Dataset.from_tensor_slices([str(split.directory / s.file) for s in shards])
    at_once = min(joblib.cpu_count(), _MOST_AT_ONCE)
    parsed = {"label", *arrays}

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert
    def read(file: tf.Tensor) -> dict[str, tf.Tensor]:
        return _read_shard(file, split.schema, parsed)

    contents = iter(untuned(dataset.map(read, at_once)))
    start = 0
    for shard in shards:
        path = split.directory / shard.file
        with _naming(path):
            content = next(contents)
        labels = content["label"].numpy()
        _check_count(path, shard, len(labels))
        _check_labels(path, labels, split.schema)
        for name, array in arrays.items():
            array[start : start + shard.records] = memoryview(content[name])
        start += shard.records
    return arrays


def read_batches(split: Split, batch_size: int) -> Iterator[dict[str, npt.NDArray[Any]]]:
    """Yields a split's records a batch at a time, in the order of the shards.

    Args:
      split: as `open_split` returns it.
      batch_size: records a batch; the last of a shard may be smaller.

    Yields:
      All features of n records, as `load_split` returns them.

    Raises:
      InputError: a shard is damaged; the message names it.  What comes before the damage was
        yielded.
    """

    @tf.autograph.experimental.do_not_convert  # there is nothing to convert
    def parse(batch: tf.Tensor) -> dict[str, tf.Tensor]:
        return parse_batch(batch, split.schema)

    at_once = min(joblib.cpu_count(), _MOST_AT_ONCE)
    for shard in split.shards:
        path = split.directory / shard.file
        serialized = tf.data.TFRecordDataset(str(path), buffer_size=_READ_BUFFER).batch(batch_size)
        count = 0
        with _naming(path):
            for batch in untuned(serialized.map(parse, at_once).prefetch(2)).as_numpy_iterator():
                _check_labels(path, batch["label"], split.schema)
                count += len(batch["label"])
                yield batch
        _check_count(path, shard, count)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Makes an error that names the shard of one that reading it raises."""
    try:
        yield
    except tf.errors.NotFoundError as error:
        raise InputError(f"{path}: the shard has vanished while it was read") from error
    except READ_ERRORS as error:
        raise InputError(_damaged(path)) from error


def _check_count(path: Path, shard: Shard, received: int) -> None:
    if received != shard.records:
        raise InputError(
            f"{path}: expected {shard.records} records, received {received}; convert the source "
            "again with --overwrite"
        )


def _check_labels(path: Path, labels: npt.NDArray[np.int64], schema: Schema) -> None:
    if (labels < NO_LABEL).any() or (labels >= len(schema.expressions)).any():
        raise InputError(_damaged(path))


def _aligned(shape: Sequence[int], dtype: Any) -> npt.NDArray[Any]:
    """Returns an array like np.empty's that starts where a tensor may: at a multiple of 64."""
    num_bytes = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.empty(num_bytes + _ALIGNMENT, np.uint8)
    start = -raw.ctypes.data % _ALIGNMENT
    return raw[start : start + num_bytes].view(dtype).reshape(shape)


def _read_shard(file: tf.Tensor, schema: Schema, features: Collection[str]) -> dict[str, tf.Tensor]:
    dataset = tf.data.TFRecordDataset(file, buffer_size=_READ_BUFFER).batch(_READ_BATCH)
    whole = dataset.map(lambda batch: parse_batch(batch, schema, features)).rebatch(_MOST_RECORDS)
    return dict(whole.get_single_element())


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
    labelled = sum(split.per_expression.values())
    if not counted == split.examples == labelled + split.unlabelled:
        raise InputError(
            f"{split.directory / MANIFEST}: the counts of split {split.name!r} disagree; convert "
            "the source again with --overwrite"
        )


def _check_sizes(split: Split) -> None:
    """Checks that each shard's bytes are what so many records can take."""
    least, most = _sizes_of_records(split.schema, max(shard.bytes for shard in split.shards))
    for shard in split.shards:
        if not least * shard.records <= shard.bytes <= most * shard.records:
            height, width, channels = split.schema.image_shape
            raise InputError(
                f"{split.directory / shard.file}: expected {shard.records} records of "
                f"{height}x{width}x{channels} pixels, received {shard.bytes} bytes, which those "
                "never take: the manifest is damaged; remove the directory and convert the source "
                "again"
            )


def _sizes_of_records(schema: Schema, bound: int) -> tuple[int, int]:
    """Returns how many bytes a record takes in a shard, at least and at most.

    Raises:
      ValueError: the image alone is more than `bound`.
    """
    if math.prod(schema.image_shape) > bound:
        raise ValueError
    image = np.zeros(schema.image_shape, np.uint8)
    smallest = Serializer(schema).serialize(image, 0, 0, [0] * NUM_VOTES)
    largest = Serializer(schema).serialize(image, NO_LABEL, _MOST, [255] * NUM_VOTES)
    return len(smallest) + FRAME_BYTES, len(largest) + FRAME_BYTES

"""tf.data datasets that keep a device busy: uint8 batches in an order that can start anywhere.

Images stay uint8 up to the device, a quarter of float32's traffic, and scaling is the model's
first layer, so that training and prediction cannot preprocess differently.
"""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from fer_tfdata import ferplus, records
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, NO_LABEL

MEMORY_BUDGET_BYTES: Final = 2 << 30

# A streamed epoch is shuffled within windows of about this many images (19 MB of FER2013), and
# its shards' order is shuffled as well; of large images, within as many as these bytes hold.
_WINDOW_IMAGES: Final = 8_192
_WINDOW_BYTES: Final = 128 << 20

# Sequential reading with a large buffer beats interleaving files on a local disk.
_READ_BUFFER: Final = 8 << 20

# Streams of random numbers that one seed feeds.
_ORDER: Final = 0
_AUGMENTATION: Final = 1

_assert_cardinality: Final = tf.data.experimental.assert_cardinality

_log = logging.getLogger(__name__)


def class_names(schema: records.Schema, labels: str) -> tuple[str, ...]:
    """Returns the expressions that labels of a kind (`ferplus.LABELS`) are ids of, in order."""
    return schema.expressions if labels == ferplus.OWN_LABELS else EIGHT_EXPRESSIONS


def usable_examples(split: records.Split, labels: str) -> int:
    """Returns how many images of a split have labels of a kind (`ferplus.LABELS`).

    The data set's own labels must be there for every image; FER+ leaves out the images on which
    its voters did not agree.

    Raises:
      InputError: the labels are not there.
    """
    where = f"{split.directory}, split {split.name!r}"
    if labels == ferplus.OWN_LABELS:
        if split.unlabelled:
            raise InputError(
                f"{where}: expected a label for every image, received {split.unlabelled} of "
                f"{split.examples} without one; choose a split, or convert a source, that has them"
            )
        return split.examples
    if not split.schema.has_votes:
        raise InputError(
            f"{where}: expected FER+ votes for labels={labels}, received records without votes; "
            "convert again with --ferplus_csv"
        )
    if not split.ferplus_examples[labels]:
        raise InputError(
            f"{where}: expected images that FER+'s voters agree on for labels={labels}, received "
            f"none among {split.examples}; choose other labels"
        )
    return split.ferplus_examples[labels]


def train_dataset(
    split: records.Split,
    *,
    labels: str = ferplus.OWN_LABELS,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
) -> tf.data.Dataset:
    """Returns endless shuffled batches; the order is a function of (seed, step).

    An epoch is `steps_per_epoch` batches in which no image comes twice.  The examples that do not
    fill a batch, fewer than `batch_size` and other ones each epoch (in memory; streaming: those at
    the end of the last window), are left out of that epoch.  Images that FER+ drops are never seen.

    A split within the memory budget is loaded once and shuffled as a whole; a larger one streams
    from its shards and is shuffled in windows, which the log says.

    Args:
      split: as `records.open_split` returns it.
      labels: what the images are labelled with, one of `ferplus.LABELS`.
      batch_size: images a batch.
      seed: chooses the order.
      start_step: the dataset yields what one started at step 0 yields from this step on.
      augment: changes a batch of images, given them and a seed, int64 [2], that differs for each
        (seed, step).
      memory_budget_bytes: bytes of images that may be held in memory.

    Returns:
      Batches `(image uint8 [batch_size, *image_shape], label int64 [batch_size])`; with
      `ferplus_distribution` the label is float32 [batch_size, 8].

    Raises:
      InputError: the labels are not there, the split has fewer examples than a batch, or a shard
        is damaged (in memory: at once; streaming: as one of `records.READ_ERRORS` while it is
        read).
    """
    steps = steps_per_epoch(split, batch_size, labels)
    image_bytes = split.examples * math.prod(split.schema.image_shape)
    build = _in_memory if image_bytes <= memory_budget_bytes else _streaming
    if build is _streaming:
        _log.warning(
            "%s: %d MB of images exceed the memory budget of %d MB: streaming from the shards, "
            "shuffled in windows of %d images",
            split.name,
            image_bytes >> 20,
            memory_budget_bytes >> 20,
            _window_size(split.schema, batch_size),
        )
    dataset = build(split, labels, batch_size=batch_size, seed=seed, steps=steps, start=start_step)
    if augment is not None:
        dataset = dataset.enumerate(start_step).map(
            lambda step, batch: (augment(batch[0], _fold(seed, _AUGMENTATION, step)), batch[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return _prefetch(dataset)


def eval_dataset(
    split: records.Split,
    *,
    labels: str = ferplus.OWN_LABELS,
    batch_size: int,
    fields: Sequence[str] = ("image", "label"),
) -> tf.data.Dataset:
    """Returns every example of the split that has a label exactly once, in the shards' order.

    Args:
      split: as `records.open_split` returns it.
      labels: what the images are labelled with, one of `ferplus.LABELS`.
      batch_size: images a batch; the last batch may be smaller.
      fields: what a batch is a tuple of: `image`, `label`, `row`.

    Returns:
      Batches of the fields; iterating raises tf.errors.DataLossError at a damaged record and
      tf.errors.FailedPreconditionError where the shards hold another number of records than the
      manifest says.

    Raises:
      InputError: the labels are not there.
    """
    examples = usable_examples(split, labels)
    serialized = tf.data.TFRecordDataset(split.files, buffer_size=_READ_BUFFER).apply(
        _assert_cardinality(split.examples)
    )

    def parse(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return _select(_parse(batch, split.schema, labels), fields)

    if labels == ferplus.OWN_LABELS:
        return _prefetch(serialized.batch(batch_size).map(parse, tf.data.AUTOTUNE))
    return _prefetch(
        serialized.batch(batch_size)
        .map(parse, tf.data.AUTOTUNE)
        .rebatch(batch_size)
        .apply(_assert_cardinality(math.ceil(examples / batch_size)))
    )


def steps_per_epoch(split: records.Split, batch_size: int, labels: str = ferplus.OWN_LABELS) -> int:
    """Returns how many full batches the images of the split that have a label make.

    Raises:
      InputError: not one, or the labels are not there.
    """
    examples = usable_examples(split, labels)
    if not 1 <= batch_size <= examples:
        raise InputError(
            f"batch_size: expected 1 to {examples} (the examples of split {split.name!r} that have "
            f"a label), received {batch_size}"
        )
    return examples // batch_size


def _targets(features: Mapping[str, Any], labels: str, xp: Any) -> tuple[Any, Any]:
    """Returns what FER+ labels a batch of features with, and which examples are kept, bool [n].

    Args:
      features: with `votes`.
      labels: one of `ferplus.KINDS`.
      xp: the array library of the features.
    """
    if labels == "ferplus_majority":
        majority = ferplus.majority(features["votes"], xp)
        return majority, majority != NO_LABEL
    distribution = ferplus.distribution(features["votes"], xp)
    return distribution, xp.any(distribution > 0, axis=1)


def _parse(serialized: tf.Tensor, schema: records.Schema, labels: str) -> dict[str, tf.Tensor]:
    """Parses a batch of examples, string [n], and leaves out those without a label."""
    if labels == ferplus.OWN_LABELS:
        return records.parse_batch(serialized, dataclasses.replace(schema, has_votes=False))
    features = records.parse_batch(serialized, schema)
    # Whole batches are masked, for the reason they are parsed whole: examples one by one are slow.
    targets, kept = _targets(features, labels, tf.experimental.numpy)
    labelled = {"image": features["image"], "label": targets, "row": features["row"]}
    return {name: tf.boolean_mask(feature, kept) for name, feature in labelled.items()}


def _in_memory(
    split: records.Split, labels: str, *, batch_size: int, seed: int, steps: int, start: int
) -> tf.data.Dataset:
    arrays = records.load_split(split)
    targets, usable = arrays["label"], np.arange(split.examples)
    if labels != ferplus.OWN_LABELS:
        targets, kept = _targets(arrays, labels, np)
        usable = np.flatnonzero(kept)
        _check_count(split, labels, len(usable))
    with tf.device("/cpu:0"):  # where tf.data works; a GPU's memory is for the model
        images, targets = tf.constant(arrays["image"]), tf.constant(targets)
        examples = tf.constant(usable, tf.int32)

    def positions(epoch: tf.Tensor) -> tf.data.Dataset:
        # One permutation an epoch costs less than drawing positions batch by batch.
        order = tf.random.experimental.stateless_shuffle(examples, seed=_fold(seed, _ORDER, epoch))
        batches = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        return tf.data.Dataset.from_tensor_slices(batches[_steps_to_skip(epoch, steps, start) :])

    return (
        tf.data.Dataset.range(start // steps, tf.int64.max)
        .flat_map(positions)
        # One gather a batch: no image is touched before it is needed, nor copied twice.
        .map(
            lambda batch: (tf.gather(images, batch), tf.gather(targets, batch)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )


def _check_count(split: records.Split, labels: str, received: int) -> None:
    expected = usable_examples(split, labels)
    if received != expected:
        raise InputError(
            f"{split.directory / records.MANIFEST}: expected {expected} images of split "
            f"{split.name!r} with labels={labels}, received {received}; convert the source again "
            "with --overwrite"
        )


def _streaming(
    split: records.Split, labels: str, *, batch_size: int, seed: int, steps: int, start: int
) -> tf.data.Dataset:
    files = tf.constant(split.files)
    window_size = _window_size(split.schema, batch_size)
    steps_per_window = window_size // batch_size

    def parse(serialized: tf.Tensor) -> tuple[tf.Tensor, ...]:
        return _select(_parse(serialized, split.schema, labels), ("image", "label"))

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = _fold(seed, _ORDER, epoch)
        skipped = _steps_to_skip(epoch, steps, start)
        first_window = skipped // steps_per_window
        serialized = tf.data.TFRecordDataset(
            tf.random.experimental.stateless_shuffle(files, seed=epoch_seed),
            buffer_size=_READ_BUFFER,
        ).apply(_assert_cardinality(split.examples))

        def shuffle(
            window: tf.Tensor, images: tf.Tensor, targets: tf.Tensor
        ) -> tuple[tf.Tensor, ...]:
            # Permuted when parsed: moving decoded rows costs less than moving strings.
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.shape(images)[0]),
                seed=tf.random.experimental.stateless_fold_in(epoch_seed, window),
            )
            full = tf.size(order) // batch_size
            chosen = order[: full * batch_size]
            return tuple(
                tf.reshape(tf.gather(array, chosen), (full, batch_size, *array.shape[1:]))
                for array in (images, targets)
            )

        if labels == ferplus.OWN_LABELS:
            # Whole windows before the start are skipped unparsed, and a window is parsed in one go.
            shuffled = (
                serialized.skip(first_window * window_size)
                .batch(window_size)
                .enumerate(first_window)
                .map(lambda window, batch: shuffle(window, *parse(batch)), tf.data.AUTOTUNE)
                .unbatch()
            )
        else:
            # The votes alone say how many records fill a window.
            shuffled = (
                serialized.batch(window_size)
                .map(parse, tf.data.AUTOTUNE)
                .rebatch(window_size)
                .skip(first_window)
                .enumerate(first_window)
                .map(lambda window, batch: shuffle(window, *batch), tf.data.AUTOTUNE)
                .unbatch()
                .apply(_assert_cardinality(steps - first_window * steps_per_window))
            )
        # The rest of what comes before the start is skipped batch by batch.
        return shuffled.skip(skipped % steps_per_window)

    return tf.data.Dataset.range(start // steps, tf.int64.max).flat_map(batches)


def _window_size(schema: records.Schema, batch_size: int) -> int:
    """Whole batches, so that only an epoch's last window has a remainder."""
    images = min(_WINDOW_IMAGES, _WINDOW_BYTES // math.prod(schema.image_shape))
    return max(1, images // batch_size) * batch_size


def _steps_to_skip(epoch: tf.Tensor, steps: int, start: int) -> tf.Tensor:
    in_first_epoch = tf.constant(start % steps, tf.int64)
    return tf.where(epoch == start // steps, in_first_epoch, tf.zeros_like(in_first_epoch))


def _fold(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    """Returns a stateless seed, int64 [2], that differs for each (seed, stream, number)."""
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, stream], tf.int64), tf.cast(number, tf.int64)
    )


def _select(features: dict[str, tf.Tensor], fields: Sequence[str]) -> tuple[tf.Tensor, ...]:
    return tuple(features[field] for field in fields)


def _prefetch(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Prefetches onto the first GPU where there is one, else into host memory."""
    if tf.config.list_logical_devices("GPU"):
        return dataset.prefetch(2).apply(tf.data.experimental.prefetch_to_device("/gpu:0"))
    return dataset.prefetch(tf.data.AUTOTUNE)

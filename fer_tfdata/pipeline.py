"""tf.data datasets that keep a device busy: uint8 batches in an order that can start anywhere.

Images stay uint8 up to the device, a quarter of float32's traffic, and scaling is the model's
first layer, so that training and prediction cannot preprocess differently.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Final

import tensorflow as tf

from fer_tfdata import records
from fer_tfdata.errors import InputError

MEMORY_BUDGET_BYTES: Final = 2 << 30

# A streamed epoch is shuffled within windows of about this many images (19 MB of FER2013), and
# its shards' order is shuffled as well.
_WINDOW_IMAGES: Final = 8_192

# Sequential reading with a large buffer beats interleaving files on a local disk.
_READ_BUFFER: Final = 8 << 20

# Streams of random numbers that one seed feeds.
_ORDER: Final = 0
_AUGMENTATION: Final = 1

_log = logging.getLogger(__name__)


def train_dataset(
    split: records.Split,
    *,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    augment: Callable[[tf.Tensor, tf.Tensor], tf.Tensor] | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
) -> tf.data.Dataset:
    """Returns endless shuffled batches; the order is a function of (seed, step).

    An epoch is `steps_per_epoch(split, batch_size)` batches in which no image comes twice.  The
    examples that do not fill a batch, fewer than `batch_size` and other ones each epoch (in memory;
    streaming: those at the end of the last window), are left out of that epoch.

    A split within the memory budget is loaded once and shuffled as a whole; a larger one streams
    from its shards and is shuffled in windows, which the log says.

    Args:
      split: as `records.open_split` returns it.
      batch_size: images a batch.
      seed: chooses the order.
      start_step: the dataset yields what one started at step 0 yields from this step on.
      augment: changes a batch of images, given them and a seed, int64 [2], that differs for each
        (seed, step).
      memory_budget_bytes: bytes of images that may be held in memory.

    Returns:
      Batches `(image uint8 [batch_size, 48, 48, 1], label int64 [batch_size])`.

    Raises:
      InputError: the split has fewer examples than a batch, or a shard is damaged (in memory: at
        once; streaming: as tf.errors.DataLossError while it is read).
    """
    steps = steps_per_epoch(split, batch_size)
    image_bytes = split.examples * _product(records.IMAGE_SHAPE)
    if image_bytes <= memory_budget_bytes:
        dataset = _in_memory(split, batch_size=batch_size, seed=seed, steps=steps, start=start_step)
    else:
        _log.warning(
            "%s: %d MB of images exceed the memory budget of %d MB: streaming from the shards, "
            "shuffled in windows of %d images",
            split.name,
            image_bytes >> 20,
            memory_budget_bytes >> 20,
            _window_size(batch_size),
        )
        dataset = _streaming(split, batch_size=batch_size, seed=seed, steps=steps, start=start_step)
    if augment is not None:
        dataset = dataset.enumerate(start_step).map(
            lambda step, batch: (augment(batch[0], _fold(seed, _AUGMENTATION, step)), batch[1]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    return _prefetch(dataset)


def eval_dataset(
    split: records.Split, *, batch_size: int, fields: Sequence[str] = ("image", "label")
) -> tf.data.Dataset:
    """Returns every example of the split exactly once, in the source's order.

    Args:
      split: as `records.open_split` returns it.
      batch_size: images a batch; the last batch may be smaller.
      fields: what a batch is a tuple of: `image`, `label`, `row`.

    Returns:
      Batches of the fields; iterating raises tf.errors.DataLossError at a damaged record and
      tf.errors.FailedPreconditionError where the shards hold another number of records than the
      manifest says.
    """
    dataset = (
        tf.data.TFRecordDataset(split.files, buffer_size=_READ_BUFFER)
        .apply(tf.data.experimental.assert_cardinality(split.examples))
        .batch(batch_size)
        .map(
            lambda serialized: _select(records.parse_batch(serialized), fields),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )
    return _prefetch(dataset)


def steps_per_epoch(split: records.Split, batch_size: int) -> int:
    """Returns how many full batches the split holds.

    Raises:
      InputError: not one.
    """
    if not 1 <= batch_size <= split.examples:
        raise InputError(
            f"batch_size: expected 1 to {split.examples} (the examples of split {split.name!r}), "
            f"received {batch_size}"
        )
    return split.examples // batch_size


def _in_memory(
    split: records.Split, *, batch_size: int, seed: int, steps: int, start: int
) -> tf.data.Dataset:
    arrays = records.load_split(split)
    with tf.device("/cpu:0"):  # where tf.data works; a GPU's memory is for the model
        images, labels = tf.constant(arrays["image"]), tf.constant(arrays["label"])

    def positions(epoch: tf.Tensor) -> tf.data.Dataset:
        # One permutation an epoch costs less than drawing positions batch by batch.
        order = tf.random.experimental.stateless_shuffle(
            tf.range(split.examples, dtype=tf.int32), seed=_fold(seed, _ORDER, epoch)
        )
        batches = tf.reshape(order[: steps * batch_size], (steps, batch_size))
        return tf.data.Dataset.from_tensor_slices(batches[_steps_to_skip(epoch, steps, start) :])

    return (
        tf.data.Dataset.range(start // steps, tf.int64.max)
        .flat_map(positions)
        # One gather a batch: no image is touched before it is needed, nor copied twice.
        .map(
            lambda batch: (tf.gather(images, batch), tf.gather(labels, batch)),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
    )


def _streaming(
    split: records.Split, *, batch_size: int, seed: int, steps: int, start: int
) -> tf.data.Dataset:
    files = tf.constant(split.files)
    window_size = _window_size(batch_size)
    steps_per_window = window_size // batch_size

    def batches(epoch: tf.Tensor) -> tf.data.Dataset:
        epoch_seed = _fold(seed, _ORDER, epoch)
        skipped = _steps_to_skip(epoch, steps, start)
        first_window = skipped // steps_per_window

        def shuffled(window: tf.Tensor, serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            # Parsed in one go, then permuted: moving decoded rows costs less than moving strings.
            features = records.parse_batch(serialized)
            order = tf.random.experimental.stateless_shuffle(
                tf.range(tf.size(features["label"])),
                seed=tf.random.experimental.stateless_fold_in(epoch_seed, window),
            )
            full = tf.size(order) // batch_size
            chosen = order[: full * batch_size]
            return (
                tf.reshape(
                    tf.gather(features["image"], chosen), (full, batch_size, *records.IMAGE_SHAPE)
                ),
                tf.reshape(tf.gather(features["label"], chosen), (full, batch_size)),
            )

        return (
            tf.data.TFRecordDataset(
                tf.random.experimental.stateless_shuffle(files, seed=epoch_seed),
                buffer_size=_READ_BUFFER,
            )
            .apply(tf.data.experimental.assert_cardinality(split.examples))
            # Whole windows before the start are skipped unparsed, the rest of it batch by batch.
            .skip(first_window * window_size)
            .batch(window_size)
            .enumerate(first_window)
            .map(shuffled, num_parallel_calls=tf.data.AUTOTUNE)
            .unbatch()
            .skip(skipped % steps_per_window)
        )

    return tf.data.Dataset.range(start // steps, tf.int64.max).flat_map(batches)


def _window_size(batch_size: int) -> int:
    """Whole batches, so that only an epoch's last window has a remainder."""
    return max(1, _WINDOW_IMAGES // batch_size) * batch_size


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


def _product(numbers: Sequence[int]) -> int:
    result = 1
    for number in numbers:
        result *= number
    return result

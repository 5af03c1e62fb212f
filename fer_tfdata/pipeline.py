"""tf.data datasets that keep a device busy: uint8 batches in an order that can start anywhere.

Images stay uint8 up to the device, a quarter of float32's traffic, and scaling is the model's
first layer, so that training and prediction cannot preprocess differently.

What an iterator's state would be is two integers, the seed and the step: a dataset that starts at
a step yields what one that came from the beginning yields from there on.

What is mapped is traced as it stands.  AutoGraph has nothing to convert in it, and the first batch
would wait until it has found that out.
"""

import functools
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import tensorflow as tf

from fer_tfdata import data_service, ferplus, labelling, records, streaming
from fer_tfdata.batching import gather_batches
from fer_tfdata.dataset_options import untuned
from fer_tfdata.errors import InputError
from fer_tfdata.schedule import Schedule, Windows, check_process
from fer_tfdata.seeds import AUGMENTATION, ORDER, fold

MEMORY_BUDGET_BYTES: Final = 2 << 30

_READ_BUFFER: Final = 8 << 20

Augment = Callable[[tf.Tensor, tf.Tensor, tf.Tensor], tuple[Any, Any]]

FIELDS: Final = ("image", "label", "row")

_BATCHES_AHEAD: Final = 8  # in host memory, where they take no more bytes than this
_BYTES_AHEAD: Final = 64 << 20

_assert_cardinality: Final = tf.data.experimental.assert_cardinality

_log = logging.getLogger(__name__)


def train_dataset(
    split: records.Split,
    *,
    labels: str = ferplus.OWN_LABELS,
    batch_size: int,
    seed: int,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    augment: Augment | Mapping[int, Augment] | None = None,
    memory_budget_bytes: int = MEMORY_BUDGET_BYTES,
    data_service_address: str | None = None,
) -> tf.data.Dataset:
    """Returns endless shuffled batches; the order is a function of (seed, step).

    An epoch is `steps_per_epoch` batches in each process, in all of which together no image comes
    twice.  The examples that do not fill one more step, other ones each epoch (streaming: from the
    end of each process's last window), are left out of that epoch.  Images that FER+ drops are
    never seen.

    A split within the memory budget is loaded once and shuffled as a whole; the batches of a step
    are, put together, the batch that a single process would have.  A larger split streams from its
    shards, which the log says: their order is shuffled, each process reads its part of them, and
    what it reads is shuffled in windows of 8,192 images or 128 MiB, whichever is less, but a batch
    at least, whatever the machine.  How many windows are read at once is chosen such that those in
    memory take no more than the budget, or 1 GiB where it is less; only where a single one, which
    takes the memory of five, exceeds that is it exceeded.  Batches that are ready or in the making
    come on top: up to eight within 64 MiB, two where they are larger, and one a core.

    Args:
      split: as `records.open_split` returns it.
      labels: what the images are labelled with, one of `ferplus.LABELS`.
      batch_size: images a batch of this process.
      seed: chooses the order.
      start_step: the dataset yields what one started at step 0 yields from this step on.
      process_index: which of the processes that train together this one is, from 0.
      process_count: how many they are.
      augment: changes a batch, given its images, its labels and a seed, int64 [2], that differs
        for each (seed, step, process); what it returns is yielded.  It is traced without
        AutoGraph: what depends on a tensor's value is for `tf.cond` or `tf.where`.  Or several,
        each by the step from which on it is the one; the first by 0.
      memory_budget_bytes: bytes of images that may be held in memory.
      data_service_address: of a tf.data service dispatcher, `grpc://host:port`, whose workers then
        do what is done here otherwise; the split is streamed, in the same order.

    Returns:
      Batches `(image uint8 [batch_size, *image_shape], label int64 [batch_size])`; with
      `ferplus_distribution` the label is float32 [batch_size, 8].

    Raises:
      InputError: the labels are not there, the split has too few examples for a step, there is no
        such process or step, no change of images by step 0, no dispatcher answers at the address,
        or a shard is damaged (in memory: at once; streaming: as one of `records.READ_ERRORS` while
        it is read).
    """
    if start_step < 0:
        raise InputError(f"start_step: expected 0 or more, received {start_step}")
    if isinstance(augment, Mapping) and min(augment, default=None) != 0:
        raise InputError(
            f"augment: expected steps from 0 on, received {sorted(augment)}; give what changes the "
            "images of the first steps by 0"
        )
    schedule = Schedule(
        examples=labelling.usable_examples(split, labels),
        batch_size=batch_size,
        process_index=process_index,
        process_count=process_count,
    )
    if labels != ferplus.OWN_LABELS:
        labelling.warn_of_votes_on_other_images(split)

    augmented = functools.partial(_augmented, augment=augment, seed=seed, schedule=schedule)
    prefetched = functools.partial(_prefetch, batch_bytes=batch_size * _image_bytes(split))
    split_bytes = split.examples * _image_bytes(split)
    if data_service_address is None and split_bytes <= memory_budget_bytes:
        batches = _in_memory(split, labels, schedule, seed=seed, start_step=start_step)
        return prefetched(augmented(batches, start_step))
    windows = Windows(
        schedule=schedule,
        steps_per_window=streaming.steps_per_window(split.schema, batch_size),
    )
    reader = streaming.WindowReader(split, labels, seed=seed, windows=windows)
    first, skipped = windows.start_at(start_step)
    if data_service_address is not None:
        batches = _served(reader, windows, augmented, first=first, address=data_service_address)
        return prefetched(batches.skip(skipped))
    _log.warning(
        "%s: %d MB of images exceed the memory budget of %d MB: streaming from the shards, "
        "shuffled in windows of %d images",
        split.name,
        split_bytes >> 20,
        memory_budget_bytes >> 20,
        windows.size,
    )
    at_once = streaming.windows_at_once(split.schema, windows, memory_budget_bytes)
    return prefetched(augmented(_streaming(reader, first, at_once).skip(skipped), start_step))


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
      fields: what a batch is a tuple of, some of `FIELDS`.

    Returns:
      Batches of the fields; iterating raises tf.errors.DataLossError at a damaged record and
      tf.errors.FailedPreconditionError where the shards hold another number of records than the
      manifest says.

    Raises:
      InputError: the labels are not there, the batch size is none, or a field.
    """
    if batch_size < 1:
        raise InputError(f"batch_size: expected 1 or more, received {batch_size}")
    if not fields or not set(fields) <= set(FIELDS):
        raise InputError(f"fields: expected some of {', '.join(FIELDS)}, received {fields!r}")
    examples = labelling.usable_examples(split, labels)
    serialized = tf.data.TFRecordDataset(split.files, buffer_size=_READ_BUFFER).apply(
        _assert_cardinality(split.examples)
    )

    @tf.autograph.experimental.do_not_convert
    def parse(batch: tf.Tensor) -> tuple[tf.Tensor, ...]:
        features = labelling.parse(batch, split.schema, labels)
        return tuple(features[field] for field in fields)

    batches = serialized.batch(batch_size).map(parse, tf.data.AUTOTUNE)
    if labels != ferplus.OWN_LABELS:  # which leave out some of a batch
        batches = batches.rebatch(batch_size).apply(
            _assert_cardinality(math.ceil(examples / batch_size))
        )
    return _prefetch(batches, batch_size * _image_bytes(split))


def padded_eval_dataset(
    split: records.Split,
    *,
    labels: str = ferplus.OWN_LABELS,
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
) -> tf.data.Dataset:
    """Returns a process's part of `eval_dataset` in full batches, which devices can share evenly.

    Args:
      split: as `records.open_split` returns it.
      labels: what the images are labelled with, one of `ferplus.LABELS`.
      batch_size: images a batch of all processes together; a multiple of `process_count`.
      process_index: which of the processes that evaluate together this one is, from 0.
      process_count: how many they are.

    Returns:
      Batches `(image, label, weight float32)` of `batch_size / process_count` rows.  What fills the
      last batch weighs 0, and all others so much that a mean over all rows, weighted but not
      divided by the weights, is the mean over the examples.

    Raises:
      InputError: the labels are not there, there is no such process, or the processes cannot share
        a batch evenly.
    """
    check_process(process_index, process_count)
    if batch_size < 1 or batch_size % process_count:
        raise InputError(
            f"batch_size: expected a multiple of process_count={process_count} above 0, received "
            f"{batch_size}"
        )
    examples = labelling.usable_examples(split, labels)
    weight = math.ceil(examples / batch_size) * batch_size / examples
    rows = batch_size // process_count
    first = rows * process_index

    def part(values: tf.Tensor) -> tf.Tensor:
        missing = batch_size - tf.shape(values)[0]
        padded = tf.pad(values, [[0, missing], *[[0, 0]] * (values.shape.rank - 1)])
        return tf.ensure_shape(padded[first : first + rows], [rows, *values.shape[1:]])

    @tf.autograph.experimental.do_not_convert
    def pad(images: tf.Tensor, targets: tf.Tensor) -> tuple[tf.Tensor, ...]:
        weights = tf.fill(tf.shape(images)[:1], tf.constant(weight, tf.float32))
        return part(images), part(targets), part(weights)

    return eval_dataset(split, labels=labels, batch_size=batch_size).map(pad, tf.data.AUTOTUNE)


def steps_per_epoch(
    split: records.Split,
    batch_size: int,
    labels: str = ferplus.OWN_LABELS,
    *,
    process_count: int = 1,
) -> int:
    """Returns how many steps, a full batch in each process, the images that have a label make.

    Raises:
      InputError: not one, the labels are not there, or there are no processes.
    """
    examples = labelling.usable_examples(split, labels)
    return Schedule(examples=examples, batch_size=batch_size, process_count=process_count).steps


def _in_memory(
    split: records.Split, labels: str, schedule: Schedule, *, seed: int, start_step: int
) -> tf.data.Dataset:
    images, targets, usable = _load(split, labels)
    steps = schedule.steps
    first_epoch, skipped = divmod(start_step, steps)

    @tf.autograph.experimental.do_not_convert
    def positions(epoch: tf.Tensor) -> tf.data.Dataset:
        # One permutation an epoch costs less than drawing positions batch by batch.
        order = tf.random.experimental.stateless_shuffle(usable, seed=fold(seed, ORDER, epoch))
        shape = (steps, schedule.process_count, schedule.batch_size)
        batches = tf.reshape(order[: math.prod(shape)], shape)[:, schedule.process_index]
        return tf.data.Dataset.from_tensor_slices(
            batches[tf.where(epoch == first_epoch, skipped, 0) :]
        )

    return gather_batches(
        tf.data.Dataset.range(first_epoch, tf.int64.max).flat_map(positions),
        images,
        targets,
        num_parallel_calls=tf.data.AUTOTUNE,
    )


def _load(split: records.Split, labels: str) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Returns a split's images, their labels, and where those stand that have one, int32."""
    if labels == ferplus.OWN_LABELS:
        arrays = records.load_split(split, ["image", "label"])
        targets, usable = arrays["label"], np.arange(split.examples)
    else:
        arrays = records.load_split(split, ["image", "votes"])
        targets, _ = labelling.targets(arrays["votes"], labels, np)
        usable = labelling.labelled_positions(split, arrays["votes"], labels)
    with tf.device("/cpu:0"):  # where tf.data works; a GPU's memory is for the model
        return (
            # In the end this is the only copy: tf.data makes one of every tensor that a map uses,
            # though not of variables, and tf.constant another.
            tf.Variable(
                tf.experimental.dlpack.from_dlpack(arrays.pop("image").__dlpack__()),
                trainable=False,
            ),
            tf.constant(targets),
            tf.constant(usable, tf.int32),
        )


def _streaming(reader: streaming.WindowReader, first: int, at_once: int) -> tf.data.Dataset:
    return (
        tf.data.Dataset.range(first, tf.int64.max)
        # Several at once: reading, parsing and shuffling never wait for one another.
        .map(reader.read, at_once)
        .prefetch(1)
        .flat_map(reader.cut)
    )


def _served(
    reader: streaming.WindowReader,
    windows: Windows,
    augmented: Callable[[tf.data.Dataset, tf.Tensor], tf.data.Dataset],
    *,
    first: int,
    address: str,
) -> tf.data.Dataset:
    def make_window(number: tf.Tensor) -> Any:
        batches = augmented(reader.cut(*reader.read(number)), windows.first_step(number))
        return batches.batch(windows.steps_per_window).get_single_element()

    return data_service.map_windows(make_window, first=first, address=address).unbatch()


def _augmented(
    batches: tf.data.Dataset,
    first_step: int | tf.Tensor,
    *,
    augment: Augment | Mapping[int, Augment] | None,
    seed: int,
    schedule: Schedule,
) -> tf.data.Dataset:
    """Returns batches that begin with a step of the run, each changed with a seed of its own."""
    if augment is None:
        return batches
    latest_first = sorted(augment.items() if isinstance(augment, Mapping) else [(0, augment)])[::-1]

    @tf.autograph.experimental.do_not_convert
    def change(step: tf.Tensor, batch: tuple[tf.Tensor, tf.Tensor]) -> tuple[Any, Any]:
        # A number for each step of each process.
        number = step * schedule.process_count + schedule.process_index
        draw = fold(seed, AUGMENTATION, number)

        def changed(entries: Sequence[tuple[int, Augment]]) -> tuple[Any, Any]:
            (begin, function), *before = entries
            if not before:
                return function(batch[0], batch[1], draw)
            return tf.cond(
                step >= begin,
                lambda: function(batch[0], batch[1], draw),
                lambda: changed(before),
            )

        return changed(latest_first)

    return batches.enumerate(first_step).map(change, tf.data.AUTOTUNE)


def _image_bytes(split: records.Split) -> int:
    return math.prod(split.schema.image_shape)


def _prefetch(dataset: tf.data.Dataset, batch_bytes: int) -> tf.data.Dataset:
    """Prefetches onto the GPU where there is one, else into host memory.

    From there, several GPUs take their parts of a batch.
    """
    if len(tf.config.list_logical_devices("GPU")) == 1:
        buffered = untuned(dataset.prefetch(2))
        return buffered.apply(tf.data.experimental.prefetch_to_device("/gpu:0"))
    return untuned(dataset.prefetch(max(2, min(_BATCHES_AHEAD, _BYTES_AHEAD // batch_bytes))))

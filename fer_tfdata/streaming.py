"""Shuffled batches of a split that is read from its shards, window by window.

A window is a run of records that is read, parsed and permuted as a whole.  Each is a function of
its number alone, so that several are read at once, here or elsewhere, and none that comes before
the step a run is continued at has to be.  Where a window begins within a shard, the records of that
shard before it are skipped over, unparsed.
"""

import dataclasses
import math
from typing import Final

import joblib
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata import ferplus, labelling, records
from fer_tfdata.batching import gather_batches
from fer_tfdata.schedule import Windows
from fer_tfdata.seeds import ORDER, fold

# About this many images (19 MB of FER2013) a window, or as many large ones as these bytes hold.
_WINDOW_IMAGES: Final = 8_192
_WINDOW_BYTES: Final = 128 << 20

# What windows may take together also where the budget is less: a small one, or none, asks for
# streaming and not for slowness.
LEAST_MEMORY_BYTES: Final = 1 << 30

# One window a core keeps a small machine busy; more than this would only take memory.
_MOST_WINDOWS_AT_ONCE: Final = 8

# A window that is being read stands in memory as records, as their images' bytes and as pixels.
# Two more, as pixels alone, are read already: the one that is cut into batches and the next one.
_COPIES_WHILE_READ: Final = 3
_WINDOWS_READ: Final = 2

_READ_BUFFER: Final = 1 << 20


def steps_per_window(schema: records.Schema, batch_size: int) -> int:
    """Returns how many batches a window holds: whole ones, so only an epoch's end has a rest."""
    images = min(_WINDOW_IMAGES, _WINDOW_BYTES // math.prod(schema.image_shape))
    return max(1, images // batch_size)


def windows_at_once(schema: records.Schema, windows: Windows, memory_budget_bytes: int) -> int:
    """Returns how many windows this machine reads at the same time: one a core, up to eight.

    Fewer where those in memory would together exceed the budget, and `LEAST_MEMORY_BYTES`, but one
    at least.  The order of the images does not hang on it.
    """
    window_bytes = windows.most * math.prod(schema.image_shape)
    memory_bytes = max(memory_budget_bytes, LEAST_MEMORY_BYTES)
    within_memory = (memory_bytes // window_bytes - _WINDOWS_READ) // _COPIES_WHILE_READ
    return max(1, min(joblib.cpu_count(), _MOST_WINDOWS_AT_ONCE, within_memory))


class WindowReader:
    """Reads any window of a run by its number, within a tf.data graph.

    Args:
      split: as `records.open_split` returns it.
      labels: one of `ferplus.LABELS`.
      seed: chooses the order.
      windows: how this process's share of an epoch is cut.

    Raises:
      InputError: with FER+ labels, whose votes are looked through first, a shard is damaged or the
        manifest counts them otherwise.
    """

    def __init__(self, split: records.Split, labels: str, *, seed: int, windows: Windows) -> None:
        self._schema = split.schema
        self._labels = labels
        self._seed = seed
        self._windows = windows
        self._shards = _Shards.of(split, labels)

    @tf.autograph.experimental.do_not_convert
    def read(self, number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        """Reads a window.

        Args:
          number: int64, counted through all epochs of the run.

        Returns:
          The images uint8 [n, *image_shape] and labels [n, ...] in the order of the shards, and
          which of them make its batches, int32 [batches, batch_size].
        """
        windows, steps = self._windows, self._windows.schedule.steps
        epoch, place = number // windows.per_epoch, number % windows.per_epoch
        epoch_seed = fold(self._seed, ORDER, epoch)
        share = windows.schedule.share
        first = share.start + place * windows.size
        last_of_epoch = place == windows.per_epoch - 1
        end = tf.where(last_of_epoch, tf.constant(share.stop, tf.int64), first + windows.size)
        images, labels = self._read_examples(epoch_seed, first, end)

        order = tf.random.experimental.stateless_shuffle(
            tf.range(tf.cast(end - first, tf.int32)),
            seed=tf.random.experimental.stateless_fold_in(epoch_seed, place),
        )
        batch_size = windows.schedule.batch_size
        batches = tf.minimum(
            windows.steps_per_window, tf.cast(steps - place * windows.steps_per_window, tf.int32)
        )
        return images, labels, tf.reshape(order[: batches * batch_size], (-1, batch_size))

    @tf.autograph.experimental.do_not_convert
    def cut(self, images: tf.Tensor, labels: tf.Tensor, positions: tf.Tensor) -> tf.data.Dataset:
        """Returns the batches of a window that was read."""
        return gather_batches(tf.data.Dataset.from_tensor_slices(positions), images, labels)

    def _read_examples(
        self, epoch_seed: tf.Tensor, first: tf.Tensor, end: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Reads the examples at [first, end) of the epoch's order of shards."""
        shards = self._shards
        order = tf.random.experimental.stateless_shuffle(
            tf.range(len(shards.files)), seed=epoch_seed
        )
        ends = tf.cumsum(tf.gather(shards.example_counts, order))
        first_record, first_file = self._record_at(first, order, ends)
        last_record, last_file = self._record_at(end - 1, order, ends)
        files = tf.gather(shards.files, order[first_file : last_file + 1])
        # Counted from the first of these files.
        records_before = tf.reduce_sum(tf.gather(shards.record_counts, order[first_file:last_file]))
        count = records_before + last_record + 1 - first_record
        serialized = (
            tf.data.TFRecordDataset(files, buffer_size=_READ_BUFFER)
            .skip(first_record)
            .take(count)
            .batch(count)
            .get_single_element()
        )
        features = labelling.parse(serialized, self._schema, self._labels)
        images, labels = features["image"], features["label"]
        tf.debugging.assert_equal(
            tf.shape(images, tf.int64)[0],
            end - first,
            "a shard holds another number of examples than the manifest says",
        )
        return images, labels

    def _record_at(
        self, place: tf.Tensor, order: tf.Tensor, ends: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor]:
        """Returns the record within its file of an example, and the file within the order."""
        shards = self._shards
        file = tf.searchsorted(ends, place[None], side="right")[0]
        shard = order[file]
        example = place - (ends[file] - tf.gather(shards.example_counts, shard))
        if shards.positions is None:
            return example, file
        return tf.gather(shards.positions, tf.gather(shards.first, shard) + example), file


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shards:
    """The shards of a split as the graph needs them.

    Attributes:
      files: string [shards].
      record_counts: int64 [shards], how many they hold.
      example_counts: int64 [shards], how many of these have a label.
      first: int64 [shards], where a shard's entries in `positions` begin.
      positions: int64, the place within its shard of every record that has a label; None where all
        have one.
    """

    files: list[str]
    record_counts: npt.NDArray[np.int64]
    example_counts: npt.NDArray[np.int64]
    first: npt.NDArray[np.int64]
    positions: npt.NDArray[np.int64] | None

    @classmethod
    def of(cls, split: records.Split, labels: str) -> "_Shards":
        counts = np.array([shard.records for shard in split.shards], np.int64)
        if labels == ferplus.OWN_LABELS:
            return cls(
                files=split.files,
                record_counts=counts,
                example_counts=counts,
                first=np.cumsum(counts) - counts,
                positions=None,
            )
        votes = records.load_split(split, ["votes"])["votes"]
        kept = labelling.labelled_positions(split, votes, labels)
        shard_of, starts = np.repeat(np.arange(len(counts)), counts), np.cumsum(counts) - counts
        examples = np.bincount(shard_of[kept], minlength=len(counts))
        return cls(
            files=split.files,
            record_counts=counts,
            example_counts=examples,
            first=np.cumsum(examples) - examples,
            positions=kept - starts[shard_of[kept]],
        )

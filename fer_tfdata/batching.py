"""Batches out of images that are in memory, at a price by the image rather than by the batch."""

from typing import Final

import tensorflow as tf

# Batches smaller than this are gathered together and then cut.
_GATHERED_AT_ONCE: Final = 256


def gather_batches(
    positions: tf.data.Dataset,
    images: tf.Tensor,
    labels: tf.Tensor,
    *,
    num_parallel_calls: int | None = None,
) -> tf.data.Dataset:
    """Returns the batches whose examples stand at the given positions.

    Args:
      positions: elements int32 [batch_size], each the positions of one batch.
      images: [n, ...].
      labels: [n, ...].
      num_parallel_calls: as `tf.data.Dataset.map` takes it.

    Returns:
      Batches (images [batch_size, ...], labels [batch_size, ...]).
    """

    @tf.autograph.experimental.do_not_convert
    def gather(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        return tf.gather(images, batch), tf.gather(labels, batch)

    # A call of the map costs more than copying a few faces.
    together = _GATHERED_AT_ONCE // int(positions.element_spec.shape[0])
    if together < 2:
        return positions.map(gather, num_parallel_calls)
    return positions.batch(together).map(gather, num_parallel_calls).unbatch()

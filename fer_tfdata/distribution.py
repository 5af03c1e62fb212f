"""Which devices of this host train together."""

from collections.abc import Sequence

import tensorflow as tf


def choose_strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """Returns what a model is to be built under.

    Several devices each hold the weights, take their part of every batch, normalise by its moments,
    and add up their gradients (`tf.distribute.MirroredStrategy`).

    Args:
      devices: names of logical devices, such as `GPU:0`; None for all GPUs.
    """
    names = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(names) > 1:
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.get_strategy()  # what there is without one

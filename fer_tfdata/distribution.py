"""Which devices train together."""

import contextlib
from collections.abc import Iterator, Sequence

import keras
import tensorflow as tf


def choose_strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """Returns what a model is to be built under for TensorFlow.

    Several devices each hold the weights, take their part of every batch, normalise by its moments,
    and add up their gradients (`tf.distribute.MirroredStrategy`).  The moving averages to normalise
    by later are of the mean of the devices' moments (`fast_layers.FusedBatchNormalization`).

    Args:
      devices: names of logical devices, such as `GPU:0`; None for all GPUs.
    """
    if keras.backend.backend() == "jax":  # whose devices are `data_parallel`'s matter
        return tf.distribute.get_strategy()
    names = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(names) > 1:
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.get_strategy()  # what there is without one


@contextlib.contextmanager
def data_parallel() -> Iterator[None]:
    """Within the block, JAX trains on all devices of all processes (`DataParallel`).

    Each holds the variables and takes its part of every batch; what is computed of a batch, such as
    the moments to normalise by, is that of the whole one.
    """
    if keras.backend.backend() == "jax" and device_count() > 1:
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
    else:
        yield


def device_count() -> int:
    """Returns how many devices share every batch."""
    if keras.backend.backend() != "jax":
        return choose_strategy().num_replicas_in_sync
    import jax

    return jax.device_count()

"""Seeds for stateless random numbers: every draw is a function of the run's seed and a place."""

from typing import Final

import tensorflow as tf

# Streams of random numbers that one seed feeds.
ORDER: Final = 0
AUGMENTATION: Final = 1


def fold(seed: int, stream: int, number: tf.Tensor) -> tf.Tensor:
    """Returns a stateless seed, int64 [2], that differs for each (seed, stream, number)."""
    return tf.random.experimental.stateless_fold_in(
        tf.constant([seed, stream], tf.int64), tf.cast(number, tf.int64)
    )

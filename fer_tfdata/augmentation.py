"""Random changes of training images: a function of the images and a seed, of nothing else."""

import tensorflow as tf


def random_flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Mirrors each image left to right with probability one half.

    Args:
      images: [n, height, width, channels], any dtype.
      seed: int64 [2]; the same seed flips the same images.

    Returns:
      Of the shape and dtype of `images`.
    """
    flipped = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < 0.5
    return tf.where(flipped, tf.reverse(images, axis=[2]), images)

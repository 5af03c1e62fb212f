"""What every export computes: images of any size to the probabilities of the expressions."""

from typing import Final

import keras
import tensorflow as tf

from fer_tfdata.exported import INPUT, OUTPUT

RESIZING: Final = "resizing_to_the_model"
"""The name scope of the operations that resize, and no name of a layer."""


class Servable(tf.Module):
    """A model with its resizing and its softmax.

    Attributes:
      serve: uint8 `images` [n, height, width, channels], gray or RGB as the model takes them, to
        a dictionary of `probabilities`, float32 [n, expressions].  n, height and width may be any.
    """

    def __init__(self, model: keras.Model) -> None:
        """Takes a model that `run_directory.check_model` accepts."""
        super().__init__()
        _, side, _, channels = model.inputs[0].shape
        # TensorFlow finds a Keras model's variables by itself, and LiteRT's converter does not.
        self._variables = [variable.value for variable in model.variables]

        def serve(images: tf.Tensor) -> dict[str, tf.Tensor]:
            with tf.name_scope(RESIZING):
                fitted = tf.cast(fit(images, side), tf.uint8)
            return {OUTPUT: tf.nn.softmax(model(fitted, training=False))}

        spec = tf.TensorSpec([None, None, None, channels], tf.uint8, name=INPUT)
        self.serve = tf.function(serve, input_signature=[spec], autograph=False)


def fit(images: tf.Tensor, side: int) -> tf.Tensor:
    """Fits images into squares: all of each, its proportions kept, in the middle.

    The shorter side is filled by repeating the border, as `images.fit` does.  Resized as
    `faces.crop_face` does, by the mean over the area that becomes a pixel where an image shrinks,
    linearly where it grows, and rounded; what has the size already stays as it is, exactly.

    As two matrix products, which all runtimes compute alike: the operations that they have for
    resizing differ, and LiteRT's takes no mean.

    Args:
      images: [n, height, width, channels], of one size.
      side: of the squares.

    Returns:
      float32 [n, side, side, channels], whole numbers.
    """
    height, width, channels = tf.shape(images)[1], tf.shape(images)[2], images.shape[3]
    longer = tf.maximum(height, width)
    rows, columns = (_shares(length, longer, side) for length in (height, width))
    # Two dimensions alone: with a batch, tf.matmul crashes or is wrong on processors where one
    # matrix is the same for all (TensorFlow 2.21).
    flat = tf.reshape(tf.cast(images, tf.float32), [-1, width * channels])
    narrow = tf.matmul(flat, _for_each_channel(columns, channels))
    turned = tf.transpose(tf.reshape(narrow, [-1, height, side * channels]), [0, 2, 1])
    fitted = tf.matmul(tf.reshape(turned, [-1, height]), rows)
    upright = tf.transpose(tf.reshape(fitted, [-1, side * channels, side]), [0, 2, 1])
    return tf.round(tf.reshape(upright, [-1, side, side, channels]))


def _shares(length: tf.Tensor, longer: tf.Tensor, side: int) -> tf.Tensor:
    """Returns how much each of `length` pixels counts in each of `side`, float32 [length, side].

    Args:
      length: the pixels along this side of an image.
      longer: those along its longer side, which become `side`.
      side: how many there are to be.
    """
    fitted_length = tf.maximum(tf.round(_divided(length * side, longer)), 1)
    missing = side - tf.cast(fitted_length, tf.int32)
    position = tf.cast(tf.range(side) - missing // 2, tf.float32)
    position = tf.clip_by_value(position, 0, fitted_length - 1)
    pixel = tf.cast(tf.range(length), tf.float32)[:, tf.newaxis]
    step = _divided(length, fitted_length)
    overlap = tf.minimum(pixel + 1, (position + 1) * step) - tf.maximum(pixel, position * step)
    centre = tf.clip_by_value((position + 0.5) * step - 0.5, 0, tf.cast(length - 1, tf.float32))
    shares = tf.where(step > 1, overlap / step, 1 - tf.abs(pixel - centre))
    return tf.maximum(shares, 0)


def _for_each_channel(shares: tf.Tensor, channels: int) -> tf.Tensor:
    """Returns the same for pixels whose channels follow each other: [length * c, side * c]."""
    apart = tf.eye(channels)[:, tf.newaxis, :]
    together = shares[:, tf.newaxis, :, tf.newaxis] * apart
    return tf.reshape(together, [-1, shares.shape[1] * channels])


def _divided(numerator: tf.Tensor, denominator: tf.Tensor) -> tf.Tensor:
    return tf.cast(numerator, tf.float32) / tf.cast(denominator, tf.float32)

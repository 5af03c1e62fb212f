"""Keras layers that train faster on the TensorFlow backend, and are the stock ones in all else.

Each is a subclass with the same configuration and the same weights in the same order, so that a
model of stock layers can be cloned to these for training, and its weights carried back.  Saved
models therefore never depend on this package.
"""

from typing import Any, Final

import keras
import tensorflow as tf
from keras import layers


class FusedBatchNormalization(layers.BatchNormalization):
    """Batch normalisation in one kernel instead of a dozen, over images in training.

    Keras 3 on TensorFlow computes the moments and the scaling in float32 passes of their own, which
    costs a convolutional network on a CPU about half its time.

    Several devices each normalise by the moments of their part of a batch, as Keras's do, but keep
    the same moving averages, of the means of their moments.
    """

    def add_weight(self, *args: Any, trainable: bool = True, **kwargs: Any) -> keras.Variable:
        """Adds a weight as Keras does, but a moving average that is one for all devices.

        What they assign to it, here or in Keras's own `call`, is averaged.
        """
        # With Keras's "none", each device would have its own, and files the first one's.  The mean
        # of the devices' variances lacks the variance between their means: so does what they
        # normalise by in training, and what follows this layer has learned from that.
        aggregation = "none" if trainable else "mean"
        return super().add_weight(*args, trainable=trainable, aggregation=aggregation, **kwargs)

    def call(
        self, inputs: tf.Tensor, training: bool | None = None, mask: tf.Tensor | None = None
    ) -> tf.Tensor:
        """Normalises [n, height, width, channels] with the batch's moments, in training."""
        fusible = len(inputs.shape) == 4 and mask is None and self.scale and self.center
        if not (fusible and training and self.trainable):
            return super().call(inputs, training=training, mask=mask)
        outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
            x=inputs,
            scale=tf.convert_to_tensor(self.gamma),
            offset=tf.convert_to_tensor(self.beta),
            mean=tf.zeros([0]),
            variance=tf.zeros([0]),
            epsilon=self.epsilon,
            is_training=True,
        )
        # The kernel returns the unbiased variance; Keras's moving average is of the biased one.
        count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
        self._update_moving_average(self.moving_mean, mean)
        self._update_moving_average(self.moving_variance, variance * (count - 1) / count)
        return outputs

    def _update_moving_average(self, average: keras.Variable, value: tf.Tensor) -> None:
        average.assign(average * self.momentum + value * (1 - self.momentum))


class ByteDropout(layers.Dropout):
    """Dropout that draws one random byte an element instead of a float.

    The probability of dropping is the rate rounded to 1/256 (0.25 is exact), and what is kept is
    scaled by that probability, so the expectation is exact up to the scale's rounding to the dtype.
    """

    def call(self, inputs: tf.Tensor, training: bool = False) -> tf.Tensor:
        """Drops elements of a tensor of any shape, in training."""
        threshold = round(self.rate * 256)
        if not training or not 0 < threshold < 256 or self.noise_shape is not None:
            return super().call(inputs, training=training)
        count = tf.size(inputs)
        words = tf.random.stateless_uniform(
            [(count + 3) // 4],
            self._next_seed(),
            minval=None,
            maxval=None,
            dtype=tf.uint32,
        )
        random_bytes = tf.reshape(tf.bitcast(words, tf.uint8), [-1])[:count]
        kept = tf.reshape(random_bytes >= threshold, tf.shape(inputs))
        scale = tf.cast(256 / (256 - threshold), inputs.dtype)
        return inputs * (tf.cast(kept, inputs.dtype) * scale)

    def _next_seed(self) -> tf.Tensor:
        """Returns the next int32 [2], of each device its own: they count from one seed in step."""
        context = tf.distribute.get_replica_context()  # None where no device runs it
        device = 0 if context is None else context.replica_id_in_sync_group
        return tf.cast(self.seed_generator.next(), tf.int32) + tf.stack([device, 0])


class RectifiedMaxPooling2D(layers.MaxPooling2D):
    """Max pooling, then ReLU: the same as ReLU before it, for a quarter of the elements."""

    def call(self, inputs: tf.Tensor) -> tf.Tensor:
        """Pools [n, height, width, channels] and sets what is below zero to zero."""
        return tf.nn.relu(super().call(inputs))


_FAST_LAYERS: Final[dict[type, Any]] = {
    layers.BatchNormalization: FusedBatchNormalization,
    layers.Dropout: ByteDropout,
}


def with_fast_layers(model: keras.Model) -> keras.Model:
    """Returns the model with fast layers in place of stock ones, with weights of its own.

    On another backend than TensorFlow the layers stay as they are.
    """
    if keras.backend.backend() != "tensorflow":
        return model

    pool_of = _pools_by_relu(model)

    def fast(layer: Any) -> Any:
        if layer in pool_of:
            return layers.Identity(name=layer.name, dtype=layer.dtype_policy)
        if layer in pool_of.values():
            return RectifiedMaxPooling2D.from_config(layer.get_config())
        return _FAST_LAYERS.get(type(layer), type(layer)).from_config(layer.get_config())

    clone = keras.models.clone_model(model, clone_function=fast)
    clone.set_weights(model.get_weights())
    return clone


def _pools_by_relu(model: keras.Model) -> dict[Any, Any]:
    """Returns the plain ReLUs whose one consumer is a max pooling, each with that pooling."""
    consumers: dict[int, list[Any]] = {}
    for layer in model.layers:
        for tensor in keras.tree.flatten(layer.input):
            consumers.setdefault(id(tensor), []).append(layer)
    for tensor in model.outputs:
        consumers.setdefault(id(tensor), []).append(model)
    plain_config = layers.ReLU().get_config()
    pairs = {}
    for relu in model.layers:
        if type(relu) is not layers.ReLU:
            continue
        config = relu.get_config()
        plain = all(
            config[key] == plain_config[key] for key in ("max_value", "negative_slope", "threshold")
        )
        following = consumers.get(id(relu.output), [])
        if plain and [type(layer) for layer in following] == [layers.MaxPooling2D]:
            pairs[relu] = following[0]
    return pairs

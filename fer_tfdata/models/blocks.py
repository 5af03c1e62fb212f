"""The blocks that the families share."""

from typing import Final

import keras
from keras import layers

# Keras's 0.99 needs 460 steps until 99 % of the averages that inference normalises with come from
# the data; on a small data set the first epochs' validation would say nothing.
BN_MOMENTUM: Final = 0.9


def inputs_and_scaling(image_size: int | None, channels: int) -> tuple[keras.KerasTensor, ...]:
    """Returns the input, uint8 [n, image_size, image_size, channels], and it scaled to [-1, 1]."""
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8", name="image")
    return inputs, layers.Rescaling(1 / 127.5, offset=-1.0, name="rescaling")(inputs)


def conv_bn_relu(
    x: keras.KerasTensor, filters: int, kernel: int, *, strides: int = 1, name: str
) -> keras.KerasTensor:
    """Applies a convolution without bias, batch normalisation and ReLU."""
    x = layers.Conv2D(
        filters,
        kernel,
        strides,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=name,
    )(x)
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x)


def head(x: keras.KerasTensor, num_classes: int, *, dropout: float) -> keras.KerasTensor:
    """Averages over the pixels, drops some in training, returns float32 logits [n, num_classes].

    float32 under every policy: a softmax over bfloat16 logits keeps two to three digits.
    """
    x = layers.GlobalAveragePooling2D(name="average")(x)
    if dropout:
        x = layers.Dropout(dropout, name="dropout")(x)
    return layers.Dense(num_classes, dtype="float32", name="logits")(x)

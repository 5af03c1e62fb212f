"""The network this project grew from: a plain CNN of four convolutions and two dense layers."""

from typing import Final

import keras
from keras import layers

_CONVOLUTIONS: Final = ((64, 3), (128, 5), (512, 3), (512, 3))  # filters, kernel
_DENSE_UNITS: Final = (256, 512)
_DROPOUT: Final = 0.25

# Keras's 0.99 needs 460 steps until 99 % of the averages that inference normalises with come from
# the data; on a small data set the first epochs' validation would say nothing.
_BN_MOMENTUM: Final = 0.95


def seed_cnn(*, image_size: int = 48, channels: int = 1, num_classes: int = 7) -> keras.Model:
    """Builds the network; 4,478,727 weights at 48x48x1.

    Args:
      image_size: height and width in pixels; at least 16, since each of four blocks halves it.
      channels: 1 for gray, 3 for colour.
      num_classes: logits.

    Returns:
      uint8 [n, image_size, image_size, channels] to float32 logits [n, num_classes].
    """
    inputs = keras.Input((image_size, image_size, channels), dtype="uint8", name="image")
    x = layers.Rescaling(1 / 255, name="rescaling")(inputs)
    for number, (filters, kernel) in enumerate(_CONVOLUTIONS, start=1):
        x = _conv_block(x, filters, kernel, name=f"conv{number}")
    x = layers.Flatten(name="flatten")(x)
    for number, units in enumerate(_DENSE_UNITS, start=1):
        x = _dense_block(x, units, name=f"dense{number}")
    # float32 under every policy: a softmax over bfloat16 logits keeps two to three digits.
    logits = layers.Dense(num_classes, dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="seed_cnn")


def _conv_block(x: keras.KerasTensor, filters: int, kernel: int, name: str) -> keras.KerasTensor:
    x = layers.Conv2D(filters, kernel, padding="same", name=name)(x)
    x = layers.BatchNormalization(momentum=_BN_MOMENTUM, name=f"{name}_bn")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
    return layers.Dropout(_DROPOUT, name=f"{name}_dropout")(x)


def _dense_block(x: keras.KerasTensor, units: int, name: str) -> keras.KerasTensor:
    x = layers.Dense(units, name=name)(x)
    x = layers.BatchNormalization(momentum=_BN_MOMENTUM, name=f"{name}_bn")(x)
    x = layers.ReLU(name=f"{name}_relu")(x)
    return layers.Dropout(_DROPOUT, name=f"{name}_dropout")(x)

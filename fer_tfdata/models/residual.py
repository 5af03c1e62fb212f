"""Residual networks for small images (He et al. 2015, arXiv:1512.03385), in three sizes.

A 4x4 stem halves the image; three stages of basic blocks follow, each of twice the channels and
half the width and height of the one before.
"""

from typing import Final

import keras
from keras import layers

from fer_tfdata.models.blocks import BN_MOMENTUM, conv_bn_relu, head, inputs_and_scaling

RESIDUAL_SIZES: Final = {  # channels of the first stage, blocks a stage
    "residual_small": (16, 3),
    "residual_medium": (64, 2),
    "residual_large": (128, 2),
}

_NUM_STAGES: Final = 3
_DROPOUT: Final = 0.3


def residual(
    name: str,
    *,
    image_size: int | None = 48,
    channels: int = 1,
    num_classes: int = 7,
) -> keras.Model:
    """Builds a residual network.

    Args:
      name: one of `RESIDUAL_SIZES`.
      image_size: height and width in pixels, or None for any.
      channels: 1 for gray, 3 for colour.
      num_classes: logits.

    Returns:
      uint8 [n, image_size, image_size, channels] to float32 logits [n, num_classes].
    """
    width, blocks = RESIDUAL_SIZES[name]
    inputs, x = inputs_and_scaling(image_size, channels)
    x = conv_bn_relu(x, width, 4, strides=2, name="stem")
    for stage in range(_NUM_STAGES):
        x = _stack(
            x, width << stage, blocks, strides=1 if stage == 0 else 2, name=f"stage{stage + 1}"
        )
    return keras.Model(inputs, head(x, num_classes, dropout=_DROPOUT), name=name)


def _stack(
    x: keras.KerasTensor, filters: int, blocks: int, *, strides: int, name: str
) -> keras.KerasTensor:
    for number in range(1, blocks + 1):
        x = _basic_block(x, filters, strides if number == 1 else 1, name=f"{name}_block{number}")
    return x


def _basic_block(
    x: keras.KerasTensor, filters: int, strides: int, *, name: str
) -> keras.KerasTensor:
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        shortcut = layers.Conv2D(
            filters,
            1,
            strides,
            use_bias=False,
            kernel_initializer="he_normal",
            name=f"{name}_shortcut",
        )(x)
        shortcut = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_shortcut_bn")(
            shortcut
        )
    x = conv_bn_relu(x, filters, 3, strides=strides, name=f"{name}_conv1")
    x = layers.Conv2D(
        filters,
        3,
        padding="same",
        use_bias=False,
        kernel_initializer="he_normal",
        name=f"{name}_conv2",
    )(x)
    x = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_conv2_bn")(x)
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)

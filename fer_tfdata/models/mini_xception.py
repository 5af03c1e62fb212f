"""Mini-Xception (Arriaga et al. 2017, arXiv:1710.07557): the small network that many tools ship."""

from typing import Final

import keras
from keras import layers

from fer_tfdata.models.blocks import BN_MOMENTUM, conv_bn_relu, inputs_and_scaling

_STEM: Final = 8
_FILTERS: Final = (16, 32, 64, 128)


def mini_xception(
    *, image_size: int | None = 48, channels: int = 1, num_classes: int = 7
) -> keras.Model:
    """Builds the network: two convolutions, four residual blocks of separable ones, an average.

    The logits are the averages of a convolution's channels, without a dense layer, as in the paper.
    Its padding is "same" in all convolutions, where the authors' code does not pad the stem.

    Args:
      image_size: height and width in pixels, or None for any.
      channels: 1 for gray, 3 for colour.
      num_classes: logits.

    Returns:
      uint8 [n, image_size, image_size, channels] to float32 logits [n, num_classes].
    """
    inputs, x = inputs_and_scaling(image_size, channels)
    for number in (1, 2):
        x = conv_bn_relu(x, _STEM, 3, name=f"stem{number}")
    for number, filters in enumerate(_FILTERS, start=1):
        x = _separable_block(x, filters, name=f"block{number}")
    x = layers.Conv2D(num_classes, 3, padding="same", dtype="float32", name="classes")(x)
    logits = layers.GlobalAveragePooling2D(dtype="float32", name="logits")(x)
    return keras.Model(inputs, logits, name="mini_xception")


def _separable_block(x: keras.KerasTensor, filters: int, *, name: str) -> keras.KerasTensor:
    # Every second pixel, then a convolution of one: what a convolution of one pixel with strides of
    # two is, whose gradient of 8 channels in float32 writes beyond its memory in TensorFlow 2.21 on
    # some processors.
    shortcut = layers.MaxPooling2D(1, 2, padding="same", name=f"{name}_shortcut_pool")(x)
    shortcut = layers.Conv2D(filters, 1, use_bias=False, name=f"{name}_shortcut")(shortcut)
    shortcut = layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_shortcut_bn")(shortcut)
    x = _separable(x, filters, name=f"{name}_conv1")
    x = layers.ReLU(name=f"{name}_conv1_relu")(x)
    x = _separable(x, filters, name=f"{name}_conv2")
    x = layers.MaxPooling2D(3, 2, padding="same", name=f"{name}_pool")(x)
    return layers.Add(name=f"{name}_add")([x, shortcut])


def _separable(x: keras.KerasTensor, filters: int, *, name: str) -> keras.KerasTensor:
    x = layers.SeparableConv2D(filters, 3, padding="same", use_bias=False, name=name)(x)
    return layers.BatchNormalization(momentum=BN_MOMENTUM, name=f"{name}_bn")(x)

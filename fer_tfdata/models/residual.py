"""Residual networks for small images (He et al. 2015, arXiv:1512.03385).

A 4x4 stem halves the image; stages of basic blocks follow, each of twice the channels and half the
width and height of the one before.  In one of them, the blocks weigh their channels.
"""

import dataclasses
from collections.abc import Mapping
from typing import Final

import keras
from keras import layers

from fer_tfdata.models.blocks import BN_MOMENTUM, conv_bn_relu, head, inputs_and_scaling

_SQUEEZE: Final = 8  # channels for each unit that weighs them


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Shape:
    width: int  # channels of the first stage
    stages: int = 3
    blocks: int = 2  # a stage
    attention: bool = False
    dropout: float = 0.3  # of the averages that the logits are made of


RESIDUAL_SHAPES: Final[Mapping[str, _Shape]] = {
    "residual_small": _Shape(width=16, blocks=3, dropout=0.0),  # too small to learn faces by heart
    "residual_medium": _Shape(width=64),
    "residual_large": _Shape(width=128),
    "residual_attention": _Shape(width=32, stages=4, attention=True),
}


def residual(
    name: str,
    *,
    image_size: int | None = 48,
    channels: int = 1,
    num_classes: int = 7,
) -> keras.Model:
    """Builds a residual network.

    Args:
      name: one of `RESIDUAL_SHAPES`.
      image_size: height and width in pixels, or None for any.
      channels: 1 for gray, 3 for colour.
      num_classes: logits.

    Returns:
      uint8 [n, image_size, image_size, channels] to float32 logits [n, num_classes].
    """
    shape = RESIDUAL_SHAPES[name]
    inputs, x = inputs_and_scaling(image_size, channels)
    x = conv_bn_relu(x, shape.width, 4, strides=2, name="stem")
    for stage in range(shape.stages):
        for block in range(shape.blocks):
            x = _basic_block(
                x,
                shape.width << stage,
                strides=2 if stage and not block else 1,
                attention=shape.attention,
                name=f"stage{stage + 1}_block{block + 1}",
            )
    return keras.Model(inputs, head(x, num_classes, dropout=shape.dropout), name=name)


def _basic_block(
    x: keras.KerasTensor, filters: int, *, strides: int, attention: bool, name: str
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
    if attention:
        x = _weigh_channels(x, name=f"{name}_attention")
    x = layers.Add(name=f"{name}_add")([x, shortcut])
    return layers.ReLU(name=f"{name}_relu")(x)


def _weigh_channels(x: keras.KerasTensor, *, name: str) -> keras.KerasTensor:
    """Multiplies each channel by a weight between 0 and 1 that depends on all channels' means.

    Squeeze and excitation (Hu et al. 2018, arXiv:1709.01507).
    """
    filters = x.shape[-1]
    weights = layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}_means")(x)
    # Convolutions, since dense layers on four axes are shapes that graphs compute as they run.
    weights = layers.Conv2D(
        filters // _SQUEEZE,
        1,
        activation="relu",
        kernel_initializer="he_normal",
        name=f"{name}_squeeze",
    )(weights)
    weights = layers.Conv2D(filters, 1, activation="sigmoid", name=f"{name}_weights")(weights)
    return layers.Multiply(name=name)([x, weights])

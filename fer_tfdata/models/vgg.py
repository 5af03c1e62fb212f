"""A VGG-style network (Simonyan and Zisserman 2014, arXiv:1409.1556) with batch normalisation.

The fully connected layers are one average over the pixels: of VGG19's 143 million weights, they
hold 124.
"""

from typing import Final

import keras
from keras import layers

from fer_tfdata.models.blocks import conv_bn_relu, head, inputs_and_scaling

_STAGES: Final = ((64, 2), (128, 2), (256, 3), (512, 3))  # filters, convolutions
_DROPOUT: Final = 0.5


def vgg(*, image_size: int | None = 48, channels: int = 1, num_classes: int = 7) -> keras.Model:
    """Builds the network.

    Args:
      image_size: height and width in pixels, or None for any; at least 16, since each of four
        stages halves it.
      channels: 1 for gray, 3 for colour.
      num_classes: logits.

    Returns:
      uint8 [n, image_size, image_size, channels] to float32 logits [n, num_classes].
    """
    inputs, x = inputs_and_scaling(image_size, channels)
    for stage, (filters, convolutions) in enumerate(_STAGES, start=1):
        x = _stack(x, filters, convolutions, name=f"stage{stage}")
    return keras.Model(inputs, head(x, num_classes, dropout=_DROPOUT), name="vgg")


def _stack(
    x: keras.KerasTensor, filters: int, convolutions: int, *, name: str
) -> keras.KerasTensor:
    for number in range(1, convolutions + 1):
        x = conv_bn_relu(x, filters, 3, name=f"{name}_conv{number}")
    return layers.MaxPooling2D(2, name=f"{name}_pool")(x)

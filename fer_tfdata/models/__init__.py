"""The networks: Keras functional models, uint8 images in, float32 logits out.

Every builder takes `image_size`, `channels` and `num_classes`, uses stock Keras layers only, and so
makes models that load without this package.  The dtype policy in force decides what the layers
compute in.
"""

from collections.abc import Callable, Mapping
from typing import Final

import keras

from fer_tfdata.models.mini_xception import mini_xception
from fer_tfdata.models.residual import residual_large, residual_medium, residual_small
from fer_tfdata.models.seed_cnn import seed_cnn
from fer_tfdata.models.vgg import vgg

BUILDERS: Final[Mapping[str, Callable[..., keras.Model]]] = {
    builder.__name__: builder
    for builder in (
        seed_cnn,
        mini_xception,
        residual_small,
        residual_medium,
        residual_large,
        vgg,
    )
}

__all__ = [
    "BUILDERS",
    "mini_xception",
    "residual_large",
    "residual_medium",
    "residual_small",
    "seed_cnn",
    "vgg",
]

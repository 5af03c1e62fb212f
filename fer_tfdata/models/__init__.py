"""The networks: Keras functional models, uint8 images in, float32 logits out.

Every builder takes `image_size`, `channels` and `num_classes`, uses stock Keras layers only, and so
makes models that load without this package.  The dtype policy in force decides what the layers
compute in.
"""

import functools
from collections.abc import Callable, Mapping
from typing import Final

import keras

from fer_tfdata.models.mini_xception import mini_xception
from fer_tfdata.models.residual import RESIDUAL_SHAPES, residual
from fer_tfdata.models.seed_cnn import seed_cnn
from fer_tfdata.models.vgg import vgg

BUILDERS: Final[Mapping[str, Callable[..., keras.Model]]] = {
    "seed_cnn": seed_cnn,
    "mini_xception": mini_xception,
    **{name: functools.partial(residual, name) for name in RESIDUAL_SHAPES},
    "vgg": vgg,
}

__all__ = ["BUILDERS", "mini_xception", "residual", "seed_cnn", "vgg"]

"""The networks: Keras functional models, uint8 images in, float32 logits out.

Every builder takes `image_size` and `channels`, uses stock Keras layers only, and so makes models
that load without this package.  The dtype policy in force decides what the layers compute in.
"""

from collections.abc import Callable, Mapping
from typing import Final

import keras

from fer_tfdata.models.seed_cnn import seed_cnn

BUILDERS: Final[Mapping[str, Callable[..., keras.Model]]] = {"seed_cnn": seed_cnn}

__all__ = ["BUILDERS", "seed_cnn"]

"""Recipes: trainings that are known to work, by name; each module's docstring tells what it gives.

A recipe is a configuration and nothing else, so that `tools.train --recipe=NAME` and the same flags
by hand are the same training.  No TensorFlow is imported here.
"""

from collections.abc import Callable, Mapping
from typing import Final

from fer_tfdata.recipes.residual_attention_long import residual_attention_long
from fer_tfdata.recipes.residual_medium_long import residual_medium_long
from fer_tfdata.recipes.residual_small_half_hour import residual_small_half_hour
from fer_tfdata.recipes.seed_cnn_distilled import seed_cnn_distilled
from fer_tfdata.recipes.seed_cnn_fifteen_epochs import seed_cnn_fifteen_epochs
from fer_tfdata.train_config import TrainConfig

RECIPES: Final[Mapping[str, Callable[[str], TrainConfig]]] = {
    recipe.__name__: recipe
    for recipe in (
        *(residual_attention_long, residual_medium_long, residual_small_half_hour),
        *(seed_cnn_distilled, seed_cnn_fifteen_epochs),
    )
}

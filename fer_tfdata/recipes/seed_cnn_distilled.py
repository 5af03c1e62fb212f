"""The plain network this project grew from, taught by the model that ships.

    python -m tools.train --data_dir=data --run_dir=runs/seed_cnn --recipe=seed_cnn_distilled

As `seed_cnn_fifteen_epochs`, in as many epochs and from random weights; seven tenths of what it
learns are what the teacher says of the same changed images (Hinton et al. 2015, arXiv:1503.02531).
The teacher has a quarter of this network's multiplications, and so costs little.

On two cores of an AMD EPYC with AVX2 (no AVX512, BF16 or AMX), in float32 with oneDNN, seed 0:
accuracy on PublicTest 64.4 % [62.8, 65.9] averaged over mirror images, 64.0 % in one view, 63.8 %
averaged over ten crops; without the images that also stand in Training 63.3 %, 62.8 % and 62.5 %.
Without the teacher, in mixed_bfloat16 on another processor, it was 62.6 % and 62.4 %.  102 minutes
of steps with other programs on the same cores at times; 77 images a second in the fastest epoch.
One run, by the flags that this recipe is made of: `--recipe=seed_cnn_fifteen_epochs
--teacher=pretrained --teacher_weight=0.7`.
"""

import dataclasses

from fer_tfdata.recipes.seed_cnn_fifteen_epochs import seed_cnn_fifteen_epochs
from fer_tfdata.train_config import TrainConfig


def seed_cnn_distilled(data_dir: str) -> TrainConfig:
    """Returns the configuration on a data directory."""
    alone = seed_cnn_fifteen_epochs(data_dir)
    return dataclasses.replace(alone, teacher="pretrained", teacher_weight=0.7)

"""The recipe of the network with channel attention, for processors that have no bfloat16.

    python -m tools.train --data_dir=data --run_dir=runs/attention --recipe=residual_attention_long

A third of `residual_medium`'s multiplications an image; the first third of the epochs, at the
greatest rates, learns from images of 32x32, at less than half the price of whole ones.

Not run yet.  With 42 of 54 epochs at 32x32, on two cores of an Intel Xeon at 2.8 GHz (AVX512
without BF16 or AMX), in float32, seed 0: accuracy on PublicTest 65.0 % [63.5, 66.5] averaged over
mirror images, in 96 minutes of steps.  When the images became whole, at a tenth of the greatest
rate, the accuracy on whole ones rose from 50 to 62 % in four epochs and to 65 % in the other eight,
and the network had not stopped to learn: hence whole images from earlier on.
"""

from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig


def residual_attention_long(data_dir: str) -> TrainConfig:
    """Returns the configuration on a data directory."""
    return TrainConfig(
        data_dir=data_dir,
        model="residual_attention",
        epochs=56,
        shrink=1 / 3,
        shrunk_epochs=18,
        clean_epochs=4,
        batch_size=64,
        optimizer="adam",
        learning_rate=2e-3,
        schedule="cosine",
        warmup_epochs=1,
        weight_decay=0.05,
        label_smoothing=0.1,
        ema=0.999,
        augmentation=AugmentationConfig(shift=0.1, rotation=15, zoom=0.1, erasing=0.25),
    )

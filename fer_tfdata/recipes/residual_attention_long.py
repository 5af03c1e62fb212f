"""The recipe of the network with channel attention, for processors that have no bfloat16.

    python -m tools.train --data_dir=data --run_dir=runs/attention --recipe=residual_attention_long

A third of `residual_medium`'s multiplications an image; three quarters of the epochs learn from
images of 32x32, at less than half the price of whole ones.

On two cores of an Intel Xeon at 2.8 GHz (AVX512 without BF16 or AMX), in float32, seed 0: accuracy
on PublicTest 65.0 % [63.5, 66.5] averaged over mirror images, 64.9 % in one view; without the
images that also stand in Training 63.9 % averaged.  96 minutes of steps, with other programs on the
same cores at times: 300 images a second in the middle one of the shrunk epochs, 190 in that of the
whole ones.  One run; nothing else was tried.  When the images became whole, at a tenth of the
greatest rate, the accuracy on whole ones rose from 50 to 62 % in four epochs and to 65 % in the
other eight, and the network had not stopped to learn: whole images from earlier on are the next
thing to try.
"""

from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.train_config import TrainConfig


def residual_attention_long(data_dir: str) -> TrainConfig:
    """Returns the configuration on a data directory."""
    return TrainConfig(
        data_dir=data_dir,
        model="residual_attention",
        epochs=54,
        shrink=1 / 3,
        shrunk_epochs=42,
        clean_epochs=3,
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

"""The recipe of the model that ships with the package.

    python -m tools.train --data_dir=data --run_dir=runs/attention --recipe=residual_attention_long

A residual network of 2.8 million weights that weighs its channels, a third of `residual_medium`'s
multiplications an image; the first third of the epochs, at the greatest rates, learns from images
of 32x32, which have less than half the multiplications of whole ones.  What is kept is the moving
average of its weights.

On two cores of an Intel Xeon at 2.8 GHz (AVX512-VNNI, without BF16 and AMX), in float32, seed 0:
accuracy on PublicTest 67.7 % [66.2, 69.3] averaged over mirror images, 67.3 % in one view, 68.5 %
[67.0, 69.9] averaged over ten crops; without the images that also stand in Training 66.5 %, 66.1 %
and 67.1 %.  123 minutes of steps with other programs on the same cores at times: 317 images a
second in the middle one of the shrunk epochs, 190 in that of the whole ones.  At 77 % on Training
it learns little more that validation shows: 67.3 % in one view nine epochs before the end.

With 42 of 54 epochs at 32x32 it was 65.0 % averaged over mirror images, in 96 minutes: too few
whole images.  With MixUp of 0.2 and twice the weight decay, 26 of 64 epochs at 32x32 and 3 clean
ones, it was 66.2 %, in 119 minutes on two cores of an AMD EPYC with AVX2: it learns less than so
few epochs could teach it, 64 % of the mixed images of Training.
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

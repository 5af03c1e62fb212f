"""The recipe of the network with channel attention.

python -m tools.train --data_dir=data --run_dir=runs/attention --recipe=residual_attention_long
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

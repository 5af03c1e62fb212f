"""What a training is a function of.

Apart from `training`, so that a program can define its flags without importing TensorFlow.
"""

import dataclasses
import math
from typing import Final

from fer_tfdata.augmentation_config import PLACEMENTS, AugmentationConfig
from fer_tfdata.errors import InputError
from fer_tfdata.ferplus import LABELS, OWN_LABELS

MODELS: Final = ("seed_cnn",)  # the names in `models.BUILDERS`
PRECISIONS: Final = ("auto", "float32", "mixed_bfloat16", "mixed_float16")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The choices of one training.

    Attributes:
      data_dir: as `make_tfrecords --output_dir` wrote it.
      labels: what the images are labelled with, one of `ferplus.LABELS`.
      model: one of `MODELS`.
      epochs: passes over the training split.
      batch_size: images a step.
      learning_rate: Adam's, at the start.
      precision: one of `PRECISIONS`; what `auto` means is `precision.choose_policy`'s to say.
      seed: of the weights, the order, the dropout and the augmentation.
      augmentation: how the training images are changed.
      augment_on: one of `augmentation_config.PLACEMENTS`; what `auto` means is
        `augmentation.choose_placement`'s to say.
      data_service: the address of a tf.data service dispatcher, `grpc://host:port`, whose workers
        prepare the training images; None to prepare them here.
    """

    data_dir: str
    labels: str = OWN_LABELS
    model: str = "seed_cnn"
    epochs: int = 15
    batch_size: int = 64
    learning_rate: float = 5e-4
    precision: str = "auto"
    seed: int = 0
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    augment_on: str = "auto"
    data_service: str | None = None

    def __post_init__(self) -> None:
        """Checks each value alone.

        Raises:
          InputError: one is out of its range; the message names it.
        """
        choices = (
            ("labels", LABELS),
            ("model", MODELS),
            ("precision", PRECISIONS),
            ("augment_on", PLACEMENTS),
        )
        for name, known in choices:
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, received {value!r}")
        for name in ("epochs", "batch_size", "learning_rate"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"{name}: expected more than 0, received {value}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed: expected 0 to 2147483647, received {self.seed}")

    @property
    def soft_labels(self) -> bool:
        """Whether images are labelled with shares of the expressions instead of one of them."""
        return self.labels == "ferplus_distribution" or self.augmentation.mixes

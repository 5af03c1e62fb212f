"""What a training is a function of.

Apart from `training`, so that a program can define its flags without importing TensorFlow.
"""

import dataclasses
import math
from typing import Final

from fer_tfdata.augmentation_config import PLACEMENTS, AugmentationConfig
from fer_tfdata.errors import InputError
from fer_tfdata.ferplus import LABELS, OWN_LABELS

MODELS: Final = (  # the names in `models.BUILDERS`
    "seed_cnn",
    "mini_xception",
    "residual_small",
    "residual_medium",
    "residual_large",
    "residual_attention",
    "vgg",
)
OPTIMIZERS: Final = ("adam", "sgd")
SCHEDULES: Final = ("plateau", "cosine")
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
      optimizer: one of `OPTIMIZERS`; Adam with weight decay is AdamW, SGD has Nesterov's momentum.
      learning_rate: the greatest one.
      schedule: one of `SCHEDULES`: a fifth of the rate after two epochs in which the validation
        loss did not fall; or half a cosine down to zero.
      warmup_epochs: over which the cosine's rate rises from zero first.
      weight_decay: decoupled from the gradients; biases and normalisation are left alone.
      label_smoothing: the share of a label that is spread evenly over all expressions.
      ema: the momentum of the moving average of the weights, which is what is validated and kept
        then; 0 for the weights themselves.
      shrink: by which share of its width and height an image is scaled down in the first epochs,
        whose steps cost so much less (progressive resizing, as in Touvron et al. 2019,
        arXiv:1906.06423).
      shrunk_epochs: the first epochs, in which images are.
      clean_epochs: the last epochs, in which images are mirrored at most.
      logit_adjustment: by how many times the logarithm of the expressions' frequencies the logits
        are raised in the loss, so that rare ones are answered more often (Menon et al. 2021,
        arXiv:2007.07314); 1 aims at the mean of the expressions' recalls, 0 at the accuracy.
      start_from: a model, as `named_models.load_keras` takes it, of the same network, with whose
        weights training begins; None for random ones.
      teacher: a model, as `named_models.load_keras` takes it, whose probabilities are learned from
        too; several, separated by commas, are averaged (Hinton et al. 2015, arXiv:1503.02531).
        They see the same changed images, but whole ones in the shrunk epochs.
      teacher_weight: their share of what is learned, the labels' is the rest.
      train_on_validation: trains on both splits; then nothing is selected.
      precision: one of `PRECISIONS`; what `auto` means is `precision.choose_policy`'s to say.
      seed: of the weights, the order, the dropout and the augmentation.
      augmentation: how the training images are changed.
      augment_on: one of `augmentation_config.PLACEMENTS`; what `auto` means is
        `augmentation.choose_placement`'s to say.
      checkpoint_every: after how many steps a checkpoint is saved; it changes no result.
      data_service: the address of a tf.data service dispatcher, `grpc://host:port`, whose workers
        prepare the training images; None to prepare them here.
    """

    data_dir: str
    labels: str = OWN_LABELS
    model: str = "seed_cnn"
    epochs: int = 15
    batch_size: int = 64
    optimizer: str = "adam"
    learning_rate: float = 5e-4
    schedule: str = "plateau"
    warmup_epochs: float = 0.0
    weight_decay: float = 0.0
    label_smoothing: float = 0.0
    ema: float = 0.0
    shrink: float = 0.0
    shrunk_epochs: int = 0
    clean_epochs: int = 0
    logit_adjustment: float = 0.0
    start_from: str | None = None
    teacher: str | None = None
    teacher_weight: float = 0.5
    train_on_validation: bool = False
    precision: str = "auto"
    seed: int = 0
    augmentation: AugmentationConfig = dataclasses.field(default_factory=AugmentationConfig)
    augment_on: str = "auto"
    checkpoint_every: int = 500
    data_service: str | None = None

    def __post_init__(self) -> None:
        """Checks each value alone.

        Raises:
          InputError: one is out of its range, or two do not go together; the message names them.
        """
        choices = (
            ("labels", LABELS),
            ("model", MODELS),
            ("optimizer", OPTIMIZERS),
            ("schedule", SCHEDULES),
            ("precision", PRECISIONS),
            ("augment_on", PLACEMENTS),
        )
        for name, known in choices:
            value = getattr(self, name)
            if value not in known:
                raise InputError(f"{name}: expected one of {', '.join(known)}, received {value!r}")
        for name in ("epochs", "batch_size", "learning_rate", "checkpoint_every"):
            value = getattr(self, name)
            if not 0 < value < math.inf:
                raise InputError(f"{name}: expected more than 0, received {value}")
        for name in (
            "warmup_epochs",
            "weight_decay",
            "shrunk_epochs",
            "clean_epochs",
            "logit_adjustment",
        ):
            value = getattr(self, name)
            if not 0 <= value < math.inf:
                raise InputError(f"{name}: expected 0 or more, received {value}")
        for name in ("label_smoothing", "ema"):
            value = getattr(self, name)
            if not 0 <= value < 1:
                raise InputError(f"{name}: expected 0 or more and less than 1, received {value}")
        if not 0 <= self.shrink <= 0.5:
            raise InputError(f"shrink: expected 0 to 0.5, received {self.shrink}")
        if not 0 < self.teacher_weight <= 1:
            raise InputError(
                "teacher_weight: expected more than 0 and at most 1, received "
                f"{self.teacher_weight}"
            )
        if not 0 <= self.seed < 2**31:
            raise InputError(f"seed: expected 0 to 2147483647, received {self.seed}")
        self._check_together()

    def _check_together(self) -> None:
        epochs = f"epochs={self.epochs}"
        if self.clean_epochs > self.epochs:
            raise InputError(
                f"clean_epochs: expected at most {epochs}, received {self.clean_epochs}; "
                "with fewer epochs, give fewer clean_epochs as well"
            )
        most = self.epochs - self.clean_epochs
        if self.shrunk_epochs > most:
            raise InputError(
                f"shrunk_epochs: expected at most {most}, what clean_epochs={self.clean_epochs} "
                f"leaves of {epochs}, received {self.shrunk_epochs}; with fewer epochs, give fewer "
                "shrunk_epochs as well"
            )
        if bool(self.shrink) != bool(self.shrunk_epochs):
            raise InputError(
                "shrink: expected more than 0 together with shrunk_epochs, or neither, received "
                f"shrink={self.shrink} and shrunk_epochs={self.shrunk_epochs}"
            )
        if self.shrink and self.augmentation.crop:
            raise InputError(
                "shrink: expected either it or crop, which both make images smaller, received "
                f"shrink={self.shrink} and crop={self.augmentation.crop}"
            )
        if self.shrink and self.schedule == "plateau":
            raise InputError(
                "schedule: expected cosine with shrink, since validation sees whole images, whose "
                "loss says little while training sees shrunk ones; received plateau"
            )
        if self.schedule == "cosine" and self.warmup_epochs >= self.epochs:
            raise InputError(
                f"warmup_epochs: expected less than {epochs}, received {self.warmup_epochs}"
            )
        if self.schedule != "cosine" and self.warmup_epochs:
            raise InputError(
                "warmup_epochs: expected 0, or schedule=cosine, received another schedule"
            )
        if self.teacher is None and self.teacher_weight != TrainConfig.teacher_weight:
            raise InputError(
                f"teacher: expected one for teacher_weight={self.teacher_weight}, received none"
            )
        if self.train_on_validation and self.schedule == "plateau":
            raise InputError(
                "schedule: expected cosine with train_on_validation, since no loss on new faces is "
                "left to see a plateau in; received plateau"
            )
        if self.logit_adjustment and self.labels != OWN_LABELS:
            raise InputError(
                f"logit_adjustment: expected 0, or labels={OWN_LABELS}, whose frequencies the data "
                f"set names, received labels={self.labels}"
            )

    @property
    def soft_labels(self) -> bool:
        """Whether images are labelled with shares of the expressions instead of one of them."""
        return (
            self.labels == "ferplus_distribution"
            or self.augmentation.mixes
            or self.label_smoothing > 0
            or self.teacher is not None
        )

    @property
    def changes_size(self) -> bool:
        """Whether images are of another size in some epochs than in others."""
        return self.shrunk_epochs > 0 or self.augmentation.crop > 0

    @property
    def clean_augmentation(self) -> AugmentationConfig:
        """What is done to the images of the last `clean_epochs`."""
        return AugmentationConfig(flip=self.augmentation.flip)

"""Trains a model on converted records into a run directory.

    python -m tools.train --data_dir=data --run_dir=runs/first

The same command with --resume continues a run that was interrupted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.augmentation_config import PLACEMENTS, AugmentationConfig
from fer_tfdata.errors import InputError
from fer_tfdata.ferplus import LABELS
from fer_tfdata.train_config import MODELS, PRECISIONS, TrainConfig

_AUGMENTATION_HELP: Final = {
    "shift": "The farthest that a training image is moved, as a share of its width and height.",
    "rotation": "The farthest that a training image is turned either way, in degrees.",
    "zoom": "A training image is enlarged or reduced by a factor of at most 1 + zoom.",
    "brightness": "The most that is added to a training image's pixels or taken from them, as a "
    "share of white.",
    "contrast": "The most by which a training image's contrast grows or shrinks, as a share.",
    "erasing": "The probability that a rectangle of a training image is overwritten with noise.",
    "mixup": "Mixes training images and their labels with shares from Beta(mixup, mixup); 0: not.",
    "cutmix": "Replaces a box of a training image by another's, of a share from Beta(cutmix, "
    "cutmix); 0: not. With --mixup, each image gets either.",
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags: one a field of the configuration, and how to run it."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote (its --output_dir).",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "labels",
        TrainConfig.labels,
        LABELS,
        "What the images are labelled with. fer2013: the data set's own labels; ferplus_majority: "
        "the expression that most of FER+'s voters saw; ferplus_distribution: the shares of their "
        "votes. FER+ has contempt as an eighth expression, and leaves out images on which its "
        "voters did not agree.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum("model", TrainConfig.model, MODELS, "The network.", flag_values=flag_values)
    flags.DEFINE_integer(
        "epochs", TrainConfig.epochs, "Passes over the training split.", flag_values=flag_values
    )
    flags.DEFINE_integer(
        "batch_size", TrainConfig.batch_size, "Images a step.", flag_values=flag_values
    )
    flags.DEFINE_float(
        "learning_rate",
        TrainConfig.learning_rate,
        "Adam's learning rate at the start; it falls when validation stalls.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "precision",
        TrainConfig.precision,
        PRECISIONS,
        "What the layers compute in; auto takes the fastest that this device has.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "seed",
        TrainConfig.seed,
        "Of the weights, the order, the dropout and the augmentation.",
        flag_values=flag_values,
    )
    _define_augmentation_flags(flag_values)
    flags.DEFINE_string(
        "data_service",
        TrainConfig.data_service,
        "The dispatcher of a tf.data service, grpc://host:port, whose workers prepare the training "
        "images; see tools/data_service.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "run_dir", None, "Where the run's files go.", required=True, flag_values=flag_values
    )
    flags.DEFINE_bool(
        "resume",
        False,
        "Continues the run in --run_dir from its last completed epoch; starts it where there is "
        "none.",
        flag_values=flag_values,
    )
    flags.DEFINE_list(
        "profile_steps",
        None,
        "FIRST,LAST: records what the machine does in these steps of this process, counted from 1, "
        "for TensorBoard's Profile tab (extra: profile).",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "verify",
        False,
        "Compares every shard's SHA-256 with the manifest first.",
        flag_values=flag_values,
    )


def _define_augmentation_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_bool(
        "flip",
        AugmentationConfig.flip,
        "Mirrors half of the training images left to right.",
        flag_values=flag_values,
    )
    for name, text in _AUGMENTATION_HELP.items():
        flags.DEFINE_float(name, getattr(AugmentationConfig, name), text, flag_values=flag_values)
    flags.DEFINE_enum(
        "augment_on",
        TrainConfig.augment_on,
        PLACEMENTS,
        "Where training images are changed: in the input pipeline, or in the training step on the "
        "device that trains; auto takes the input, but a GPU for shift, rotation and zoom.",
        flag_values=flag_values,
    )


def profile_steps(values: Sequence[str] | None) -> tuple[int, int] | None:
    """Returns the first and the last step that --profile_steps names.

    Raises:
      InputError: it names something else.
    """
    if values is None:
        return None
    if len(values) == 2 and all(value.isdecimal() for value in values):
        first, last = (int(value) for value in values)
        if 1 <= first <= last:
            return first, last
    raise InputError(
        "profile_steps: expected the first and the last step to profile, counted from 1, like "
        f"20,30; received {','.join(values)!r}"
    )


def config_from_flags(flag_values: flags.FlagValues) -> TrainConfig:
    """Returns the configuration that the flags give."""
    names = {field.name for field in dataclasses.fields(TrainConfig)} - {"augmentation"}
    changes = [field.name for field in dataclasses.fields(AugmentationConfig)]
    return TrainConfig(
        augmentation=AugmentationConfig(**{name: flag_values[name].value for name in changes}),
        **{name: flag_values[name].value for name in names},
    )


def main(argv: Sequence[str]) -> None:
    """Trains, and prints the run's figures on the validation split."""
    del argv
    values = flags.FLAGS
    config = config_from_flags(values)
    steps = profile_steps(values.profile_steps)
    command_line.import_tensorflow_quietly()
    from fer_tfdata import training

    run_dir = Path(values.run_dir)
    metrics = training.train(
        config, run_dir, resume=values.resume, verify=values.verify, profile_steps=steps
    )
    low, high = metrics["accuracy_ci95"]
    print(f"{run_dir}")
    print(
        f"  validation accuracy {metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) "
        f"on {metrics['examples']} images with labels={metrics['labels']}"
    )
    print(f"  macro F1 {metrics['macro_f1']:.4f}, NLL {metrics['nll']:.4f}")
    print(f"  TensorBoard: tensorboard --logdir {run_dir / 'tensorboard'}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

"""Trains a model on converted records into a run directory.

    python -m tools.train --data_dir=data --run_dir=runs/first

The same command with --resume continues a run that was interrupted.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.ferplus import LABELS
from fer_tfdata.train_config import MODELS, PRECISIONS, TrainConfig


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags: one a field of `TrainConfig`, and how to run it."""
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
        "Of the weights, the order and the dropout.",
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
    flags.DEFINE_bool(
        "verify",
        False,
        "Compares every shard's SHA-256 with the manifest first.",
        flag_values=flag_values,
    )


def config_from_flags(flag_values: flags.FlagValues) -> TrainConfig:
    """Returns the configuration that the flags give."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return TrainConfig(**{name: flag_values[name].value for name in names})


def main(argv: Sequence[str]) -> None:
    """Trains, and prints the run's figures on the validation split."""
    del argv
    values = flags.FLAGS
    config = config_from_flags(values)
    command_line.import_tensorflow_quietly()
    from fer_tfdata import training

    run_dir = Path(values.run_dir)
    metrics = training.train(config, run_dir, resume=values.resume, verify=values.verify)
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

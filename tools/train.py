"""Trains a model on converted records into a run directory.

    python -m tools.train --data_dir=data --run_dir=runs/first

The same command with --resume continues a run that was interrupted.  KERAS_BACKEND=jax in the
environment trains with JAX, also on several hosts: the same command on each, with --coordinator,
--num_processes and a --process_id of its own.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.augmentation_config import PLACEMENTS, AugmentationConfig
from fer_tfdata.cluster_config import ClusterConfig
from fer_tfdata.errors import InputError
from fer_tfdata.ferplus import LABELS
from fer_tfdata.recipes import RECIPES
from fer_tfdata.train_config import MODELS, OPTIMIZERS, PRECISIONS, SCHEDULES, TrainConfig

_OPTIMIZATION_HELP: Final = {
    "learning_rate": "The greatest learning rate.",
    "warmup_epochs": "With --schedule=cosine, the learning rate rises from zero over so many.",
    "weight_decay": "Decoupled weight decay; biases and normalisation are left alone.",
    "label_smoothing": "The share of a label that is spread evenly over all expressions.",
    "ema": "The momentum of a moving average of the weights, like 0.999, which is what is "
    "validated and kept then; 0: the weights themselves.",
    "shrink": "With --shrunk_epochs, the share of its width and height by which a training image "
    "is scaled down; smaller images train faster. Wants a network that ends with an average, so "
    "not seed_cnn.",
    "logit_adjustment": "How far rare expressions are favoured: the logits are raised in the loss "
    "by so many times the logarithm of the expressions' frequencies. 1 aims at the mean of the "
    "expressions' recalls, 0 at the accuracy.",
    "teacher_weight": "With --teacher, the share that its probabilities have in what is learned.",
}
_AUGMENTATION_HELP: Final = {
    "shift": "The farthest that a training image is moved, as a share of its width and height.",
    "rotation": "The farthest that a training image is turned either way, in degrees.",
    "zoom": "A training image is enlarged or reduced by a factor of at most 1 + zoom.",
    "crop": "The share of a training image's width and height that is cut off, evenly at both "
    "sides; smaller images train faster. Images are validated, and predicted, whole; wants a "
    "network that ends with an average, so not seed_cnn, and --shift, to cut elsewhere each time.",
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
    command_line.define_data_dir(flag_values)
    flags.DEFINE_enum(
        "recipe",
        None,
        list(RECIPES),
        "A training that is known to work; other flags change it. Each is told of at the head of "
        "its file in fer_tfdata/recipes.",
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
    _define_optimization_flags(flag_values)
    flags.DEFINE_enum(
        "precision",
        TrainConfig.precision,
        PRECISIONS,
        "What the layers compute in; auto is what suits the device, the network and the backend.",
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
        "Continues the run in --run_dir from its newest checkpoint; starts it where there is none.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "checkpoint_every",
        TrainConfig.checkpoint_every,
        "After how many steps a checkpoint to --resume from is saved.",
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
    _define_cluster_flags(flag_values)


def _define_optimization_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_enum(
        "optimizer",
        TrainConfig.optimizer,
        OPTIMIZERS,
        "adam: AdamW where there is --weight_decay; sgd: with Nesterov's momentum of 0.9.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "schedule",
        TrainConfig.schedule,
        SCHEDULES,
        "plateau: a fifth of the learning rate after two epochs in which the validation loss did "
        "not fall; cosine: half a cosine down to zero over all epochs.",
        flag_values=flag_values,
    )
    for name, text in _OPTIMIZATION_HELP.items():
        flags.DEFINE_float(name, getattr(TrainConfig, name), text, flag_values=flag_values)
    flags.DEFINE_integer(
        "shrunk_epochs",
        TrainConfig.shrunk_epochs,
        "In so many epochs at the beginning, images are scaled down by --shrink. Validation sees "
        "whole images, so that its figures say little before these epochs are over.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "clean_epochs",
        TrainConfig.clean_epochs,
        "In so many epochs at the end, images are mirrored and not changed otherwise.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "start_from",
        TrainConfig.start_from,
        "A run directory, a .keras file, or pretrained: the model that ships with the package. "
        "Training begins with its weights instead of random ones; --model must be its network.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "teacher",
        TrainConfig.teacher,
        "A model, as --start_from takes it; the model also learns from its probabilities. Several, "
        "separated by commas, are averaged. Empty: none, where a recipe has one, which then wants "
        f"--teacher_weight={TrainConfig.teacher_weight}, as it is without.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "train_on_validation",
        TrainConfig.train_on_validation,
        "Trains on the validation split as well. Then nothing is selected: the last weights are "
        "kept, and the figures on validation say nothing.",
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
        "device that trains; auto takes the input, but a GPU for shift, rotation, zoom and crop.",
        flag_values=flag_values,
    )


def _define_cluster_flags(flag_values: flags.FlagValues) -> None:
    flags.DEFINE_string(
        "coordinator",
        ClusterConfig.coordinator,
        "Under KERAS_BACKEND=jax, where several processes meet: a host and a free port of the one "
        "with --process_id=0, as the others reach it, like host0:5051.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "num_processes",
        ClusterConfig.num_processes,
        "How many processes train together, one a host; each takes its part of --batch_size, and "
        "the first one writes the run.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "process_id",
        ClusterConfig.process_id,
        "Which of them this one is, from 0.",
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
    """Returns the configuration that the flags give: the recipe's, with what is given beside it."""
    data_dir = flag_values.data_dir
    recipe = (
        RECIPES[flag_values.recipe](data_dir)
        if flag_values.recipe
        else TrainConfig(data_dir=data_dir)
    )

    def given(config: Any) -> dict[str, Any]:
        names = {field.name for field in dataclasses.fields(config)} & set(flag_values)
        values = {name: flag_values[name].value for name in names if flag_values[name].present}
        # As `--teacher=` takes a recipe's teacher away.
        absent = {field.name for field in dataclasses.fields(config) if field.default is None}
        return {
            name: None if value == "" and name in absent else value
            for name, value in values.items()
        }

    augmentation = dataclasses.replace(recipe.augmentation, **given(recipe.augmentation))
    return dataclasses.replace(recipe, **given(recipe), augmentation=augmentation)


def cluster_from_flags(flag_values: flags.FlagValues) -> ClusterConfig:
    """Returns which process this is, of which."""
    return ClusterConfig(
        coordinator=flag_values.coordinator,
        num_processes=flag_values.num_processes,
        process_id=flag_values.process_id,
    )


def main(argv: Sequence[str]) -> None:
    """Trains, and prints the run's figures on the validation split."""
    del argv
    values = flags.FLAGS
    config = config_from_flags(values)
    this_process = cluster_from_flags(values)
    steps = profile_steps(values.profile_steps)
    # Of several processes none stops alone; before they train, SIGTERM ends one as it always would.
    alone = this_process.num_processes == 1
    stop_asked = command_line.sigterm_noted() if alone else lambda: False
    command_line.import_tensorflow_quietly()
    from fer_tfdata import callbacks, cluster, training

    run_dir = Path(values.run_dir)
    with cluster.joined(this_process):
        try:
            metrics = training.train(
                config,
                run_dir,
                resume=values.resume,
                verify=values.verify,
                profile_steps=steps,
                stop_asked=stop_asked,
            )
        except callbacks.StoppedError as stopped:
            print(f"{run_dir}: {stopped}; continue with the same command and --resume")
            return
    _print_figures(run_dir, metrics)


def _print_figures(run_dir: Path, metrics: Mapping[str, Any]) -> None:
    low, high = metrics["accuracy_ci95"]
    print(f"{run_dir}")
    print(
        f"  validation accuracy {metrics['accuracy']:.4f} (95 % interval {low:.4f} to {high:.4f}) "
        f"on {metrics['examples']} images with labels={metrics['labels']}"
    )
    print(f"  macro F1 {metrics['macro_f1']:.4f}, NLL {metrics['nll']:.4f}")
    if "validation" in (metrics.get("trained_on") or ()):
        print(
            "  It, or a model that it learned from, was trained on a split called validation: if "
            "that was this one, the figures say how well it was learned, and nothing of others"
        )
    print(f"  TensorBoard: tensorboard --logdir {run_dir / 'tensorboard'}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

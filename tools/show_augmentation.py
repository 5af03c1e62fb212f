"""Draws what the augmentation of training images does: a row of faces for each kind of change.

    python -m tools.show_augmentation --output=docs/augmentation.png

Drawn faces are shown, or the first images of a data set's training split with --data_dir.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.errors import InputError

_COLUMNS: Final = 8
_SEED: Final = (0, 9)

# One by one stronger than a training wants them, so that they are seen.
_ROWS: Final[Mapping[str, Mapping[str, Any]]] = {
    "original": {"flip": False},
    "flip": {},
    "shift": {"flip": False, "shift": 0.2},
    "rotation": {"flip": False, "rotation": 30.0},
    "zoom": {"flip": False, "zoom": 0.4},
    "crop": {"flip": False, "crop": 0.25},
    "brightness": {"flip": False, "brightness": 0.3},
    "contrast": {"flip": False, "contrast": 0.6},
    "random erasing": {"flip": False, "erasing": 1.0},
    "MixUp": {"flip": False, "mixup": 1.0},
    "CutMix": {"flip": False, "cutmix": 1.0},
    "all together": {
        "shift": 0.1,
        "rotation": 15.0,
        "zoom": 0.1,
        "brightness": 0.2,
        "contrast": 0.2,
        "erasing": 0.5,
        "mixup": 0.4,
        "cutmix": 1.0,
    },
}


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "data_dir",
        None,
        "The directory that make_tfrecords wrote (its --output_dir); without it, drawn faces are "
        "shown.",
        flag_values=flag_values,
    )
    flags.DEFINE_string("output", None, "The PNG.", required=True, flag_values=flag_values)


def main(argv: Sequence[str]) -> None:
    """Draws the picture and prints its path."""
    del argv
    values = flags.FLAGS
    output = Path(values.output)
    if output.suffix.lower() != ".png":
        raise InputError(f"output: expected a file that ends in .png, received {values.output!r}")
    command_line.import_tensorflow_quietly()
    from fer_tfdata import figures

    images, labels = _examples(Path(values.data_dir)) if values.data_dir else _drawn_faces()
    figures.image_rows(augmented_rows(images, labels), output)
    print(output)


def augmented_rows(images: Any, labels: Any) -> dict[str, Any]:
    """Returns the same images, uint8 [n, height, width, channels], after each kind of change."""
    import tensorflow as tf

    from fer_tfdata import augmentation

    seed = tf.constant(_SEED, tf.int64)
    num_classes = int(tf.reduce_max(labels)) + 1
    rows = {}
    for name, changes in _ROWS.items():
        config = AugmentationConfig(**changes)
        changed, _ = augmentation.augment(
            tf.constant(images), tf.constant(labels), seed, config=config, num_classes=num_classes
        )
        rows[name] = changed.numpy()
    return rows


def _drawn_faces() -> tuple[Any, Any]:
    from fer_tfdata import demo_faces

    images, labels = demo_faces.draw_faces(_COLUMNS, seed=3)
    return images[..., None], labels


def _examples(data_dir: Path) -> tuple[Any, Any]:
    from fer_tfdata import pipeline, records

    dataset = pipeline.eval_dataset(records.open_split(data_dir, "train"), batch_size=_COLUMNS)
    images, labels = next(iter(dataset))
    return images.numpy(), labels.numpy()


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

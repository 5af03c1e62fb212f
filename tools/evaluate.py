"""Measures a model on a split: accuracy with its interval, F1, calibration, confusion matrix.

python -m tools.evaluate --model=runs/first --data_dir=data --split=test --output_dir=report
"""

import json
from collections.abc import Sequence
from pathlib import Path

from absl import flags

from fer_tfdata import atomic, command_line
from fer_tfdata.expressions import SPLITS


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "model",
        None,
        "A run directory, a .keras file, or pretrained: the model that ships with the package.",
        required=True,
        flag_values=flag_values,
    )
    command_line.define_data_dir(flag_values)
    flags.DEFINE_enum(
        "split",
        "validation",
        SPLITS,
        "What to measure on; keep test for the one figure at the end.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "labels",
        "auto",
        ["auto", "fer2013", "ferplus_majority"],
        "What counts as true: the data set's own labels, or the expression that most of FER+'s "
        "voters saw; auto takes what the model's outputs mean.",
        flag_values=flag_values,
    )
    flags.DEFINE_enum(
        "tta",
        "none",
        ["none", "flip"],
        "Test-time averaging: flip averages over each image and its mirror image.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where metrics.json and confusion_matrix.png go; without it, only stdout is written.",
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "verify",
        False,
        "Compares every shard's SHA-256 with the manifest first.",
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Measures, writes the files asked for, and prints the metrics as JSON."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import evaluation, figures, named_models, records

    split = records.open_split(Path(values.data_dir), values.split, verify=values.verify)
    metrics = evaluation.evaluate(
        named_models.load(values.model),
        split,
        model_name=values.model,
        labels=values.labels,
        tta=values.tta,
    )
    text = json.dumps(metrics, indent=2) + "\n"
    if values.output_dir is not None:
        output_dir = Path(values.output_dir)
        figures.confusion_matrix(metrics, output_dir / "confusion_matrix.png")
        atomic.write_text(output_dir / "metrics.json", text)
    print(text, end="")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

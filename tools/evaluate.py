"""Measures models on a split: figures with their intervals, calibration, mistakes, comparisons.

python -m tools.evaluate --model=runs/first --data_dir=data --output_dir=report
python -m tools.evaluate --model=runs/first --model=runs/second --ensemble --data_dir=data

Prints the metrics as JSON: those of the model, or, of several, an object of `models`, by name, and
`comparisons`.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from absl import flags

from fer_tfdata import atomic, command_line, model_titles, named_models
from fer_tfdata.expressions import SPLITS
from fer_tfdata.named_models import MODEL_HELP

if TYPE_CHECKING:
    from fer_tfdata.evaluation_report import Report


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_multi_string(
        "model",
        None,
        f"{MODEL_HELP} Give it several times to compare models.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_bool(
        "ensemble",
        False,
        "Measures the average of all models too.",
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
        ["none", "flip", "crops"],
        "Test-time averaging: flip averages over each image and its mirror image, crops over five "
        "crops and their mirror images, which takes ten times as long.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where report.html, metrics.json and confusion_matrix.png go; of several models, each has "
        "a folder for the latter two, and there is comparison.json. Without it, only stdout is "
        "written.",
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
    # What can be wrong with the names is said before TensorFlow is there.
    model_titles.of(values.model)
    trained_on = {name: named_models.trained_on(name) for name in values.model}
    command_line.import_tensorflow_quietly()
    from tqdm import tqdm

    from fer_tfdata import evaluation_report, records

    split = records.open_split(Path(values.data_dir), values.split, verify=values.verify)
    classifiers = {name: named_models.load(name) for name in values.model}
    with tqdm(unit=" images", desc="classifying", disable=not sys.stderr.isatty()) as bar:
        report = evaluation_report.make_report(
            classifiers,
            split,
            labels=values.labels,
            tta=values.tta,
            with_ensemble=values.ensemble,
            trained_on=trained_on,
            verify=values.verify,
            on_batch=bar.update,
        )
    if values.output_dir is not None:
        _write(report, Path(values.output_dir))
    print(_json(evaluation_report.metrics_of(report)), end="")


def _write(report: "Report", output_dir: Path) -> None:
    from fer_tfdata import evaluation_page, evaluation_report, figures

    several = len(report.models) > 1
    for model in report.models:
        folder = output_dir / model.title if several else output_dir
        figures.confusion_matrix(model.metrics, folder / "confusion_matrix.png")
        atomic.write_text(folder / "metrics.json", _json(model.metrics))
    if several:
        comparisons = evaluation_report.metrics_of(report)["comparisons"]
        atomic.write_text(output_dir / "comparison.json", _json(comparisons))
    atomic.write_text(output_dir / "report.html", evaluation_page.render(report))


def _json(content: Any) -> str:
    return json.dumps(content, indent=2) + "\n"


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

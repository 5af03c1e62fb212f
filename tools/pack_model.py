"""Packs the model of a finished run as the package ships it, and measures it on validation.

python -m tools.pack_model --run_dir=runs/attention --data_dir=data --output_dir=fer_tfdata/shipped
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from absl import flags

from fer_tfdata import command_line, pretrained

if TYPE_CHECKING:
    from fer_tfdata.views import TestTimeAveraging

# What docs/model_card.md gives.
_AVERAGED_OVER: Final[tuple["TestTimeAveraging", ...]] = ("none", "flip", "crops")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "run_dir", None, "The run, finished.", required=True, flag_values=flag_values
    )
    command_line.define_data_dir(flag_values)
    flags.DEFINE_string(
        "output_dir",
        None,
        "Where the two files go; a packed model there is replaced.",
        required=True,
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Packs, measures, and prints what the packed model reaches."""
    del argv
    values = flags.FLAGS
    command_line.import_tensorflow_quietly()
    from fer_tfdata import evaluation, named_models, records
    from fer_tfdata.classifier import KerasClassifier

    split = records.open_split(Path(values.data_dir), "validation")
    directory = Path(values.output_dir)
    with pretrained.replacing(directory) as work:
        pretrained.pack(Path(values.run_dir), work)
        classifier = KerasClassifier(pretrained.load(work))
        metrics: dict[str, Any] = {
            tta: evaluation.evaluate(classifier, split, model_name=named_models.PRETRAINED, tta=tta)
            for tta in _AVERAGED_OVER
        }
        pretrained.describe(work, metrics)
    print(directory)
    for tta, figures in metrics.items():
        print(f"  validation, tta={tta}: accuracy {figures['accuracy']:.4f}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

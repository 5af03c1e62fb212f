"""Runs the main job once: draw (or take) a CSV, convert, train, evaluate, predict.

    python -m tools.quickstart
    python -m tools.quickstart --csv=fer2013.csv

Without --csv the faces are drawn, and the figures are no measure of anything but that it works.
"""

import dataclasses
import shlex
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.errors import InputError
from fer_tfdata.recipes import RECIPES
from fer_tfdata.sources import KaggleCsv
from fer_tfdata.train_config import TrainConfig

# What trains in about a minute on two cores and yet is learnt: 44 steps an epoch.
_DEMO_FACES: Final = {"train": 1_400, "validation": 280, "test": 280}
_DEMO_TRAINING: Final[dict[str, Any]] = {"epochs": 6, "batch_size": 32, "learning_rate": 1e-3}
_RECIPE: Final = "seed_cnn_fifteen_epochs"


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_string(
        "csv",
        None,
        "The Kaggle CSV; without it, drawn faces are used.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "work_dir",
        "quickstart",
        "Where everything goes. With drawn faces what stands there is made anew; with --csv an "
        "interrupted training is continued.",
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Runs the steps and prints the table."""
    del argv
    values = flags.FLAGS
    start = time.perf_counter()
    csv = Path(values.csv).expanduser() if values.csv else None
    if csv is not None and not csv.is_file():
        raise InputError(f"--csv: {csv}: expected the Kaggle CSV, received nothing there")
    # Before anything is timed.
    command_line.import_tensorflow_quietly()
    from fer_tfdata import callbacks, demo_faces, records

    steps = _Steps()
    if csv is not None:
        # A directory for each content: another file of the same name is another training.
        work = Path(values.work_dir) / f"{csv.stem}-{records.sha256_of(csv)[:8]}"
    else:
        work = Path(values.work_dir) / "demo"
        shutil.rmtree(work / "run", ignore_errors=True)
        csv = work / "faces.csv"
        steps.do(
            f"draw {sum(_DEMO_FACES.values())} faces",
            lambda: demo_faces.write_csv(csv, **_DEMO_FACES),
            lambda _: str(csv),
        )
    try:
        _main_job(csv, work, steps, demo=not values.csv)
    except callbacks.StoppedError as stopped:
        go_on = "continue with" if values.csv else "begin anew with"
        print(f"{work / 'run'}: {stopped}; {go_on} the same command")
        return
    print(f"\nTotal: {time.perf_counter() - start:.0f} s.")
    _print_next_commands(work, demo=not values.csv)


def _main_job(csv: Path, work: Path, steps: "_Steps", *, demo: bool) -> None:
    from fer_tfdata import conversion, evaluation, named_models, records

    data_dir, run_dir = work / "data", work / "run"
    steps.do(
        "convert to TFRecords",
        lambda: conversion.convert(KaggleCsv((csv,)), data_dir, overwrite=True),
        lambda report: str(report.directory),
    )
    if demo:
        config = TrainConfig(data_dir=str(data_dir), **_DEMO_TRAINING)
    else:
        config = RECIPES[_RECIPE](str(data_dir))
    steps.do(
        f"train {config.model}, {config.epochs} epochs",
        lambda: _train(config, run_dir, demo=demo),
        lambda metrics: f"{metrics['accuracy']:.1%} of the validation images",
    )
    classifier = named_models.load(str(run_dir))
    split = records.open_split(data_dir, "validation")
    steps.do(
        "evaluate, averaged over mirror images",
        lambda: evaluation.evaluate(classifier, split, model_name=str(run_dir), tta="flip"),
        lambda metrics: f"{metrics['accuracy']:.1%} of the validation images",
    )
    steps.do(
        "predict one image",
        lambda: _predict_one(classifier, split, work / "face.png"),
        lambda prediction: (
            f"{prediction.expression} ({prediction.probabilities[prediction.expression]:.0%})"
        ),
    )
    steps.print_table(demo=demo)


def _train(config: TrainConfig, run_dir: Path, *, demo: bool) -> dict[str, Any]:
    from fer_tfdata import callbacks, training

    try:
        return training.train(config, run_dir, resume=True)
    except callbacks.NonFiniteLossError:  # which the same command would meet again
        raise
    except InputError as error:  # which speaks of the flags of `tools.train`
        does = "begins anew" if demo else "continues, and another --work_dir begins anew"
        raise InputError(f"{error} (of the quickstart, the same command {does})") from error


def _predict_one(classifier: Any, split: Any, image_file: Path) -> Any:
    """Writes the first image of the split as a PNG and predicts that file."""
    from PIL import Image

    from fer_tfdata import pipeline
    from fer_tfdata.prediction import Predictor

    (images, _), *_ = pipeline.eval_dataset(split, batch_size=1).take(1)
    Image.fromarray(images.numpy()[0, :, :, 0]).save(image_file)
    return Predictor(classifier).predict_image(image_file)[0]


@dataclasses.dataclass
class _Steps:
    """Runs steps one after another and remembers how long each took and what came of it."""

    rows: list[tuple[str, float, str]] = dataclasses.field(default_factory=list)

    def do(self, name: str, step: Callable[[], Any], describe: Callable[[Any], str]) -> None:
        print(f"{name} ...", file=sys.stderr)
        start = time.perf_counter()
        result = step()
        self.rows.append((name, time.perf_counter() - start, describe(result)))

    def print_table(self, *, demo: bool) -> None:
        width = max(len(name) for name, _, _ in self.rows)
        print()
        for name, seconds, result in self.rows:
            print(f"{name:<{width}}  {seconds:6.1f} s  {result}")
        if demo:
            print(
                "\nThese faces are drawn: the figures show that everything works, and are no "
                "measure of anything."
            )


def _print_next_commands(work: Path, *, demo: bool) -> None:
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    programs = __package__ or "tools"  # `fer_tfdata.tools` where this is installed
    run_dir, data_dir = work / "run", work / "data"
    commands = [
        ["tensorboard.main", f"--logdir={run_dir / 'tensorboard'}"],
        [f"{programs}.predict", f"--model={run_dir}", "--input=PHOTO.jpg", "--output_dir=out"],
        [f"{programs}.quickstart", "--csv=path/to/fer2013.csv"]
        if demo
        else [f"{programs}.evaluate", f"--model={run_dir}", f"--data_dir={data_dir}"],
    ]
    print("\nNext:")
    for command in commands:
        print(f"  {shlex.join([str(shown), '-m', *command])}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

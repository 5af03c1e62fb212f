"""Runs the main job once: draw (or take) a CSV, convert, train, evaluate, predict.

    python -m tools.quickstart
    python -m tools.quickstart --csv=fer2013.csv

Without --csv the faces are drawn, and the figures are no measure of anything but that it works.
"""

import dataclasses
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
    from fer_tfdata import conversion, evaluation, named_models, records, training

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
        lambda: training.train(config, run_dir, resume=True),
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
    print("\nNext:")
    print(f"  {shown} -m tensorboard.main --logdir {work / 'run' / 'tensorboard'}")
    print(f"  {shown} -m tools.predict --model={work / 'run'} --input=PHOTO.jpg --output_dir=out")
    if demo:
        print("  make quickstart CSV=path/to/fer2013.csv    # the real thing")
    else:
        print(f"  {shown} -m tools.evaluate --model={work / 'run'} --data_dir={work / 'data'}")


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

"""Runs to look into, and runs that end as if they were killed."""

import csv
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from fer_tfdata import pipeline, records, training, training_model
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import TrainingModel

MEASURED = {"images_per_second", "input_wait"}


def history(run_dir: Path) -> list[dict[str, str]]:
    with (run_dir / "history.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def schema_of(config: TrainConfig) -> records.Schema:
    return records.open_split(Path(config.data_dir), "train").schema


def built(config: TrainConfig) -> TrainingModel:
    split = records.open_split(Path(config.data_dir), "train")
    steps = pipeline.steps_per_epoch(split, config.batch_size, config.labels)
    return training_model.build_training_model(
        config, "float32", split.schema, steps_per_epoch=steps
    )


def saved_weights(
    run_dir: Path, config: TrainConfig, name: str = "last.weights.h5"
) -> list[np.ndarray]:
    model = built(config)
    model.load_weights(run_dir / "checkpoints" / name)
    return model.get_weights()


def assert_same_weights(
    config: TrainConfig, run_dir: Path, other_dir: Path, name: str = "last.weights.h5"
) -> None:
    for weight, other in zip(
        saved_weights(run_dir, config, name), saved_weights(other_dir, config, name), strict=True
    ):
        np.testing.assert_array_equal(weight, other)


def assert_same_history(run_dir: Path, other_dir: Path) -> None:
    for row, other in zip(history(run_dir), history(other_dir), strict=True):
        assert all(row[key] == other[key] for key in row if key not in MEASURED)


class _InterruptionError(Exception):
    pass


class _Interrupt(keras.callbacks.Callback):
    """Raises once so many steps of this process are done, after all other callbacks."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self._left = steps

    def on_train_batch_end(self, batch, logs=None) -> None:
        self._left -= 1
        if not self._left:
            raise _InterruptionError


def interrupted(config: TrainConfig, run_dir: Path, steps: int, monkeypatch) -> None:
    """Runs a training that ends as if killed after so many steps."""
    callbacks = training._callbacks
    with monkeypatch.context() as patch:
        patch.setattr(training, "_callbacks", lambda *args: [*callbacks(*args), _Interrupt(steps)])
        with pytest.raises(_InterruptionError):
            training.train(config, run_dir, resume=True)


def check_interruption(config: TrainConfig, directory: Path, steps: int) -> dict[str, Any]:
    """Checks that a run interrupted after so many steps ends with the weights of a whole one.

    Returns:
      The metrics of the whole one, in `directory/whole`; the other one is `directory/parts`.
    """
    metrics = training.train(config, directory / "whole")
    with pytest.MonkeyPatch.context() as patch:
        interrupted(config, directory / "parts", steps, patch)
    training.train(config, directory / "parts", resume=True)
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same_weights(config, directory / "whole", directory / "parts", name)
    return metrics

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest

from examples import sweep
from fer_tfdata import callbacks, command_line, named_models, precision, training
from fer_tfdata.errors import InputError
from fer_tfdata.recipes import RECIPES
from fer_tfdata.train_config import TrainConfig
from tests.tensorboard_server import served, tensorboard, wait_for

ROOT = Path(__file__).resolve().parent.parent
BASE = TrainConfig(data_dir="data", schedule="cosine", epochs=3, seed=5)


@pytest.fixture
def trainings(monkeypatch) -> list[BaseException]:
    """How the next trainings end, which take no time: with an exception, or else an accuracy."""
    endings: list[BaseException] = []

    def train(
        config: TrainConfig, run_dir: Path, *, resume: bool, stop_asked: Callable[[], bool]
    ) -> dict[str, float]:
        if endings:
            raise endings.pop(0)
        return {"accuracy": 1 / (1 + 1000 * config.learning_rate)}

    monkeypatch.setattr(training, "train", train)
    monkeypatch.setattr(sweep, "_checksum", lambda data_dir: f"that of {data_dir}")
    return endings


def not_finite() -> callbacks.NonFiniteLossError:
    return callbacks.NonFiniteLossError(float("nan"), step=7, epoch=1)


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("epochs", [1, 2, 10])
def test_every_recipe_can_be_shortened(name, epochs) -> None:
    recipe = RECIPES[name]("data")
    shorter = sweep.shortened(recipe, epochs)  # whose parts go together, or it would not exist
    assert shorter.epochs == epochs
    # To the epoch, the same share of them learns from shrunk images.
    assert abs(shorter.shrunk_epochs - recipe.shrunk_epochs / recipe.epochs * epochs) < 1
    assert bool(shorter.shrink) == bool(shorter.shrunk_epochs)


@pytest.mark.slow
def test_a_killed_search_goes_on_with_the_trial_that_was_running(demo_data_dir, tmp_path) -> None:
    sweep_dir = tmp_path / "sweep"
    command = [sys.executable, "-m", "examples.sweep", f"--data_dir={demo_data_dir}"]
    command += [f"--sweep_dir={sweep_dir}", "--epochs=2", "--trials=2"]
    process = subprocess.Popen(command, cwd=ROOT)
    while not (sweep_dir / "trial-001" / "config.json").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    begun = json.loads((sweep_dir / "trial-001" / "config.json").read_text())
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    study = optuna.load_study(study_name="sweep", storage=f"sqlite:///{sweep_dir / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2
    rate = RECIPES["residual_small_half_hour"]("data").learning_rate
    assert rate * study.trials[1].params["rate_factor"] == begun["learning_rate"]
    for trial in study.trials:
        metrics = json.loads((sweep_dir / f"trial-{trial.number:03d}" / "metrics.json").read_text())
        assert trial.value == metrics["accuracy"]
    assert f"trial {study.best_trial.number}: validation accuracy" in done.stdout
    with tensorboard(sweep_dir, tmp_path / "log") as address:
        rows = wait_for(lambda: hparams_of_complete_runs(address, 2))
    assert {row["learning_rate"] for row in rows} == {
        rate * trial.params["rate_factor"] for trial in study.trials
    }


def hparams_of_complete_runs(address: str, count: int) -> list[dict[str, Any]] | None:
    """What the HParams tab lists, once it lists so many runs."""
    sessions = {"startIndex": 0, "sliceSize": 10, "allowedStatuses": ["STATUS_SUCCESS"]}
    groups = served(address, "hparams/session_groups", sessions).get("sessionGroups", [])
    return [group["hparams"] for group in groups] if len(groups) == count else None


def test_an_interrupted_search_has_the_trials_of_one_that_was_not(trainings, tmp_path) -> None:
    whole = sweep.search(BASE, tmp_path / "whole", 12)
    for trials in range(1, 13):
        parts = sweep.search(BASE, tmp_path / "parts", trials)
    drawn = [trial.params for trial in whole.trials]
    assert [trial.params for trial in parts.trials] == drawn
    assert len({params["rate_factor"] for params in drawn}) == 12
    (other,) = sweep.search(dataclasses.replace(BASE, seed=6), tmp_path / "other", 1).trials
    assert other.params not in drawn


def test_a_search_passes_over_a_trial_whose_loss_becomes_nan(trainings, tmp_path, capsys) -> None:
    trainings.append(not_finite())
    for _ in range(2):
        study = sweep.search(BASE, tmp_path, 3)
        assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE", "COMPLETE"]
    assert capsys.readouterr().err == "trial 0 failed: no finite loss from step 7 on\n"


def test_a_search_of_failed_trials_says_so(trainings, run_main, tmp_path) -> None:
    trainings += [not_finite(), not_finite()]
    with pytest.raises(InputError, match=f"{tmp_path}: expected a trial .* but all 2 failed"):
        run_main(sweep, "--data_dir=data", f"--sweep_dir={tmp_path}", "--trials=2")


def test_a_stopped_search_says_how_to_go_on(trainings, run_main, tmp_path, capsys) -> None:
    command = [sweep, "--data_dir=data", f"--sweep_dir={tmp_path}", "--trials=2"]
    trainings.append(callbacks.StoppedError(7))
    run_main(*command)
    said = f"{tmp_path}: stopped after step 7 of a trial; continue with the same command\n"
    assert capsys.readouterr().out == said
    run_main(*command)
    printed = capsys.readouterr().out
    assert "validation accuracy" in printed
    assert f"{tmp_path / 'trial-00'}" in printed
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 2


def test_a_search_does_not_mix_trials_that_cannot_be_compared(
    trainings, tmp_path, monkeypatch
) -> None:
    sweep.search(BASE, tmp_path, 1)
    with pytest.raises(InputError, match=r"begun with epochs 3 \(now 4\), so .* --sweep_dir"):
        sweep.search(dataclasses.replace(BASE, epochs=4), tmp_path, 2)
    with pytest.raises(InputError, match=r"checksum 'that of data' .now 'that of other'"):
        sweep.search(dataclasses.replace(BASE, data_dir="other"), tmp_path, 2)
    # As on a machine on which --precision=auto means something else.
    with monkeypatch.context() as patch:
        patch.setattr(precision, "choose_policy", lambda asked, *, model: "mixed_float16")
        with pytest.raises(InputError, match=r"dtype policy '.*' \(now 'mixed_float16'\)"):
            sweep.search(BASE, tmp_path, 2)
    taught = dataclasses.replace(BASE, teacher="pretrained")
    sweep.search(taught, tmp_path / "taught", 1)
    with monkeypatch.context() as patch:
        patch.setattr(named_models, "checksums", lambda name: (f"that of {name}", None))
        with pytest.raises(InputError, match=r"pretrained's .* \(now 'that of pretrained'\)"):
            sweep.search(taught, tmp_path / "taught", 2)
    assert len(sweep.search(BASE, tmp_path, 2).trials) == 2


def test_a_trial_that_was_half_drawn_has_failed(trainings, tmp_path, capsys) -> None:
    sweep.search(BASE, tmp_path, 1)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    half = study.ask()
    half.suggest_float("mixup", 0.05, 1.0, log=True)
    trials = sweep.search(BASE, tmp_path, 3).trials
    assert [trial.state.name for trial in trials] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert "trial 1 failed: it was not drawn to the end" in capsys.readouterr().err


def test_a_trial_that_was_begun_with_other_parameters_is_not_dropped(trainings, tmp_path) -> None:
    sweep.search(BASE, tmp_path, 1)
    study = optuna.load_study(study_name=None, storage=f"sqlite:///{tmp_path / 'study.db'}")
    study.ask().suggest_float("another", 0.0, 1.0)
    (tmp_path / "trial-001").mkdir()
    with pytest.raises(InputError, match=r"trial-001: expected .* received one of another; choose"):
        sweep.search(BASE, tmp_path, 3)


def test_trials_that_were_drawn_otherwise_are_not_gone_on_from(
    trainings, tmp_path, monkeypatch
) -> None:
    def otherwise(trial: optuna.trial.BaseTrial, base: TrainConfig) -> TrainConfig:
        return dataclasses.replace(base, learning_rate=trial.suggest_float("rate", 1e-3, 1e-2))

    with monkeypatch.context() as patch:
        patch.setattr(sweep, "suggest", otherwise)
        sweep.search(BASE, tmp_path, 1)
    with pytest.raises(InputError, match=r"trial-000: expected .* received one of rate; choose"):
        sweep.search(BASE, tmp_path, 2)


def test_what_a_search_draws_is_refused_aloud(trainings, tmp_path, monkeypatch) -> None:
    def refused(trial: optuna.trial.BaseTrial, base: TrainConfig) -> TrainConfig:
        return dataclasses.replace(base, epochs=-1)

    monkeypatch.setattr(sweep, "suggest", refused)
    for _ in range(2):  # again with the trial that the first one left
        with pytest.raises(InputError, match="epochs"):
            sweep.search(BASE, tmp_path, 3)


def test_a_search_on_no_data_leaves_nothing(tmp_path) -> None:
    with pytest.raises(InputError, match="nowhere"):
        sweep.search(dataclasses.replace(BASE, data_dir="nowhere"), tmp_path / "sweep", 1)
    assert not (tmp_path / "sweep").exists()


def test_a_stop_is_heeded_before_an_unfinished_trial_too(trainings, tmp_path) -> None:
    trainings.append(callbacks.StoppedError(7))
    with pytest.raises(callbacks.StoppedError):
        sweep.search(BASE, tmp_path, 2)
    (trial,) = sweep.search(BASE, tmp_path, 2, lambda: True).trials
    assert trial.state.name == "RUNNING"


def test_a_search_that_is_stopped_before_its_last_trial_is_not_over(
    trainings, run_main, tmp_path, capsys, monkeypatch
) -> None:
    command = [sweep, "--data_dir=data", f"--sweep_dir={tmp_path}", "--trials=1"]
    trainings.append(callbacks.StoppedError(7))
    run_main(*command)
    capsys.readouterr()
    # As soon as it begins.
    monkeypatch.setattr(
        command_line, "import_tensorflow_quietly", lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    run_main(*command)
    assert "stopped after 0 trials; continue with the same command" in capsys.readouterr().out


def test_a_trial_changes_what_is_searched_and_nothing_else() -> None:
    trial = optuna.trial.FixedTrial(
        {
            "mixup": 0.1,
            "erasing": 0.2,
            "rate_factor": 0.5,
            "decay_factor": 2.0,
            "label_smoothing": 0.0,
        }
    )
    base = dataclasses.replace(BASE, learning_rate=0.1, weight_decay=0.01)
    config = sweep.suggest(trial, base)
    assert config.augmentation.mixup == 0.1
    assert (config.learning_rate, config.weight_decay) == (0.05, 0.02)
    assert (config.epochs, config.seed) == (base.epochs, base.seed)

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pytest

from examples import sweep
from fer_tfdata.recipes import RECIPES
from fer_tfdata.train_config import TrainConfig

ROOT = Path(__file__).resolve().parent.parent


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
    assert study.trials[1].params["learning_rate"] == begun["learning_rate"]
    for trial in study.trials:
        metrics = json.loads((sweep_dir / f"trial-{trial.number:03d}" / "metrics.json").read_text())
        assert trial.value == metrics["accuracy"]
    assert f"trial {study.best_trial.number}: validation accuracy" in done.stdout


def test_a_trial_changes_what_is_searched_and_nothing_else() -> None:
    base = TrainConfig(data_dir="data", schedule="cosine", epochs=3)
    trial = optuna.trial.FixedTrial(
        {
            "mixup": 0.1,
            "erasing": 0.2,
            "learning_rate": 1e-3,
            "weight_decay": 0.1,
            "label_smoothing": 0.0,
        }
    )
    config = sweep.suggest(trial, base)
    assert (config.augmentation.mixup, config.learning_rate, config.epochs) == (0.1, 1e-3, 3)

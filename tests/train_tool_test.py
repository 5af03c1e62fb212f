import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from absl import flags

from fer_tfdata import command_line, training
from fer_tfdata.callbacks import StoppedError
from fer_tfdata.errors import InputError
from fer_tfdata.train_config import TrainConfig
from tools import train


@pytest.mark.parametrize(
    ("given", "expected"), [(None, None), ("20,30", (20, 30)), ("5,5", (5, 5)), (" 1, 2", (1, 2))]
)
def test_profile_steps(given, expected) -> None:
    values = flags.FlagValues()
    train.define_flags(values)
    arguments = ["train", "--data_dir=data", "--run_dir=run"]
    values(arguments + ([f"--profile_steps={given}"] if given else []))
    assert train.profile_steps(values.profile_steps) == expected


@pytest.mark.parametrize("given", ["", "5", "5,4", "0,3", "1,2,3", "a,b", "-1,2"])
def test_other_profile_steps_are_refused(given) -> None:
    with pytest.raises(InputError, match="profile_steps: expected the first and the last step"):
        train.profile_steps(given.split(","))


@pytest.mark.parametrize(
    ("trained_on", "marked"), [(["train"], False), (["train", "validation"], True), (None, False)]
)
def test_figures_of_learned_images_are_told_as_such(trained_on, marked, capsys) -> None:
    metrics = {
        "accuracy": 0.5,
        "accuracy_ci95": [0.4, 0.6],
        "examples": 10,
        "labels": "fer2013",
        "macro_f1": 0.5,
        "nll": 1.0,
        "trained_on": trained_on,
    }
    train._print_figures(Path("runs/a"), metrics)
    printed = capsys.readouterr().out
    assert "validation accuracy 0.5000 (95 % interval 0.4000 to 0.6000) on 10 images" in printed
    assert ("was trained on a split called validation" in printed) == marked


def test_sigterm_is_heard_while_tensorflow_is_imported(run_main, tmp_path, monkeypatch) -> None:
    heard = []

    def stopped(*args: Any, stop_asked: Callable[[], bool], **kwargs: Any) -> None:
        heard.append(stop_asked())
        raise StoppedError(1)

    monkeypatch.setattr(training, "train", stopped)
    monkeypatch.setattr(
        command_line, "import_tensorflow_quietly", lambda: os.kill(os.getpid(), signal.SIGTERM)
    )
    run_main(train, "--data_dir=data", f"--run_dir={tmp_path}")
    assert heard == [True]


@pytest.mark.slow
def test_the_steps_asked_for_are_profiled(demo_data_dir, tmp_path) -> None:
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=1, batch_size=35, precision="float32")
    training.train(config, tmp_path / "run", profile_steps=(2, 3))
    (profile,) = (tmp_path / "run" / "tensorboard").rglob("*.xplane.pb")
    assert b"Iterator" in profile.read_bytes()

import dataclasses
import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from fer_tfdata import bookkeeping, training
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.run_directory import load_model
from fer_tfdata.train_config import TrainConfig
from fer_tfdata.training_model import build_network
from tests.runs import (
    assert_same_history,
    assert_same_weights,
    built,
    history,
    interrupted,
    schema_of,
)

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def config(demo_data_dir: Path, tiny_network: None, undrawn: None) -> TrainConfig:
    return TrainConfig(
        data_dir=str(demo_data_dir),
        model="mini_xception",
        epochs=2,
        batch_size=70,
        precision="float32",
    )


# Of everything that a step depends on.
EVERYTHING = {
    "adam": {
        "optimizer": "adam",
        "schedule": "cosine",
        "warmup_epochs": 0.5,
        "weight_decay": 0.05,
        "label_smoothing": 0.1,
        "ema": 0.9,
        "clean_epochs": 1,
        "augmentation": AugmentationConfig(
            shift=0.1, rotation=15, zoom=0.1, crop=0.25, erasing=0.5, mixup=0.4, cutmix=1.0
        ),
    },
    "sgd": {
        "optimizer": "sgd",
        "schedule": "cosine",
        "learning_rate": 0.05,
        "augmentation": AugmentationConfig(rotation=15, erasing=0.5, mixup=0.4, cutmix=1.0),
        "augment_on": "device",
        "shrink": 0.25,
        "shrunk_epochs": 1,
    },
}
EVERYTHING["taught"] = EVERYTHING["sgd"] | {"teacher": "pretrained", "logit_adjustment": 1.0}


@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("adam", "mixed_bfloat16"),
        pytest.param("sgd", "float32", marks=pytest.mark.slow),
        pytest.param("taught", "float32", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_run_ends_bit_for_bit_as_one_that_ran_through(
    config, tmp_path, monkeypatch, name, precision
) -> None:
    config = dataclasses.replace(config, precision=precision, **EVERYTHING[name])
    # Weights that a checkpoint's must take the place of.
    start = tmp_path / "start.keras"
    build_network(config, schema_of(config)).save(start)
    config = dataclasses.replace(config, start_from=str(start))
    check_interruptions(config, tmp_path, monkeypatch)


@pytest.mark.slow
@pytest.mark.parametrize("choices", EVERYTHING.values(), ids=EVERYTHING)
def test_an_interrupted_residual_network_too(config, tmp_path, monkeypatch, choices) -> None:
    config = dataclasses.replace(
        config, model="residual_small", precision="mixed_bfloat16", **choices
    )
    check_interruptions(config, tmp_path, monkeypatch)


def check_interruptions(config: TrainConfig, tmp_path: Path, monkeypatch) -> None:
    config = dataclasses.replace(
        config,
        epochs=3,
        batch_size=14,  # ten steps an epoch
        checkpoint_every=4,
    )
    training.train(config, tmp_path / "whole")
    interrupted(config, tmp_path / "parts", 7, monkeypatch)
    assert newest_step(tmp_path / "parts") == 4
    interrupted(config, tmp_path / "parts", 25, monkeypatch)  # in a later epoch
    assert newest_step(tmp_path / "parts") == 24
    # What a kill between the history's row and the checkpoint leaves.
    with (tmp_path / "parts" / "history.csv").open("a") as file:
        file.write("2,0.1,0.2,0.3,0.4,0.5,0.6,0.7\n3,0.1,0.")
    training.train(config, tmp_path / "parts", resume=True)
    assert_same_history(tmp_path / "whole", tmp_path / "parts")
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same_weights(config, tmp_path / "whole", tmp_path / "parts", name)
    assert not list((tmp_path / "parts" / "checkpoints").glob("step-*"))


def newest_step(run_dir: Path) -> int:
    newest = max((run_dir / "checkpoints").glob("step-*.npz"))
    return int(newest.stem.removeprefix("step-"))


@pytest.mark.slow
def test_a_damaged_checkpoint_costs_the_steps_since_the_one_before(
    config, tmp_path, monkeypatch, caplog
) -> None:
    config = dataclasses.replace(config, checkpoint_every=1)
    training.train(config, tmp_path / "whole")
    interrupted(config, tmp_path / "run", 3, monkeypatch)
    newest = tmp_path / "run" / "checkpoints" / "step-000000003.npz"
    newest.write_bytes(newest.read_bytes()[:1000])
    training.train(config, tmp_path / "run", resume=True)
    assert f"{newest} is damaged" in caplog.text
    assert_same_weights(config, tmp_path / "whole", tmp_path / "run")


def test_sigterm_saves_and_ends_with_a_hint(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(
        config, model="residual_small", epochs=200, batch_size=14, checkpoint_every=10**6
    )  # ten steps an epoch
    run_dir = tmp_path / "run"
    process = subprocess.Popen(
        program(config, run_dir),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    while not rows_in(run_dir):
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    step = newest_step(run_dir)
    assert f"stopped after step {step}; continue with the same command and --resume" in printed
    # The epoch's row is written when all of its steps are done, and none of the next one's need be.
    assert step // 10 == rows_in(run_dir)


def program(config: TrainConfig, run_dir: Path) -> list[str]:
    values = dataclasses.asdict(config)
    values |= values.pop("augmentation")
    flags = [f"--{name}={value}" for name, value in values.items() if value is not None]
    return [sys.executable, "-m", "tools.train", "--resume", f"--run_dir={run_dir}", *flags]


def rows_in(run_dir: Path) -> int:
    return len(bookkeeping.read_history(run_dir / "history.csv"))


def kill_after(command: list[str], run_dir: Path, *, new_epochs: int, delay: float) -> bool:
    """Kills a training `delay` seconds after so many more epochs; False if it ended before."""
    wanted = rows_in(run_dir) + new_epochs
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL)
    while rows_in(run_dir) < wanted and process.poll() is None:
        time.sleep(0.02)
    time.sleep(delay)
    ended = process.poll() is not None
    process.kill()
    process.wait()
    return not ended


@pytest.mark.slow
def test_a_killed_training_is_continued(config: TrainConfig, tmp_path: Path) -> None:
    config = dataclasses.replace(config, model="residual_small", epochs=3)
    run_dir = tmp_path / "run"
    assert kill_after(program(config, run_dir), run_dir, new_epochs=1, delay=0)
    assert not (run_dir / "metrics.json").exists()
    subprocess.run(program(config, run_dir), cwd=ROOT, check=True)
    assert [row["epoch"] for row in history(run_dir)] == ["0", "1", "2"]
    assert json.loads((run_dir / "metrics.json").read_text())["examples"] == 35
    assert not [path for path in run_dir.rglob(".*") if path.is_file()]


@pytest.mark.slow
def test_kills_at_random_moments_lose_nothing_that_was_complete(demo_data_dir, tmp_path) -> None:
    config = TrainConfig(data_dir=str(demo_data_dir), epochs=12, batch_size=28, precision="float32")
    run_dir = tmp_path / "run"
    rng = np.random.default_rng(0)
    kills = completed = 0
    for attempt in range(5):
        # The first may fall before the first epoch ends, wherever that is.
        killed = kill_after(
            program(config, run_dir), run_dir, new_epochs=min(attempt, 1), delay=rng.uniform(0, 4)
        )
        kills += killed
        assert rows_in(run_dir) >= completed
        completed = rows_in(run_dir)
        if (run_dir / "checkpoints" / "best.weights.h5").exists():
            built(config).load_weights(run_dir / "checkpoints" / "best.weights.h5")
    assert kills >= 3
    assert completed >= 1
    subprocess.run(program(config, run_dir), cwd=ROOT, check=True)
    assert [row["epoch"] for row in history(run_dir)] == [str(n) for n in range(12)]

    training.train(config, tmp_path / "whole")
    assert_same_history(run_dir, tmp_path / "whole")
    assert_same_weights(config, run_dir, tmp_path / "whole")
    assert load_model(run_dir).count_params() == 4_478_727


@pytest.mark.slow
@pytest.mark.parametrize(
    "choices",
    [EVERYTHING["adam"] | {"train_on_validation": True}, EVERYTHING["taught"]],
    ids=["adam on both splits", "taught"],
)
def test_kills_at_random_moments_lose_nothing_of_what_a_step_depends_on(
    demo_data_dir, tmp_path, choices
) -> None:
    config = TrainConfig(
        data_dir=str(demo_data_dir),
        model="residual_small",
        epochs=12,
        batch_size=14,
        checkpoint_every=4,
        precision="float32",
        **choices,
    )
    run_dir = tmp_path / "run"
    rng = np.random.default_rng(0)
    kills = [
        kill_after(program(config, run_dir), run_dir, new_epochs=1, delay=rng.uniform(0, 1))
        for _ in range(3)
    ]
    assert any(kills)
    subprocess.run(program(config, run_dir), cwd=ROOT, check=True)
    training.train(config, tmp_path / "whole")
    assert_same_history(run_dir, tmp_path / "whole")
    for name in ("last.weights.h5", "best.weights.h5"):
        assert_same_weights(config, run_dir, tmp_path / "whole", name)

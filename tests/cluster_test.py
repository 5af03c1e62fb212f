import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest

from fer_tfdata import bookkeeping, cluster
from fer_tfdata.cluster_config import ClusterConfig
from fer_tfdata.errors import InputError
from tests.runs import assert_same_history, history

ROOT = Path(__file__).resolve().parent.parent

# `tools.train` itself, with a network that is compiled in no time, and without the pictures.
PROGRAM = """
from fer_tfdata import command_line
command_line.import_tensorflow_quietly()
from fer_tfdata import models, training
from tests import tiny_network
from tools import train
models.BUILDERS["mini_xception"] = tiny_network.build
training._draw = lambda *args: None
train.run()
"""
# Every process draws the changes of its images by itself, so there are none here; the moments that
# the network normalises by and what it drops are those of the whole batch.
FLAGS = (
    "--model=mini_xception",
    "--batch_size=28",
    "--precision=float32",
    "--noflip",
    "--label_smoothing=0.1",
    "--ema=0.9",
    "--schedule=cosine",
    "--weight_decay=0.05",
)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def start(
    data_dir: Path, run_dirs: list[Path], *flags: str, more_devices: int = 0
) -> list[subprocess.Popen[str]]:
    """Starts a process for each run directory, all of one training.

    Each has `more_devices` more than the one before, the first has one.
    """
    place = [f"--coordinator=127.0.0.1:{free_port()}", f"--num_processes={len(run_dirs)}"]
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-c", PROGRAM, "--resume", *FLAGS, *flags, *place),
                *(f"--process_id={index}", f"--data_dir={data_dir}", f"--run_dir={run_dir}"),
            ],
            cwd=ROOT,
            env={
                **os.environ,
                "KERAS_BACKEND": "jax",
                "XLA_FLAGS": f"--xla_force_host_platform_device_count={1 + index * more_devices}",
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for index, run_dir in enumerate(run_dirs)
    ]


def ended(processes: list[subprocess.Popen[str]], seconds: float = 300) -> list[tuple[int, str]]:
    """Returns the exit codes and what was written, once all have ended."""
    outputs = [process.communicate(timeout=seconds) for process in processes]
    return [
        (process.returncode, "".join(output))
        for process, output in zip(processes, outputs, strict=True)
    ]


def wait_for_epochs(run_dir: Path, count: int, processes: list[subprocess.Popen[str]]) -> None:
    while len(bookkeeping.read_history(run_dir / "history.csv")) < count:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)


def last_weights(run_dir: Path) -> list[np.ndarray]:
    weights: list[np.ndarray] = []
    with h5py.File(run_dir / "checkpoints" / "last.weights.h5") as file:
        file["layers"].visititems(
            lambda _, item: weights.append(item[()]) if isinstance(item, h5py.Dataset) else None
        )
    return weights


def test_several_processes_want_jax() -> None:
    config = ClusterConfig(coordinator="127.0.0.1:5051", num_processes=2, process_id=1)
    with (
        pytest.raises(InputError, match=r"num_processes: expected 1, or KERAS_BACKEND=jax in"),
        cluster.joined(config),
    ):
        pass


def test_a_process_alone_speaks_for_all() -> None:
    with cluster.joined(ClusterConfig()):
        assert cluster.is_first()
        assert cluster.from_first(lambda: [1, 2]) == [1, 2]
        assert cluster.gathered({"a": 1}) == [{"a": 1}]
        with pytest.raises(InputError, match="mine"), cluster.all_or_none():
            raise InputError("mine")


@pytest.mark.slow
def test_two_processes_train_the_weights_that_one_does(demo_data_dir, tmp_path) -> None:
    one, two, elsewhere = tmp_path / "one", tmp_path / "two", tmp_path / "elsewhere"
    for run_dirs in ([one], [two, elsewhere]):
        for code, output in ended(start(demo_data_dir, run_dirs, "--epochs=4")):
            assert code == 0, output
            assert "validation accuracy" in output
    assert not elsewhere.exists()
    for row, other in zip(history(one), history(two), strict=True):
        for name in ("loss", "accuracy", "val_loss", "val_accuracy", "learning_rate"):
            assert float(row[name]) == pytest.approx(float(other[name]), rel=1e-5)
    for weight, other in zip(last_weights(one), last_weights(two), strict=True):
        np.testing.assert_allclose(weight, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_lost_process_ends_the_others_and_the_run_goes_on(demo_data_dir, tmp_path) -> None:
    flags = ("--epochs=40", "--checkpoint_every=2")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    for code, output in ended(start(demo_data_dir, [whole] * 2, *flags)):
        assert code == 0, output

    processes = start(demo_data_dir, [parts] * 2, *flags)
    wait_for_epochs(parts, 2, processes)
    processes[1].kill()
    began = time.monotonic()
    (code, output), _ = ended(processes)
    assert time.monotonic() - began < 60
    assert code == 2
    assert "another process of this training was lost" in output
    assert "start all of them again with --resume" in output

    done = len(bookkeeping.read_history(parts / "history.csv"))
    processes = start(demo_data_dir, [parts] * 2, *flags)
    wait_for_epochs(parts, done + 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    for code, output in ended(processes):
        assert code == 0
        assert "stopped after step " in output
        assert "continue with the same command and --resume" in output
    assert not (parts / "metrics.json").exists()

    for code, output in ended(start(demo_data_dir, [parts] * 2, *flags)):
        assert code == 0, output
    assert_same_history(whole, parts)
    for weight, other in zip(last_weights(whole), last_weights(parts), strict=True):
        np.testing.assert_array_equal(weight, other)


@pytest.mark.slow
def test_what_one_process_cannot_do_ends_all(demo_data_dir, tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    first, second = ended(start(demo_data_dir, [tmp_path] * 2))
    message = "expected an empty or no directory, received one in use"
    assert (first[0], second[0]) == (2, 2)
    assert message in first[1]
    assert f"process 0 cannot go on: {tmp_path}: {message}" in second[1]

    processes = start(demo_data_dir, [tmp_path / "run"] * 2, "--batch_size=27")
    for code, output in ended(processes):
        assert code == 2
        assert "batch_size: expected a multiple of 2" in output
    processes = start(demo_data_dir, [tmp_path / "run"] * 2, "--batch_size=30", more_devices=1)
    for code, output in ended(processes):
        assert code == 2
        assert "of every process, received 1 of process 0, 2 of process 1; let" in output
    assert not (tmp_path / "run").exists()

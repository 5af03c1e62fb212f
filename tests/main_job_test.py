"""The main job through the programs themselves, as a newcomer runs it."""

import json
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def run(program: str, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", f"tools.{program}", *arguments]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == code, result.stderr
    return result


def test_csv_to_metrics_and_predictions(demo_csv: Path, tmp_path: Path) -> None:
    data, run_dir = tmp_path / "data", tmp_path / "run"
    converted = run("make_tfrecords", f"--csv={demo_csv}", f"--output_dir={data}")
    assert "train: 140 images in 1 shards" in converted.stdout

    flags = [f"--data_dir={data}", f"--run_dir={run_dir}", "--epochs=1", "--batch_size=70"]
    trained = run("train", *flags)
    assert trained.stderr.startswith("epoch 1/1: loss ")
    assert "validation accuracy" in trained.stdout
    again = run("train", *flags, code=2)
    assert again.stderr.count("\n") == 1
    assert "--resume" in again.stderr

    report = tmp_path / "report"
    evaluated = run(
        "evaluate",
        f"--model={run_dir}",
        f"--data_dir={data}",
        "--split=test",
        "--tta=flip",
        f"--output_dir={report}",
    )
    metrics = json.loads(evaluated.stdout)
    assert metrics == json.loads((report / "metrics.json").read_text())
    assert (metrics["split"], metrics["tta"], metrics["examples"]) == ("test", "flip", 35)
    assert (report / "confusion_matrix.png").is_file()

    picture = run_dir / "figures" / "learning_curves.png"  # any picture is an input
    predicted = run("predict", f"--model={run_dir}", f"--input={picture}", "--detector=none")
    result = json.loads(predicted.stdout)
    assert sum(result["faces"][0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes alone
def test_the_quickstart_runs_twice_and_says_what_its_figures_are_worth(tmp_path: Path) -> None:
    for _ in range(2):
        result = run("quickstart", f"--work_dir={tmp_path / 'work'}")
        assert "no measure of anything" in " ".join(result.stdout.split())
        assert "tensorboard" in result.stdout
        commands = result.stdout.partition("Next:")[2].strip().splitlines()
        assert [shlex.split(command)[2] for command in commands] == [
            *("tensorboard.main", "tools.predict", "tools.quickstart"),
        ]


@pytest.mark.slow
def test_a_stopped_quickstart_says_how_to_go_on(demo_csv: Path, tmp_path: Path) -> None:
    arguments = [f"--csv={demo_csv}", f"--work_dir={tmp_path}"]
    command = [sys.executable, "-m", "tools.quickstart", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        while not any(path.stat().st_size for path in tmp_path.glob("*/run/history.csv")):
            assert process.poll() is None
            time.sleep(0.05)
        process.terminate()
        said, _ = process.communicate()
    assert process.returncode == 0
    assert "/run: stopped after step " in said
    assert said.endswith("; continue with the same command\n")
    again = run("quickstart", *arguments)
    assert "of the validation images" in again.stdout
    assert "epoch 1/15" not in again.stderr


def test_the_quickstart_takes_the_user_s_csv_and_says_when_there_is_none(tmp_path: Path) -> None:
    result = run("quickstart", f"--csv={tmp_path / 'absent.csv'}", code=2)
    assert "absent.csv: expected the Kaggle CSV, received nothing there" in result.stderr

import json
import subprocess
import sys
from pathlib import Path

import keras
import pytest

from tests.evaluation_test import asymmetric_model

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.evaluate", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The files of two networks, in directories of their own."""
    directory = tmp_path_factory.mktemp("runs")
    files = []
    for seed, name in enumerate(("first", "second")):
        keras.utils.set_random_seed(seed)
        (directory / name).mkdir()
        files.append(directory / name / "model.keras")
        asymmetric_model().save(files[-1])
    (directory / "second" / "metrics.json").write_text('{"trained_on": ["train"]}')
    return files


def test_several_models_are_measured_averaged_and_compared(
    models, voted_data_dir, tmp_path
) -> None:
    report = tmp_path / "report"
    names = [str(model) for model in models]
    done = run(
        *(f"--model={name}" for name in names),
        "--ensemble",
        "--tta=crops",
        f"--data_dir={voted_data_dir}",
        "--split=test",
        "--verify",
        f"--output_dir={report}",
    )
    assert (done.returncode, done.stderr) == (0, "")
    printed = json.loads(done.stdout)
    assert list(printed["models"]) == [*names, "ensemble"]
    assert sorted(path.name for path in report.iterdir()) == [
        *("comparison.json", "ensemble", "first-model.keras", "report.html"),
        "second-model.keras",
    ]
    for name, metrics in printed["models"].items():
        folder = report / (name if name == "ensemble" else "-".join(Path(name).parts[-2:]))
        assert json.loads((folder / "metrics.json").read_text()) == metrics
        assert (folder / "confusion_matrix.png").is_file()
        assert (metrics["split"], metrics["tta"]) == ("test", "crops")
    assert printed["models"][names[0]]["trained_on"] is None
    assert printed["models"][names[1]]["trained_on"] == ["train"]
    assert json.loads((report / "comparison.json").read_text()) == printed["comparisons"]
    assert "Evaluation of 3 models on test" in (report / "report.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model={0}", "--model={0}"], "expected different models, received"),
        (["--model={0}", "--model=absent"], "absent: expected a run directory or a .keras file"),
        ([], "model"),
    ],
)
def test_what_is_wrong_with_the_names_is_said_in_one_line(models, arguments, message) -> None:
    given = [argument.format(models[0]) for argument in arguments]
    done = run(*given, "--data_dir=absent")
    assert (done.returncode, done.stdout) == (2, "")
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr

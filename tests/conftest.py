import json
import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest
from absl import flags
from PIL import Image

from fer_tfdata import demo_faces
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.sources import KaggleCsv

if TYPE_CHECKING:
    from tests.exports import Exports

# As the programs choose it: JAX, which TensorFlow imports where it is installed, would choose
# otherwise for this process and all that the tests start.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

# Begun first, so that no worker is left alone with one of them when the others are done.
_LONGEST_FILES: Final = (
    "training_test.py",
    "main_job_test.py",
    "pipeline_test.py",
    "resume_test.py",
    "records_test.py",
    "make_tfrecords_test.py",
    "predict_tool_test.py",
    "monitoring_test.py",
    "jax_step_test.py",
    "pretrained_test.py",
    "web_server_test.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Puts the files that take longest first; the others stay in their order."""
    places = {name: place for place, name in enumerate(_LONGEST_FILES)}
    items.sort(key=lambda item: places.get(item.path.name, len(places)))


@pytest.fixture(scope="session")
def demo_csv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces as a Kaggle CSV: 140 rows of train, 35 of validation, 35 of test."""
    path = tmp_path_factory.mktemp("demo") / "fer2013.csv"
    demo_faces.write_csv(path, train=140, validation=35, test=35)
    return path


@pytest.fixture(scope="session")
def demo_data_dir(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The data directory converted from `demo_csv`; for reading only."""
    from fer_tfdata import conversion  # here, since it imports TensorFlow

    data_dir = tmp_path_factory.mktemp("demo_data")
    conversion.convert(KaggleCsv((demo_csv,)), data_dir)
    return data_dir


@pytest.fixture(scope="session")
def voted_data_dir(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with made-up FER+ votes; for reading only."""
    from fer_tfdata import conversion
    from tests.ferplus_test import votes_on_every_row

    directory = tmp_path_factory.mktemp("voted")
    votes = votes_on_every_row(demo_csv, directory / "votes.csv")
    conversion.convert(KaggleCsv((demo_csv,)), directory / "data", votes=votes)
    return directory / "data"


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Drawn faces as SPLIT/EXPRESSION/*.png: 10 of each in train, 3 each in the other splits."""
    root = tmp_path_factory.mktemp("images")
    for split, count, seed in (("train", 10, 0), ("validation", 3, 1), ("test", 3, 2)):
        for label, expression in enumerate(EXPRESSIONS):
            folder = root / split / expression
            folder.mkdir(parents=True)
            for number in range(count):
                face = demo_faces.draw_face(label, seed=1000 * seed + number)
                Image.fromarray(face).save(folder / f"{number}.png")
    return root


@pytest.fixture
def tiny_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Puts a network in mini_xception's place that is traced and trained in no time."""
    from fer_tfdata import models
    from tests import tiny_network

    monkeypatch.setitem(models.BUILDERS, "mini_xception", tiny_network.build)


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves out the pictures of a run, which take longer than its training."""
    from fer_tfdata import monitoring, training

    monkeypatch.setattr(training, "_draw", lambda *args: None)
    monkeypatch.setattr(monitoring, "_write_picture", lambda *args: None)


@pytest.fixture(scope="session")
def small_exports(demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> "Exports":
    """A small network in every format; for reading only."""
    from tests.exports import Exports

    return Exports.write(tmp_path_factory.mktemp("small_exports"), demo_data_dir)


@pytest.fixture
def warnings_so_far(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Returns what this project's modules have warned of; libraries warn of what they like."""

    def warnings() -> list[str]:
        own = (one for one in caplog.records if one.name.startswith("fer_tfdata."))
        return [one.getMessage() for one in own if one.levelno >= logging.WARNING]

    return warnings


@pytest.fixture
def run_main(monkeypatch):
    """Runs a program's `main` in this process, which is faster than the command."""

    def run(program, *arguments):
        command = [program.__name__.rpartition(".")[2], *map(str, arguments)]
        values = flags.FlagValues()
        program.define_flags(values)
        values(command)
        monkeypatch.setattr(flags, "FLAGS", values)
        monkeypatch.setattr(sys, "argv", command)
        program.main(command[:1])

    return run


@pytest.fixture
def run_benchmark(run_main, capsys, tmp_path):
    """Runs a benchmark in this process, and returns what it printed: the table and the JSON."""

    def run(program, *arguments):
        output_json = tmp_path / "results" / "result.json"
        run_main(program, *arguments, f"--output_json={output_json}")
        *table, last = capsys.readouterr().out.splitlines()
        content = json.loads(last)
        assert json.loads(output_json.read_text(encoding="utf-8")) == content
        return "\n".join(table), content

    return run

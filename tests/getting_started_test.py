"""The notebook is run as it stands; what it says besides is checked."""

import importlib
import re
from pathlib import Path

import nbformat
import pytest
from absl import flags
from nbclient import NotebookClient

from fer_tfdata.expressions import EXPRESSIONS

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "examples" / "getting_started.ipynb"


@pytest.fixture
def notebook() -> nbformat.NotebookNode:
    read = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(read)
    return read


def text_of(notebook: nbformat.NotebookNode) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def test_it_is_kept_without_outputs(notebook) -> None:
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert len(cells) >= 7
    assert all(cell.outputs == [] and cell.execution_count is None for cell in cells)


def test_its_links_and_its_commands_are_right(notebook) -> None:
    links = re.findall(r"\]\((\S+)\)", text_of(notebook))
    assert links
    for link in links:
        assert (NOTEBOOK.parent / link).is_file(), link
    commands = re.findall(r"python -m tools\.(\w+)((?: --\S+)*)`", text_of(notebook))
    assert len(commands) >= 5
    for program, arguments in commands:
        values = flags.FlagValues()
        importlib.import_module(f"tools.{program}").define_flags(values)
        values([program, *arguments.split()])


@pytest.mark.slow
def test_it_runs_and_shows_what_it_says(notebook, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": tmp_path}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    printed = "".join(
        output.get("text", "") for output in outputs if output.get("name") == "stdout"
    )
    accuracy, chance = map(float, re.findall(r"accuracy (\S+)%.* by chance (\S+)%", printed)[0])
    assert accuracy > 3 * chance
    found = re.findall(r"at column +\d+: (\w+) \d+%", printed)
    assert len(found) == len(EXPRESSIONS)
    assert sum(map(str.__eq__, found, EXPRESSIONS)) >= 4
    assert sum("image/png" in output.get("data", {}) for output in outputs) == 3

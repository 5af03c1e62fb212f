import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fer_tfdata import inspection, inspection_page
from fer_tfdata.errors import InputError
from tools import inspect_dataset

ROOT = Path(__file__).resolve().parent.parent


def test_the_page_is_written_and_summed_up(demo_data_dir: Path, tmp_path: Path) -> None:
    output_dir = tmp_path / "deep" / "report"
    program = [sys.executable, "-m", "tools.inspect_dataset"]
    command = [*program, f"--data_dir={demo_data_dir}", f"--output_dir={output_dir}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:4] == [
        str(output_dir / "index.html"),
        "  train: 140 images",
        "  validation: 35 images",
        "  test: 35 images",
    ]
    inspected = inspection.inspect(demo_data_dir)
    assert lines[4:] == [f"  {line.text}" for line in inspection_page.headlines(inspected)]
    assert [path.name for path in output_dir.iterdir()] == ["index.html"]
    page = (output_dir / "index.html").read_text(encoding="utf-8")
    assert page == inspection_page.render(inspected)


def message_of(run_main, data_dir: Path, output_dir: Path) -> str:
    """Returns what it is refused with."""
    with pytest.raises(InputError) as refused:
        run_main(inspect_dataset, f"--data_dir={data_dir}", f"--output_dir={output_dir}")
    return str(refused.value)


def test_what_is_no_data_directory_is_said_in_one_line(run_main, capfd, tmp_path: Path) -> None:
    message = message_of(run_main, tmp_path / "absent", tmp_path / "report")
    assert len(message.splitlines()) == 1
    assert "manifest.json: not found" in message
    assert capfd.readouterr() == ("", "")
    assert not (tmp_path / "report").exists()


def test_a_damaged_shard_is_said_in_one_line_and_keeps_the_older_page(
    run_main, capfd, demo_data_dir: Path, tmp_path: Path
) -> None:
    data_dir = shutil.copytree(demo_data_dir, tmp_path / "data")
    (path,) = (data_dir / "fer2013" / "1.0.0").glob("fer2013-train.tfrecord-*")
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "index.html").write_text("older")
    message = message_of(run_main, data_dir, tmp_path / "report")
    assert len(message.splitlines()) == 1
    assert f"{path}: the shard is damaged" in message
    assert capfd.readouterr() == ("", "")
    assert (tmp_path / "report" / "index.html").read_text() == "older"

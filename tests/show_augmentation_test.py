import subprocess
import sys
from pathlib import Path

import numpy as np
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.show_augmentation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_picture_is_drawn_and_is_the_same_again(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        done = run(f"--output={tmp_path / name}")
        assert done.returncode == 0, done.stderr
    with Image.open(tmp_path / "a.png") as first, Image.open(tmp_path / "b.png") as second:
        assert min(first.size) > 500
        assert np.asarray(first.convert("L")).std() > 20
        assert (np.asarray(first) == np.asarray(second)).all()


def test_what_is_no_data_directory_is_refused_and_nothing_written(tmp_path: Path) -> None:
    done = run(f"--output={tmp_path / 'a.png'}", f"--data_dir={tmp_path / 'none'}")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fer_tfdata import demo_faces
from fer_tfdata.errors import InputError
from tools import show_augmentation

ROOT = Path(__file__).resolve().parent.parent


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.show_augmentation", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_the_picture_of_the_documents_is_what_the_program_draws(tmp_path) -> None:
    output = tmp_path / "pictures" / "augmentation.png"
    done = run(f"--output={output}")
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{output}\n"
    with Image.open(output) as drawn, Image.open(ROOT / "docs" / "augmentation.png") as shown:
        assert drawn.format == "PNG"
        assert min(drawn.size) > 500
        assert drawn.size == shown.size
        drawn_pixels, shown_pixels = (
            np.asarray(picture.convert("L"), float) for picture in (drawn, shown)
        )
    assert drawn_pixels.std() > 20
    # Other fonts and processors may round otherwise.
    assert np.abs(drawn_pixels - shown_pixels).mean() < 1


def test_every_row_but_the_first_shows_a_change() -> None:
    images, labels = demo_faces.draw_faces(5, seed=0)
    rows = show_augmentation.augmented_rows(images[..., None], labels)
    assert next(iter(rows)) == "original"
    np.testing.assert_array_equal(rows.pop("original"), images[..., None])
    for name, row in rows.items():
        assert row.shape == ((5, 36, 36, 1) if name == "crop" else (5, 48, 48, 1))
        assert row.tobytes() != images.tobytes(), name
    assert len({row.tobytes() for row in rows.values()}) == len(rows) == 11


def test_the_images_of_a_data_set_are_shown(run_main, capsys, demo_data_dir, tmp_path) -> None:
    output = tmp_path / "a.png"
    run_main(show_augmentation, f"--data_dir={demo_data_dir}", f"--output={output}")
    assert capsys.readouterr().out == f"{output}\n"
    with Image.open(output) as picture, Image.open(ROOT / "docs" / "augmentation.png") as faces:
        assert picture.size == faces.size
        assert picture.tobytes() != faces.tobytes()


def test_what_is_no_data_directory_is_refused_and_nothing_written(run_main, tmp_path) -> None:
    with pytest.raises(InputError, match=str(tmp_path / "none")):
        run_main(
            show_augmentation, f"--output={tmp_path / 'a.png'}", f"--data_dir={tmp_path / 'none'}"
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("arguments", [(), ("--output=a.jpg",), ("--output=a",), ("--rows=3",)])
def test_other_flags_are_refused_in_one_line(arguments) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (ROOT / "a.jpg").exists()

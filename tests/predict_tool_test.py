import contextlib
import csv
import io
import json
import os
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from absl import flags
from PIL import Image
from skimage import data

from fer_tfdata import faces
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from tests.prediction_test import tiny_model
from tools import predict

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_directory = tmp_path_factory.mktemp("run")
    tiny_model().save(run_directory / "model.keras")
    return run_directory


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with a photograph, a face as it is, a picture of nothing, and a subfolder."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(data.astronaut()).save(folder / "astronaut.jpg", quality=95)
    gray = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    Image.fromarray(gray).save(folder / "more" / "face.png")
    Image.new("RGB", (200, 120), "gray").save(folder / "wall.png")
    (folder / "notes.txt").write_text("no image, and not taken for one")
    (folder / "._astronaut.jpg").write_bytes(b"left by a file manager")
    return folder


def options(*arguments: str) -> predict.PredictOptions:
    values = flags.FlagValues()
    predict.define_flags(values)
    values(["predict", *arguments])
    return predict.options_from_flags(values)


def run_program(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tools.predict", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def read_json(text: str) -> dict[str, Any]:
    return {Path(entry["file"]).name: entry for entry in json.loads(text)}


def test_flags_and_options_have_the_same_defaults() -> None:
    assert options() == predict.PredictOptions(input=[])
    values = flags.FlagValues()
    predict.define_flags(values)
    assert values["faces"].parser.enum_values == list(get_args(faces.FacesMode))
    assert f"at most {faces.WHOLE_FACE_MAX_SIDE} pixels" in values["faces"].help


def test_the_program_end_to_end(model: Path, album: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    copies = tmp_path / "copies"
    done = run_program(
        f"--model={model}", f"--input={album}", f"--input={broken}", f"--output_dir={copies}"
    )
    assert done.returncode == 1, done.stderr
    entries = read_json(done.stdout)
    assert list(entries) == ["astronaut.jpg", "face.png", "wall.png", "broken.png"]
    (face,) = entries["astronaut.jpg"]["faces"]
    assert face["box"].keys() == {"left", "top", "width", "height"}
    assert abs(face["box"]["left"] - 177) < 10
    assert tuple(face["probabilities"]) == EXPRESSIONS
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert face["expression"] == max(EXPRESSIONS, key=face["probabilities"].__getitem__)
    assert entries["face.png"]["faces"][0]["box"]["width"] == 48
    assert entries["wall.png"] == {"file": str(album / "wall.png"), "faces": []}
    assert entries["broken.png"].keys() == {"file", "error"}
    assert f"{album / 'wall.png'}: no face found" in done.stderr.splitlines()
    assert entries["broken.png"]["error"] in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    names = {path.name for path in copies.iterdir()}
    assert names == {"astronaut.jpg", "face.png", "wall.png"}
    with Image.open(copies / "astronaut.jpg") as copy:
        assert copy.format == "JPEG"
        assert np.abs(np.asarray(copy, int) - data.astronaut()).max() > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=missing.png"], "--input=missing.png: expected an image file"),
        (["--model=x"], "--input: expected an image file, a folder or a glob"),
        (["--model=x", "--input=missing.png"], "--input=missing.png: expected an image file"),
        (["--model=x", "--speed=9"], "Unknown command line flag 'speed'"),
        (["--model=x", "photo.png"], "unknown argument 'photo.png'"),
        (["--model=x", "--format=xml"], "--format"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = run_program(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_help_is_complete() -> None:
    done = run_program("--help")
    assert done.returncode == 0
    for name in ("model", "input", "output_dir", "format", "faces"):
        assert f"  --{name}=" in done.stdout


def test_no_face_is_no_error(model: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wall = album / "wall.png"
    assert predict.predict(options(f"--model={model}", f"--input={wall}")) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out) == [{"file": str(wall), "faces": []}]
    assert captured.err == f"{wall}: no face found\n"


def test_csv_has_a_row_a_face(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    twice = album / "twice, in one.png"
    Image.fromarray(np.hstack([data.astronaut()] * 2)).save(twice)
    cut = tmp_path / "cut.jpg"
    cut.write_bytes((album / "astronaut.jpg").read_bytes()[:5000])
    code = predict.predict(
        options(f"--model={model}", f"--input={album}", f"--input={cut}", "--format=csv")
    )
    captured = capsys.readouterr()
    assert code == 1
    assert captured.out.splitlines()[0] == (
        "file,face,left,top,width,height,expression,angry,disgust,fear,happy,sad,surprise,neutral"
    )
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    assert [(Path(row["file"]).name, row["face"]) for row in rows] == [
        ("astronaut.jpg", "0"),
        ("face.png", "0"),
        ("twice, in one.png", "0"),
        ("twice, in one.png", "1"),
    ]
    for row in rows:
        assert sum(float(row[name]) for name in EXPRESSIONS) == pytest.approx(1, abs=1e-5)
    assert f"{cut}: expected a complete image" in captured.err


def test_a_model_of_eight_expressions_has_eight_columns(
    album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_model(outputs=8).save(tmp_path / "eight.keras")
    arguments = (f"--model={tmp_path / 'eight.keras'}", f"--input={album / 'more'}")
    predict.predict(options(*arguments, "--format=csv"))
    (row,) = csv.DictReader(io.StringIO(capsys.readouterr().out))
    assert list(row)[-8:] == list(EIGHT_EXPRESSIONS)
    predict.predict(options(*arguments))
    (entry,) = json.loads(capsys.readouterr().out)
    shares = entry["faces"][0]["probabilities"]
    assert {name: float(row[name]) for name in EIGHT_EXPRESSIONS} == shares


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is Unicode")
def test_csv_keeps_a_name_that_is_no_utf_8(model: Path, album: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (album / "wall.png").rename(album / name)
    command = [sys.executable, "-m", "tools.predict", f"--model={model}", "--format=csv"]
    command += [f"--input={album / name}", "--faces=whole"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, check=True)
    assert b"caf\xe9.png,0,0,0,200,120," in done.stdout


def test_a_terminal_shows_the_bar_and_then_the_results(model: Path, album: Path) -> None:
    for number in range(5):
        Image.new("L", (48, 48), number).save(album / f"{number}.png")
    main_end, program_end = os.openpty()
    termios.tcsetwinsize(program_end, (24, 100))
    command = [sys.executable, "-m", "tools.predict", f"--model={model}", f"--input={album}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=program_end, stderr=program_end) as program:
        os.close(program_end)
        shown = b""
        with contextlib.suppress(OSError):  # the end of a terminal, on Linux
            while piece := os.read(main_end, 4096):
                shown += piece
    os.close(main_end)
    assert program.returncode == 0
    bar, results = shown.decode().split("[\r\n", maxsplit=1)
    assert "8/8" in bar
    assert len(json.loads("[" + results)) == 8


def test_faces_flag(model: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    counts = {}
    for mode in ("detect", "whole"):
        predict.predict(options(f"--model={model}", f"--input={album}", f"--faces={mode}"))
        entries = read_json(capsys.readouterr().out)
        counts[mode] = [len(entry["faces"]) for entry in entries.values()]
    assert counts == {"detect": [1, 0, 0], "whole": [1, 1, 1]}


def test_inputs_are_files_folders_and_globs_each_image_once(album: Path) -> None:
    in_order = [album / "astronaut.jpg", album / "more" / "face.png", album / "wall.png"]
    assert predict.find_images([str(album)]) == in_order
    assert predict.find_images([f"{album}/**/*"]) == in_order
    assert predict.find_images([f"{album}/*.png"]) == in_order[2:]
    assert predict.find_images([str(in_order[2]), str(album)]) == [
        in_order[2],
        *in_order[:2],
    ]
    assert predict.find_images([str(album / "notes.txt")]) == [album / "notes.txt"]
    bracketed = album / "[1].png"
    in_order[2].rename(bracketed)
    assert predict.find_images([str(bracketed)]) == [bracketed]


@pytest.mark.parametrize("text", ["empty", "nothing*.png", "missing.jpg"])
def test_every_input_must_match_something(album: Path, text: str) -> None:
    (album / "empty").mkdir()
    with pytest.raises(InputError, match=r"--input=.*expected an image file"):
        predict.find_images([str(album), str(album / text)])


def test_copies_do_not_collide(tmp_path: Path) -> None:
    sources = [Path(name) for name in ("a/x.jpg", "b/x.jpg", "c/X.JPG", "a/x.png", "a/x.webp")]
    copies = predict.name_copies(sources, tmp_path)
    names = [copies[source].name for source in sources]
    assert names == ["x.jpg", "x-2.jpg", "X-3.JPG", "x.png", "x-2.png"]


def test_copies_never_replace_an_input(album: Path) -> None:
    with pytest.raises(InputError, match="expected a folder without inputs"):
        predict.name_copies([album / "wall.png"], album / "more" / "..")
    with pytest.raises(InputError, match="expected a folder, received a file"):
        predict.name_copies([album / "wall.png"], album / "notes.txt")

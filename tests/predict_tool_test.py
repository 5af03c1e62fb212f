import concurrent.futures
import contextlib
import csv
import io
import json
import os
import signal
import subprocess
import sys
import termios
import threading
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from absl import flags
from PIL import Image
from skimage import data

from fer_tfdata import detectors, tracking
from fer_tfdata.camera import Camera
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from tests import yunet_stub
from tests.camera_test import RecordedCamera
from tests.prediction_test import tiny_model
from tests.videos import read_video, sliding_photograph, write_video
from tools import predict

CLIP_FRAMES = 8
ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_directory = tmp_path_factory.mktemp("run")
    tiny_model().save(run_directory / "model.keras")
    return run_directory


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A folder with a photograph, a video, a picture of nothing, and a subfolder with a face."""
    folder = tmp_path / "album"
    (folder / "more").mkdir(parents=True)
    Image.fromarray(data.astronaut()).save(folder / "astronaut.jpg", quality=95)
    gray = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    Image.fromarray(gray).save(folder / "more" / "face.png")
    Image.new("RGB", (200, 120), "gray").save(folder / "wall.png")
    write_video(folder / "clip.mp4", sliding_photograph(CLIP_FRAMES))
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


def read_json(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def by_name(text: str) -> dict[str, Any]:
    return {Path(entry["file"]).name: entry for entry in read_json(text)}


def test_flags_and_options_have_the_same_defaults() -> None:
    assert options() == predict.PredictOptions(input=[])
    values = flags.FlagValues()
    predict.define_flags(values)
    assert values["detector"].parser.enum_values == list(get_args(detectors.DetectorName))
    side = detectors.WHOLE_FACE_MAX_SIDE
    assert f"at most {side} x {side} pixels" in values["detector"].help
    assert predict.PredictOptions.smoothing == tracking.SMOOTHING


def test_the_program_end_to_end(model: Path, album: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_text("no image")
    copies = tmp_path / "copies"
    done = run_program(
        f"--model={model}", f"--input={album}", f"--input={broken}", f"--output_dir={copies}"
    )
    assert done.returncode == 1, done.stderr
    entries = by_name(done.stdout)
    assert list(entries) == ["astronaut.jpg", "clip.mp4", "face.png", "wall.png", "broken.png"]
    assert len(read_json(done.stdout)) == 4 + CLIP_FRAMES
    assert entries["clip.mp4"]["frame"] == CLIP_FRAMES - 1
    assert entries["clip.mp4"]["time"] == pytest.approx((CLIP_FRAMES - 1) / 30, abs=1e-5)
    assert [face["track"] for face in entries["clip.mp4"]["faces"]] == [0]
    (face,) = entries["astronaut.jpg"]["faces"]
    assert face["box"].keys() == {"left", "top", "width", "height"}
    assert abs(face["box"]["left"] - 177) < 10
    assert tuple(face["probabilities"]) == EXPRESSIONS
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert face["expression"] == max(EXPRESSIONS, key=face["probabilities"].__getitem__)
    assert entries["face.png"]["faces"][0]["box"]["width"] == 48
    wall = {"file": str(album / "wall.png"), "frame": None, "time": None, "faces": []}
    assert entries["wall.png"] == wall
    assert entries["broken.png"].keys() == {"file", "error"}
    assert f"{album / 'wall.png'}: no face found" in done.stderr.splitlines()
    assert entries["broken.png"]["error"] in done.stderr.splitlines()
    assert "Traceback" not in done.stderr
    names = {path.name for path in copies.iterdir()}
    assert names == {"astronaut.jpg", "clip.mp4", "face.png", "wall.png"}
    assert len(read_video(copies / "clip.mp4")[0]) == CLIP_FRAMES
    with Image.open(copies / "astronaut.jpg") as copy:
        assert copy.format == "JPEG"
        assert np.abs(np.asarray(copy, int) - data.astronaut()).max() > 100


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--input=missing.png"], "missing.png: expected an image or video file"),
        (["--model=x"], "--input: expected an image, a video, a folder"),
        (["--input=https://example.org/a.png"], "received an address; download it first"),
        (["--input=camera:97"], "camera:97: expected a camera, received none"),
        (["--input=camera:0", "--input=a.png"], "expected a camera alone, received 2 inputs"),
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


def test_a_program_that_is_interrupted_leaves_no_half_of_a_copy(
    model: Path, tmp_path: Path
) -> None:
    # More results than a pipe holds: the program waits for who reads them.
    clip = write_video(tmp_path / "clip.mp4", sliding_photograph(600, height=36, width=48))
    copies = tmp_path / "copies"
    with subprocess.Popen(
        [
            *(sys.executable, "-m", "tools.predict", f"--model={model}"),
            *(f"--input={clip}", f"--output_dir={copies}"),
        ],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        assert started.stdout is not None
        started.stdout.readline()
        assert len(list(copies.iterdir())) == 1
        started.terminate()
        _, said = started.communicate()
    assert (started.returncode, said) == (130, "interrupted\n")
    assert not list(copies.iterdir())


def test_a_program_that_is_stopped_while_it_loads_its_model_says_so(tmp_path: Path) -> None:
    Image.new("L", (48, 48)).save(tmp_path / "face.png")
    program = (
        "import os, signal, sys; from tools import predict\n"
        "def stop(event, arguments):\n"
        "    if event == 'import' and arguments[0] == 'tensorflow':\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"
        "sys.addaudithook(stop)\n"
        "predict.run()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, f"--input={tmp_path / 'face.png'}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_another_thread_predicts_as_well(model: Path, album: Path) -> None:
    chosen = options(f"--model={model}", f"--input={album / 'more'}")
    with concurrent.futures.ThreadPoolExecutor() as threads:
        assert threads.submit(predict.predict, chosen).result() == 0


def test_help_is_complete() -> None:
    done = run_program("--help")
    assert done.returncode == 0
    for name in ("model", "input", "output_dir", "format", "detector", "yunet_model", "smoothing"):
        assert f"  --{name}=" in done.stdout


def test_no_face_is_no_error(model: Path, album: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wall = album / "wall.png"
    assert predict.predict(options(f"--model={model}", f"--input={wall}")) == 0
    captured = capsys.readouterr()
    [entry] = read_json(captured.out)
    assert entry["faces"] == []
    assert captured.err == f"{wall}: no face found\n"


def test_a_video_without_a_face_is_said_once(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip = write_video(tmp_path / "clip.mp4", sliding_photograph(5, faces=False))
    assert predict.predict(options(f"--model={model}", f"--input={clip}")) == 0
    captured = capsys.readouterr()
    assert len(read_json(captured.out)) == 5
    assert captured.err == f"{clip}: no face found\n"


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
        "file,frame,time,face,track,left,top,width,height,expression,"
        "angry,disgust,fear,happy,sad,surprise,neutral"
    )
    rows = list(csv.DictReader(io.StringIO(captured.out)))
    places = [(Path(row["file"]).name, row["frame"], row["face"], row["track"]) for row in rows]
    assert places == [
        ("astronaut.jpg", "", "0", ""),
        *(("clip.mp4", str(number), "0", "0") for number in range(CLIP_FRAMES)),
        ("face.png", "", "0", ""),
        ("twice, in one.png", "", "0", ""),
        ("twice, in one.png", "", "1", ""),
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
    (entry,) = read_json(capsys.readouterr().out)
    shares = entry["faces"][0]["probabilities"]
    assert {name: float(row[name]) for name in EIGHT_EXPRESSIONS} == shares


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every name is Unicode")
def test_csv_keeps_a_name_that_is_no_utf_8(
    model: Path, album: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (album / "wall.png").rename(album / name)
    arguments = (f"--model={model}", f"--input={album / name}", "--detector=none")
    assert predict.predict(options(*arguments, "--format=csv")) == 0
    assert b"caf\xe9.png,,,0,,0,0,200,120," in capfdbinary.readouterr().out


def test_detector_flags(
    model: Path, album: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    network = yunet_stub.write_network(tmp_path / "yunet.onnx")
    cell = np.zeros((128, 128, 3), np.uint8)
    cell[64:72, 64:72] = 255
    Image.fromarray(cell).save(tmp_path / "cell.png")
    counts = {}
    for flags_given in (["haar"], ["none"], ["yunet", f"--yunet_model={network}"]):
        arguments = [f"--model={model}", f"--input={tmp_path / 'cell.png'}", f"--input={album}/*"]
        arguments += [f"--detector={flags_given[0]}", *flags_given[1:]]
        assert predict.predict(options(*arguments)) == 0
        entries = by_name(capsys.readouterr().out)
        counts[flags_given[0]] = [len(entries[name]["faces"]) for name in ("cell.png", "wall.png")]
    assert counts == {"haar": [0, 0], "none": [1, 1], "yunet": [1, 0]}
    with pytest.raises(InputError, match="with --detector=yunet"):
        predict.predict(options(f"--model={model}", f"--input={album}", "--detector=yunet"))


def test_an_input_that_is_named_twice_is_predicted_once(album: Path) -> None:
    wall = album / "wall.png"
    assert predict.find_files([str(wall), str(album)])[0] == wall
    assert len(predict.find_files([str(wall), str(album), f"{album}/*"])) == 4
    assert predict.find_files([str(wall), f"{album}/../{album.name}/{wall.name}"]) == [wall]


def test_a_link_to_an_image_is_an_input_of_its_own(album: Path, tmp_path: Path) -> None:
    wall, link = album / "wall.png", tmp_path / "link.png"
    link.symlink_to(wall)
    assert predict.find_files([str(wall), str(link)]) == [wall, link]


# A camera, in whose place a recording gives its pictures in their time.


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("camera") / "recording.mp4"
    return write_video(path, sliding_photograph(40))


def test_a_camera_streams_json_and_is_recorded(
    model: Path, recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = options(f"--model={model}", "--input=camera:0", f"--output_dir={tmp_path / 'out'}")
    camera = Camera(RecordedCamera(recording, again=True), "camera:0")
    threading.Timer(3, camera.stop).start()
    assert predict.predict_camera(chosen, camera) == 0
    entries = read_json(capsys.readouterr().out)
    assert len(entries) > 5
    assert [entry["frame"] for entry in entries] == list(range(len(entries)))
    assert {entry["file"] for entry in entries} == {"camera:0"}
    assert {face["track"] for entry in entries for face in entry["faces"]} >= {0}
    _, times = read_video(tmp_path / "out" / "camera-0.mp4")
    np.testing.assert_allclose(times, [entry["time"] for entry in entries], atol=1e-5)


def test_a_camera_that_fails_gives_exit_code_1(
    model: Path, recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    camera = Camera(RecordedCamera(recording), "camera:0")
    chosen = options(f"--model={model}", "--input=camera:0", "--format=csv")
    assert predict.predict_camera(chosen, camera) == 1
    assert "camera:0: expected pictures of the camera, received no more" in capsys.readouterr().err


@pytest.mark.parametrize(
    "number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)]
)
def test_signals_end_a_camera_cleanly_and_a_terminal_shows_results_above_the_bar(
    model: Path, recording: Path, tmp_path: Path, number: signal.Signals
) -> None:
    out = tmp_path / "out"
    program = (
        "from pathlib import Path; from tools import predict\n"
        "from tests.camera_test import RecordedCamera; from fer_tfdata.camera import Camera\n"
        f"camera = Camera(RecordedCamera(Path({str(recording)!r}), again=True), 'camera:0')\n"
        f"options = predict.PredictOptions(model={str(model)!r}, output_dir={str(out)!r})\n"
        "raise SystemExit(predict.predict_camera(options, camera))"
    )
    main_end, program_end = os.openpty()
    termios.tcsetwinsize(program_end, (24, 100))
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env={**os.environ, "DISPLAY": ""},
        stdout=program_end,
        stderr=program_end,
    ) as started:
        os.close(program_end)
        shown, asked = b"", False
        with contextlib.suppress(OSError):  # the end of a terminal, on Linux
            while piece := os.read(main_end, 4096):
                shown += piece
                if b'"frame": 3' in shown and not asked:
                    started.send_signal(number)
                    asked = True
    os.close(main_end)
    assert started.returncode == 0
    lines = shown.decode().replace("\r", "\n").splitlines()
    entries = [json.loads(line) for line in lines if line.startswith("{")]
    assert [entry["frame"] for entry in entries] == list(range(len(entries)))
    assert len(read_video(out / "camera-0.mp4")[0]) == len(entries)
    bars = [line for line in lines if "picture" in line]
    assert bars[-1].startswith(f"{len(entries)}picture [")
    assert not any("Traceback" in line for line in lines)

import importlib.util
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from benchmarks import prediction_benchmark
from fer_tfdata import inputs
from fer_tfdata.detectors import HaarDetector
from fer_tfdata.prediction import Predictor
from tests.prediction_test import tiny_model
from tests.videos import sliding_photograph, write_video


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.keras"
    tiny_model().save(path)
    return path


@pytest.mark.slow
def test_the_program(model: Path, demo_data_dir: Path, tmp_path: Path, run_benchmark: Any) -> None:
    video = write_video(tmp_path / "clip.mp4", sliding_photograph(6))
    arguments = [f"--model={model}", f"--video={video}", f"--data_dir={demo_data_dir}"]
    arguments += ["--frames=0", "--batch_size=4", "--calls=5", "--repeats=2"]
    table, content = run_benchmark(prediction_benchmark, *arguments)
    assert content["versions"].keys() >= {"python", "tensorflow", "av", "opencv-python-headless"}
    assert content["video"]["frames"] == 6
    assert content["video"]["height_and_width"] == [120, 160]
    assert content["video"]["faces"]["ours_annotated"] == 6
    speeds = content["video"]["variants"]
    assert speeds.keys() >= {"ours_annotated", "ours_results", "decode", "detect", "encode"}
    for variant in speeds.values():
        assert len(variant["frames_per_second"]["raw"]) == 2
        assert variant["frames_per_second"]["min"] > 0
    crops = content["crops"]["variants"]
    assert crops.keys() >= {"ours_1", "ours_4"}
    for variant in crops.values():
        assert 0 < variant["p50_seconds"]["median"] <= variant["p99_seconds"]["median"]
        assert variant["crops_per_second"]["min"] > 0
    assert content["accuracy"]["examples"] == 35
    assert 0 <= content["accuracy"]["ours"] <= 1
    installed = importlib.util.find_spec("fer") is not None
    assert ("fer_annotated" in speeds) == ("fer_lite_1" in crops) == installed
    assert ("fer is left out: not installed" in table) != installed


def test_the_part_that_detects_searches_what_prediction_does(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched_whole = []
    detect = HaarDetector.detect

    def note(detector: Any, images: Any, *, smallest: float) -> Any:
        searched_whole.append(len(images))
        return detect(detector, images, smallest=smallest)

    monkeypatch.setattr(HaarDetector, "detect", note)
    video = write_video(tmp_path / "clip.mp4", sliding_photograph(30))
    assert len(list(Predictor.from_path(model).predict_paths([video]))) == 30
    of_prediction = sum(searched_whole)
    assert prediction_benchmark._parts(video, tmp_path)["detect"]() == (30, 30)
    assert sum(searched_whole) == 2 * of_prediction < 30


def test_a_long_video_repeats_another(tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", sliding_photograph(25))
    long = prediction_benchmark._repeat(clip, tmp_path / "long.mp4", 60)
    frames, again = (list(inputs.read_frames([path])) for path in (long, clip))
    assert [frame.error for frame in frames] == [None] * 60
    times = [float(frame.time) for frame in frames]
    np.testing.assert_allclose(times, np.arange(60) / 30, atol=1e-4)
    for number in (0, 24, 25, 49, 50, 59):
        np.testing.assert_array_equal(frames[number].pixels, again[number % 25].pixels)
    with av.open(str(long)) as container:
        assert container.streams.video[0].frames == 60


def test_the_long_video_is_measured_window_by_window(model: Path, tmp_path: Path) -> None:
    clip = write_video(tmp_path / "clip.mp4", sliding_photograph(35, faces=False))
    measured = prediction_benchmark.measure_long_video(str(model), clip, window=10)
    assert len(measured["seconds_per_frame"]) == 3
    assert all(seconds > 0 for seconds in measured["seconds_per_frame"])
    assert len(measured["resident_bytes"]) == 3

import threading
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from fer_tfdata import camera
from fer_tfdata.camera import Camera
from fer_tfdata.errors import InputError
from tests.videos import sliding_photograph, write_video


class RecordedCamera:
    """A recording that gives its pictures as a camera does: when it is their time."""

    def __init__(self, path: Path, *, frames_per_second: float = 100, again: bool = False) -> None:
        self._path = path
        self._capture = cv2.VideoCapture(str(path))
        self._interval = 1 / frames_per_second
        self._again = again
        self.num_read = 0
        self.released = threading.Event()

    def read(self) -> tuple[bool, Any]:
        time.sleep(self._interval)
        taken, picture = self._capture.read()
        if not taken and self._again:
            self._capture.open(str(self._path))
            taken, picture = self._capture.read()
        self.num_read += taken
        return taken, picture

    def release(self) -> None:
        self._capture.release()
        self.released.set()


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("camera") / "recording.mp4"
    return write_video(path, sliding_photograph(40))


def test_pictures_come_in_their_order_until_the_camera_ends(recording: Path) -> None:
    capture = RecordedCamera(recording)
    *frames, last = Camera(capture, "camera:0").frames()
    assert 1 <= len(frames) <= 40
    assert [frame.index for frame in frames] == list(range(len(frames)))
    times = [frame.time for frame in frames]
    assert times[0] == 0
    assert times == sorted(set(times))
    for frame, expected in zip(frames[:1], sliding_photograph(1), strict=True):
        assert frame.source == Path("camera:0")
        assert np.abs(frame.pixels.astype(int) - expected).mean() < 6  # RGB, not BGR
    assert not last.pixels.size
    assert last.error == "camera:0: expected pictures of the camera, received no more"
    assert capture.released.is_set()


def test_who_is_slow_gets_the_latest_picture(recording: Path) -> None:
    capture = RecordedCamera(recording, frames_per_second=200, again=True)
    source = Camera(capture, "camera:0")
    for frame in source.frames():
        before = capture.num_read
        time.sleep(0.1)  # slower than the camera by far
        assert capture.num_read > before + 3
        if frame.index == 5:
            source.stop()
    assert frame.index == 5  # six pictures, although the camera took many more
    assert capture.num_read > 24
    assert frame.time > 0.45  # no older than the last look at it


def test_a_camera_that_is_stopped_ends_without_an_error(recording: Path) -> None:
    capture = RecordedCamera(recording, again=True)
    source = Camera(capture, "camera:0")
    threading.Timer(0.2, source.stop).start()
    frames = list(source.frames())
    assert frames
    assert all(frame.error is None for frame in frames)
    assert capture.released.wait(5)


def test_a_camera_is_let_go_when_nobody_looks_any_more(recording: Path) -> None:
    capture = RecordedCamera(recording, again=True)
    with Camera(capture, "camera:0") as source:
        frames = source.frames()
        next(frames)
        assert not capture.released.is_set()
    assert capture.released.is_set()
    capture = RecordedCamera(recording, again=True)
    frames = Camera(capture, "camera:0").frames()
    next(frames)
    frames.close()
    assert capture.released.is_set()


def test_a_camera_that_gives_nothing_can_be_stopped() -> None:
    stopped = threading.Event()

    class Hanging:
        def read(self) -> tuple[bool, None]:
            stopped.wait(5)
            return False, None

        def release(self) -> None:
            pass

    source = Camera(Hanging(), "camera:0")
    threading.Timer(0.1, source.stop).start()
    threading.Timer(0.3, stopped.set).start()
    assert list(source.frames()) == []


def test_a_camera_that_is_not_there_is_one_error(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match="camera:97: expected a camera, received none"):
        camera.open_camera(97)
    assert capfd.readouterr().err == ""


def test_the_number_of_a_camera() -> None:
    assert camera.number_of("camera:0") == 0
    assert camera.number_of("camera:12") == 12
    assert camera.number_of("camera.mp4") is None
    for wrong in ("camera:", "camera:x", "camera:-1", "camera:rtsp://host"):
        with pytest.raises(InputError, match="expected camera:0, camera:1 and so on"):
            camera.number_of(wrong)

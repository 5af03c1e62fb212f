import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import get_args

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from fer_tfdata import detectors, images
from fer_tfdata.detectors import DetectorName, HaarDetector
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box, overlap
from fer_tfdata.images import Pixels
from tests import yunet_stub

# Where the face of the photograph is, by eye: between hair and chin, ear and ear.
ASTRONAUT_FACE = Box(left=177, top=66, width=97, height=97)


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    return np.asarray(data.astronaut(), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector() -> HaarDetector:
    return HaarDetector()


def found(image: Pixels, detector: detectors.Detector) -> list[Box]:
    [boxes] = detector.detect([image], smallest=0.03)
    return boxes


def scaled(box: Box, scale: float) -> Box:
    return Box(*(round(n * scale) for n in (box.left, box.top, box.width, box.height)))


def resized(image: Pixels, scale: float) -> Pixels:
    result: Pixels = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return result


@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 5])
def test_the_face_is_found_at_any_size(
    photograph: Pixels, detector: HaarDetector, scale: float
) -> None:
    boxes = found(resized(photograph, scale), detector)
    assert len(boxes) == 1
    assert overlap(boxes[0], scaled(ASTRONAUT_FACE, scale)) > 0.8


def test_the_face_is_found_in_gray(
    tmp_path: Path, photograph: Pixels, detector: HaarDetector
) -> None:
    Image.fromarray(photograph).convert("L").save(tmp_path / "gray.png")
    boxes = found(images.read_image(tmp_path / "gray.png"), detector)
    assert [overlap(box, ASTRONAUT_FACE) > 0.8 for box in boxes] == [True]


def test_the_face_is_found_where_a_camera_was_turned(
    tmp_path: Path, photograph: Pixels, detector: HaarDetector
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photograph)))
    turned.save(tmp_path / "turned.jpg", exif=exif)
    boxes = found(images.read_image(tmp_path / "turned.jpg"), detector)
    assert [overlap(box, ASTRONAUT_FACE) > 0.8 for box in boxes] == [True]


def test_several_faces_come_the_largest_first(photograph: Pixels, detector: HaarDetector) -> None:
    group = np.zeros((1100, 1600, 3), np.uint8)
    group[:256, :256] = resized(photograph, 0.5)
    group[50:1074, 500:1524] = resized(photograph, 2)
    group[400:784, :384] = resized(photograph, 0.75)
    boxes = found(group, detector)
    assert len(boxes) == 3
    assert [round(box.width / 97, 1) for box in boxes] == pytest.approx([2, 0.75, 0.5], abs=0.1)
    assert found(group, detector) == boxes


@pytest.mark.parametrize("size", [(1, 1), (5, 3000), (3000, 5), (300, 200), (2000, 3000)])
def test_no_face_where_there_is_none(detector: HaarDetector, size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 127, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert found(flat, detector) == []
    assert found(noise, detector) == []


def test_boxes_lie_inside_the_image(photograph: Pixels, detector: HaarDetector) -> None:
    tight = photograph[60:170, 170:280]
    for image in (tight, resized(tight, 13.1)):
        for box in found(image, detector):
            assert min(box.left, box.top) >= 0
            assert box.left + box.width <= image.shape[1]
            assert box.top + box.height <= image.shape[0]


def test_many_images_at_once(photograph: Pixels, detector: HaarDetector) -> None:
    flat = np.full((200, 300, 3), 127, np.uint8)
    boxes = detector.detect([flat, photograph, photograph[:, ::-1]], smallest=0.03)
    assert [len(found) for found in boxes] == [0, 1, 1]
    assert detector.detect([], smallest=0.03) == []


def test_smaller_faces_than_asked_for_are_missed(
    photograph: Pixels, detector: HaarDetector
) -> None:
    wall = np.full((1000, 1200, 3), 127, np.uint8)
    wall[100:612, 100:612] = photograph  # a face of 9.7 % of the shorter side
    for smallest, number in ((0.03, 1), (0.08, 1), (0.15, 0)):
        [boxes] = detector.detect([wall], smallest=smallest)
        assert len(boxes) == number


def test_threads_share_a_detector(photograph: Pixels, detector: HaarDetector) -> None:
    images = [resized(photograph, scale) for scale in (0.4, 0.5, 0.6, 0.7)]
    alone = [detector.detect([image], smallest=0.15) for image in images]
    start = threading.Barrier(4)

    def detect(image: Pixels) -> list[list[list[Box]]]:
        start.wait()
        return [detector.detect([image], smallest=0.15) for _ in range(4)]

    with ThreadPoolExecutor(4) as threads:
        assert list(threads.map(detect, images)) == [[boxes] * 4 for boxes in alone]


def test_a_small_image_is_a_face_as_it_is(photograph: Pixels, detector: HaarDetector) -> None:
    most = detectors.WHOLE_FACE_MAX_SIDE
    small, larger = np.zeros((50, most, 3), np.uint8), np.zeros((50, most + 1, 3), np.uint8)
    boxes = detectors.find_faces([larger, small, photograph, small], detector, smallest=0.03)
    assert boxes[0] == []
    assert boxes[1] == boxes[3] == [Box(0, 0, most, 50)]
    assert overlap(boxes[2][0], ASTRONAUT_FACE) > 0.8


def test_without_a_detector_every_image_is_a_face() -> None:
    detector = detectors.make_detector("none")
    image = np.zeros((300, 400, 3), np.uint8)
    assert detector.detect([image], smallest=0.03) == [[Box(0, 0, 400, 300)]]


# YuNet, in whose place a network stands that takes white cells for faces.


def test_yunets_boxes_are_framed_and_scaled(tmp_path: Path) -> None:
    network = yunet_stub.write_network(tmp_path / "yunet.onnx")
    detector = detectors.make_detector("yunet", yunet_model=network)
    image = np.zeros((160, 320, 3), np.uint8)
    image[64:72, 200:208] = 255  # a cell around 68, 204
    [boxes], [none], [other] = (
        detector.detect([picture], smallest=1 / 8)
        for picture in (image, image[:100, :100], image[:, 96:])
    )
    assert none == []
    [box] = boxes
    assert box.width == box.height
    assert abs(box.left + box.width / 2 - 204) <= 0.5
    assert abs(box.width - yunet_stub.FACE[1] * 0.94 / 1.04) <= 1
    assert other == [Box(box.left - 96, box.top, box.width, box.height)]
    twice = image.repeat(2, axis=0).repeat(2, axis=1)  # searched at half its size
    [[larger]] = detector.detect([twice], smallest=1 / 8)
    assert overlap(larger, scaled(box, 2)) > 0.95


@pytest.mark.parametrize(
    ("content", "received"),
    [(None, "nothing there"), (b"no network", "received: "), (b"", "received: ")],
)
def test_what_is_no_yunet_is_refused(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], content: bytes | None, received: str
) -> None:
    model = tmp_path / "model.onnx"
    if content is not None:
        model.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.onnx: expected a YuNet network") as caught:
        detectors.make_detector("yunet", yunet_model=model)
    assert received in str(caught.value)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("name", [name for name in get_args(DetectorName) if name != "yunet"])
def test_a_network_goes_with_yunet_alone(name: DetectorName) -> None:
    with pytest.raises(InputError, match=f"received {name} with model"):
        detectors.make_detector(name, yunet_model=Path("model.onnx"))
    with pytest.raises(InputError, match="received yunet alone"):
        detectors.make_detector("yunet")


# MTCNN


def test_mtcnn_finds_faces_of_many_images_in_one_batch(photograph: Pixels) -> None:
    detector = detectors.make_detector("mtcnn")
    flat = np.full_like(photograph, 127)
    small = resized(photograph, 0.5)
    images = [photograph, flat, photograph[:, ::-1], small]
    first, none, mirrored, half = detector.detect(images, smallest=0.1)
    assert none == []
    assert overlap(first[0], ASTRONAUT_FACE) > 0.7
    assert overlap(half[0], scaled(first[0], 0.5)) > 0.8
    left = photograph.shape[1] - first[0].left - first[0].width
    assert abs(mirrored[0].left - left) < 10
    assert detector.detect([flat], smallest=0.1) == [[]]


def test_mtcnn_that_is_not_installed_is_said_so() -> None:
    code = (
        "import sys; sys.modules['mtcnn'] = None\n"
        "from fer_tfdata import detectors, errors\n"
        "try: detectors.make_detector('mtcnn')\n"
        "except errors.InputError as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "pip install 'fer-tfdata[mtcnn]'" in done.stdout


def test_importing_imports_no_tensorflow() -> None:
    code = "import sys, fer_tfdata.prediction; assert not {'tensorflow', 'keras'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)

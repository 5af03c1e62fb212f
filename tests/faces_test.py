import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from skimage import data

from fer_tfdata import faces, images
from fer_tfdata.faces import Box, FaceDetector
from fer_tfdata.images import Pixels

# Where the face of the photograph is, by eye: between hair and chin, ear and ear.
ASTRONAUT_FACE = Box(left=177, top=66, width=97, height=97)


@pytest.fixture(scope="module")
def photograph() -> Pixels:
    return np.asarray(data.astronaut(), dtype=np.uint8)


@pytest.fixture(scope="module")
def detector() -> FaceDetector:
    return FaceDetector()


def overlap(a: Box, b: Box) -> float:
    """Intersection over union."""
    width = min(a.left + a.width, b.left + b.width) - max(a.left, b.left)
    height = min(a.top + a.height, b.top + b.height) - max(a.top, b.top)
    shared = max(0, width) * max(0, height)
    return shared / (a.width * a.height + b.width * b.height - shared)


def scaled(box: Box, scale: float) -> Box:
    return Box(*(round(n * scale) for n in (box.left, box.top, box.width, box.height)))


def resized(image: Pixels, scale: float) -> Pixels:
    result: Pixels = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return result


# Finding


@pytest.mark.parametrize("scale", [0.25, 0.5, 1, 2, 5])
def test_the_face_is_found_at_any_size(
    photograph: Pixels, detector: FaceDetector, scale: float
) -> None:
    boxes = detector.detect(resized(photograph, scale))
    assert len(boxes) == 1
    assert overlap(boxes[0], scaled(ASTRONAUT_FACE, scale)) > 0.8


def test_the_face_is_found_in_gray(
    tmp_path: Path, photograph: Pixels, detector: FaceDetector
) -> None:
    Image.fromarray(photograph).convert("L").save(tmp_path / "gray.png")
    boxes = detector.detect(images.read_image(tmp_path / "gray.png"))
    assert [overlap(box, ASTRONAUT_FACE) > 0.8 for box in boxes] == [True]


def test_the_face_is_found_where_a_camera_was_turned(
    tmp_path: Path, photograph: Pixels, detector: FaceDetector
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photograph)))
    turned.save(tmp_path / "turned.jpg", exif=exif)
    boxes = detector.detect(images.read_image(tmp_path / "turned.jpg"))
    assert [overlap(box, ASTRONAUT_FACE) > 0.8 for box in boxes] == [True]


def test_several_faces_come_the_largest_first(photograph: Pixels, detector: FaceDetector) -> None:
    group = np.zeros((1100, 1600, 3), np.uint8)
    group[:256, :256] = resized(photograph, 0.5)
    group[50:1074, 500:1524] = resized(photograph, 2)
    group[400:784, :384] = resized(photograph, 0.75)
    boxes = detector.detect(group)
    assert len(boxes) == 3
    assert [round(box.width / 97, 1) for box in boxes] == pytest.approx([2, 0.75, 0.5], abs=0.1)
    assert detector.detect(group) == boxes


@pytest.mark.parametrize("size", [(1, 1), (5, 3000), (3000, 5), (300, 200), (2000, 3000)])
def test_no_face_where_there_is_none(detector: FaceDetector, size: tuple[int, int]) -> None:
    flat = np.full((*size, 3), 127, np.uint8)
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert detector.detect(flat) == []
    assert detector.detect(noise) == []


def test_boxes_lie_inside_the_image(photograph: Pixels, detector: FaceDetector) -> None:
    tight = photograph[60:170, 170:280]
    for image in (tight, resized(tight, 13.1)):
        for box in detector.detect(image):
            assert min(box.left, box.top) >= 0
            assert box.left + box.width <= image.shape[1]
            assert box.top + box.height <= image.shape[0]


def test_a_small_image_is_a_face_as_it_is(detector: FaceDetector) -> None:
    gray = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    (face,) = faces.find_faces(images.as_rgb(gray), detector)
    assert face.box == Box(0, 0, 48, 48)
    np.testing.assert_array_equal(face.crop, gray)


def test_auto_changes_after_the_stated_size(detector: FaceDetector) -> None:
    at = np.zeros((50, faces.WHOLE_FACE_MAX_SIDE, 3), np.uint8)
    above = np.zeros((50, faces.WHOLE_FACE_MAX_SIDE + 1, 3), np.uint8)
    assert len(faces.find_faces(at, detector)) == 1
    assert faces.find_faces(above, detector) == []
    assert faces.find_faces(at, detector, mode="detect") == []
    assert len(faces.find_faces(above, detector, mode="whole")) == 1


# Cropping


def test_the_crop_has_the_frame_around_the_box() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[48:152, 48:152] = 255  # the box of 100 pixels with 2 on each side
    assert (faces.crop_face(image, Box(50, 50, 100, 100), 48) == 255).all()
    assert not (faces.crop_face(image, Box(48, 48, 104, 104), 48) == 255).all()


def test_a_crop_beyond_the_border_repeats_the_border() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, :2] = 255
    crop = faces.crop_face(image, Box(0, 0, 50, 100), 104)
    assert crop.shape == (104, 104)
    assert (crop[:, :28] == 255).all()  # 27 columns of border, and the first two
    assert (crop[:, 30:] == 0).all()


def test_gray_is_the_luma_of_itu_r_601() -> None:
    image = np.zeros((10, 40, 3), np.uint8)
    for column, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)]):
        image[:, column * 10 : column * 10 + 10] = colour
    crops = [faces.fit_face(image[:, left : left + 10], 4) for left in (0, 10, 20, 30)]
    assert [int(crop[1, 1]) for crop in crops] == [76, 150, 29, 77]


def test_a_crop_shrinks_by_the_mean_and_grows_without_blocks() -> None:
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = faces.fit_face(stripes, 48)
    assert np.ptp(shrunk) <= 3  # the filter's support ends at the border
    assert 126 <= shrunk[0, 0] <= 129
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[np.newaxis], 8, axis=0)
    grown = faces.fit_face(images.as_rgb(ramp), 48)
    assert np.diff(grown[0].astype(int)).max() <= 2


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (1, 50_000), (39, 40)])
def test_a_whole_face_keeps_its_proportions(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    crop = faces.fit_face(image, 48)
    assert crop.shape == (48, 48)
    assert (crop == 9).all()


def test_a_narrow_face_stands_in_the_middle() -> None:
    image = np.zeros((48, 24, 3), np.uint8)
    image[:, 12:] = 200
    crop = faces.fit_face(image, 48)
    assert (crop[:, :24] == 0).all()
    assert (crop[:, 24:] == 200).all()


def test_importing_imports_no_tensorflow() -> None:
    code = "import sys, fer_tfdata.prediction; assert not {'tensorflow', 'keras'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)

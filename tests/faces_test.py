import io
import os
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageFile
from skimage import data

from fer_tfdata import faces
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box, FaceDetector, Pixels

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


# Reading


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.webp"])
def test_lossless_formats_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    read = faces.read_image(tmp_path / name)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.avif", "a.jp2"])
def test_other_formats_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (32, 16), (200, 40, 40)).save(tmp_path / name)
    read = faces.read_image(tmp_path / name)
    assert read.shape == (16, 32, 3)
    np.testing.assert_allclose(read.mean(axis=(0, 1)), (200, 40, 40), atol=6)


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(
        faces.read_image(tmp_path / "gray.png"), np.repeat(gray[..., np.newaxis], 3, axis=2)
    )


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff", "deep.pgm"])
def test_16_bits_become_8(tmp_path: Path, name: str) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    assert cv2.imwrite(str(tmp_path / name), gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(faces.read_image(tmp_path / name)[..., 1], gray)


def test_16_bits_a_colour_become_8(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(faces.read_image(tmp_path / "deep.png"), rgb)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    read = faces.read_image(tmp_path / "alpha.png")
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[3, 3].tolist() == [255, 255, 255]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert faces.read_image(tmp_path / "opaque.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert faces.read_image(tmp_path / "clear.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_bilevel_and_cmyk(tmp_path: Path) -> None:
    Image.new("1", (3, 2), 1).save(tmp_path / "bilevel.png")
    Image.new("CMYK", (3, 2), (0, 0, 0, 255)).save(tmp_path / "print.tiff")
    assert faces.read_image(tmp_path / "bilevel.png").tolist() == [[[255] * 3] * 3] * 2
    assert faces.read_image(tmp_path / "print.tiff").tolist() == [[[0] * 3] * 3] * 2


@pytest.mark.parametrize(
    ("orientation", "stored"),
    [
        (1, lambda shown: shown),
        (2, lambda shown: shown[:, ::-1]),
        (3, lambda shown: shown[::-1, ::-1]),
        (6, lambda shown: np.rot90(shown)),
        (8, lambda shown: np.rot90(shown, -1)),
    ],
)
def test_the_cameras_orientation_is_applied(tmp_path: Path, orientation, stored) -> None:  # type: ignore[no-untyped-def]
    shown = np.random.default_rng(0).integers(0, 256, (5, 8, 3), dtype=np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(stored(shown))).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(faces.read_image(tmp_path / "turned.png"), shown)


def test_of_an_animation_the_first_picture_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert faces.read_image(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


def jpeg_bytes() -> bytes:
    buffer = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that announces its size and pixels, and ends."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    length, checksum = struct.pack(">I", 13), struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + length + header + checksum + struct.pack(">I", 99) + b"IDAT"


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (b"", "an empty file"),
        (b"not an image\n", "a file of another kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "a file of another kind"),
        (jpeg_bytes()[:2000], "truncated"),
        (jpeg_bytes()[:100], "expected"),
        (png_header(9, 9), "expected a complete image"),
        (png_header(10_000, 10_000), "make it smaller"),
        (png_header(100_000, 100_000), "make it smaller"),
    ],
    ids=["empty", "text", "eps", "truncated", "cut-header", "no-pixels", "large", "bomb"],
)
def test_what_is_no_image_is_refused(tmp_path: Path, content: bytes, received: str) -> None:
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    with pytest.raises(InputError, match=received) as caught:
        faces.read_image(path)
    assert str(caught.value).startswith(f"{path}: expected ")


def test_any_cut_of_a_file_is_refused_or_read(tmp_path: Path) -> None:
    assert not ImageFile.LOAD_TRUNCATED_IMAGES
    buffer = io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGBA", (20, 20), (1, 2, 3, 4)).save(buffer, "PNG", exif=exif)
    for content in (buffer.getvalue(), jpeg_bytes()):
        for end in range(0, len(content), max(1, len(content) // 60)):
            (tmp_path / "cut").write_bytes(content[:end])
            try:
                faces.read_image(tmp_path / "cut")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"float\.tiff: expected pixels of 8 or 16 bits"):
        faces.read_image(tmp_path / "float.tiff")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, received in (
        (tmp_path, "not a file"),
        (tmp_path / "pipe.png", "not a file"),
        (tmp_path / "missing.png", "nothing there"),
    ):
        with pytest.raises(InputError, match=received):
            faces.read_image(path)


def test_pixels_in_memory() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for pixels in (gray, gray[..., np.newaxis], np.stack([gray] * 3, axis=2)):
        np.testing.assert_array_equal(faces.as_rgb(pixels), np.stack([gray] * 3, axis=2))
    for wrong in (gray.astype(np.float32), gray[0], np.zeros((2, 3, 4), np.uint8), gray[:0]):
        with pytest.raises(InputError, match="expected an image as uint8"):
            faces.as_rgb(wrong)


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
    boxes = detector.detect(faces.read_image(tmp_path / "gray.png"))
    assert [overlap(box, ASTRONAUT_FACE) > 0.8 for box in boxes] == [True]


def test_the_face_is_found_where_a_camera_was_turned(
    tmp_path: Path, photograph: Pixels, detector: FaceDetector
) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned = Image.fromarray(np.ascontiguousarray(np.rot90(photograph)))
    turned.save(tmp_path / "turned.jpg", exif=exif)
    boxes = detector.detect(faces.read_image(tmp_path / "turned.jpg"))
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
    (face,) = faces.find_faces(faces.as_rgb(gray), detector)
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
    assert np.ptp(shrunk) == 0
    assert 126 <= shrunk[0, 0] <= 129
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[np.newaxis], 8, axis=0)
    grown = faces.fit_face(faces.as_rgb(ramp), 48)
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

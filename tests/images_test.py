import io
import os
import struct
import subprocess
import sys
import threading
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageFile
from skimage import data

from fer_tfdata import demo_faces, images
from fer_tfdata.errors import InputError
from fer_tfdata.images import Pixels


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.ppm", "a.webp"])
def test_lossless_formats_come_back_as_they_were(tmp_path: Path, name: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / name, lossless=True)
    read = images.read_image(tmp_path / name)
    assert read.dtype == np.uint8
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("name", ["a.jpg", "a.gif", "a.avif", "a.jp2"])
def test_other_formats_are_read(tmp_path: Path, name: str) -> None:
    Image.new("RGB", (32, 16), (200, 40, 40)).save(tmp_path / name)
    read = images.read_image(tmp_path / name)
    assert read.shape == (16, 32, 3)
    np.testing.assert_allclose(read.mean(axis=(0, 1)), (200, 40, 40), atol=6)


def test_gray_becomes_three_equal_channels(tmp_path: Path) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    Image.fromarray(gray).save(tmp_path / "gray.png")
    np.testing.assert_array_equal(
        images.read_image(tmp_path / "gray.png"), np.repeat(gray[..., np.newaxis], 3, axis=2)
    )


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff", "deep.pgm"])
def test_16_bits_become_8(tmp_path: Path, name: str) -> None:
    gray = np.arange(256, dtype=np.uint8).reshape(16, 16)
    uncompressed = (cv2.IMWRITE_TIFF_COMPRESSION, cv2.IMWRITE_TIFF_COMPRESSION_NONE)
    assert cv2.imwrite(str(tmp_path / name), gray.astype(np.uint16) * 257, uncompressed)
    np.testing.assert_array_equal(images.read_image(tmp_path / name)[..., 1], gray)


def test_16_bits_a_colour_become_8(tmp_path: Path) -> None:
    rgb = np.random.default_rng(0).integers(0, 256, (8, 9, 3), dtype=np.uint8)
    assert cv2.imwrite(str(tmp_path / "deep.png"), rgb[..., ::-1].astype(np.uint16) * 257)
    np.testing.assert_array_equal(images.read_image(tmp_path / "deep.png"), rgb)


def test_transparency_becomes_white(tmp_path: Path) -> None:
    rgba = np.zeros((4, 4, 4), np.uint8)
    rgba[0, 0] = (10, 20, 30, 255)
    Image.fromarray(rgba).save(tmp_path / "alpha.png")
    read = images.read_image(tmp_path / "alpha.png")
    assert read[0, 0].tolist() == [10, 20, 30]
    assert read[3, 3].tolist() == [255, 255, 255]


def test_palette_with_and_without_transparency(tmp_path: Path) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([255, 0, 0, 0, 0, 255])
    image.putpixel((1, 0), 1)
    image.save(tmp_path / "opaque.png")
    image.save(tmp_path / "clear.png", transparency=1)
    assert images.read_image(tmp_path / "opaque.png").tolist() == [[[255, 0, 0], [0, 0, 255]]]
    assert images.read_image(tmp_path / "clear.png").tolist() == [[[255, 0, 0], [255, 255, 255]]]


def test_bilevel_and_cmyk(tmp_path: Path) -> None:
    Image.new("1", (3, 2), 1).save(tmp_path / "bilevel.png")
    Image.new("CMYK", (3, 2), (0, 0, 0, 255)).save(tmp_path / "print.tiff")
    assert images.read_image(tmp_path / "bilevel.png").tolist() == [[[255] * 3] * 3] * 2
    assert images.read_image(tmp_path / "print.tiff").tolist() == [[[0] * 3] * 3] * 2


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
    np.testing.assert_array_equal(images.read_image(tmp_path / "turned.png"), shown)


def test_of_an_animation_the_first_picture_is_read(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    assert images.read_image(tmp_path / "moving.gif")[0, 0].tolist() == [255, 0, 0]


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
        images.read_image(path)
    assert str(caught.value).startswith(f"{path}: expected ")
    with pytest.raises(InputError, match=received) as of_content:
        images.decode_image(content, name=str(path))
    assert str(of_content.value) == str(caught.value)


def test_an_image_in_memory_is_read_as_its_file(tmp_path: Path) -> None:
    content = jpeg_bytes()
    (tmp_path / "picture.jpg").write_bytes(content)
    expected = images.read_image(tmp_path / "picture.jpg")
    np.testing.assert_array_equal(images.decode_image(content), expected)


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
                images.read_image(tmp_path / "cut")
            except InputError as error:
                assert "\n" not in str(error)  # noqa: PT017


def test_floating_point_pixels_are_refused(tmp_path: Path) -> None:
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"float\.tiff: expected pixels of 8 or 16 bits"):
        images.read_image(tmp_path / "float.tiff")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    for path, received in (
        (tmp_path, "not a file"),
        (tmp_path / "pipe.png", "not a file"),
        (tmp_path / "missing.png", "nothing there"),
    ):
        with pytest.raises(InputError, match=received):
            images.read_image(path)


def test_pixels_in_memory() -> None:
    gray = np.arange(6, dtype=np.uint8).reshape(2, 3)
    for pixels in (gray, gray[..., np.newaxis], np.stack([gray] * 3, axis=2)):
        np.testing.assert_array_equal(images.as_rgb(pixels), np.stack([gray] * 3, axis=2))
    for wrong in (gray.astype(np.float32), gray[0], np.zeros((2, 3, 4), np.uint8), gray[:0]):
        with pytest.raises(InputError, match="expected an image as uint8"):
            images.as_rgb(wrong)


# Squares


@pytest.mark.parametrize("name", ["face.png", "face.bmp", "face.pgm", "face.tiff"])
def test_a_gray_image_of_the_size_keeps_its_bytes(tmp_path: Path, name: str) -> None:
    face = demo_faces.draw_face(3, seed=0)
    Image.fromarray(face).save(tmp_path / name)
    square = images.read_square(tmp_path / name, 48, channels=1)
    assert square.dtype == np.uint8
    np.testing.assert_array_equal(square, face[..., np.newaxis])
    rgb = images.read_square(tmp_path / name, 48, channels=3)
    np.testing.assert_array_equal(rgb, np.repeat(face[..., np.newaxis], 3, axis=2))


def test_a_gray_jpeg_of_the_size_is_as_pillow_decodes_it(tmp_path: Path) -> None:
    Image.fromarray(demo_faces.draw_face(3, seed=0)).save(tmp_path / "face.jpg")
    with Image.open(tmp_path / "face.jpg") as image:
        decoded = np.array(image)
    square = images.read_square(tmp_path / "face.jpg", 48, channels=1)
    np.testing.assert_array_equal(square[..., 0], decoded)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "CMYK", "LA"])
def test_gray_is_the_luma_of_what_is_shown(tmp_path: Path, mode: str) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 4), dtype=np.uint8)
    pixels[..., 3] = np.where(pixels[..., 3] < 128, 0, 255)
    Image.fromarray(pixels).convert(mode).save(tmp_path / "a.tiff")
    red, green, blue = np.moveaxis(images.read_image(tmp_path / "a.tiff").astype(float), 2, 0)
    gray = images.read_square(tmp_path / "a.tiff", 16, channels=1)[..., 0]
    np.testing.assert_allclose(gray, 0.299 * red + 0.587 * green + 0.114 * blue, atol=0.51)


def test_transparency_and_16_bits_in_gray(tmp_path: Path) -> None:
    levels = np.arange(256, dtype=np.uint8).reshape(16, 16)
    opaque = np.where(levels % 2, 255, 0).astype(np.uint8)
    Image.fromarray(np.stack([levels, opaque], axis=2), "LA").save(tmp_path / "alpha.png")
    shown = np.where(opaque, levels, 255)
    read = images.read_square(tmp_path / "alpha.png", 16, channels=1)
    np.testing.assert_array_equal(read[..., 0], shown)
    assert cv2.imwrite(str(tmp_path / "deep.png"), levels.astype(np.uint16) * 257)
    read = images.read_square(tmp_path / "deep.png", 16, channels=1)
    np.testing.assert_array_equal(read[..., 0], levels)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [(96, 96), (40, 20), (30, 97), (1, 5000), (5000, 1), (47, 48)])
def test_a_square_holds_all_of_the_image_and_repeats_its_border(
    shape: tuple[int, int], channels: int
) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (*shape, channels), dtype=np.uint8)
    square = images.fit(pixels, 48)
    height, width = (max(1, round(side * 48 / max(shape))) for side in shape)
    top, left = (48 - height) // 2, (48 - width) // 2
    assert square.shape == (48, 48, channels)
    resized = square[top : top + height, left : left + width]
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    expected = np.array(image.resize((width, height), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(resized, expected.reshape(resized.shape))
    for rows, border in ((square[:top], resized[0]), (square[top + height :], resized[-1])):
        np.testing.assert_array_equal(
            rows[:, left : left + width], np.broadcast_to(border, (len(rows), *border.shape))
        )


def test_an_image_of_the_size_is_returned_as_it_is() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    assert images.fit(pixels, 32) is pixels


def test_a_square_does_not_alias() -> None:
    stripes = np.zeros((480, 480, 1), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(images.fit(stripes, 48)[:, 1:-1]) <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_a_large_jpeg_shrinks_as_all_of_its_pixels_would(tmp_path: Path, channels: int) -> None:
    Image.fromarray(data.astronaut()).save(tmp_path / "large.jpg", quality=90)
    all_pixels = images.read_image(tmp_path / "large.jpg")
    if channels == 1:
        all_pixels = np.array(Image.fromarray(all_pixels).convert("L"))[..., np.newaxis]
    square = images.read_square(tmp_path / "large.jpg", 48, channels=channels)
    assert square.shape == (48, 48, channels)
    difference = square.astype(float) - images.fit(all_pixels, 48)
    assert np.sqrt((difference**2).mean()) < 1


@pytest.mark.parametrize("name", ["turned.png", "turned.jpg"])
def test_a_square_is_upright(tmp_path: Path, name: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    shown = np.zeros((300, 600, 3), np.uint8)
    shown[:, :300] = 250
    Image.fromarray(np.ascontiguousarray(np.rot90(shown))).save(tmp_path / name, exif=exif)
    square = images.read_square(tmp_path / name, 48, channels=1)[..., 0]
    assert (square[:, :23] > 240).all()  # the border above and below repeats what stands there
    assert (square[:, 25:] < 10).all()


def test_a_square_of_what_is_no_image_is_refused_with_its_path(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(png_header(10_000, 10_000))
    (tmp_path / "b.png").write_bytes(b"text")
    for name, received in (("a.png", "make it smaller"), ("b.png", "a file of another kind")):
        with pytest.raises(InputError, match=received) as caught:
            images.read_square(tmp_path / name, 48, channels=1)
        assert str(caught.value).startswith(f"{tmp_path / name}: expected ")


# Robustness


def written(format_name: str, pixels: npt.NDArray[np.uint8], **options: object) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format_name, **options)
    return buffer.getvalue()


def real_files() -> list[bytes]:
    gray, colour = demo_faces.draw_face(1, seed=0), data.astronaut()[60:120, 180:250]
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a face"
    return [
        written("PNG", gray),
        written("PNG", colour, exif=exif),
        written("JPEG", gray),
        written("JPEG", colour, exif=exif, progressive=True),
        written("GIF", gray),
        written("TIFF", gray, compression="tiff_lzw"),
        written("TIFF", colour),
        written("BMP", gray),
        written("WEBP", colour),
        written("JPEG2000", colour),
        written("AVIF", colour),
    ]


def read_or_refuse(path: Path) -> None:
    """Reads in all three ways; raises anything but an InputError of one line."""
    readings: list[Callable[[], Pixels]] = [
        lambda: images.read_image(path),
        lambda: images.read_square(path, 48, channels=1),
        lambda: images.read_square(path, 48, channels=3),
    ]
    for reading, channels in zip(readings, (3, 1, 3), strict=True):
        try:
            pixels = reading()
        except InputError as error:
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert pixels.dtype == np.uint8
            assert pixels.size
            assert pixels.shape[2] == channels


quick = settings(
    max_examples=100,
    deadline=2000,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@quick
@given(st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "any").write_bytes(content)
    read_or_refuse(tmp_path / "any")


@quick
@given(
    st.sampled_from(real_files()),
    st.lists(st.tuples(st.integers(0, 1 << 16), st.binary(max_size=4)), max_size=6),
)
def test_any_change_of_a_file_is_read_or_refused(
    tmp_path: Path, content: bytes, changes: list[tuple[int, bytes]]
) -> None:
    damaged = bytearray(content)
    for place, replacement in changes:
        start = place % len(damaged)
        damaged[start : start + max(1, len(replacement))] = replacement
    (tmp_path / "damaged").write_bytes(damaged)
    read_or_refuse(tmp_path / "damaged")


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", "jpeg", "packbits"])
def test_a_compressed_tiff_is_refused(tmp_path: Path, compression: str) -> None:
    (tmp_path / "a.tif").write_bytes(written("TIFF", data.astronaut(), compression=compression))
    with pytest.raises(InputError, match=r"a\.tif: expected an uncompressed TIFF.* save it as PNG"):
        images.read_image(tmp_path / "a.tif")


def test_damaged_files_print_and_log_nothing(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    """Not even from C, whose libraries write to the process's stderr themselves."""
    colour = data.astronaut()[60:120, 180:250]
    files = [*real_files(), written("TIFF", colour, compression="tiff_lzw")]
    files.append(written("TIFF", colour, compression="jpeg"))
    many_samples = bytearray(written("TIFF", colour))
    samples = many_samples.index(struct.pack("<HHI", 277, 3, 1))  # SamplesPerPixel
    many_samples[samples + 8 : samples + 10] = struct.pack("<H", 64_003)
    files.append(bytes(many_samples))
    rng = np.random.default_rng(0)
    for content in files:
        (tmp_path / "file").write_bytes(content)
        read_or_refuse(tmp_path / "file")
        for _ in range(12):
            damaged = np.frombuffer(content, np.uint8).copy()
            places = rng.integers(8, len(damaged), 6)
            damaged[places] ^= rng.integers(1, 256, 6).astype(np.uint8)
            (tmp_path / "file").write_bytes(damaged.tobytes())
            read_or_refuse(tmp_path / "file")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []


def test_reading_in_threads_shows_no_warning_and_leaves_the_filters(tmp_path: Path) -> None:
    (tmp_path / "large.png").write_bytes(png_header(10_000, 10_000))
    with pytest.warns(Image.DecompressionBombWarning):
        Image.open(tmp_path / "large.png").close()
    filters = list(warnings.filters)

    def read() -> None:
        for _ in range(50):
            read_or_refuse(tmp_path / "large.png")

    with warnings.catch_warnings(record=True) as shown:
        threads = [threading.Thread(target=read) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not shown
    assert list(warnings.filters) == filters


def test_importing_imports_no_tensorflow() -> None:
    code = "import sys, fer_tfdata.images; assert not {'tensorflow', 'keras'} & {*sys.modules}"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_name_that_no_file_can_have_is_an_error_of_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="expected a file to read, received: File name too long"):
        images.read_image(tmp_path / ("a" * 300))

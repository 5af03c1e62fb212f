"""Reads image files the way a viewer shows them, into uint8 pixels.

Importing this imports no TensorFlow.
"""

import contextlib
import io
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from fer_tfdata.errors import InputError

Pixels = npt.NDArray[np.uint8]

# Raster formats alone: Pillow would hand an EPS to Ghostscript, whatever the file's name says.
IMAGE_FORMATS: Final = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
IMAGE_SUFFIXES: Final = frozenset(
    {".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff"}
    | {".webp"}
)

# Pillow's default limit against decompression bombs: 256 MiB of RGB.
MAX_PIXELS: Final = (1 << 30) // 4 // 3

# A JPEG's decoder shrinks by 2, 4 or 8 for little, as long as this many times the wanted side is
# left.  Measured, to a side of 48: 2 to 15 times as fast for sides from 640 to 4,000 pixels, and
# on four photographs 0.4 to 1.9 grey levels (root mean square) from shrinking all of the picture;
# Lanczos's filter in place of the bicubic one is 1.2 to 2.3 away from it.
_DRAFT_SIDES: Final = 3


def read_image(path: str | os.PathLike[str]) -> Pixels:
    """Reads an image file the way a viewer shows it, as RGB uint8 `[height, width, 3]`.

    The camera's orientation (EXIF) is applied, transparency becomes white, 16 bits become 8, and
    of an animation the first picture is taken.

    Raises:
      InputError: if the file is no image, is damaged or cut short, is a compressed TIFF, or has
        more than `MAX_PIXELS` pixels.
    """
    with _opened(Path(path)) as image:
        return _rgb(ImageOps.exif_transpose(image))


def decode_image(content: bytes, *, name: str = "image") -> Pixels:
    """Reads an image that is in memory as `read_image` reads a file.

    Args:
      content: what the file would hold.
      name: what errors call it.

    Raises:
      InputError: as `read_image`.
    """
    with _decoded(io.BytesIO(content), name) as image:
        return _rgb(ImageOps.exif_transpose(image))


def read_square(path: str | os.PathLike[str], size: int, *, channels: int) -> Pixels:
    """Reads an image file as `read_image` does, and fits it into a square as `fit` does.

    A gray image read as gray keeps its pixels' values; a colour image becomes gray by ITU-R 601
    luma.  Of a JPEG much larger than the square no more is decoded than counts.

    Args:
      path: the file.
      size: the square's side.
      channels: 1 for gray, 3 for RGB.

    Returns:
      uint8 `[size, size, channels]`.

    Raises:
      InputError: as `read_image`.
    """
    with _opened(Path(path)) as image:
        width, height = _fitted_size(image.size, size)
        draft_size = (width * _DRAFT_SIDES, height * _DRAFT_SIDES)
        image.draft("L" if channels == 1 else "RGB", draft_size)
        shown = ImageOps.exif_transpose(image)
        return fit(_gray(shown) if channels == 1 else _rgb(shown), size)


def fit(pixels: Pixels, size: int) -> Pixels:
    """Fits an image into a square: all of it, its proportions kept, in the middle.

    The shorter side is filled by repeating the border: a black one would be an edge that no face
    has.  It is resized by Pillow's bicubic filter, which takes the mean over what becomes one
    pixel and so does not alias.  An image that has the size already is returned as it is.

    Args:
      pixels: uint8 `[height, width, channels]`, one or three channels.
      size: the square's side.

    Returns:
      uint8 `[size, size, channels]`.
    """
    if pixels.shape[:2] == (size, size):
        return pixels
    height, width, channels = pixels.shape
    image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
    fitted_size = _fitted_size((width, height), size)
    resized = np.array(image.resize(fitted_size, Image.Resampling.BICUBIC), dtype=np.uint8)
    missing = (size - fitted_size[1], size - fitted_size[0])
    borders = [*((n // 2, n - n // 2) for n in missing), (0, 0)]
    return np.pad(resized.reshape(*fitted_size[::-1], channels), borders, mode="edge")


def as_rgb(pixels: npt.NDArray[np.generic]) -> Pixels:
    """Returns an image in memory as RGB uint8 `[height, width, 3]`.

    Args:
      pixels: uint8, gray `[height, width]` or `[height, width, 1]`, or RGB `[height, width, 3]`.

    Raises:
      InputError: if it is something else, or empty.
    """
    shape = pixels.shape
    gray = len(shape) == 2 or (len(shape) == 3 and shape[2] == 1)
    colour = len(shape) == 3 and shape[2] == 3
    if pixels.dtype != np.uint8 or not (gray or colour) or not pixels.size:
        raise InputError(
            "expected an image as uint8 [height, width], [height, width, 1] or"
            f" [height, width, 3], received {pixels.dtype} {list(shape)}"
        )
    image: Pixels = pixels.astype(np.uint8, copy=False)
    if colour:
        return image
    return np.repeat(image.reshape(*shape[:2], 1), 3, axis=2)


class _Silence:
    """Keeps what Pillow warns of and logs, damaged metadata and the like, from showing.

    What matters of it is in the error.  `warnings.catch_warnings` changes the filters of the whole
    process, so threads that enter and leave it by turns would restore each other's.  Here the first
    in changes them, and the last out restores them; the same with the level of Pillow's logger.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._filters = warnings.catch_warnings()
        self._logger = logging.getLogger("PIL")
        self._level = self._logger.level

    def __enter__(self) -> None:
        with self._lock:
            if not self._num_inside:
                self._filters = warnings.catch_warnings()
                self._filters.__enter__()
                warnings.simplefilter("ignore")
                self._level = self._logger.level
                self._logger.setLevel(logging.CRITICAL + 1)
            self._num_inside += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if not self._num_inside:
                self._filters.__exit__(None, None, None)
                self._logger.setLevel(self._level)


_silence: Final = _Silence()


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """Gives a file's image, as `_decoded` does."""
    try:
        if not path.is_file():
            received = "something that is not a file" if path.exists() else "nothing there"
            raise InputError(f"{path}: expected an image file, received {received}")
        file = path.open("rb")
    except OSError as error:
        raise InputError(f"{path}: expected a file to read, received: {error.strerror}") from error
    with file, _decoded(file, str(path)) as image:
        yield image


@contextlib.contextmanager
def _decoded(file: BinaryIO, name: str) -> Iterator[Image.Image]:
    """Gives an image that is not decoded yet; what goes wrong inside becomes an `InputError`."""
    try:
        with _silence, Image.open(file, formats=IMAGE_FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            if any(tile[0] == "libtiff" for tile in image.tile):
                # libtiff prints what it finds wrong, to the process's stderr.
                raise InputError(
                    "expected an uncompressed TIFF, received a compressed one; save it as PNG"
                )
            yield image
    except UnidentifiedImageError as error:
        expected = f"an image ({', '.join(IMAGE_FORMATS)})"
        received = (
            "a file of another kind, or a damaged one"
            if file.seek(0, io.SEEK_END)
            else "an empty file"
        )
        raise InputError(f"{name}: expected {expected}, received {received}") from error
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{name}: expected an image of at most {MAX_PIXELS} pixels, received a larger one;"
            " make it smaller"
        ) from error
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
    except Exception as error:  # a damaged file makes a decoder raise nearly anything
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{name}: expected a complete image, received: {reason}") from error


def _rgb(image: Image.Image) -> Pixels:
    """Returns uint8 `[height, width, 3]`."""
    if _is_deep(image):
        return as_rgb(_eight_bits(np.asarray(image)))
    return np.array(_on_white(image).convert("RGB"), dtype=np.uint8)


def _gray(image: Image.Image) -> Pixels:
    """Returns uint8 `[height, width, 1]`."""
    if _is_deep(image):
        return _eight_bits(np.asarray(image))[..., np.newaxis]
    shown = _on_white(image)
    if shown.mode not in _GRAY_MODES:
        shown = shown.convert("RGB")  # Pillow makes no gray of some colour spaces, LAB for one
    return np.array(shown.convert("L"), dtype=np.uint8)[..., np.newaxis]


_GRAY_MODES: Final = ("1", "L", "LA")


def _is_deep(image: Image.Image) -> bool:
    return image.mode.startswith(("I", "F"))


def _on_white(image: Image.Image) -> Image.Image:
    """Makes transparent pixels white; their own colour is arbitrary, and invisible to who drew."""
    if not image.has_transparency_data:
        return image
    shown = image.convert("LA" if image.mode in _GRAY_MODES else "RGBA")
    return Image.alpha_composite(Image.new(shown.mode, shown.size, "white"), shown)


def _eight_bits(values: npt.NDArray[np.generic]) -> Pixels:
    integers = np.issubdtype(values.dtype, np.integer)
    if not integers or values.min() < 0 or values.max() > 0xFFFF:
        raise InputError(
            "expected pixels of 8 or 16 bits,"
            f" received {values.dtype} from {values.min()} to {values.max()}"
        )
    high_bytes: Pixels = (values.astype(np.uint16) >> 8).astype(np.uint8)
    return high_bytes


def _fitted_size(image_size: tuple[int, int], size: int) -> tuple[int, int]:
    """Returns the width and height of an image enlarged or shrunk so that its longer side fits."""
    scale = size / max(image_size)
    width, height = (max(1, round(side * scale)) for side in image_size)
    return width, height

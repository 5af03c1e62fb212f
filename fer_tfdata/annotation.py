"""Draws into pictures what a model says of the faces in them."""

import functools
from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fer_tfdata.faces import Box
from fer_tfdata.images import Pixels
from fer_tfdata.results import FacePrediction

_ACCENT: Final = (255, 176, 0)
_BACKGROUND: Final = (16, 16, 16, 200)
_TEXT: Final = (255, 255, 255)
_FAINT: Final = (96, 96, 96)
# Text cannot be read in a smaller picture.
_MIN_ANNOTATED_SIDE: Final = 384


def annotate(image: Pixels, predictions: Iterable[FacePrediction]) -> Pixels:
    """Returns a copy with a box around every face, its expression, and bars where there is room.

    A small image is enlarged so that the text can be read.

    Args:
      image: RGB uint8 `[height, width, 3]`.
      predictions: the image's faces.

    Returns:
      RGB uint8, of the image's size times a whole number.
    """
    height, width = image.shape[:2]
    zoom = max(1, -(-_MIN_ANNOTATED_SIDE // max(height, width)))
    canvas = image.copy()
    if zoom > 1:
        larger = (width * zoom, height * zoom)
        canvas = np.array(Image.fromarray(image).resize(larger, Image.Resampling.BICUBIC))
    size = (width * zoom, height * zoom)
    drawn = [(prediction, _corners(prediction.box, zoom)) for prediction in predictions]
    taken = [corners for _, corners in drawn]
    for prediction, corners in drawn:
        _draw_face(canvas, corners, prediction)
        panel = _panel_corners(size, corners, taken, len(prediction.probabilities))
        if panel is not None:
            _draw_bars(canvas, panel, prediction)
            taken.append(panel)
    return canvas


_Corners = tuple[int, int, int, int]  # left, top, and the first column and row beyond


def _corners(box: Box, zoom: int) -> _Corners:
    right, bottom = (box.left + box.width) * zoom, (box.top + box.height) * zoom
    return box.left * zoom, box.top * zoom, right, bottom


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # which reads it anew each time


def _unit(size: tuple[int, int], corners: _Corners) -> int:
    """The height of the text for a face, by the face's size and within the picture's bounds."""
    least, most = max(11, max(size) // 90), max(16, max(size) // 32)
    return min(max((corners[2] - corners[0]) // 8, least), most)


def _draw_face(canvas: Pixels, corners: _Corners, prediction: FacePrediction) -> None:
    size = (canvas.shape[1], canvas.shape[0])
    unit = _unit(size, corners)
    _draw_frame(canvas[corners[1] : corners[3], corners[0] : corners[2]], max(2, unit // 7))
    text = f"{prediction.expression} {prediction.probabilities[prediction.expression]:.0%}"
    label = _label(text, unit)
    height, width = label.shape[:2]
    # Above the box; inside where the picture ends there, and never beyond its right border.
    left = max(0, min(corners[0], size[0] - width))
    top = corners[1] - height if corners[1] >= height else corners[1]
    place = canvas[top : top + height, left : left + width]
    place[:] = label[: place.shape[0], : place.shape[1]]


def _draw_frame(inside: Pixels, thickness: int) -> None:
    for border in (inside[:thickness], inside[-thickness:]):
        border[:] = _ACCENT
    for border in (inside[:, :thickness], inside[:, -thickness:]):
        border[:] = _ACCENT


@functools.lru_cache(maxsize=512)
def _label(text: str, unit: int) -> Pixels:
    font = _font(unit)
    width, height = round(font.getlength(text)) + unit, round(unit * 1.5)
    picture = Image.new("RGB", (width, height), _ACCENT)
    ImageDraw.Draw(picture).text((unit / 2, height / 2), text, (0, 0, 0), font, anchor="lm")
    return np.array(picture)


def _panel_corners(
    size: tuple[int, int], corners: _Corners, taken: Iterable[_Corners], num_bars: int
) -> _Corners | None:
    """Returns where the bars of a face have room beside it and cover nothing, right or left."""
    unit = _unit(size, corners)
    width, height, gap = unit * 10, round(unit * 1.25) * num_bars + unit, unit // 2
    top = max(0, min(corners[1], size[1] - height))
    for left in (corners[2] + gap, corners[0] - gap - width):
        panel = (left, top, left + width, top + height)
        inside = left >= 0 and panel[2] <= size[0] and panel[3] <= size[1]
        if inside and not any(_overlap(panel, other) for other in taken):
            return panel
    return None


def _overlap(a: _Corners, b: _Corners) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _draw_bars(canvas: Pixels, panel: _Corners, prediction: FacePrediction) -> None:
    left, top, right, bottom = panel
    width, height = right - left, bottom - top
    place = canvas[top:bottom, left:right]
    names, transparency = _names(tuple(prediction.probabilities), width, height)
    place[:] = (place * transparency + names).astype(np.uint8)
    pitch, first, last = _bars(len(prediction.probabilities), width, height)
    for row, (expression, probability) in enumerate(prediction.probabilities.items()):
        middle = pitch * (row + 0.9)
        bar = slice(round(middle - pitch * 0.22), round(middle + pitch * 0.22) + 1)
        place[bar, first:last] = _FAINT
        colour = _ACCENT if expression == prediction.expression else _TEXT
        place[bar, first : first + round((last - first) * probability)] = colour


def _bars(number: int, width: int, height: int) -> tuple[float, int, int]:
    """Returns the height of a row of a panel, and the columns at which bars begin and end."""
    pitch = height / (number + 0.8)
    return pitch, round(width * 0.46), round(width - pitch * 0.4)


@functools.lru_cache(maxsize=64)
def _names(
    expressions: tuple[str, ...], width: int, height: int
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Returns a panel without bars, and what share of the picture below it is to be added."""
    pitch, _, _ = _bars(len(expressions), width, height)
    font = _font(pitch * 0.75)
    picture = Image.new("RGBA", (width, height), _BACKGROUND)
    draw = ImageDraw.Draw(picture)
    for row, expression in enumerate(expressions):
        place = (pitch * 0.4, pitch * (row + 0.9))
        draw.text(place, expression, (*_TEXT, 255), font, anchor="lm")
    pixels = np.array(picture, dtype=np.float32)
    opacity = pixels[..., 3:] / np.float32(255)
    return pixels[..., :3] * opacity, np.float32(1) - opacity

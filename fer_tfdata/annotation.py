"""Draws into pictures what a model says of the faces in them."""

import functools
from collections.abc import Iterable
from typing import Final

import numpy as np
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
    canvas = Image.fromarray(image)
    if zoom > 1:
        canvas = canvas.resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(canvas, "RGBA")
    drawn = [(prediction, _corners(prediction.box, zoom)) for prediction in predictions]
    taken = [corners for _, corners in drawn]
    for prediction, corners in drawn:
        _draw_face(draw, canvas.size, corners, prediction)
        panel = _panel_corners(canvas.size, corners, taken, len(prediction.probabilities))
        if panel is not None:
            _draw_bars(draw, panel, prediction)
            taken.append(panel)
    return np.array(canvas, dtype=np.uint8)


_Corners = tuple[int, int, int, int]  # left, top, right, bottom


def _corners(box: Box, zoom: int) -> _Corners:
    right, bottom = (box.left + box.width) * zoom - 1, (box.top + box.height) * zoom - 1
    return box.left * zoom, box.top * zoom, right, bottom


@functools.lru_cache(maxsize=64)
def _font(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)  # which reads it anew each time


def _unit(size: tuple[int, int], corners: _Corners) -> int:
    """The height of the text for a face, by the face's size and within the picture's bounds."""
    least, most = max(11, max(size) // 90), max(16, max(size) // 32)
    return min(max((corners[2] - corners[0]) // 8, least), most)


def _draw_face(
    draw: ImageDraw.ImageDraw,
    size: tuple[int, int],
    corners: _Corners,
    prediction: FacePrediction,
) -> None:
    unit = _unit(size, corners)
    left, top, _, _ = corners
    draw.rectangle(corners, outline=_ACCENT, width=max(2, unit // 7))
    font = _font(unit)
    text = f"{prediction.expression} {prediction.probabilities[prediction.expression]:.0%}"
    width, height = round(draw.textlength(text, font)) + unit, round(unit * 1.5)
    # Above the box; inside where the picture ends there, and never beyond its right border.
    left = max(0, min(left, size[0] - width))
    top = top - height if top >= height else top
    draw.rectangle((left, top, left + width, top + height), fill=_ACCENT)
    draw.text((left + unit / 2, top + height / 2), text, fill=(0, 0, 0), font=font, anchor="lm")


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


def _draw_bars(draw: ImageDraw.ImageDraw, panel: _Corners, prediction: FacePrediction) -> None:
    left, top, right, bottom = panel
    pitch = (bottom - top) / (len(prediction.probabilities) + 0.8)
    pad = pitch * 0.4
    font = _font(pitch * 0.75)
    draw.rectangle(panel, fill=_BACKGROUND)
    first, last = left + (right - left) * 0.46, right - pad
    for row, (expression, probability) in enumerate(prediction.probabilities.items()):
        middle = top + pad + pitch * (row + 0.5)
        draw.text((left + pad, middle), expression, fill=_TEXT, font=font, anchor="lm")
        bar_top, bar_bottom = middle - pitch * 0.22, middle + pitch * 0.22
        draw.rectangle((first, bar_top, last, bar_bottom), fill=_FAINT)
        end = first + (last - first) * probability
        colour = _ACCENT if expression == prediction.expression else _TEXT
        draw.rectangle((first, bar_top, end, bar_bottom), fill=colour)

"""The probabilities of the expressions for every face in an image.

Importing this imports no TensorFlow; loading a model does.
"""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from fer_tfdata import faces, images, named_models
from fer_tfdata.classifier import Classifier
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box, Face, FacesMode
from fer_tfdata.images import Pixels

# Large enough that a call's overhead does not count, small enough for any memory.
BATCH_SIZE: Final = 64


@dataclasses.dataclass(frozen=True)
class FacePrediction:
    """What the model says of one face.

    Attributes:
      box: where the face stands in its image.
      probabilities: by expression, in the order of the model's; they sum to one.
    """

    box: Box
    probabilities: Mapping[str, float]

    @property
    def expression(self) -> str:
        """The most probable expression."""
        return max(self.probabilities, key=self.probabilities.__getitem__)


@dataclasses.dataclass(frozen=True)
class ImagePrediction:
    """What came of one image file: its faces, the largest first, or why it could not be read."""

    path: Path
    faces: Sequence[FacePrediction] = ()
    error: str | None = None


class Predictor:
    """Applies a model to faces, images and image files."""

    def __init__(self, classifier: Classifier, *, mode: FacesMode = "auto") -> None:
        """Takes a classifier, such as `KerasClassifier(model)`, and how faces are found.

        Args:
          classifier: of face crops.
          mode: see `faces.find_faces`.
        """
        self._classifier = classifier
        self._mode: FacesMode = mode
        self._detector = faces.FaceDetector()

    @classmethod
    def from_pretrained(cls, *, mode: FacesMode = "auto") -> Self:
        """Loads the model that ships with the package; `docs/model_card.md` tells of it.

        Raises:
          InputError: its files are missing or damaged.
        """
        return cls.from_name(named_models.PRETRAINED, mode=mode)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], *, mode: FacesMode = "auto") -> Self:
        """Loads the model of a run directory or a `.keras` file.

        Raises:
          InputError: if there is none, or it is no model of expressions.
        """
        return cls.from_name(os.fspath(path), mode=mode)

    @classmethod
    def from_name(cls, name: str, *, mode: FacesMode = "auto") -> Self:
        """Loads the model that a program's --model names; see `named_models.load`.

        Raises:
          InputError: if there is none, or it is no model of expressions.
        """
        return cls(named_models.load(name), mode=mode)

    @property
    def expressions(self) -> tuple[str, ...]:
        """The expressions that the model knows, in the order of its probabilities."""
        return self._classifier.expressions

    def predict_faces(self, crops: Pixels) -> npt.NDArray[np.float32]:
        """Returns the probabilities of the expressions for face crops.

        Args:
          crops: uint8 `[N, side, side, channels]`, as the model takes them.

        Returns:
          float32 `[N, 7 or 8]` in the order of `expressions`; every row sums to one.

        Raises:
          InputError: if the crops have another shape or type, or if the model returns anything
            but finite logits.
        """
        starts = range(0, max(len(crops), 1), BATCH_SIZE)
        batches = [crops[start : start + BATCH_SIZE] for start in starts]
        answers = [self._classifier.probabilities(batch) for batch in batches]
        return np.concatenate(answers).astype(np.float32)

    def predict_image(
        self, image: str | os.PathLike[str] | npt.NDArray[np.generic]
    ) -> list[FacePrediction]:
        """Returns the faces of an image, the largest first; an empty list where there is none.

        Args:
          image: a file, or uint8 pixels: gray `[height, width]` or RGB `[height, width, 3]`.

        Raises:
          InputError: if the image cannot be read, or the model does not do as it must.
        """
        pixels = images.as_rgb(image) if isinstance(image, np.ndarray) else images.read_image(image)
        found = self._find(pixels)
        return self._classify(found)

    def predict_paths(self, paths: Iterable[Path]) -> Iterator[ImagePrediction]:
        """Yields one result an image file, in the order of the files.

        Faces of several files go through the model together.  A file that cannot be read gives a
        result with its error, and the rest goes on.

        Raises:
          InputError: if the model does not do as it must.
        """
        pending: list[tuple[Path, list[Face], str | None]] = []
        for path in paths:
            try:
                pending.append((path, self._find(images.read_image(path)), None))
            except InputError as error:
                pending.append((path, [], str(error)))
            num_faces = sum(len(found) for _, found, _ in pending)
            if max(num_faces, len(pending)) >= BATCH_SIZE:
                yield from self._finish(pending)
                pending = []
        yield from self._finish(pending)

    def _find(self, image: Pixels) -> list[Face]:
        return faces.find_faces(
            image, self._detector, mode=self._mode, crop_size=self._classifier.image_shape[0]
        )

    def _classify(self, found: Sequence[Face]) -> list[FacePrediction]:
        if not found:
            return []
        # The model saw FER2013, which is gray; one with three channels saw the gray three times.
        crops = np.stack([face.crop for face in found])[..., np.newaxis]
        crops = np.repeat(crops, self._classifier.image_shape[2], axis=3)
        return [
            FacePrediction(face.box, dict(zip(self.expressions, row.tolist(), strict=True)))
            for face, row in zip(found, self.predict_faces(crops), strict=True)
        ]

    def _finish(
        self, pending: Sequence[tuple[Path, list[Face], str | None]]
    ) -> Iterator[ImagePrediction]:
        predictions = iter(self._classify([face for _, found, _ in pending for face in found]))
        for path, found, error in pending:
            yield ImagePrediction(path, [next(predictions) for _ in found], error)


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
    canvas = Image.fromarray(image).resize((width * zoom, height * zoom), Image.Resampling.BICUBIC)
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
    font = ImageFont.load_default(unit)
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
    font = ImageFont.load_default(pitch * 0.75)
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

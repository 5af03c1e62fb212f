"""Finds faces in pictures and cuts them out the way FER2013's images are cut.

Importing this imports no TensorFlow.
"""

import dataclasses
from pathlib import Path
from typing import Final, Literal

import cv2
import cv2.data
import numpy as np

from fer_tfdata import images
from fer_tfdata.images import Pixels

FacesMode = Literal["auto", "detect", "whole"]

# In a smaller picture a face is hardly larger than the detector's window of 20 pixels; what
# people hold at this size are data sets' images (FER2013: 48 pixels), which are faces already.
WHOLE_FACE_MAX_SIDE: Final = 96

# The detector's box, enlarged by this fraction on each side, is FER2013's frame.  Measured: the
# same cascade finds 81 % of FER2013's 3,589 PublicTest images (enlarged to 144 pixels, borders
# replicated), in a box of 46.7 of the 48 pixels (median; quartiles 43.0 and 49.3; mean 46.3)
# with the frame's centre to 0.4 pixels.  48 / 46.3 = 1.04.
CROP_MARGIN: Final = 0.02

# The detector works on a copy whose longer side lies between these.  Enlarging finds faces that
# would be smaller than its window; shrinking bounds the time, which grows with the area.
_MIN_WORKING_SIDE: Final = 512
_MAX_WORKING_SIDE: Final = 1280


@dataclasses.dataclass(frozen=True)
class Box:
    """A rectangle in an image, in pixels; `left` and `top` are its first column and row."""

    left: int
    top: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Face:
    """A face: where it stands in its image, and its crop as gray uint8 `[size, size]`."""

    box: Box
    crop: Pixels


class FaceDetector:
    """Finds upright frontal faces with OpenCV's Haar cascade `frontalface_alt2`.

    Tried on one photograph of one face in 24 versions (scaled, turned, noisy, set into a larger
    picture), `frontalface_default` saw faces where there are none in nine, this one in none; it
    missed six, where the face is turned by 20 or 25 degrees, nearly black, or smaller than 3 % of
    the picture's shorter side.

    An instance is not safe to share between threads.
    """

    def __init__(self) -> None:
        self._cascade = cv2.CascadeClassifier(
            str(Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml")
        )

    def detect(self, image: Pixels) -> list[Box]:
        """Returns the faces' boxes, inside the image, the largest first.

        Args:
          image: RGB uint8 `[height, width, 3]`.
        """
        height, width = image.shape[:2]
        gray = _gray(image)
        scale = _working_scale(width, height)
        if scale != 1:
            working_size = (max(1, round(width * scale)), max(1, round(height * scale)))
            gray = _resized(gray, working_size)
        min_side = max(24, round(0.03 * min(gray.shape)))
        found = self._cascade.detectMultiScale(
            gray, scaleFactor=1.1, minNeighbors=4, minSize=(min_side, min_side)
        )
        boxes = [_scaled_box([float(n) / scale for n in box], width, height) for box in found]
        return sorted(boxes, key=lambda box: (-box.width * box.height, box.top, box.left))


def find_faces(
    image: Pixels, detector: FaceDetector, *, mode: FacesMode = "auto", crop_size: int = 48
) -> list[Face]:
    """Returns the faces of an image with their crops, the largest first.

    Args:
      image: RGB uint8 `[height, width, 3]`.
      detector: finds the faces.
      mode: `detect` looks for faces; `whole` takes the image as one face, cut already; `auto`
        does so where the longer side has at most `WHOLE_FACE_MAX_SIDE` pixels.
      crop_size: the side of the crops.
    """
    height, width = image.shape[:2]
    small = max(height, width) <= WHOLE_FACE_MAX_SIDE
    if mode == "whole" or (mode == "auto" and small):
        return [Face(Box(0, 0, width, height), fit_face(image, crop_size))]
    return [Face(box, crop_face(image, box, crop_size)) for box in detector.detect(image)]


def crop_face(image: Pixels, box: Box, size: int) -> Pixels:
    """Cuts a face out in FER2013's framing: square, gray (ITU-R 601 luma), resized.

    The square has the box's centre and its longer side, enlarged by `CROP_MARGIN` on each side.
    What lies beyond the image's border repeats the border.

    Args:
      image: RGB uint8 `[height, width, 3]`.
      box: the face.
      size: the side of the result.

    Returns:
      uint8 `[size, size]`.
    """
    side = max(1, round(max(box.width, box.height) * (1 + 2 * CROP_MARGIN)))
    left = round(box.left + (box.width - side) / 2)
    top = round(box.top + (box.height - side) / 2)
    rows = np.clip(np.arange(top, top + side), 0, image.shape[0] - 1)
    columns = np.clip(np.arange(left, left + side), 0, image.shape[1] - 1)
    return _resized(_gray(image[rows[:, np.newaxis], columns]), (size, size))


def fit_face(image: Pixels, size: int) -> Pixels:
    """Turns an image that is one face into a crop: gray, all of it, its proportions kept.

    The shorter side is filled by repeating the border.  A gray image of `size` by `size` is
    returned as it is.

    Args:
      image: RGB uint8 `[height, width, 3]`.
      size: the side of the result.

    Returns:
      uint8 `[size, size]`.
    """
    return images.fit(_gray(image)[..., np.newaxis], size)[..., 0]


def _gray(image: Pixels) -> Pixels:
    gray: Pixels = cv2.cvtColor(np.ascontiguousarray(image), cv2.COLOR_RGB2GRAY)
    return gray


def _resized(gray: Pixels, size: tuple[int, int]) -> Pixels:
    # The mean over the area does not alias; interpolation does not make blocks.
    shrinks = size[0] * size[1] < gray.size
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    resized: Pixels = cv2.resize(gray, size, interpolation=method)
    return resized


def _working_scale(width: int, height: int) -> float:
    side = max(width, height)
    return min(max(side, _MIN_WORKING_SIDE), _MAX_WORKING_SIDE) / side


def _scaled_box(box: list[float], width: int, height: int) -> Box:
    left, top, box_width, box_height = box
    first = (max(0, round(left)), max(0, round(top)))
    beyond = (min(width, round(left + box_width)), min(height, round(top + box_height)))
    return Box(*first, beyond[0] - first[0], beyond[1] - first[1])

"""Finds the faces in pictures.

Importing this imports no TensorFlow.
"""

import importlib
import itertools
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Literal, Protocol

import cv2
import cv2.data
import numpy as np
import numpy.typing as npt

from fer_tfdata import faces, opencv_log
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box
from fer_tfdata.images import Pixels

DetectorName = Literal["haar", "mtcnn", "yunet", "none"]

# In a smaller picture a face is hardly larger than a detector's window of 12 to 20 pixels; what
# people hold at this size are data sets' images (FER2013: 48 pixels), which are faces already.
WHOLE_FACE_MAX_SIDE: Final = 96


class Detector(Protocol):
    """Finds faces; several threads may share one."""

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        """Returns the faces of each image, inside of it, the largest first.

        Args:
          images: RGB uint8 `[height, width, 3]`.
          smallest: the size of the smallest faces that are looked for, as a share of the image's
            shorter side.  The time grows with the inverse of its square.
        """

    def detect_near(self, image: Pixels, box: Box, *, smallest: float) -> list[Box]:
        """Returns the faces around a box, and of about its size, that `detect` would find.

        Args:
          image: RGB uint8 `[height, width, 3]`.
          box: a part of it.
          smallest: see `detect`.
        """


def make_detector(name: DetectorName, *, yunet_model: Path | None = None) -> Detector:
    """Returns the detector of a name.

    Args:
      name: see `docs/prediction.md`.
      yunet_model: the network of `yunet`, an ONNX file; of none else.

    Raises:
      InputError: what it needs is not installed, or no network, or one too many, is given.
    """
    if (yunet_model is not None) != (name == "yunet"):
        received = f"{name} with {yunet_model}" if yunet_model else "yunet alone"
        raise InputError(
            "expected --yunet_model=FILE.onnx with --detector=yunet, and with no other; received "
            f"{received}; the file is face_detection_yunet of OpenCV's model zoo"
        )
    if yunet_model is not None:
        return YunetDetector(yunet_model)
    if name == "mtcnn":
        return MtcnnDetector()
    return HaarDetector() if name == "haar" else WholeDetector()


def find_faces(images: Sequence[Pixels], detector: Detector, *, smallest: float) -> list[list[Box]]:
    """Returns the faces of each image, the largest first.

    Args:
      images: RGB uint8 `[height, width, 3]`; one that `is_face` is a face as it is.
      detector: looks for faces in the others.
      smallest: see `Detector.detect`.
    """
    searched = [image for image in images if not is_face(image)]
    found = iter(detector.detect(searched, smallest=smallest))
    return [[faces.whole(image)] if is_face(image) else next(found) for image in images]


def is_face(image: Pixels) -> bool:
    """Returns whether an image is so small that it is taken for a face cut out already."""
    return max(image.shape) <= WHOLE_FACE_MAX_SIDE


def by_size(box: Box) -> tuple[int, int, int]:
    """Orders boxes: the largest first, equal ones from top to bottom and from left to right."""
    return -box.width * box.height, box.top, box.left


class WholeDetector:
    """Takes every image for one face that has been cut out already."""

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        """See `Detector`."""
        del smallest
        return [[faces.whole(image)] for image in images]

    def detect_near(self, image: Pixels, box: Box, *, smallest: float) -> list[Box]:
        """See `Detector`."""
        del box, smallest
        return [faces.whole(image)]


class HaarDetector:
    """Finds upright frontal faces with OpenCV's Haar cascade `frontalface_alt2`.

    Tried on one photograph of one face in 24 versions (scaled, turned, noisy, set into a larger
    picture), `frontalface_default` saw faces where there are none in nine, this one in none; it
    missed six, where the face is turned by 20 or 25 degrees, nearly black, or smaller than 3 % of
    the picture's shorter side.
    """

    def __init__(self) -> None:
        self._of_thread = threading.local()  # a cascade remembers the picture it is working on

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        """See `Detector`."""
        return [self._detect(image, smallest) for image in images]

    def detect_near(self, image: Pixels, box: Box, *, smallest: float) -> list[Box]:
        """See `Detector`."""
        area, side = _area_around(box, image), max(box.width, box.height)
        scale = _haar_scale(image, smallest)
        found = self._search(_cut(image, area), scale, side / _SIZES, side * _SIZES)
        return _boxes(found + np.array([area.left, area.top, 0, 0]), image)

    def _detect(self, image: Pixels, smallest: float) -> list[Box]:
        least, most = smallest * min(image.shape[:2]), max(image.shape)
        return _boxes(self._search(image, _haar_scale(image, smallest), least, most), image)

    def _search(
        self, image: Pixels, scale: float, least: float, most: float
    ) -> npt.NDArray[np.float64]:
        """Returns the faces of an image, whose sides lie between two numbers of pixels."""
        sides = (max(_HAAR_SIDE, round(least * scale)), round(most * scale))
        found = self._cascade().detectMultiScale(
            _scaled(faces.gray(image), scale),
            scaleFactor=1.1,
            minNeighbors=4,
            minSize=(sides[0], sides[0]),
            maxSize=(sides[1], sides[1]),
        )
        return np.asarray(found, np.float64).reshape(-1, 4) / scale

    def _cascade(self) -> Any:
        if not hasattr(self._of_thread, "cascade"):
            file = Path(cv2.data.haarcascades) / "haarcascade_frontalface_alt2.xml"
            self._of_thread.cascade = cv2.CascadeClassifier(str(file))
        return self._of_thread.cascade


# A face of this side is the smallest that is reliably found: the cascade's window has 20 pixels.
_HAAR_SIDE: Final = 24
# The longer side of the copy that is searched lies between these.  Enlarging finds faces that
# would be smaller than the window; shrinking bounds the time, which grows with the area.
_HAAR_LEAST: Final = 512
_HAAR_MOST: Final = 1280


def _haar_scale(image: Pixels, smallest: float) -> float:
    longer = max(image.shape)
    bounded = min(max(longer, _HAAR_LEAST), _HAAR_MOST) / longer
    return min(bounded, _HAAR_SIDE / (smallest * min(image.shape[:2])))


class YunetDetector:
    """Finds faces with OpenCV's YuNet (Wu et al. 2023), a network that the user has as a file."""

    def __init__(self, model: Path) -> None:
        """Takes the network.

        Args:
          model: `face_detection_yunet_2023mar.onnx` of OpenCV's model zoo, or another version.

        Raises:
          InputError: there is none, or it is another network.
        """
        self._model = model
        self._of_thread = threading.local()  # a network is set to the size of one picture
        if not model.is_file():
            raise InputError(
                f"{model}: expected a YuNet network as an ONNX file, received nothing there"
            )
        self.detect([np.zeros((64, 64, 3), np.uint8)], smallest=0.5)

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        """See `Detector`."""
        return [self._detect(image, smallest) for image in images]

    def detect_near(self, image: Pixels, box: Box, *, smallest: float) -> list[Box]:
        """See `Detector`."""
        area = _area_around(box, image)
        found = self._search(_cut(image, area), _network_scale(image, smallest))
        return _boxes(found + np.array([area.left, area.top, 0, 0]), image)

    def _detect(self, image: Pixels, smallest: float) -> list[Box]:
        return _boxes(self._search(image, _network_scale(image, smallest)), image)

    def _search(self, image: Pixels, scale: float) -> npt.NDArray[np.float64]:
        searched = cv2.cvtColor(_scaled(image, scale), cv2.COLOR_RGB2BGR)
        try:
            network = self._network()
            network.setInputSize(searched.shape[1::-1])
            found = network.detect(searched)[1]
        except cv2.error as error:
            raise InputError(
                f"{self._model}: expected a YuNet network as an ONNX file, received: {error.err}"
            ) from error
        boxes = np.zeros((0, 4)) if found is None else found[:, :4]
        return _framed(boxes) / scale

    def _network(self) -> Any:
        if not hasattr(self._of_thread, "network"):
            with opencv_log.quiet():
                self._of_thread.network = cv2.FaceDetectorYN.create(str(self._model), "", (64, 64))
        return self._of_thread.network


class MtcnnDetector:
    """Finds faces with MTCNN (Zhang et al. 2016), of the package `mtcnn`."""

    def __init__(self) -> None:
        """Loads the networks.

        Raises:
          InputError: the package is not installed.
        """
        try:
            mtcnn = importlib.import_module("mtcnn")
        except ImportError as error:
            raise InputError(
                "--detector=mtcnn: expected the package mtcnn, received none; install it with "
                f"pip install 'fer-tfdata[mtcnn]' ({error})"
            ) from error
        self._mtcnn = mtcnn.MTCNN("face_and_landmarks_detection")

    def detect(self, images: Sequence[Pixels], *, smallest: float) -> list[list[Box]]:
        """See `Detector`."""
        found: list[list[Box]] = []
        # Of other sizes the images of a batch would be padded to the largest.
        for _, alike in itertools.groupby(images, key=lambda image: image.shape):
            batch = list(alike)
            boxes = self._search(batch, _network_scale(batch[0], smallest))
            found += [_boxes(of_one, batch[0]) for of_one in boxes]
        return found

    def detect_near(self, image: Pixels, box: Box, *, smallest: float) -> list[Box]:
        """See `Detector`."""
        area = _area_around(box, image)
        [found] = self._search([_cut(image, area)], _network_scale(image, smallest))
        return _boxes(found + np.array([area.left, area.top, 0, 0]), image)

    def _search(self, images: Sequence[Pixels], scale: float) -> list[npt.NDArray[np.float64]]:
        answers = self._mtcnn.detect_faces([_scaled(image, scale) for image in images])
        boxes = [np.array([face["box"] for face in answer]).reshape(-1, 4) for answer in answers]
        return [_framed(of_one) / scale for of_one in boxes]


# The networks find faces of this side, which both were trained for, and larger ones.
_NETWORK_SIDE: Final = 20


def _network_scale(image: Pixels, smallest: float) -> float:
    return min(1.0, _NETWORK_SIDE / (smallest * min(image.shape[:2])))


# MTCNN's and YuNet's boxes, learned from WIDER FACE, go from the forehead to the chin and are
# narrower than high.  The side of FER2013's frame, whose centre is the box's, in terms of the box's
# height.  Measured: MTCNN finds 350 of the first 400 PublicTest images (enlarged to 144 pixels,
# borders replicated) in boxes of 51 of the 48 pixels (median; quartiles 46.7 and 56.6), with the
# frame's centre to 0.5 pixels.  48 / 51 = 0.94.  Cut out so, faces are classified about as well as
# the images themselves: 68.6 against 70.0 % right.
_FRAME_OF_HEIGHT: Final = 0.94


def _framed(boxes: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """Returns squares around the faces that are framed as the Haar cascade frames them."""
    left, top, width, height = boxes.astype(np.float64).T
    side = height * _FRAME_OF_HEIGHT / (1 + 2 * faces.CROP_MARGIN)
    x, y = left + width / 2, top + height / 2
    return np.stack([x - side / 2, y - side / 2, side, side], axis=1)


def _scaled(image: Pixels, scale: float) -> Pixels:
    height, width = image.shape[:2]
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return image if size == (width, height) else faces.resized(image, size)


# Around a box, so much of its side is searched beyond it, for faces up to so many times as small or
# as large.
_MARGIN: Final = 0.5
_SIZES: Final = 1.25


def _area_around(box: Box, image: Pixels) -> Box:
    margin = round(_MARGIN * max(box.width, box.height))
    left, top = max(0, box.left - margin), max(0, box.top - margin)
    right = min(image.shape[1], box.left + box.width + margin)
    bottom = min(image.shape[0], box.top + box.height + margin)
    return Box(left, top, right - left, bottom - top)


def _cut(image: Pixels, area: Box) -> Pixels:
    return image[area.top : area.top + area.height, area.left : area.left + area.width]


def _boxes(found: npt.NDArray[np.float64], image: Pixels) -> list[Box]:
    """Returns rectangles (left, top, width, height) as boxes within an image, the largest first."""
    height, width = image.shape[:2]
    first = np.clip(np.rint(found[:, :2]), 0, (width, height)).astype(int)
    beyond = np.clip(np.rint(found[:, :2] + found[:, 2:]), 0, (width, height)).astype(int)
    corners = np.concatenate([first, beyond - first], axis=1).tolist()
    boxes = [Box(*box) for box in corners if min(box[2:]) > 0]
    return sorted(boxes, key=by_size)

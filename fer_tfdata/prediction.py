"""The probabilities of the expressions for every face in images, videos and a camera's pictures.

Importing this imports no TensorFlow; loading a model does.
"""

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, Self

import numpy as np
import numpy.typing as npt

from fer_tfdata import background, detectors, faces, images, inputs, named_models
from fer_tfdata.classifier import Classifier
from fer_tfdata.detectors import Detector, HaarDetector
from fer_tfdata.errors import InputError
from fer_tfdata.faces import Box
from fer_tfdata.following import Follower
from fer_tfdata.frames import Frame, VideoCounter
from fer_tfdata.images import Pixels
from fer_tfdata.results import FacePrediction, ImagePrediction
from fer_tfdata.tracking import SMOOTHING, Tracker

# Large enough that a call's overhead does not count, small enough for any memory.
BATCH_SIZE: Final = 64
# Pictures wait for each other until they have so many bytes: 10 frames of 1920 x 1080.
_CHUNK_BYTES: Final = 64 << 20

# The smallest faces that are looked for, as a share of the picture's shorter side.  A photograph
# may show a group; to search a video as closely would take several times as long.
SMALLEST_IN_IMAGES: Final = 0.03
SMALLEST_IN_VIDEOS: Final = 0.08


class Predictor:
    """Applies a model to faces, images, videos and a camera's pictures.

    Several threads may share one.
    """

    def __init__(self, classifier: Classifier, *, detector: Detector | None = None) -> None:
        """Takes a classifier, such as `KerasClassifier(model)`, and what finds the faces.

        Args:
          classifier: of face crops.
          detector: see `detectors.make_detector`; by default the Haar cascade.
        """
        self._classifier = classifier
        self._detector = HaarDetector() if detector is None else detector

    @classmethod
    def from_pretrained(cls, *, detector: Detector | None = None) -> Self:
        """Loads the model that ships with the package; `docs/model_card.md` tells of it.

        Raises:
          InputError: its files are missing or damaged.
        """
        return cls.from_name(named_models.PRETRAINED, detector=detector)

    @classmethod
    def from_path(cls, path: str | os.PathLike[str], *, detector: Detector | None = None) -> Self:
        """Loads the model of a run directory, a `.keras` file or an export.

        Raises:
          InputError: if there is none, or it is no model of expressions.
        """
        name = os.fspath(path)
        if name == named_models.PRETRAINED:  # a path of that name, and not what it names elsewhere
            name = str(Path.cwd() / name)
        return cls.from_name(name, detector=detector)

    @classmethod
    def from_name(cls, name: str, *, detector: Detector | None = None) -> Self:
        """Loads the model that a program's --model names; see `named_models.load`.

        Raises:
          InputError: if there is none, or it is no model of expressions.
        """
        return cls(named_models.load(name), detector=detector)

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
        search = _Search(self._detector, self._classifier.image_shape, live=False)
        [predictions] = self._classify(search.find([Frame(source=Path(), pixels=pixels)]))
        return predictions

    def predict_paths(
        self, paths: Iterable[str | os.PathLike[str]], *, smoothing: float = SMOOTHING
    ) -> Iterator[ImagePrediction]:
        """Yields one result an image file and one a frame of a video file, in their order.

        What cannot be read gives a result with its error, and the rest goes on; of a damaged video,
        after the results of the frames before the damage.  A result holds no pixels, and however
        long a video is, no more than a few frames are in memory.

        Args:
          paths: image and video files, folders of them, or glob patterns.
          smoothing: see `predict_frames`.

        Raises:
          InputError: if the model does not do as it must, or `paths` is one path.
        """
        if isinstance(paths, str | os.PathLike):  # whose letters were paths
            raise InputError(
                f"expected paths, received one: {os.fspath(paths)}; put it into a list"
            )
        frames = itertools.chain.from_iterable(map(_frames_of, paths))
        return (result for _, result in self.predict_frames(frames, smoothing=smoothing))

    def predict_frames(
        self, frames: Iterable[Frame], *, smoothing: float = SMOOTHING, live: bool = False
    ) -> Generator[tuple[Frame, ImagePrediction], None, None]:
        """Yields the result of each frame, in their order.

        Faces of several frames go through the model together, and the next frames are read and
        searched meanwhile, in other threads.

        Args:
          frames: such as `inputs.read_frames` yields; those of one video after the other.
          smoothing: the time constant, in seconds, with which the probabilities of a video's face
            are smoothed; 0 leaves them as they are.
          live: each frame is answered before the next one is taken.

        Raises:
          InputError: if the model does not do as it must, or `smoothing` is negative.
        """
        tracker, videos, current = Tracker(smoothing), VideoCounter(), None
        with contextlib.closing(self._found(frames, live=live)) as chunks:
            for chunk in chunks:
                for found, predictions in zip(chunk, self._classify(chunk), strict=True):
                    frame = found.frame
                    if (video := videos.number(frame)) is not None:
                        if video != current:
                            tracker, current = Tracker(smoothing), video
                        predictions = tracker.update(predictions, float(frame.time))
                    yield frame, _result(frame, predictions)

    def _found(
        self, frames: Iterable[Frame], *, live: bool
    ) -> Generator[list["_Found"], None, None]:
        search = _Search(self._detector, self._classifier.image_shape, live=live)
        if live:
            yield from (search.find([frame]) for frame in frames)
            return
        with (
            contextlib.closing(background.ahead(in_chunks(frames), most=1)) as chunks,
            contextlib.closing(background.ahead(map(search.find, chunks), most=1)) as found,
        ):
            yield from found

    def _classify(self, chunk: Sequence["_Found"]) -> list[list[FacePrediction]]:
        """Returns the predictions of each frame; all their faces go through the model together."""
        crops = [crop for found in chunk for crop in found.crops]
        if not crops:
            return [[] for _ in chunk]
        rows = iter(self.predict_faces(np.stack(crops)))
        return [
            [
                FacePrediction(box, dict(zip(self.expressions, next(rows).tolist(), strict=True)))
                for box in found.boxes
            ]
            for found in chunk
        ]


@dataclasses.dataclass(frozen=True, eq=False)
class _Found:
    """A frame with its faces, and their crops as the model takes them."""

    frame: Frame
    boxes: Sequence[Box] = ()
    crops: Sequence[Pixels] = ()


class _Search:
    """Finds and cuts out the faces of frames, each in a way that suits its source."""

    def __init__(self, detector: Detector, crop_shape: tuple[int, int, int], *, live: bool) -> None:
        self._detector = detector
        self._crop_shape = crop_shape
        self._live = live
        self._videos = VideoCounter()
        self._video: int | None = None
        self._follower = Follower(detector, smallest=SMALLEST_IN_VIDEOS)

    def find(self, chunk: Sequence[Frame]) -> list[_Found]:
        """Returns the frames, in their order, with their faces; none of those with an error."""
        found = []
        for video, alike in itertools.groupby(chunk, key=self._videos.number):
            frames = list(alike)
            boxes = iter(self._boxes(video, [frame for frame in frames if frame.error is None]))
            found += [
                _Found(frame) if frame.error is not None else self._cut(frame, next(boxes))
                for frame in frames
            ]
        return found

    def _boxes(self, video: int | None, frames: Sequence[Frame]) -> list[list[Box]]:
        if video is None:
            pictures = [frame.pixels for frame in frames]
            return detectors.find_faces(pictures, self._detector, smallest=SMALLEST_IN_IMAGES)
        if video != self._video:
            self._video = video
            self._follower = Follower(self._detector, smallest=SMALLEST_IN_VIDEOS)
        return self._follower.find(frames, live=self._live)

    def _cut(self, frame: Frame, boxes: Sequence[Box]) -> _Found:
        size, _, channels = self._crop_shape
        crops = [faces.crop_face(frame.pixels, box, size, channels=channels) for box in boxes]
        return _Found(frame, boxes, crops)


def _result(frame: Frame, predictions: Sequence[FacePrediction]) -> ImagePrediction:
    return ImagePrediction(
        path=frame.source,
        faces=predictions,
        error=frame.error,
        frame=frame.index,
        time=float(frame.time) if frame.moving else None,
    )


def _frames_of(path: str | os.PathLike[str]) -> Iterator[Frame]:
    try:
        yield from inputs.read_frames(inputs.find_files(path))
    except InputError as error:
        yield Frame(source=Path(path), error=str(error))


def in_chunks(frames: Iterable[Frame]) -> Iterator[list[Frame]]:
    """Yields the frames in groups of what may wait for each other."""
    chunk: list[Frame] = []
    held = 0
    for frame in frames:
        chunk.append(frame)
        held += frame.pixels.nbytes
        if len(chunk) == BATCH_SIZE or held >= _CHUNK_BYTES:
            yield chunk
            chunk, held = [], 0
    if chunk:
        yield chunk

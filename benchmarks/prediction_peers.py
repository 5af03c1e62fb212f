"""The package `fer` (PyPI), which `prediction_benchmark` measures beside ours, where installed.

Importing this needs `fer`, OpenCV and TensorFlow.
"""

import logging
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
import numpy.typing as npt
from fer.fer import FER
from fer.utils import draw_annotations

SIDE: Final = 64
"""Of the faces that its network takes."""


class FerNetwork:
    """Its network alone: mini-Xception, in TensorFlow Lite as by default, or in Keras."""

    def __init__(self, *, lite: bool) -> None:
        logging.getLogger("fer").setLevel(logging.ERROR)
        self._detector = FER(use_tflite=lite)

    def probabilities(self, faces: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """Returns those of uint8 faces `[n, SIDE, SIDE]`, in the order of ours.

        Prepared as its `detect_emotions` does.
        """
        scaled = (faces.astype(np.float32) / 255.0 - 0.5) * 2.0
        if not self._detector.use_tflite:
            scaled = scaled[..., np.newaxis]
        return np.asarray(self._detector._classify_emotions(scaled))


class FerVideo:
    """Its way from a video to an annotated one: what its `Video.analyze` does with each frame.

    That itself needs OpenCV with windows.  The single frames, which it also writes by default, are
    left out.
    """

    def __init__(self) -> None:
        self._detector = FER()

    def annotate(self, video: Path, copy: Path) -> tuple[int, int]:
        """Writes the annotated copy, and returns how many frames and faces there are."""
        capture: Any = cv2.VideoCapture(str(video))
        size = (
            int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)),
            int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)),
        )
        code = cv2.VideoWriter_fourcc(*"mp4v")
        writer = cv2.VideoWriter(str(copy), code, capture.get(cv2.CAP_PROP_FPS), size, True)
        num_frames = num_faces = 0
        while True:
            taken, frame = capture.read()
            if not taken:
                break
            faces = self._detector.detect_emotions(frame)
            writer.write(draw_annotations(frame, faces, boxes=True, scores=True))
            num_frames, num_faces = num_frames + 1, num_faces + len(faces)
        capture.release()
        writer.release()
        return num_frames, num_faces

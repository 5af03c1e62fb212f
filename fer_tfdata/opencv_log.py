"""What OpenCV prints on its own."""

import contextlib
from collections.abc import Iterator

import cv2


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keeps from stderr what OpenCV logs of a failure that is told otherwise."""
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)

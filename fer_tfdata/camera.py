"""A camera's pictures, always the latest."""

import threading
import time
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any, Final, Self

import cv2

from fer_tfdata import opencv_log
from fer_tfdata.errors import InputError
from fer_tfdata.frames import Frame

_PREFIX: Final = "camera:"
_MICROSECONDS: Final = 1_000_000
_SECONDS_BETWEEN_LOOKS: Final = 0.1  # whether a signal's handler has stopped the camera
_SECONDS_TO_RELEASE: Final = 1.0  # what a picture takes at most, where the camera works


class Camera:
    """Gives a camera's pictures; whoever is slow misses some, and never falls behind.

    Holds the camera until it is closed, as `with` does.
    """

    def __init__(self, capture: Any, name: str) -> None:
        """Begins to take pictures, in another thread.

        Args:
          capture: an opened `cv2.VideoCapture`, or what has its `read` and `release`.
          name: what the results call it.
        """
        self.name = name
        self._capture = capture
        self._changed = threading.Condition()
        self._latest: tuple[Any, float] | None = None
        self._ended = False
        self._stopped = False
        self._thread = threading.Thread(target=self._take, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends `frames`; may be called by a signal's handler."""
        self._stopped = True

    def close(self) -> None:
        """Ends `frames` and lets the camera go; it may have been closed before."""
        self.stop()
        self._thread.join(_SECONDS_TO_RELEASE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def frames(self) -> Iterator[Frame]:
        """Yields the latest picture, each at most once, until the camera is stopped.

        Where the camera itself ends, the last frame has an error.  At the end it is closed.
        """
        index, start = 0, None
        try:
            while (taken := self._next()) is not None:
                picture, seen = taken
                start = seen if start is None else start
                yield Frame(
                    source=Path(self.name),
                    pixels=cv2.cvtColor(picture, cv2.COLOR_BGR2RGB),
                    index=index,
                    time=Fraction(round((seen - start) * _MICROSECONDS), _MICROSECONDS),
                )
                index += 1
            if not self._stopped:
                error = f"{self.name}: expected pictures of the camera, received no more"
                yield Frame(source=Path(self.name), error=error)
        finally:
            self.close()

    def _next(self) -> tuple[Any, float] | None:
        """Waits for a picture; None where there will be none."""
        with self._changed:
            while self._latest is None and not self._ended and not self._stopped:
                self._changed.wait(_SECONDS_BETWEEN_LOOKS)
            taken, self._latest = self._latest, None
            return None if self._stopped else taken

    def _take(self) -> None:
        taking = True
        while taking and not self._stopped:
            taking, picture = self._capture.read()
            with self._changed:
                if taking:
                    self._latest = (picture, time.monotonic())
                self._ended = not taking
                self._changed.notify()
        self._capture.release()


def number_of(text: str) -> int | None:
    """Returns N of `camera:N`; None where the text is no camera's.

    Raises:
      InputError: it begins as a camera's, and no number follows.
    """
    if not text.startswith(_PREFIX):
        return None
    number = text.removeprefix(_PREFIX)
    if not number.isdecimal():
        raise InputError(f"{text}: expected camera:0, camera:1 and so on")
    return int(number)


def open_camera(number: int) -> Camera:
    """Opens a camera of this machine, counted from 0.

    Raises:
      InputError: there is none.
    """
    name = f"{_PREFIX}{number}"
    with opencv_log.quiet():
        capture = cv2.VideoCapture(number)
    if not capture.isOpened():
        raise InputError(
            f"{name}: expected a camera, received none, or one that another program uses or that "
            "this user may not open (on Linux: a group such as video)"
        )
    return Camera(capture, name)

"""A video of drawn faces for the tests and benchmarks, so that both run without a recording."""

import functools
from collections.abc import Iterator
from fractions import Fraction
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from fer_tfdata import demo_faces
from fer_tfdata.expressions import NUM_EXPRESSIONS
from fer_tfdata.images import Pixels

FRAMES_PER_SECOND: Final = 30

_NUM_FACES: Final = 2
_FACE_SHARE: Final = 0.3  # a face's side, as a share of the frame's
_FRAMES_AN_EXPRESSION: Final = 45
_FRAMES_A_SWING: Final = 240


def draw_frames(
    num_frames: int, *, height: int = 720, width: int = 1280, seed: int = 0
) -> Iterator[tuple[Pixels, Fraction]]:
    """Yields frames of two faces that swing before a clouded wall and change their expressions.

    Args:
      num_frames: how many.
      height: of a frame.
      width: of a frame; at least as large as `height`, so that the faces stand apart.
      seed: of the faces and the wall; equal seeds give equal frames.

    Yields:
      RGB uint8 `[height, width, 3]`, and the seconds since the first frame.
    """
    wall = _draw_wall(height, width, np.random.default_rng(seed))
    side = round(_FACE_SHARE * height)
    for index in range(num_frames):
        gray = wall.copy()
        swing = np.sin(2 * np.pi * index / _FRAMES_A_SWING)
        for number in range(_NUM_FACES):
            face = _draw_face(number, index // _FRAMES_AN_EXPRESSION, side, seed)
            left = round(width * (0.25 + 0.5 * number + 0.08 * swing) - side / 2)
            top = round(height * (0.5 + 0.1 * swing * (1 - 2 * number)) - side / 2)
            gray[top : top + side, left : left + side] = face
        yield np.repeat(gray[..., np.newaxis], 3, axis=2), Fraction(index, FRAMES_PER_SECOND)


@functools.lru_cache(maxsize=2 * _NUM_FACES)
def _draw_face(number: int, turn: int, side: int, seed: int) -> npt.NDArray[np.uint8]:
    """Returns face `number` with its `turn`th expression, uint8 `[side, side]`."""
    expression = (turn + 3 * number) % NUM_EXPRESSIONS
    return demo_faces.draw_face(expression, seed=_NUM_FACES * seed + number, size=side)


def _draw_wall(height: int, width: int, rng: np.random.Generator) -> npt.NDArray[np.uint8]:
    """Returns clouds with the grain of a camera's sensor, uint8 `[height, width]`."""
    clouds = cv2.resize(
        rng.uniform(60, 180, (9, 16)).astype(np.float32),
        (width, height),
        interpolation=cv2.INTER_CUBIC,
    )
    return np.clip(clouds + rng.normal(0, 3, (height, width)), 0, 255).astype(np.uint8)

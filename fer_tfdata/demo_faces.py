"""Drawn faces for the quickstart and the tests, so that both run without the data set.

A face is drawn from three independent things: a person (who), an expression (what), and a scene
(how it was photographed).  Intensities vary and every muscle trembles, so the expressions overlap:
a classifier gets well above chance and cannot be perfect.  Accuracy here says that a pipeline
works, and nothing about photographs.

Lengths are in half heights of the head, x to the right and y down, with the origin between the
ears.  Tones are grey levels, 0 to 255.
"""

import dataclasses
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import cv2
import numpy as np
import numpy.typing as npt

from fer_tfdata import atomic
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, NUM_EXPRESSIONS, SPLIT_OF_USAGE

FACE_SIZE: Final = 48  # FER2013's

_Points = npt.NDArray[np.float64]  # [n, 2], x and y
_Image = npt.NDArray[np.uint8]  # [height, width]

_SUPERSAMPLING = 4
_SUBPIXEL_BITS = 4  # cv2 takes fixed-point coordinates

_MIN_SIZE = 16
_LINE = np.linspace(-1.0, 1.0, 13)
_ANGLES = np.linspace(0.0, 2.0 * np.pi, 28, endpoint=False)
_CIRCLE = np.stack([np.cos(_ANGLES), np.sin(_ANGLES)], axis=1)

_EYE_Y = -0.10
_MOUTH_Y = 0.52
_NOSE_Y = 0.22


@dataclasses.dataclass(frozen=True)
class _Muscles:
    """Displacements from the neutral face."""

    inner_brow: float = 0.0  # up
    outer_brow: float = 0.0  # up
    knit: float = 0.0  # the brows towards each other
    eye_open: float = 0.0  # a share of the eye's height
    lid_droop: float = 0.0  # of the outer half of the upper lid
    cheek: float = 0.0  # up, with the lower lid
    wrinkled_nose: float = 0.0
    upper_lip: float = 0.0  # up
    corners: float = 0.0  # of the mouth, up
    jaw: float = 0.0  # down: how far the mouth is open
    stretch: float = 0.0  # a share of the mouth's width
    lip_press: float = 0.0  # a share of the lips' thickness
    skew: float = 0.0  # of the mouth: one side up, the other down


_FULL_INTENSITY: Final = {
    "angry": _Muscles(
        inner_brow=-0.13,
        outer_brow=0.06,
        knit=0.08,
        eye_open=-0.15,
        corners=-0.05,
        stretch=-0.12,
        lip_press=0.75,
    ),
    "disgust": _Muscles(
        inner_brow=-0.07,
        outer_brow=-0.03,
        knit=0.03,
        eye_open=-0.40,
        cheek=0.05,
        wrinkled_nose=1.0,
        upper_lip=0.12,
        corners=-0.05,
        jaw=0.05,
        skew=0.07,
    ),
    "fear": _Muscles(
        inner_brow=0.13,
        outer_brow=0.0,
        knit=0.06,
        eye_open=0.50,
        corners=-0.06,
        jaw=0.13,
        stretch=0.28,
        lip_press=0.2,
    ),
    "happy": _Muscles(
        outer_brow=0.02,
        eye_open=-0.35,
        cheek=0.09,
        corners=0.16,
        jaw=0.11,
        stretch=0.25,
    ),
    "sad": _Muscles(
        inner_brow=0.13,
        outer_brow=-0.07,
        knit=0.04,
        eye_open=-0.20,
        lid_droop=0.7,
        corners=-0.13,
        stretch=-0.08,
    ),
    "surprise": _Muscles(
        inner_brow=0.17,
        outer_brow=0.17,
        eye_open=0.55,
        upper_lip=0.04,
        jaw=0.30,
        stretch=-0.40,
    ),
    "neutral": _Muscles(),
}

_TREMBLE: Final = _Muscles(
    inner_brow=0.025,
    outer_brow=0.025,
    knit=0.015,
    eye_open=0.10,
    lid_droop=0.10,
    cheek=0.015,
    wrinkled_nose=0.12,
    upper_lip=0.015,
    corners=0.025,
    jaw=0.015,
    stretch=0.06,
    lip_press=0.12,
    skew=0.015,
)

_FULL_INTENSITY_VALUES: Final = {
    name: np.array(dataclasses.astuple(muscles)) for name, muscles in _FULL_INTENSITY.items()
}
_TREMBLE_VALUES: Final = np.array(dataclasses.astuple(_TREMBLE))


@dataclasses.dataclass(frozen=True)
class _Person:
    skin: float
    hair: float
    hair_length: float  # how far down the hair falls beside the head
    hairline: float  # y where the hair parts
    parting: float  # x of the fringe's highest point
    fringe: float  # exponent: 1 falls from the parting as curtains, 5 is cut straight
    has_hair: bool
    has_glasses: bool
    head_width: float
    jaw_width: float  # a share of the head's width
    eye_distance: float  # from the middle of the face
    eye_width: float
    eye_height: float
    iris: float
    brow_y: float
    brow_thickness: float
    nose_width: float
    mouth_width: float
    lip_thickness: float
    lip_contrast: float


@dataclasses.dataclass(frozen=True)
class _Scene:
    yaw: float  # radians, as pitch and roll
    pitch: float
    roll: float
    shear: float
    scale: float  # half the head's height as a share of the image's
    shift: tuple[float, float]  # shares of the image's size
    light: tuple[float, float]  # relative gain gained from the middle to the edge, along x and y
    exposure: float
    blur: float  # standard deviation in pixels of a 48-pixel face
    noise: float  # standard deviation in grey levels
    background: npt.NDArray[np.float32]  # [4, 4] tones


def draw_face(expression: int, *, seed: int, size: int = FACE_SIZE) -> _Image:
    """Draws one face.

    Args:
      expression: an index into `EXPRESSIONS`.
      seed: which face; not negative.  The same arguments give the same bytes.
      size: height and width in pixels, at least 16.  The same seed is the same face at any size.

    Returns:
      uint8 [size, size], grey levels.

    Raises:
      InputError: an argument is out of range.
    """
    if not 0 <= expression < NUM_EXPRESSIONS:
        raise InputError(f"expression must be from 0 to {NUM_EXPRESSIONS - 1}. Got: {expression}")
    if size < _MIN_SIZE:
        raise InputError(f"size must be at least {_MIN_SIZE} pixels. Got: {size}")
    return _draw(expression, np.random.default_rng(_seed_sequence(seed)), size)


def draw_faces(num_faces: int, *, seed: int) -> tuple[_Image, npt.NDArray[np.int64]]:
    """Draws many faces, the expressions balanced (within one face) and shuffled.

    Args:
      num_faces: at least 0; seven or more hold every expression.
      seed: which faces; not negative.  The same arguments give the same bytes.

    Returns:
      Images, uint8 [num_faces, 48, 48], and their labels, int64 [num_faces].

    Raises:
      InputError: an argument is out of range.
    """
    labels, faces = _labels_and_faces(num_faces, _seed_sequence(seed))
    images = np.empty((num_faces, FACE_SIZE, FACE_SIZE), np.uint8)
    for index, face in enumerate(faces):
        images[index] = face
    return images, labels


def write_csv(
    path: Path, *, train: int = 2800, validation: int = 350, test: int = 350, seed: int = 0
) -> None:
    """Writes drawn faces in the format of Kaggle's fer2013.csv; `path` is complete or untouched.

    Each split is balanced as `draw_faces` does it, and every row is a face of its own.

    Args:
      path: the file to write; missing parent directories are made.
      train: rows of usage Training.
      validation: rows of usage PublicTest.
      test: rows of usage PrivateTest.
      seed: which faces; not negative.  The same arguments give the same bytes.

    Raises:
      InputError: a count or the seed is negative.
    """
    num_rows = {"train": train, "validation": validation, "test": test}
    seeds = _seed_sequence(seed).spawn(len(SPLIT_OF_USAGE))
    splits = [
        (usage, *_labels_and_faces(num_rows[split], split_seed))
        for (usage, split), split_seed in zip(SPLIT_OF_USAGE.items(), seeds, strict=True)
    ]
    with (
        atomic.replacing(path) as temporary,
        temporary.open("w", encoding="ascii", newline="\n") as file,
    ):
        file.write("emotion,pixels,Usage\n")
        for usage, labels, faces in splits:
            for label, face in zip(labels, faces, strict=True):
                file.write(f"{label},{' '.join(map(str, face.ravel().tolist()))},{usage}\n")


def _seed_sequence(seed: int) -> np.random.SeedSequence:
    if seed < 0:
        raise InputError(f"seed must be at least 0. Got: {seed}")
    return np.random.SeedSequence(seed)


def _labels_and_faces(
    num_faces: int, seed: np.random.SeedSequence
) -> tuple[npt.NDArray[np.int64], Iterator[_Image]]:
    if num_faces < 0:
        raise InputError(f"The number of faces must be at least 0. Got: {num_faces}")
    order_seed, *face_seeds = seed.spawn(1 + num_faces)
    balanced = np.arange(num_faces, dtype=np.int64) % NUM_EXPRESSIONS
    labels = np.random.default_rng(order_seed).permutation(balanced)
    faces = (
        _draw(int(label), np.random.default_rng(face_seed), FACE_SIZE)
        for label, face_seed in zip(labels, face_seeds, strict=True)
    )
    return labels, faces


def _draw(expression: int, rng: np.random.Generator, size: int) -> _Image:
    person = _random_person(rng)
    muscles = _random_muscles(EXPRESSIONS[expression], rng)
    scene = _random_scene(rng)
    sketch = _Sketch()
    _draw_head(sketch, person, muscles)
    for side in (-1, 1):
        _draw_eye(sketch, person, muscles, side)
        _draw_brow(sketch, person, muscles, side)
    _draw_nose(sketch, person, muscles)
    _draw_mouth(sketch, person, muscles)
    _draw_creases(sketch, person, muscles)
    if person.has_hair:
        _draw_fringe(sketch, person)
    if person.has_glasses:
        _draw_glasses(sketch, person)
    return _photograph(sketch.render(scene, person.head_width, size), scene, rng, size)


def _random_muscles(name: str, rng: np.random.Generator) -> _Muscles:
    intensity = rng.uniform(0.4, 1.2)
    tremble = rng.standard_normal(len(_TREMBLE_VALUES))
    values = intensity * _FULL_INTENSITY_VALUES[name] + _TREMBLE_VALUES * tremble
    muscles = _Muscles(*values.tolist())
    return dataclasses.replace(
        muscles,
        eye_open=max(muscles.eye_open, -0.75),
        lid_droop=max(muscles.lid_droop, 0.0),
        wrinkled_nose=max(muscles.wrinkled_nose, 0.0),
        jaw=max(muscles.jaw, 0.0),
        lip_press=min(muscles.lip_press, 0.8),
        skew=muscles.skew * _sign(rng),
    )


def _sign(rng: np.random.Generator) -> float:
    return 1.0 if rng.random() < 0.5 else -1.0


def _random_person(rng: np.random.Generator) -> _Person:
    has_dark_hair = rng.random() < 0.7
    has_long_hair = rng.random() < 0.5
    return _Person(
        skin=rng.uniform(95, 220),
        hair=rng.uniform(10, 70) if has_dark_hair else rng.uniform(70, 200),
        hair_length=rng.uniform(0.3, 1.2) if has_long_hair else rng.uniform(-0.4, 0.0),
        hairline=rng.uniform(-0.85, -0.6),
        parting=rng.uniform(-0.6, 0.6),
        fringe=rng.uniform(1.0, 5.0),
        has_hair=rng.random() < 0.9,
        has_glasses=rng.random() < 0.1,
        head_width=rng.uniform(0.70, 0.84),
        jaw_width=rng.uniform(0.72, 0.95),
        eye_distance=rng.uniform(0.31, 0.37),
        eye_width=rng.uniform(0.15, 0.19),
        eye_height=rng.uniform(0.085, 0.115),
        iris=rng.uniform(10, 80),
        brow_y=rng.uniform(-0.37, -0.31),
        brow_thickness=rng.uniform(0.04, 0.09),
        nose_width=rng.uniform(0.11, 0.18),
        mouth_width=rng.uniform(0.27, 0.34),
        lip_thickness=rng.uniform(0.05, 0.10),
        lip_contrast=rng.uniform(0.62, 0.85),
    )


def _random_scene(rng: np.random.Generator) -> _Scene:
    return _Scene(
        yaw=rng.normal(0.0, 0.17),
        pitch=rng.normal(0.0, 0.08),
        roll=rng.normal(0.0, 0.09),
        shear=rng.normal(0.0, 0.04),
        scale=rng.uniform(0.46, 0.54),
        shift=(rng.normal(0.0, 0.02), rng.normal(0.0, 0.02)),
        light=(rng.normal(0.0, 0.22), rng.normal(-0.05, 0.15)),
        exposure=rng.uniform(0.65, 1.15),
        blur=rng.uniform(0.2, 0.9),
        noise=rng.uniform(1.0, 7.0),
        background=_random_background(rng),
    )


def _random_background(rng: np.random.Generator) -> npt.NDArray[np.float32]:
    tones = rng.uniform(20, 235) + rng.uniform(5, 50) * rng.standard_normal((4, 4))
    return np.clip(tones, 0, 255).astype(np.float32)


@dataclasses.dataclass(frozen=True)
class _Stroke:
    points: _Points
    tone: float
    width: float | None = None  # None fills the polygon
    closed: bool = False
    flat: bool = False  # in the plane of the ears; the others lie on the face


class _Sketch:
    """Takes strokes in the face's coordinates, and draws them posed and supersampled."""

    def __init__(self) -> None:
        self._strokes: list[_Stroke] = []

    def fill(self, points: _Points, tone: float, *, flat: bool = False) -> None:
        """Adds a polygon."""
        self._strokes.append(_Stroke(points, tone, flat=flat))

    def line(self, points: _Points, tone: float, width: float, *, closed: bool = False) -> None:
        """Adds a line."""
        self._strokes.append(_Stroke(points, tone, width, closed))

    def render(self, scene: _Scene, head_width: float, size: int) -> _Image:
        """Draws the strokes, in the order they came in, over the scene's background."""
        side = size * _SUPERSAMPLING
        background = cv2.resize(scene.background, (side, side), interpolation=cv2.INTER_LINEAR)
        pixels: _Image = background.astype(np.uint8)
        for stroke, points in zip(self._strokes, self._posed(scene, head_width, side), strict=True):
            tone = min(max(stroke.tone, 0.0), 255.0)
            if stroke.width is None:
                cv2.fillPoly(pixels, [points], tone, cv2.LINE_AA, _SUBPIXEL_BITS)
            else:
                width = max(1, round(stroke.width * scene.scale * side))
                cv2.polylines(
                    pixels, [points], stroke.closed, tone, width, cv2.LINE_AA, _SUBPIXEL_BITS
                )
        return pixels

    def _posed(self, scene: _Scene, head_width: float, side: int) -> list[npt.NDArray[np.int32]]:
        lengths = [len(stroke.points) for stroke in self._strokes]
        points = np.concatenate([stroke.points for stroke in self._strokes])
        # The face is an ellipsoid: what lies nearer moves further when the head turns.
        radius = (points[:, 0] / head_width) ** 2 + points[:, 1] ** 2
        depth = 0.8 * np.sqrt(np.maximum(0.0, 1.0 - radius))
        depth[np.repeat([stroke.flat for stroke in self._strokes], lengths)] = 0.0
        turned = points * (np.cos(scene.yaw), np.cos(scene.pitch))
        turned += depth[:, np.newaxis] * (np.sin(scene.yaw), np.sin(scene.pitch))
        cosine, sine = np.cos(scene.roll), np.sin(scene.roll)
        roll = np.array([[cosine, sine], [-sine, cosine]])  # points are rows
        shear = np.array([[1.0, 0.0], [scene.shear, 1.0]])
        in_image = turned @ (scene.scale * shear @ roll) + np.add(scene.shift, 0.5)
        fixed_point = np.rint(in_image * (side * 2**_SUBPIXEL_BITS)).astype(np.int32)
        ends = itertools.accumulate(lengths)
        return [fixed_point[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def _curve(x: _Points, y: _Points) -> _Points:
    return np.array((x, y)).T


def _band(x: _Points, above: _Points, below: _Points) -> _Points:
    return np.concatenate((_curve(x, above), _curve(x, below)[::-1]))


def _ellipse(x: float, y: float, width: float, height: float) -> _Points:
    return _CIRCLE * (width, height) + (x, y)


def _draw_head(sketch: _Sketch, person: _Person, muscles: _Muscles) -> None:
    width, skin = person.head_width, person.skin
    if person.has_hair:
        sketch.fill(_ellipse(0.0, -0.18, width * 1.17, 0.98), person.hair, flat=True)
        fall = np.array([[-1.15, -0.2], [1.15, -0.2], [1.2, 0.0], [-1.2, 0.0]]) * (width, 1.0)
        fall[2:, 1] = person.hair_length
        sketch.fill(fall, person.hair, flat=True)
    neck = np.array([[-0.45, 0.5], [0.45, 0.5], [0.5, 1.6], [-0.5, 1.6]])
    sketch.fill(neck, 0.72 * skin, flat=True)
    for side in (-1, 1):
        sketch.fill(_ellipse(side * width, 0.0, 0.09, 0.2), 0.85 * skin, flat=True)
    outline = _CIRCLE * (width, 1.0)
    below = np.maximum(0.0, outline[:, 1])
    outline[:, 0] *= 1.0 - (1.0 - person.jaw_width) * below
    outline[:, 1] += 0.35 * muscles.jaw * below
    sketch.fill(outline, skin, flat=True)


def _draw_fringe(sketch: _Sketch, person: _Person) -> None:
    x = 1.04 * person.head_width * _LINE
    aside = np.abs(_LINE - person.parting) / (1.0 + abs(person.parting))
    below = person.hairline - (person.hairline + 0.15) * aside**person.fringe
    above = -1.1 * np.sqrt(1.0 - 0.8 * _LINE**2)
    below = np.maximum(below, above)
    sketch.fill(_band(x, above, below), person.hair, flat=True)


def _draw_eye(sketch: _Sketch, person: _Person, muscles: _Muscles, side: int) -> None:
    outwards = side * _LINE
    height = person.eye_height * (1.0 + muscles.eye_open)
    arch = 1.0 - _LINE**2
    tilt = 0.12 * person.eye_height - 0.35 * person.eye_height * muscles.lid_droop
    corner = _EYE_Y - tilt * outwards
    upper = corner - height * arch * (1.0 - muscles.lid_droop * (0.5 + 0.3 * outwards))
    lower = corner + (0.7 * height - 0.5 * muscles.cheek) * arch
    upper = np.minimum(upper, lower)
    centre = side * person.eye_distance
    x = centre + person.eye_width * _LINE
    skin = person.skin

    socket = _ellipse(centre, _EYE_Y - 0.05, 1.25 * person.eye_width, 1.7 * person.eye_height)
    sketch.fill(socket, 0.9 * skin)
    white = min(245.0, 1.1 * skin + 40)
    sketch.fill(_band(x, upper, lower), white)
    # The lids hide what the iris has above and below them.
    radius = 0.95 * person.eye_height
    iris = _ellipse(centre, _EYE_Y - 0.01, radius, radius)
    iris[:, 1] = np.clip(
        iris[:, 1], np.interp(iris[:, 0], x, upper), np.interp(iris[:, 0], x, lower)
    )
    sketch.fill(iris, person.iris)
    sketch.line(_curve(x, upper), 0.28 * skin, 0.03)
    sketch.line(_curve(x, lower), 0.65 * skin, 0.015)
    sketch.line(_curve(x[2:-2], upper[2:-2] - 0.06), 0.72 * skin, 0.015)


def _draw_brow(sketch: _Sketch, person: _Person, muscles: _Muscles, side: int) -> None:
    share = (_LINE + 1.0) / 2.0  # 0 at the inner end, 1 at the outer
    inner = person.eye_distance - 0.21 - muscles.knit
    outer = person.eye_distance + 0.22
    x = side * (inner + (outer - inner) * share)
    raised = muscles.inner_brow * (1.0 - share) + muscles.outer_brow * share
    y = person.brow_y - raised - 0.035 * (1.0 - (2.0 * share - 1.1) ** 2) - 0.03 * (0.5 - share)
    half = person.brow_thickness * (0.65 - 0.4 * share**2)
    sketch.fill(_band(x, y - half, y + half), min(0.8 * person.hair, 0.6 * person.skin))


def _draw_nose(sketch: _Sketch, person: _Person, muscles: _Muscles) -> None:
    skin, width = person.skin, person.nose_width * (1.0 + 0.2 * muscles.wrinkled_nose)
    tip = _NOSE_Y - 0.05 * muscles.wrinkled_nose
    bridge = np.array([[0.07, -0.1], [0.08, 0.05], [width, tip - 0.05], [0.0, tip + 0.04]])
    sketch.fill(bridge, 0.9 * skin)
    wings = _curve(width * _LINE, tip + 0.03 * np.cos(2 * np.pi * _LINE) - 0.03 * _LINE**2)
    sketch.line(wings, 0.6 * skin, 0.025)
    for side in (-1, 1):
        sketch.fill(_ellipse(side * 0.5 * width, tip + 0.01, 0.035, 0.02), 0.35 * skin)


def _draw_mouth(sketch: _Sketch, person: _Person, muscles: _Muscles) -> None:
    skin = person.skin
    width = person.mouth_width * (1.0 + muscles.stretch)
    x = width * _LINE
    arch = (1.0 - _LINE**2) ** 0.55
    # A smile lifts the corners more than the middle falls.
    corner = _MOUTH_Y - (0.02 + muscles.corners + muscles.skew * _LINE) * (_LINE**2 - 0.35)
    raised = muscles.upper_lip * (1.0 + np.sign(muscles.skew) * 0.5 * _LINE)
    upper = corner - (0.25 * muscles.jaw + raised) * arch
    lower = np.maximum(corner + 0.75 * muscles.jaw * arch, upper)
    thickness = person.lip_thickness * (1.0 - muscles.lip_press) * arch
    cupid = 1.0 - 0.25 * np.exp(-((_LINE / 0.15) ** 2))
    lips = person.lip_contrast * skin
    sketch.fill(_band(x, upper - 0.8 * thickness * cupid, lower + thickness), lips)
    sketch.fill(_band(x, upper, lower), 0.22 * skin)
    teeth = np.minimum(upper + 0.07 * arch, lower - 0.02)
    if np.any(teeth > upper):
        teeth = np.maximum(teeth, upper)
        sketch.fill(_band(x, upper, teeth), 1.1 * skin + 40)
    sketch.line(_curve(x, upper), 0.35 * skin, 0.022)
    shadow = _curve(0.5 * x, lower + thickness + 0.04)
    sketch.line(shadow[2:-2], 0.88 * skin, 0.03)


def _draw_creases(sketch: _Sketch, person: _Person, muscles: _Muscles) -> None:
    skin = person.skin
    # From the wings of the nose round the mouth.
    depth = min(1.0, max(0.2, 6.0 * muscles.cheek + 3.0 * muscles.upper_lip))
    width = person.mouth_width * (1.0 + 0.5 * muscles.stretch)
    for side in (-1, 1):
        share = (_LINE + 1.0) / 2.0
        fold_x = person.nose_width + 0.03 + (width + 0.06 - person.nose_width) * share**0.7
        fold = _curve(side * fold_x, _NOSE_Y - 0.05 + 0.25 * share)
        sketch.line(fold[: 6 + round(7 * depth)], skin * (1.0 - 0.35 * depth), 0.025)
    if muscles.wrinkled_nose > 0.2:
        tone = skin * (1.0 - 0.4 * min(1.0, muscles.wrinkled_nose))
        for level in (-0.12, -0.04, 0.04):
            sketch.line(_curve(0.11 * _LINE, level - 0.03 * np.abs(_LINE)), tone, 0.025)
    if muscles.knit > 0.03:
        tone = skin * (1.0 - 3.5 * min(0.1, muscles.knit))
        for side in (-1, 1):
            frown = np.array([[side * 0.05, -0.44], [side * 0.04, -0.24]])
            sketch.line(frown, tone, 0.025)
    if muscles.inner_brow > 0.06:
        tone = skin * (1.0 - 1.3 * min(0.15, muscles.inner_brow))
        outer = 0.4 if muscles.outer_brow > 0.06 else 0.22
        for level in (-0.60, -0.68):
            sketch.line(_curve(outer * _LINE, level + 0.04 * _LINE**2), tone, 0.02)


def _draw_glasses(sketch: _Sketch, person: _Person) -> None:
    for side in (-1, 1):
        rim = _ellipse(side * person.eye_distance, _EYE_Y + 0.03, 0.26, 0.22)
        sketch.line(rim, 30.0, 0.03, closed=True)
    sketch.line(np.array([[-0.09, _EYE_Y], [0.0, _EYE_Y - 0.03], [0.09, _EYE_Y]]), 30.0, 0.03)


def _photograph(drawing: _Image, scene: _Scene, rng: np.random.Generator, size: int) -> _Image:
    small = cv2.resize(drawing, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32)
    sigma = scene.blur * size / FACE_SIZE
    blurred: npt.NDArray[np.float32] = cv2.GaussianBlur(small, (0, 0), sigma)
    across = np.linspace(-1.0, 1.0, size, dtype=np.float32)
    gain = scene.exposure * (1.0 + scene.light[0] * across + scene.light[1] * across[:, np.newaxis])
    noise = scene.noise * rng.standard_normal((size, size), dtype=np.float32)
    pixels: _Image = np.rint(np.clip(blurred * gain + noise, 0.0, 255.0)).astype(np.uint8)
    return pixels

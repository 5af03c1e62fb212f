import numpy as np
import pytest

from fer_tfdata import annotation
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.results import FacePrediction


def face_at(box: Box) -> FacePrediction:
    return FacePrediction(box, dict(zip(EXPRESSIONS, [0.1] * 3 + [0.4] + [0.1] * 3, strict=True)))


def test_the_annotated_copy_shows_box_and_bars() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    annotated = annotation.annotate(image, [face_at(Box(100, 100, 120, 120))])
    assert annotated.dtype == np.uint8
    assert annotated.shape == image.shape
    assert not image.any()
    assert annotated[219, 100:220].any(axis=1).all()  # the box's lower edge
    assert not annotated[105:215, 105:215].any()  # the face
    assert annotated[100:220, 230:].any()  # the bars
    assert annotated[70:99, 100:200].any()  # the expression


def bars_of(expressions: tuple[str, ...]) -> int:
    """Counts the bars that are drawn beside a face."""
    probabilities = dict.fromkeys(expressions, 1 / len(expressions))
    face = FacePrediction(Box(100, 100, 120, 120), probabilities)
    annotated = annotation.annotate(np.zeros((512, 512, 3), np.uint8), [face])
    right_end = np.flatnonzero(annotated[:, 240:].any(axis=(0, 2)))[-1] + 240
    column = annotated[:, right_end - 20, 0].astype(int)  # where every bar is faint
    return int(np.count_nonzero((column[1:] > 64) & (column[:-1] <= 64)))


def test_there_are_as_many_bars_as_expressions() -> None:
    assert bars_of(EXPRESSIONS) == 7
    assert bars_of(EIGHT_EXPRESSIONS) == 8


def test_a_small_image_is_enlarged_and_a_large_one_is_not() -> None:
    small = np.zeros((48, 40, 3), np.uint8)
    assert annotation.annotate(small, [face_at(Box(0, 0, 40, 48))]).shape == (384, 320, 3)
    large = np.zeros((900, 1600, 3), np.uint8)
    np.testing.assert_array_equal(annotation.annotate(large, []), large)


@pytest.mark.parametrize("shape", [(48, 48), (1, 1), (3, 2000), (2000, 3), (300, 400)])
def test_boxes_at_every_border_can_be_drawn(shape: tuple[int, int]) -> None:
    height, width = shape
    whole = face_at(Box(0, 0, width, height))
    corner = face_at(Box(width - 1, height - 1, 1, 1))
    annotated = annotation.annotate(np.zeros((*shape, 3), np.uint8), [whole, corner])
    assert annotated.any()


def test_bars_cover_no_other_face() -> None:
    image = np.zeros((400, 640, 3), np.uint8)
    boxes = [Box(left, 150, 100, 100) for left in (10, 130, 250)]
    annotated = annotation.annotate(image, [face_at(box) for box in boxes])
    for box in boxes:
        inside = annotated[box.top + 5 : box.top + 95, box.left + 5 : box.left + 95]
        assert not inside.any()
    assert annotated[150:250, 360:].any()  # only the last has room

import cv2
import keras
import numpy as np
import pytest

from fer_tfdata import views
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from tests.evaluation_test import asymmetric_model


def random_images(count: int, side: int = 48, channels: int = 1) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, side, side, channels), np.uint8)


@pytest.fixture(scope="module")
def classifier() -> KerasClassifier:
    keras.utils.set_random_seed(0)
    return KerasClassifier(asymmetric_model())


def test_one_view_is_the_classifier_itself(classifier) -> None:
    assert views.averaged(classifier, "none") is classifier


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("side", [48, 17])
def test_the_crops_are_those_that_opencv_enlarges(side, channels) -> None:
    images = random_images(3, side, channels)
    crop = round(views.CROP_SHARE * side)
    end = side - crop
    found = list(views.ten_crops(images))
    assert len(found) == 10
    corners = [(0, 0), (0, end), (end, 0), (end, end), (end // 2, end // 2)]
    for number, (top, left) in enumerate(corners):
        for image, enlarged in zip(images, found[2 * number], strict=True):
            expected = cv2.resize(image[top : top + crop, left : left + crop], (side, side))
            np.testing.assert_allclose(enlarged.squeeze(), expected.squeeze(), atol=1)
        np.testing.assert_array_equal(found[2 * number + 1], found[2 * number][:, :, ::-1])


def test_a_crop_of_all_is_the_image() -> None:
    images = random_images(2)
    for view in views.ten_crops(images, share=1.0):
        assert any((view == whole).all() for whole in (images, images[:, :, ::-1]))


def test_the_crops_of_one_gray_are_that_gray(classifier) -> None:
    images = np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1).repeat(48, 1).repeat(48, 2)
    for view in views.ten_crops(images):
        np.testing.assert_array_equal(view, images)
    np.testing.assert_allclose(
        views.averaged(classifier, "crops").probabilities(images),
        classifier.probabilities(images),
    )


@pytest.mark.parametrize("tta", ["flip", "crops"])
def test_an_image_and_its_mirror_image_get_the_same_answer(classifier, tta) -> None:
    averaged = views.averaged(classifier, tta)
    images = random_images(5)
    probabilities = averaged.probabilities(images)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1)
    mirrored = averaged.probabilities(images[:, :, ::-1])
    # A pixel between two grays may be rounded to either.
    np.testing.assert_allclose(probabilities, mirrored, atol=1e-4)
    assert not np.allclose(probabilities, classifier.probabilities(images), atol=1e-3)


@pytest.mark.parametrize("tta", ["flip", "crops"])
def test_what_is_averaged_is_a_classifier(classifier, tta) -> None:
    averaged = views.averaged(classifier, tta)
    assert averaged.image_shape == classifier.image_shape
    assert averaged.expressions == classifier.expressions
    assert averaged.probabilities(random_images(0)).shape == (0, 7)
    with pytest.raises(InputError, match="expected images as uint8"):
        averaged.probabilities(random_images(2, side=32))

import cv2
import keras
import numpy as np
import pytest
import tensorflow as tf

from fer_tfdata import faces, images, servable
from fer_tfdata.faces import Box
from fer_tfdata.images import Pixels

SIDE = 48


def smooth_images(n: int, *shape: int) -> Pixels:
    """Images with the little detail that photographs have from pixel to pixel."""
    noise = np.random.default_rng(0).normal(size=(n, *shape))
    blurred = np.stack([cv2.GaussianBlur(one, (0, 0), 3).reshape(shape) for one in noise])
    scaled = 255 * (blurred - blurred.min()) / np.ptp(blurred)
    return scaled.astype(np.uint8)


@pytest.fixture(scope="module", params=[1, 3])
def fit(request):
    """Fits, as a graph of images of any size, gray and RGB."""
    spec = tf.TensorSpec([None, None, None, request.param], tf.uint8)
    graph = tf.function(lambda pixels: servable.fit(pixels, SIDE), input_signature=[spec])

    def run(pixels: Pixels) -> Pixels:
        fitted = graph(pixels).numpy()
        np.testing.assert_array_equal(fitted, fitted.astype(np.uint8))
        return fitted.astype(np.uint8)

    run.channels = request.param
    return run


def test_what_has_the_size_stays_as_it_is(fit) -> None:
    shape = (33, SIDE, SIDE, fit.channels)
    noise = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    np.testing.assert_array_equal(fit(noise), noise)


@pytest.mark.parametrize("side", [1, 20, 47, 49, 96, 100, 333])
def test_squares_are_resized_as_crops_of_predictions_are(fit, side) -> None:
    pixels = smooth_images(2, side, side, fit.channels)
    method = cv2.INTER_AREA if side > SIDE else cv2.INTER_LINEAR
    expected = [cv2.resize(one, (SIDE, SIDE), interpolation=method) for one in pixels]
    expected = np.reshape(expected, (2, SIDE, SIDE, fit.channels))
    # OpenCV rounds on its way when an image grows.
    assert np.abs(fit(pixels).astype(int) - expected).max() <= 1


def test_a_crop_is_that_of_a_face_in_a_photograph() -> None:
    photograph = smooth_images(1, 200, 300, 3)[0]
    box = Box(40, 20, 100, 100)  # 104 with its margin
    expected = faces.crop_face(photograph, box, SIDE, channels=1)[..., 0]
    gray = cv2.cvtColor(photograph[18:122, 38:142], cv2.COLOR_RGB2GRAY)
    received = servable.fit(gray[np.newaxis, ..., np.newaxis], SIDE).numpy()[0, ..., 0]
    assert np.abs(received - expected).max() <= 1


@pytest.mark.parametrize("size", [(100, 60), (31, 77), (20, 48), (40, 120), (48, 47)])
def test_other_shapes_are_framed_as_whole_images_are(fit, size) -> None:
    pixels = smooth_images(2, *size, fit.channels)
    expected = np.stack([images.fit(one, SIDE) for one in pixels]).astype(int)
    received = fit(pixels).astype(int)
    # Another filter, the same places: one pixel further would be much more.
    assert np.abs(received - expected).max() <= 8
    assert np.abs(received - expected).mean() < 1.2
    narrow = min(round(SIDE * min(size) / max(size)), SIDE)
    before = (SIDE - max(narrow, 1)) // 2
    filled = received if size[0] < size[1] else received.swapaxes(1, 2)
    np.testing.assert_array_equal(filled[:, :before], filled[:, [before] * before])


def test_an_image_of_one_value_keeps_it(fit) -> None:
    for size in ((10, 10), (500, 500), (30, 200)):
        for value in (0, 255):
            assert (fit(np.full((1, *size, fit.channels), value, np.uint8)) == value).all()


def test_the_answers_are_probabilities_of_the_fitted_images() -> None:
    inputs = keras.Input((16, 16, 3), dtype="uint8")
    flat = keras.layers.Flatten()(keras.layers.Rescaling(1 / 255)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(7)(flat))
    serve = servable.Servable(model).serve
    for size in ((16, 16), (40, 30)):
        pixels = smooth_images(3, *size, 3)
        expected = tf.nn.softmax(model(servable.fit(pixels, 16)))
        received = serve(pixels)["probabilities"]
        assert received.shape == (3, 7)
        np.testing.assert_allclose(received, expected, atol=1e-6)

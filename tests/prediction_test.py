from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from skimage import data

from fer_tfdata import prediction
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.images import Pixels
from fer_tfdata.prediction import FacePrediction, Predictor


def tiny_model(
    *,
    shape: tuple[int | None, ...] = (48, 48, 1),
    dtype: str = "uint8",
    outputs: int = 7,
    activation: str | None = None,
) -> Any:
    """A model whose answers differ from face to face; its weights are always the same ones."""
    inputs = keras.Input(shape, dtype=dtype, name="image")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.AveragePooling2D(8)(x)
    x = keras.layers.Flatten()(x)
    kernel = keras.initializers.RandomNormal(stddev=1, seed=1)
    logits = keras.layers.Dense(outputs, activation, kernel_initializer=kernel, name="logits")(x)
    return keras.Model(inputs, logits)


@pytest.fixture(scope="module")
def predictor() -> Predictor:
    return Predictor(KerasClassifier(tiny_model()))


def random_images(n: int, *shape: int) -> Pixels:
    return np.random.default_rng(0).integers(0, 256, (n, *shape), dtype=np.uint8)


def row(prediction: FacePrediction) -> list[float]:
    return list(prediction.probabilities.values())


def test_probabilities_are_the_softmax_of_the_logits() -> None:
    crops = random_images(5, 48, 48, 1)
    model = tiny_model()
    logits = np.asarray(model(crops), np.float64)
    expected = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    probabilities = Predictor(KerasClassifier(model)).predict_faces(crops)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, expected, rtol=1e-4)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_large_logits_do_not_overflow() -> None:
    model = tiny_model()
    model.get_layer("logits").set_weights([np.zeros((36, 7)), np.array([5e4, 0, 0, 0, 0, 0, -5e4])])
    probabilities = Predictor(KerasClassifier(model)).predict_faces(random_images(1, 48, 48, 1))
    np.testing.assert_array_equal(probabilities, [[1, 0, 0, 0, 0, 0, 0]])


def test_batches_of_any_number(predictor: Predictor) -> None:
    crops = random_images(prediction.BATCH_SIZE + 3, 48, 48, 1)
    together = predictor.predict_faces(crops)
    assert together.shape == (len(crops), 7)
    for index in (0, prediction.BATCH_SIZE - 1, prediction.BATCH_SIZE, len(crops) - 1):
        alone = predictor.predict_faces(crops[index : index + 1])
        np.testing.assert_allclose(alone[0], together[index], atol=1e-6)
    assert predictor.predict_faces(crops[:0]).shape == (0, 7)


@pytest.mark.parametrize(
    "crops",
    [
        np.zeros((2, 48, 48, 3), np.uint8),
        np.zeros((2, 47, 48, 1), np.uint8),
        np.zeros((48, 48, 1), np.uint8),
        np.zeros((2, 48, 48, 1), np.float32),
    ],
)
def test_wrong_crops_are_refused(predictor: Predictor, crops: Any) -> None:
    with pytest.raises(InputError, match="expected images as uint8"):
        predictor.predict_faces(crops)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"outputs": 6}, r"returns logits \[N, 7 or 8\].*received .* returns \[None, 6\]"),
        ({"dtype": "float32"}, "takes uint8 images.*received one that takes float32"),
        ({"shape": (48, 32, 1)}, "takes uint8 images"),
        ({"shape": (48, 48, 2)}, "takes uint8 images"),
        ({"activation": "softmax"}, "received one that returns probabilities"),
    ],
)
def test_wrong_models_are_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        KerasClassifier(tiny_model(**arguments))


def test_a_model_of_another_rank_is_refused() -> None:
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    spatial = keras.Model(inputs, keras.layers.Conv2D(7, 3)(inputs))
    with pytest.raises(InputError, match=r"expected a model that returns logits"):
        KerasClassifier(spatial)
    twice = keras.Model(inputs, [keras.layers.Flatten()(inputs), keras.layers.Flatten()(inputs)])
    with pytest.raises(InputError, match="one input and one output, received 1 and 2"):
        KerasClassifier(twice)


def test_logits_that_are_not_numbers_are_refused() -> None:
    model = tiny_model()
    model.get_layer("logits").set_weights([np.full((36, 7), np.nan), np.zeros(7)])
    with pytest.raises(InputError, match="expected finite logits"):
        Predictor(KerasClassifier(model)).predict_faces(random_images(1, 48, 48, 1))


def test_from_path(tmp_path: Path, predictor: Predictor) -> None:
    tiny_model().save(tmp_path / "model.keras")
    tiny_model(outputs=6).save(tmp_path / "wrong.keras")
    crops = random_images(2, 48, 48, 1)
    for path in (tmp_path, tmp_path / "model.keras"):
        probabilities = Predictor.from_path(path).predict_faces(crops)
        np.testing.assert_allclose(probabilities, predictor.predict_faces(crops), atol=1e-6)
    with pytest.raises(InputError, match=r"wrong\.keras: expected a model that returns logits"):
        Predictor.from_path(tmp_path / "wrong.keras")
    with pytest.raises(InputError, match="nothing there"):
        Predictor.from_path(tmp_path / "missing")


def test_a_photograph(tmp_path: Path, predictor: Predictor) -> None:
    photograph = data.astronaut()
    Image.fromarray(photograph).save(tmp_path / "astronaut.png")
    (face,) = predictor.predict_image(tmp_path / "astronaut.png")
    assert abs(face.box.left - 177) < 10
    assert abs(face.box.top - 66) < 10
    assert tuple(face.probabilities) == EXPRESSIONS
    assert sum(row(face)) == pytest.approx(1, abs=1e-6)
    assert face.probabilities[face.expression] == max(row(face))
    assert predictor.predict_image(photograph) == [face]


def test_a_face_as_it_is_goes_to_the_model_unchanged(tmp_path: Path, predictor: Predictor) -> None:
    gray = random_images(1, 48, 48)[0]
    Image.fromarray(gray).save(tmp_path / "face.png")
    (face,) = predictor.predict_image(tmp_path / "face.png")
    assert face.box == Box(0, 0, 48, 48)
    expected = predictor.predict_faces(gray[np.newaxis, ..., np.newaxis])[0]
    np.testing.assert_allclose(row(face), expected, atol=1e-6)
    assert predictor.predict_image(gray) == [face]


def test_a_model_of_three_channels_and_another_size_sees_gray() -> None:
    gray = random_images(1, 64, 64)[0]
    predictor = Predictor(KerasClassifier(tiny_model(shape=(64, 64, 3))))
    (face,) = predictor.predict_image(gray)
    expected = predictor.predict_faces(np.stack([gray] * 3, axis=2)[np.newaxis])[0]
    np.testing.assert_allclose(row(face), expected, atol=1e-6)


def test_a_model_of_eight_expressions_gives_eight_probabilities() -> None:
    gray = random_images(1, 48, 48)[0]
    predictor = Predictor(KerasClassifier(tiny_model(outputs=8)))
    assert predictor.expressions == EIGHT_EXPRESSIONS
    assert predictor.predict_faces(random_images(0, 48, 48, 1)).shape == (0, 8)
    (face,) = predictor.predict_image(gray)
    assert tuple(face.probabilities) == EIGHT_EXPRESSIONS
    assert sum(row(face)) == pytest.approx(1, abs=1e-6)


def test_no_face_and_modes(predictor: Predictor) -> None:
    flat = np.full((200, 200, 3), 99, np.uint8)
    assert predictor.predict_image(flat) == []
    assert len(Predictor(KerasClassifier(tiny_model()), mode="whole").predict_image(flat)) == 1


def test_files_together_equal_one_at_a_time(tmp_path: Path, predictor: Predictor) -> None:
    paths = []
    for index, crop in enumerate(random_images(prediction.BATCH_SIZE + 5, 48, 48)):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(crop).save(paths[-1])
    astronaut, empty, broken = (tmp_path / name for name in ("a.jpg", "empty.png", "broken.png"))
    Image.fromarray(np.hstack([data.astronaut(), data.astronaut()])).save(astronaut)
    Image.new("RGB", (200, 200)).save(empty)
    broken.write_text("no image")
    paths[3:3] = [astronaut, broken, empty]
    results = list(predictor.predict_paths(iter(paths)))
    assert [result.path for result in results] == paths
    assert [len(result.faces) for result in results[:7]] == [1, 1, 1, 2, 0, 0, 1]
    assert [result.path for result in results if result.error is not None] == [broken]
    assert "broken.png: expected an image" in str(results[4].error)
    for index in (0, 3, 5, 6, len(paths) - 1):
        alone = predictor.predict_image(paths[index])
        assert [face.box for face in alone] == [face.box for face in results[index].faces]
        for one, other in zip(alone, results[index].faces, strict=True):
            np.testing.assert_allclose(row(one), row(other), atol=1e-6)


def test_no_files_no_results(predictor: Predictor) -> None:
    assert list(predictor.predict_paths([])) == []


def face_at(box: Box) -> FacePrediction:
    return FacePrediction(box, dict(zip(EXPRESSIONS, [0.1] * 3 + [0.4] + [0.1] * 3, strict=True)))


def test_the_annotated_copy_shows_box_and_bars() -> None:
    image = np.zeros((512, 512, 3), np.uint8)
    annotated = prediction.annotate(image, [face_at(Box(100, 100, 120, 120))])
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
    annotated = prediction.annotate(np.zeros((512, 512, 3), np.uint8), [face])
    right_end = np.flatnonzero(annotated[:, 240:].any(axis=(0, 2)))[-1] + 240
    column = annotated[:, right_end - 20, 0].astype(int)  # where every bar is faint
    return int(np.count_nonzero((column[1:] > 64) & (column[:-1] <= 64)))


def test_there_are_as_many_bars_as_expressions() -> None:
    assert bars_of(EXPRESSIONS) == 7
    assert bars_of(EIGHT_EXPRESSIONS) == 8


def test_a_small_image_is_enlarged_and_a_large_one_is_not() -> None:
    small = np.zeros((48, 40, 3), np.uint8)
    assert prediction.annotate(small, [face_at(Box(0, 0, 40, 48))]).shape == (384, 320, 3)
    large = np.zeros((900, 1600, 3), np.uint8)
    np.testing.assert_array_equal(prediction.annotate(large, []), large)


@pytest.mark.parametrize("shape", [(48, 48), (1, 1), (3, 2000), (2000, 3), (300, 400)])
def test_boxes_at_every_border_can_be_drawn(shape: tuple[int, int]) -> None:
    height, width = shape
    whole = face_at(Box(0, 0, width, height))
    corner = face_at(Box(width - 1, height - 1, 1, 1))
    annotated = prediction.annotate(np.zeros((*shape, 3), np.uint8), [whole, corner])
    assert annotated.any()


def test_bars_cover_no_other_face() -> None:
    image = np.zeros((400, 640, 3), np.uint8)
    boxes = [Box(left, 150, 100, 100) for left in (10, 130, 250)]
    annotated = prediction.annotate(image, [face_at(box) for box in boxes])
    for box in boxes:
        inside = annotated[box.top + 5 : box.top + 95, box.left + 5 : box.left + 95]
        assert not inside.any()
    assert annotated[150:250, 360:].any()  # only the last has room

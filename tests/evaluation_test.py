import json

import keras
import numpy as np
import pytest
import tensorflow as tf

from fer_tfdata import evaluation, records
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import Predictions
from fer_tfdata.expressions import EXPRESSIONS


def predictions(chosen, labels, *, confidence=0.7) -> Predictions:
    probabilities = np.full((len(chosen), 7), (1 - confidence) / 6)
    probabilities[np.arange(len(chosen)), chosen] = confidence
    return Predictions(probabilities, np.array(labels, np.int64), np.arange(len(labels)))


def test_the_figures_of_a_small_example_by_hand() -> None:
    metrics = evaluation.compute_metrics(predictions([0, 0, 3, 3], [0, 1, 3, 3]))
    assert metrics["examples"] == 4
    assert metrics["accuracy"] == 0.75
    # Wilson's interval for 3 of 4.
    assert metrics["accuracy_ci95"] == pytest.approx([0.3006, 0.9544], abs=1e-4)
    assert metrics["per_expression"]["angry"] == {
        "precision": 0.5,
        "recall": 1.0,
        "f1": pytest.approx(2 / 3),
        "support": 1,
    }
    assert metrics["per_expression"]["disgust"]["recall"] == 0.0
    assert metrics["per_expression"]["neutral"]["support"] == 0
    assert metrics["macro_f1"] == pytest.approx((2 / 3 + 0 + 1) / 3)
    assert metrics["nll"] == pytest.approx(-(3 * np.log(0.7) + np.log(0.05)) / 4)
    assert metrics["ece"] == pytest.approx(0.05)
    matrix = np.array(metrics["confusion_matrix"])
    assert matrix[1, 0] == 1  # rows: truth
    assert matrix.sum() == 4
    assert list(metrics["per_expression"]) == list(EXPRESSIONS)
    json.dumps(metrics)


def test_leaked_images_are_left_out_of_the_leak_free_figures() -> None:
    some = predictions([0, 0, 3, 3], [0, 1, 3, 3])
    metrics = evaluation.compute_metrics(some, leaked_rows=frozenset({0, 2, 99}))
    assert metrics["accuracy"] == 0.75
    assert metrics["accuracy_leak_free"] == 0.5
    assert metrics["examples_leak_free"] == 2
    all_leaked = evaluation.compute_metrics(some, leaked_rows=frozenset(range(4)))
    assert all_leaked["accuracy_leak_free"] is None


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [False, False], 1.0),
        ([0.5, 0.5], [True, False], 0.0),
        ([0.9, 0.3], [False, False], 0.6),
        ([0.61, 0.65], [True, False], 0.13),  # one bin
    ],
)
def test_expected_calibration_error(confidences, correct, expected) -> None:
    error = evaluation.expected_calibration_error(np.array(confidences), np.array(correct))
    assert error == pytest.approx(expected)


def asymmetric_model() -> keras.Model:
    """Looks at the left half of the image alone."""
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Cropping2D(((0, 0), (0, 24)))(x)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, keras.layers.Dense(7)(x))


def test_flip_averages_an_image_and_its_mirror_image() -> None:
    keras.utils.set_random_seed(0)
    model = asymmetric_model()
    images = np.random.default_rng(0).integers(0, 256, (10, 48, 48, 1), np.uint8)
    labels = rows = np.zeros(10, np.int64)

    def run(pixels, tta):
        dataset = tf.data.Dataset.from_tensor_slices((pixels, labels, rows)).batch(4)
        return evaluation.predict_dataset(model, dataset, tta=tta).probabilities

    plain, mirrored = run(images, "none"), run(images[:, :, ::-1], "none")
    assert not np.allclose(plain, mirrored)
    np.testing.assert_allclose(run(images, "flip"), (plain + mirrored) / 2, atol=1e-7)
    np.testing.assert_allclose(plain.sum(axis=1), 1)


def test_metrics_have_the_fields_of_the_contract(demo_data_dir) -> None:
    split = records.open_split(demo_data_dir, "test")
    metrics = evaluation.evaluate(asymmetric_model(), split, model_name="m", batch_size=8)
    assert set(metrics) == {
        *("split", "examples", "accuracy", "accuracy_ci95", "macro_f1", "nll", "ece"),
        *("per_expression", "confusion_matrix", "accuracy_leak_free", "examples_leak_free"),
        *("tta", "model", "manifest_sha256"),
    }
    assert metrics["examples"] == 35
    assert (metrics["split"], metrics["tta"], metrics["model"]) == ("test", "none", "m")
    again = evaluation.evaluate(asymmetric_model(), split, model_name="m", batch_size=35)
    assert again["examples"] == 35


def test_a_model_of_other_classes_is_refused(demo_data_dir) -> None:
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(8)(keras.layers.Flatten()(inputs)))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match=r"m: expected a model .* received one .* \[None, 8\]"):
        evaluation.evaluate(model, split, model_name="m")


def test_a_model_that_returns_probabilities_is_refused(demo_data_dir) -> None:
    # A second softmax would give accuracy as it is, and wrong NLL and ECE without a word.
    model = asymmetric_model()
    model = keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match="received one that returns probabilities"):
        evaluation.evaluate(model, split, model_name="m")


def test_a_model_of_another_size_is_refused(demo_data_dir) -> None:
    inputs = keras.Input((64, 64, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(inputs)))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match=r"received one of \(64, 64, 1\)"):
        evaluation.evaluate(model, split, model_name="m")

import dataclasses
import json
from typing import get_args

import keras
import numpy as np
import pytest
import scipy.stats
import tensorflow as tf
from absl import flags

from fer_tfdata import conversion, evaluation, ferplus, records, views
from fer_tfdata.classifier import KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import Predictions
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL
from tests.batch_source import BatchSource, random_batch
from tools import evaluate


def predictions(chosen, labels, *, confidence=0.7) -> Predictions:
    probabilities = np.full((len(chosen), 7), (1 - confidence) / 6)
    probabilities[np.arange(len(chosen)), chosen] = confidence
    places = np.arange(len(labels))
    return Predictions(probabilities, np.array(labels, np.int64), places, places.astype(np.uint64))


def random_predictions(count: int) -> Predictions:
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.full(7, 0.3), count)
    labels = np.where(rng.random(count) < 0.6, probabilities.argmax(1), rng.integers(0, 7, count))
    places = np.arange(count)
    return Predictions(probabilities, labels, places, places.astype(np.uint64))


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
    some = predictions([0, 0, 3, 3, 1], [0, 1, 3, 3, 2])
    metrics = evaluation.compute_metrics(some, leaked_rows=frozenset({0, 2, 99}))
    assert metrics["accuracy"] == 0.6
    assert metrics["accuracy_leak_free"] == pytest.approx(1 / 3)
    assert metrics["examples_leak_free"] == 3
    # Left are 1 and 2, which are missed, and 3, which is found.
    assert metrics["leak_free"] == {
        "examples": 3,
        "accuracy": pytest.approx(1 / 3),
        "accuracy_ci95": pytest.approx([0.0615, 0.7923], abs=1e-4),  # Wilson's, of 1 of 3
        "macro_f1": pytest.approx(1 / 3),
        "nll": pytest.approx(-(np.log(0.7) + 2 * np.log(0.05)) / 3),
        "ece": pytest.approx(0.7 - 1 / 3),
    }
    none_leaked = evaluation.compute_metrics(some)
    assert none_leaked["leak_free"].items() <= none_leaked.items()
    all_leaked = evaluation.compute_metrics(some, leaked_rows=frozenset(range(5)))
    assert all_leaked["accuracy_leak_free"] is None
    assert all_leaked["leak_free"] is None


def test_near_leaked_images_are_left_out_beside_the_leaked_ones() -> None:
    some = predictions([0, 0, 3, 3, 1], [0, 1, 3, 3, 2])
    leaked, near = frozenset({0, 2}), frozenset({1, 77})
    metrics = evaluation.compute_metrics(some, leaked_rows=leaked, near_leaked_rows=near)
    both = evaluation.compute_metrics(some, leaked_rows=leaked | near)["leak_free"]
    assert metrics["near_leak_free"] == both
    assert both["examples"] == 2
    assert metrics["leak_free"]["examples"] == 3
    none_left = evaluation.compute_metrics(some, near_leaked_rows=frozenset(range(5)))
    assert none_left["near_leak_free"] is None


@pytest.mark.parametrize("leaked", [frozenset(), frozenset(range(0, 300, 3))])
def test_the_figures_of_a_resample_are_those_of_the_metrics(leaked) -> None:
    some = random_predictions(300)
    summands = evaluation._summands(some)
    kept = some.without(leaked)
    for places in np.random.default_rng(1).integers(0, 300, (3, 300)):
        drawn = some.only(places)
        metrics = evaluation.compute_metrics(drawn, leaked_rows=leaked)
        for weights, expected in (
            (np.ones(300), metrics),
            (kept[places], metrics["leak_free"]),
        ):
            sums = weights[np.newaxis] @ summands[places]
            for name, figures in evaluation._figures(sums, num_classes=7).items():
                assert figures == pytest.approx(expected[name]), name


def test_leak_free_intervals_are_of_the_leak_free_figures() -> None:
    some = random_predictions(400)
    leaked = frozenset(range(0, 400, 4))
    near = frozenset(range(0, 400, 10))
    rows = {"leaked_rows": leaked, "near_leaked_rows": near}
    metrics = evaluation.compute_metrics(some, **rows)
    intervals = evaluation.bootstrap_intervals(some, **rows)
    for part, left_out in (("leak_free", leaked), ("near_leak_free", leaked | near)):
        of_subset = evaluation.bootstrap_intervals(some.only(some.without(left_out)))
        assert set(intervals[part]) == {"accuracy", "macro_f1", "nll", "ece"}
        for name, (low, high) in intervals[part].items():
            assert low < metrics[part][name] < high, name
            width = high - low
            np.testing.assert_allclose([low, high], of_subset[name], atol=0.15 * width)
    assert intervals["accuracy_leak_free"] == intervals["leak_free"]["accuracy"]


def test_one_leak_free_image_has_intervals() -> None:
    some = predictions([0, 0, 3], [0, 1, 3])  # a third of the resamples do not hold it
    intervals = evaluation.bootstrap_intervals(some, leaked_rows=frozenset({0, 1}))
    assert intervals["leak_free"]["accuracy"] == [1, 1]
    assert intervals["leak_free"]["macro_f1"] == [1, 1]


def test_the_intervals_are_those_of_scipy_s_bootstrap() -> None:
    some = random_predictions(400)
    intervals = evaluation.bootstrap_intervals(some)
    for name, values in (("accuracy", some.correct.astype(np.float64)), ("nll", some.losses)):
        expected = scipy.stats.bootstrap(
            (values,), np.mean, n_resamples=4_000, method="percentile", rng=1
        ).confidence_interval
        width = expected.high - expected.low
        np.testing.assert_allclose(intervals[name], expected, atol=0.08 * width)


def test_equal_images_are_drawn_together() -> None:
    some = random_predictions(400)
    twice = some.only(np.repeat(np.arange(400), 2))
    for name, bounds in evaluation.bootstrap_intervals(some).items():
        if name not in ("leak_free", "near_leak_free"):
            assert evaluation.bootstrap_intervals(twice)[name] == pytest.approx(bounds), name


def test_equal_images_are_known_by_their_pixels(tmp_path) -> None:
    batch = random_batch(["test"] * 4)
    batch.images[3] = batch.images[1]
    batch.images[2] = batch.images[1]
    batch.images[2, 0, 0] ^= 1
    conversion.convert(BatchSource([batch]), tmp_path)
    split = records.open_split(tmp_path, "test")
    classifier = KerasClassifier(asymmetric_model())
    predictions = evaluation.predict_split(
        classifier, split, model_name="m", batch_size=2
    ).predictions
    number_of = dict(zip(predictions.rows.tolist(), predictions.images.tolist(), strict=True))
    assert number_of[3] == number_of[1]
    assert len(set(number_of.values())) == 3


def test_no_leak_free_image_has_no_leak_free_interval() -> None:
    some = random_predictions(10)
    intervals = evaluation.bootstrap_intervals(some, leaked_rows=frozenset(range(10)))
    assert intervals.pop("accuracy_leak_free") is None
    assert intervals.pop("leak_free") is None
    assert intervals.pop("near_leak_free") is None
    assert all(np.isfinite(bounds).all() for bounds in intervals.values())


def test_the_worst_mistakes_are_the_surest() -> None:
    some = random_predictions(100)
    places = evaluation.worst_mistakes(some)
    assert len(places) == (~some.correct).sum()
    assert not some.correct[places].any()
    assert (np.diff(some.confidences[places]) <= 0).all()


def asymmetric_model(outputs: int = 7) -> keras.Model:
    """Looks at the left half of the image alone."""
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Cropping2D(((0, 0), (0, 24)))(x)
    x = keras.layers.Flatten()(keras.layers.AveragePooling2D(8)(x))
    return keras.Model(inputs, keras.layers.Dense(outputs)(x))


def test_flip_averages_an_image_and_its_mirror_image() -> None:
    keras.utils.set_random_seed(0)
    model = asymmetric_model()
    images = np.random.default_rng(0).integers(0, 256, (10, 48, 48, 1), np.uint8)
    labels = rows = np.zeros(10, np.int64)

    def run(pixels, tta):
        dataset = tf.data.Dataset.from_tensor_slices((pixels, labels, rows)).batch(4)
        return evaluation.predict_dataset(KerasClassifier(model), dataset, tta=tta).probabilities

    plain, mirrored = run(images, "none"), run(images[:, :, ::-1], "none")
    assert not np.allclose(plain, mirrored)
    np.testing.assert_allclose(run(images, "flip"), (plain + mirrored) / 2, atol=1e-7)
    np.testing.assert_allclose(plain.sum(axis=1), 1)


def test_metrics_have_the_fields_of_the_contract(demo_data_dir) -> None:
    split = records.open_split(demo_data_dir, "test")
    metrics = evaluation.evaluate(
        KerasClassifier(asymmetric_model()), split, model_name="m", batch_size=8
    )
    assert set(metrics) == {
        *("split", "examples", "accuracy", "accuracy_ci95", "macro_f1", "nll", "ece"),
        *("per_expression", "confusion_matrix", "accuracy_leak_free", "examples_leak_free"),
        *("leak_free", "near_leak_free", "labels", "tta", "model", "manifest_sha256"),
    }
    assert (metrics["examples"], metrics["labels"]) == (35, "fer2013")
    assert (metrics["split"], metrics["tta"], metrics["model"]) == ("test", "none", "m")
    again = evaluation.evaluate(
        KerasClassifier(asymmetric_model()), split, model_name="m", batch_size=35
    )
    assert again["examples"] == 35


def test_a_model_of_other_classes_is_refused(demo_data_dir) -> None:
    inputs = keras.Input((48, 48, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(6)(keras.layers.Flatten()(inputs)))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match=r"expected a model .* received one .* \[None, 6\]"):
        evaluation.evaluate(KerasClassifier(model), split, model_name="m")


def test_a_model_that_returns_probabilities_is_refused(demo_data_dir) -> None:
    # A second softmax would give accuracy as it is, and wrong NLL and ECE without a word.
    model = asymmetric_model()
    model = keras.Model(model.inputs, keras.layers.Softmax()(model.outputs[0]))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match="received one that returns probabilities"):
        evaluation.evaluate(KerasClassifier(model), split, model_name="m")


def test_a_model_of_another_size_is_refused(demo_data_dir) -> None:
    inputs = keras.Input((64, 64, 1), dtype="uint8")
    model = keras.Model(inputs, keras.layers.Dense(7)(keras.layers.Flatten()(inputs)))
    split = records.open_split(demo_data_dir, "test")
    with pytest.raises(InputError, match=r"received one of \(64, 64, 1\)"):
        evaluation.evaluate(KerasClassifier(model), split, model_name="m")


@pytest.fixture(scope="module")
def voted_split(voted_data_dir) -> records.Split:
    return records.open_split(voted_data_dir, "validation")


def test_a_model_of_eight_expressions_is_measured_against_ferplus(voted_split) -> None:
    model = asymmetric_model(outputs=8)
    metrics = evaluation.evaluate(KerasClassifier(model), voted_split, model_name="m", batch_size=4)
    arrays = records.load_split(voted_split)
    labels = ferplus.majority(arrays["votes"])
    kept = labels != NO_LABEL
    chosen = model.predict_on_batch(arrays["image"]).argmax(axis=1)
    assert metrics["labels"] == "ferplus_majority"
    assert metrics["examples"] == kept.sum() < voted_split.examples
    assert metrics["accuracy"] == pytest.approx((chosen == labels)[kept].mean())
    assert list(metrics["per_expression"]) == list(EIGHT_EXPRESSIONS)
    support = [of["support"] for of in metrics["per_expression"].values()]
    assert support == np.bincount(labels[kept], minlength=8).tolist()
    assert np.array(metrics["confusion_matrix"]).sum(axis=1).tolist() == support


def test_votes_on_other_images_are_warned_of(voted_split, warnings_so_far) -> None:
    split = dataclasses.replace(voted_split, ferplus_agreeing=3, ferplus_comparable=30)
    evaluation.evaluate(KerasClassifier(asymmetric_model()), split, model_name="m")
    assert not warnings_so_far()
    evaluation.evaluate(KerasClassifier(asymmetric_model(8)), split, model_name="m")
    (message,) = warnings_so_far()
    assert "the label on 3 of 30 images, no more than chance" in message


def test_a_model_of_seven_expressions_is_measured_against_the_own_labels(voted_split) -> None:
    metrics = evaluation.evaluate(KerasClassifier(asymmetric_model()), voted_split, model_name="m")
    assert (metrics["labels"], metrics["examples"]) == ("fer2013", 35)
    assert list(metrics["per_expression"]) == list(EXPRESSIONS)
    with pytest.raises(InputError, match="m: expected a model of 8 expressions for labels=ferplus"):
        evaluation.evaluate(
            KerasClassifier(asymmetric_model()),
            voted_split,
            model_name="m",
            labels="ferplus_majority",
        )


def test_the_labels_can_be_chosen(demo_data_dir, voted_split) -> None:
    model = asymmetric_model(outputs=8)
    metrics = evaluation.evaluate(
        KerasClassifier(model), voted_split, model_name="m", labels="fer2013"
    )
    assert (metrics["labels"], metrics["examples"]) == ("fer2013", 35)
    assert list(metrics["per_expression"]) == list(EIGHT_EXPRESSIONS)
    assert metrics["per_expression"]["contempt"]["support"] == 0
    without_votes = records.open_split(demo_data_dir, "validation")
    with pytest.raises(InputError, match=r"m: expected a model of 7 .*--ferplus_csv.*--labels"):
        evaluation.evaluate(KerasClassifier(model), without_votes, model_name="m")
    with pytest.raises(InputError, match="'validation': expected FER\\+ votes"):
        evaluation.evaluate(
            KerasClassifier(model), without_votes, model_name="m", labels="ferplus_majority"
        )


@pytest.mark.parametrize(
    ("num_outputs", "expressions", "has_votes", "labels"),
    [
        (7, EXPRESSIONS, False, "fer2013"),
        (7, EXPRESSIONS, True, "fer2013"),
        (8, EXPRESSIONS, True, "ferplus_majority"),
        (8, EIGHT_EXPRESSIONS, False, "fer2013"),
    ],
)
def test_what_the_outputs_mean(num_outputs, expressions, has_votes, labels) -> None:
    schema = records.Schema((48, 48, 1), expressions, has_votes)
    assert evaluation.choose_labels(num_outputs, schema) == labels


def test_seven_outputs_mean_nothing_where_there_are_eight_expressions() -> None:
    schema = records.Schema((48, 48, 1), EIGHT_EXPRESSIONS)
    with pytest.raises(InputError, match=r"expected a model of 8 .* one of 7; measure it on"):
        evaluation.choose_labels(7, schema)


def test_leaked_images_that_ferplus_drops_are_counted_once(voted_split) -> None:
    arrays = records.load_split(voted_split)
    kept = ferplus.majority(arrays["votes"]) != NO_LABEL
    leaked = frozenset([*arrays["row"][kept][:3].tolist(), *arrays["row"][~kept][:2].tolist()])
    split = dataclasses.replace(voted_split, leaked_rows=leaked)
    metrics = evaluation.evaluate(
        KerasClassifier(asymmetric_model(outputs=8)), split, model_name="m"
    )
    assert metrics["examples_leak_free"] == metrics["examples"] - 3


def test_a_split_without_labels_is_refused(tmp_path) -> None:
    batch = random_batch(["test"] * 3)
    batch.labels[:] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    split = records.open_split(tmp_path, "test")
    with pytest.raises(InputError, match=r"split 'test': expected a label .* 3 of 3 without one"):
        evaluation.evaluate(KerasClassifier(asymmetric_model()), split, model_name="m")


def test_the_program_offers_what_the_evaluation_takes() -> None:
    values = flags.FlagValues()
    evaluate.define_flags(values)
    assert values["labels"].parser.enum_values == list(get_args(evaluation.EvaluationLabels))
    assert values["tta"].parser.enum_values == list(views.TEST_TIME_AVERAGING)

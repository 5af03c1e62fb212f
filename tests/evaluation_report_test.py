import dataclasses
import json
from pathlib import Path

import keras
import numpy as np
import pytest

from fer_tfdata import (
    calibration,
    conversion,
    evaluation,
    evaluation_report,
    ferplus,
    records,
    selective,
)
from fer_tfdata.classifier import Classifier, Ensemble, KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.evaluation import Predictions
from fer_tfdata.evaluation_report import ModelReport, Report, make_report
from fer_tfdata.expressions import NO_LABEL
from tests.batch_source import BatchSource, random_batch
from tests.evaluation_test import asymmetric_model


def classifier(seed: int, outputs: int = 7) -> KerasClassifier:
    keras.utils.set_random_seed(seed)
    return KerasClassifier(asymmetric_model(outputs))


@pytest.fixture(scope="module")
def classifiers() -> dict[str, Classifier]:
    return {"runs/a": classifier(0), "runs/b": classifier(1)}


@pytest.fixture(scope="module")
def validation(voted_data_dir: Path) -> records.Split:
    return records.open_split(voted_data_dir, "validation")


@pytest.fixture(scope="module")
def report(classifiers, validation) -> Report:
    return make_report(classifiers, validation, tta="flip", with_ensemble=True)


def predictions_of(model: Classifier, split: records.Split) -> Predictions:
    return evaluation.predict_split(model, split, model_name="m").predictions


def only(report: Report) -> ModelReport:
    (model,) = report.models
    return model


# Figures.


def test_the_metrics_of_one_model_are_those_of_the_contract_and_more(
    classifiers, validation
) -> None:
    report = make_report({"m": classifiers["runs/a"]}, validation, trained_on={"m": ["train"]})
    metrics = evaluation_report.metrics_of(report)
    contract = evaluation.evaluate(classifiers["runs/a"], validation, model_name="m")
    assert metrics.items() >= contract.items()
    assert set(metrics) - set(contract) == {
        *("trained_on", "bootstrap", "temperature_scaling", "aurc", "accuracy_at_coverage"),
        "ferplus_agreement",
    }
    assert metrics["trained_on"] == ["train"]
    assert set(metrics["bootstrap"]["ci95"]) == {
        *("accuracy", "macro_f1", "nll", "ece", "accuracy_leak_free"),
        *("leak_free", "near_leak_free"),
    }
    low, high = metrics["bootstrap"]["ci95"]["accuracy"]
    assert low <= metrics["accuracy"] <= high
    assert metrics["accuracy_at_coverage"]["1.0"] == pytest.approx(metrics["accuracy"])
    assert list(metrics["accuracy_at_coverage"]) == [str(c) for c in selective.COVERAGES]
    assert report.comparisons == []
    json.dumps(metrics)


def test_several_models_are_an_object_of_models_and_comparisons(report) -> None:
    metrics = evaluation_report.metrics_of(report)
    assert list(metrics) == ["models", "comparisons"]
    assert list(metrics["models"]) == ["runs/a", "runs/b", "ensemble"]
    assert [model.title for model in report.models] == ["a", "b", "ensemble"]
    assert metrics["models"]["runs/b"]["model"] == "runs/b"
    assert metrics["models"]["ensemble"]["members"] == ["runs/a", "runs/b"]
    pairs = [(pair["first"], pair["second"]) for pair in metrics["comparisons"]]
    assert pairs == [("runs/a", "runs/b"), ("runs/a", "ensemble"), ("runs/b", "ensemble")]
    for pair in metrics["comparisons"]:
        first, second = (metrics["models"][pair[which]] for which in ("first", "second"))
        difference = first["accuracy"] - second["accuracy"]
        assert pair["accuracy_difference"] == pytest.approx(difference)
    json.dumps(metrics)


def test_an_ensemble_is_measured_as_the_classifier_of_its_members(
    report, classifiers, validation
) -> None:
    ensemble = Ensemble(list(classifiers.values()))
    expected = evaluation.evaluate(ensemble, validation, model_name="ensemble", tta="flip")
    received = report.models[-1].metrics
    for name, value in expected.items():
        if isinstance(value, float) or name == "accuracy_ci95":
            assert received[name] == pytest.approx(value), name
        elif name in ("leak_free", "near_leak_free"):
            assert received[name] == {key: pytest.approx(figure) for key, figure in value.items()}
        else:
            assert received[name] == value, name


def test_a_model_does_not_differ_from_its_copy(classifiers, validation) -> None:
    same = {"a": classifiers["runs/a"], "b": classifiers["runs/a"]}
    (pair,) = make_report(same, validation).comparisons
    assert (pair.p_value, pair.accuracy_difference) == (1, 0)
    assert pair.accuracy_difference_ci95 == [0, 0]


def test_the_votes_are_those_of_the_measured_images(validation) -> None:
    model = classifier(2, outputs=8)
    metrics = only(make_report({"m": model}, validation)).metrics  # against FER+'s majority
    arrays = records.load_split(validation)
    majorities = ferplus.majority(arrays["votes"])
    decided = majorities != NO_LABEL
    agreement = metrics["ferplus_agreement"]
    assert metrics["labels"] == "ferplus_majority"
    assert agreement["majority_examples"] == metrics["examples"] == decided.sum()
    assert agreement["agreement"] == pytest.approx(metrics["accuracy"])
    expected = (arrays["label"] == majorities)[decided].mean()
    assert agreement["labels_agreement"] == pytest.approx(expected)


# Temperatures.


def test_the_temperature_is_fitted_on_validation_whatever_is_measured(
    classifiers, voted_data_dir, validation
) -> None:
    model = classifiers["runs/a"]
    fitted_on = predictions_of(model, validation)
    temperature = calibration.fit_temperature(fitted_on.probabilities, fitted_on.labels)
    for name in ("test", "train"):
        split = records.open_split(voted_data_dir, name)
        measured = only(make_report({"m": model}, split))
        scaling = measured.metrics["temperature_scaling"]
        assert scaling["temperature"] == pytest.approx(temperature)
        assert (scaling["fitted_on"], scaling["fold_temperatures"]) == ("validation", None)
        predictions = predictions_of(model, split)
        scaled = calibration.scaled(predictions.probabilities, temperature)
        reliability = calibration.reliability(scaled.max(axis=1), predictions.correct)
        assert scaling["ece"] == pytest.approx(reliability.error)
        low, high = scaling["ci95"]["nll"]
        assert low < scaling["nll"] < high


def test_validation_itself_is_cross_fitted(classifiers, validation) -> None:
    scaling = only(make_report({"m": classifiers["runs/a"]}, validation)).metrics[
        "temperature_scaling"
    ]
    predictions = predictions_of(classifiers["runs/a"], validation)
    temperatures = calibration.cross_fitted_temperatures(
        predictions.probabilities,
        predictions.labels,
        groups=predictions.images,
        fitted_on=np.full(35, True),
    )
    scaled = calibration.scaled(predictions.probabilities, temperatures)
    of_labels = scaled[np.arange(len(scaled)), predictions.labels]
    assert scaling["nll"] == pytest.approx(-np.log(of_labels).mean())
    np.testing.assert_allclose(scaling["fold_temperatures"], np.unique(temperatures))
    least, most = min(temperatures), max(temperatures)
    assert least <= scaling["temperature"] <= most


def test_leaked_images_of_validation_do_not_enter_the_temperature(
    classifiers, voted_data_dir, validation, monkeypatch
) -> None:
    model = classifiers["runs/a"]
    rows = records.load_split(validation, ["row"])["row"]
    leaking = dataclasses.replace(validation, leaked_rows=frozenset(rows[:20].tolist()))
    scaling = only(make_report({"m": model}, leaking)).metrics["temperature_scaling"]
    left = predictions_of(model, validation).only(np.arange(20, 35))
    temperature = calibration.fit_temperature(left.probabilities, left.labels)
    assert scaling["temperature"] == pytest.approx(temperature)
    low, high = scaling["leak_free"]["ci95"]["nll"]
    assert low < scaling["leak_free"]["nll"] < high
    assert scaling["leak_free"]["nll"] != scaling["nll"]

    test = records.open_split(voted_data_dir, "test")
    monkeypatch.setattr(records, "open_split", lambda *args, **kwargs: leaking)
    scaling = only(make_report({"m": model}, test)).metrics["temperature_scaling"]
    assert scaling["temperature"] == pytest.approx(temperature)
    assert scaling["leak_free"]["nll"] == scaling["nll"]  # nothing of test leaks

    all_leak = dataclasses.replace(validation, leaked_rows=frozenset(rows.tolist()))
    assert only(make_report({"m": model}, all_leak)).metrics["temperature_scaling"] is None


def convert_with_equals(count: int, directory: Path) -> None:
    """Writes eight images of test and of validation, the first of which are equal."""
    batch = random_batch(["test"] * 8 + ["validation"] * 8)
    batch.images[8 : 8 + count] = batch.images[:count]
    conversion.convert(BatchSource([batch]), directory)


def test_no_temperature_is_fitted_on_a_measured_image(classifiers, tmp_path) -> None:
    convert_with_equals(1, tmp_path)
    model = classifiers["runs/a"]
    report = make_report({"m": model}, records.open_split(tmp_path, "test"))
    validation = predictions_of(model, records.open_split(tmp_path, "validation"))
    left = validation.only(validation.without([8]))
    temperature = calibration.fit_temperature(left.probabilities, left.labels)
    scaling = only(report).metrics["temperature_scaling"]
    assert scaling["temperature"] == pytest.approx(temperature)


def test_no_temperature_is_fitted_where_all_of_validation_is_measured(
    classifiers, tmp_path
) -> None:
    convert_with_equals(8, tmp_path)
    report = make_report({"m": classifiers["runs/a"]}, records.open_split(tmp_path, "test"))
    assert only(report).metrics["temperature_scaling"] is None


def test_no_temperature_is_fitted_to_what_was_trained_on_validation(
    classifiers, validation
) -> None:
    report = make_report(
        classifiers,
        validation,
        with_ensemble=True,
        trained_on={"runs/a": ["train"], "runs/b": ["train", "validation"]},
    )
    scalings = [model.metrics["temperature_scaling"] is None for model in report.models]
    assert scalings == [False, True, True]
    assert report.models[-1].metrics["trained_on"] == ["train", "validation"]


@pytest.mark.parametrize(
    ("other", "expected"), [(["train", "validation"], ["train", "validation"]), (None, None)]
)
def test_of_an_ensemble_is_said_what_is_known_of_any_member(
    other, expected, classifiers, validation
) -> None:
    trained_on = {"runs/a": None, "runs/b": other}
    report = make_report(classifiers, validation, with_ensemble=True, trained_on=trained_on)
    ensemble = report.models[-1].metrics
    assert ensemble["trained_on"] == expected
    assert (ensemble["temperature_scaling"] is None) == (expected is not None)


@pytest.mark.parametrize("splits", [["train", "test", "test"], ["test", "test", "validation"]])
def test_data_may_have_no_validation_split_with_labels(classifiers, splits, tmp_path) -> None:
    batch = random_batch(splits)
    batch.labels[np.array(splits) == "validation"] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    split = records.open_split(tmp_path, "test")
    model = only(make_report({"m": classifiers["runs/a"]}, split))
    assert model.metrics["temperature_scaling"] is None
    assert model.scaled_reliability is None
    assert model.metrics["ferplus_agreement"] is None


# Mistakes.


def test_mistakes_are_the_surest_with_their_images(classifiers, validation) -> None:
    model = classifiers["runs/a"]
    mistakes = only(make_report({"m": model}, validation)).mistakes
    arrays = records.load_split(validation)
    assert len(mistakes) == evaluation_report.MISTAKES
    sureness = [mistake.probabilities.max() for mistake in mistakes]
    assert sureness == sorted(sureness, reverse=True)
    for mistake in mistakes:
        (place,) = np.flatnonzero(arrays["row"] == mistake.row)
        np.testing.assert_array_equal(mistake.image, arrays["image"][place])
        assert mistake.label == arrays["label"][place] != mistake.probabilities.argmax()
        assert mistake.majority == ferplus.majority(arrays["votes"])[place]
        probabilities = model.probabilities(arrays["image"][place : place + 1])
        np.testing.assert_allclose(probabilities[0], mistake.probabilities, atol=1e-6)


def test_of_several_models_fewer_mistakes_are_kept(report) -> None:
    limit = evaluation_report.MISTAKES // 2
    assert [len(model.mistakes) for model in report.models] == [limit] * 3


# What is refused.


def test_models_that_are_measured_against_other_labels_are_not_compared(
    classifiers, validation
) -> None:
    mixed = {"seven": classifiers["runs/a"], "eight": classifier(2, outputs=8)}
    with pytest.raises(InputError, match=r"fer2013 \(seven\), ferplus_majority \(eight\); choose"):
        make_report(mixed, validation)
    report = make_report(mixed, validation, labels="fer2013")
    assert [len(model.expressions) for model in report.models] == [7, 8]
    with pytest.raises(InputError, match="expected models of the same images and expressions"):
        make_report(mixed, validation, labels="fer2013", with_ensemble=True)


def test_an_ensemble_has_members(classifiers, validation) -> None:
    with pytest.raises(InputError, match="expected two models or more, received one"):
        make_report({"m": classifiers["runs/a"]}, validation, with_ensemble=True)
    named = {"ensemble": classifiers["runs/a"], "b": classifiers["runs/b"]}
    with pytest.raises(InputError, match=r"--ensemble, name it \./ensemble"):
        make_report(named, validation, with_ensemble=True)
    alone = make_report(named, validation).models[0]
    assert alone.title.endswith("-ensemble")
    assert "members" not in alone.metrics


def test_a_split_without_labels_is_refused(classifiers, tmp_path) -> None:
    batch = random_batch(["test"] * 3)
    batch.labels[:] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    with pytest.raises(InputError, match="split 'test': expected a label"):
        make_report({"m": classifiers["runs/a"]}, records.open_split(tmp_path, "test"))


def test_every_image_classified_is_told(classifiers, voted_data_dir) -> None:
    counts: list[int] = []
    split = records.open_split(voted_data_dir, "test")
    make_report(classifiers, split, on_batch=counts.append)
    assert sum(counts) == 2 * (35 + 35)  # and validation, for the temperatures

import numpy as np
import pytest
import scipy.special
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fer_tfdata import calibration


def draw(count: int, *, temperature: float = 1.0, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities that are too sure by a temperature, and labels drawn from the right ones."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(count, 7)) * 1.5
    probabilities = scipy.special.softmax(logits, axis=1)
    labels = (probabilities.cumsum(axis=1) < rng.random((count, 1))).sum(axis=1)
    return scipy.special.softmax(logits * temperature, axis=1), np.minimum(labels, 6)


def error_of(probabilities: np.ndarray, labels: np.ndarray) -> float:
    correct = probabilities.argmax(axis=1) == labels
    return calibration.reliability(probabilities.max(axis=1), correct).error


def nll(probabilities: np.ndarray, labels: np.ndarray) -> float:
    return float(-np.log(probabilities[np.arange(len(labels)), labels]).mean())


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
    reliability = calibration.reliability(np.array(confidences), np.array(correct))
    assert reliability.error == pytest.approx(expected)


def test_the_bins_hold_every_answer() -> None:
    confidences = np.array([0.0, 0.06, 0.07, 0.5, 0.99, 1.0])
    correct = np.array([False, True, True, False, True, False])
    reliability = calibration.reliability(confidences, correct)
    assert reliability.examples.tolist() == [2, 1, *[0] * 4, 0, 1, *[0] * 6, 2]
    assert reliability.confidence[[0, 7, 14]] == pytest.approx([0.03, 0.5, 0.995])
    assert reliability.accuracy[[0, 7, 14]] == pytest.approx([0.5, 0.0, 0.5])


def test_the_error_of_a_calibrated_classifier_vanishes() -> None:
    errors = [error_of(*draw(count)) for count in (100, 2_000, 200_000)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 0.005


@pytest.mark.parametrize("temperature", [0.5, 1.0, 1.7, 4.0])
def test_the_temperature_that_is_wrong_is_found(temperature) -> None:
    fitted_on, labels = draw(20_000, temperature=temperature)
    fitted = calibration.fit_temperature(fitted_on, labels)
    assert fitted == pytest.approx(temperature, rel=0.03)
    others, true = draw(20_000, temperature=temperature, seed=1)
    scaled = calibration.scaled(others, fitted)
    assert error_of(scaled, true) < 0.012
    if temperature != 1:
        assert error_of(scaled, true) < error_of(others, true)
        assert nll(scaled, true) < nll(others, true)


def test_no_other_temperature_makes_the_labels_likelier() -> None:
    probabilities, labels = draw(500, temperature=2.5)
    fitted = calibration.fit_temperature(probabilities, labels)
    best = nll(calibration.scaled(probabilities, fitted), labels)
    for other in np.geomspace(0.2, 20, 30) * fitted:
        assert nll(calibration.scaled(probabilities, float(other)), labels) >= best


def test_a_temperature_has_bounds() -> None:
    probabilities, _ = draw(200)
    assert calibration.fit_temperature(probabilities, probabilities.argmax(axis=1)) == 0.01
    assert calibration.fit_temperature(probabilities, probabilities.argmin(axis=1)) == 100


@given(
    hnp.arrays(np.float64, (5, 7), elements=st.floats(-30, 30)),
    st.floats(0.05, 20),
)
def test_scaling_leaves_every_answer_as_it_is(logits, temperature) -> None:
    probabilities = scipy.special.softmax(logits, axis=1)
    scaled = calibration.scaled(probabilities, temperature)
    np.testing.assert_allclose(scaled.sum(axis=1), 1)
    answers = probabilities.argmax(axis=1)
    # Two that were nearly the same may become the same.
    assert (scaled[np.arange(5), answers] >= scaled.max(axis=1) * (1 - 1e-12)).all()


def test_scaling_divides_the_logits() -> None:
    logits = np.random.default_rng(0).normal(size=(10, 7)) * 4
    scaled = calibration.scaled(scipy.special.softmax(logits, axis=1), 2.5)
    np.testing.assert_allclose(scaled, scipy.special.softmax(logits / 2.5, axis=1))


def test_probabilities_of_zero_stay_finite() -> None:
    probabilities = np.eye(7)
    assert np.isfinite(calibration.scaled(probabilities, 3.0)).all()
    assert calibration.fit_temperature(probabilities, np.roll(np.arange(7), 1)) == 100


def cross_fitted(probabilities, labels, *, groups=None, fitted_on=None) -> np.ndarray:
    apart = np.arange(len(labels), dtype=np.uint64)
    return calibration.cross_fitted_temperatures(
        probabilities,
        labels,
        groups=apart if groups is None else groups,
        fitted_on=np.full(len(labels), True) if fitted_on is None else fitted_on,
    )


def test_equal_images_get_temperatures_that_were_fitted_on_none_of_them() -> None:
    probabilities, labels = (np.repeat(part, 2, axis=0) for part in draw(60, temperature=2))
    groups = np.repeat(np.arange(60, dtype=np.uint64), 2)
    temperatures = cross_fitted(probabilities, labels, groups=groups)
    assert (temperatures[::2] == temperatures[1::2]).all()
    for fold in np.unique(temperatures):
        inside = temperatures == fold
        assert fold == calibration.fit_temperature(probabilities[~inside], labels[~inside])


def test_no_temperature_is_fitted_on_what_is_left_out() -> None:
    probabilities, labels = draw(60, temperature=2)
    fitted_on = np.arange(60) % 3 > 0
    temperatures = cross_fitted(probabilities, labels, fitted_on=fitted_on)
    changed = np.where(fitted_on, labels, (labels + 1) % 7)
    assert (cross_fitted(probabilities, changed, fitted_on=fitted_on) == temperatures).all()
    assert (cross_fitted(probabilities, labels) != temperatures).all()
    assert (cross_fitted(probabilities, labels, fitted_on=np.zeros(60, np.bool_)) == 1).all()


def test_no_image_s_own_label_enters_its_temperature() -> None:
    probabilities, labels = draw(60, temperature=2)
    temperatures = cross_fitted(probabilities, labels)
    folds = np.unique(temperatures)
    assert len(folds) == calibration.FOLDS
    for fold in folds:
        inside = temperatures == fold
        assert inside.sum() == 12
        assert fold == calibration.fit_temperature(probabilities[~inside], labels[~inside])
        changed = np.where(inside, (labels + 1) % 7, labels)
        again = cross_fitted(probabilities, changed)
        assert (again[inside] == fold).all()
        assert (again[~inside] != temperatures[~inside]).all()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_few_images_have_temperatures_too(count) -> None:
    probabilities, labels = draw(count)
    temperatures = cross_fitted(probabilities, labels)
    assert temperatures.shape == (count,)
    assert np.isfinite(calibration.scaled(probabilities, temperatures)).all()

import numpy as np
import pytest
import scipy.stats

from fer_tfdata import comparison


def apart(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def random_answers(accuracy: float, seed: int, count: int = 400) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < accuracy


def test_mcnemar_of_the_textbook() -> None:
    # Agresti, Categorical Data Analysis: approval ratings, 150 and 86 voters changed their mind.
    assert comparison.mcnemar(86, 150) == pytest.approx(3.716e-5, rel=1e-3)


@pytest.mark.parametrize(("only_first", "only_second"), [(0, 1), (5, 5), (3, 12), (40, 22)])
def test_mcnemar_is_the_binomial_test(only_first, only_second) -> None:
    discordant = only_first + only_second
    tail = scipy.stats.binom.cdf(min(only_first, only_second), discordant, 0.5)
    assert comparison.mcnemar(only_first, only_second) == pytest.approx(min(1, 2 * tail))
    assert comparison.mcnemar(only_second, only_first) == comparison.mcnemar(
        only_first, only_second
    )


def test_a_classifier_does_not_differ_from_itself() -> None:
    answers = random_answers(0.7, 0)
    (pair,) = comparison.compare({"a": answers, "b": answers.copy()}, apart(400))
    assert (pair.p_value, pair.p_value_holm, pair.accuracy_difference) == (1, 1, 0)
    assert list(pair.accuracy_difference_ci95) == [0, 0]
    assert (pair.only_first_right, pair.only_second_right) == (0, 0)
    assert pair.both_right + pair.both_wrong == 400


def test_the_counts_of_a_pair() -> None:
    first = np.array([True, True, True, False, False, True])
    second = np.array([True, False, False, True, False, True])
    (pair,) = comparison.compare({"a": first, "b": second}, apart(6))
    assert (pair.first, pair.second) == ("a", "b")
    assert (pair.both_right, pair.both_wrong) == (2, 1)
    assert (pair.only_first_right, pair.only_second_right) == (2, 1)
    assert pair.accuracy_difference == pytest.approx(1 / 6)
    assert pair.p_value == comparison.mcnemar(2, 1)


def test_the_interval_of_a_difference_is_paired() -> None:
    first = random_answers(0.7, 0, count=2_000)
    second = np.where(random_answers(0.05, 1, count=2_000), ~first, first)  # nearly the same
    (pair,) = comparison.compare({"a": first, "b": second}, apart(2_000))
    low, high = pair.accuracy_difference_ci95
    differences = first.astype(float) - second
    deviation = differences.std() / np.sqrt(2_000)
    assert low < pair.accuracy_difference < high
    assert high - low == pytest.approx(2 * 1.96 * deviation, rel=0.08)
    assert high - low < 0.6 * 2 * 1.96 * np.sqrt(2 * 0.7 * 0.3 / 2_000)  # of independent images


def test_equal_images_do_not_narrow_the_interval_of_a_difference() -> None:
    once = {"a": random_answers(0.7, 0), "b": random_answers(0.6, 1)}
    thrice = {name: np.repeat(answers, 3) for name, answers in once.items()}
    (expected,) = comparison.compare(once, apart(400))
    (received,) = comparison.compare(thrice, np.repeat(apart(400), 3))
    assert received.accuracy_difference == pytest.approx(expected.accuracy_difference)
    assert received.accuracy_difference_ci95 == pytest.approx(expected.accuracy_difference_ci95)


def test_every_pair_is_compared_once_and_corrected() -> None:
    answers = {name: random_answers(accuracy, i) for i, (name, accuracy) in enumerate(_RATES)}
    pairs = comparison.compare(answers, apart(400))
    assert [(pair.first, pair.second) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert [pair.p_value_holm for pair in pairs] == comparison.holm(
        [pair.p_value for pair in pairs]
    )
    assert all(pair.p_value_holm >= pair.p_value for pair in pairs)


_RATES = (("a", 0.7), ("b", 0.6), ("c", 0.69))


@pytest.mark.parametrize(
    ("p_values", "expected"),
    [
        ([0.03], [0.03]),
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.9, 0.8, 0.6], [1, 1, 1]),
        ([0.01, 0.01, 0.01], [0.03, 0.03, 0.03]),
        ([], []),
    ],
)
def test_holm(p_values, expected) -> None:
    assert comparison.holm(p_values) == pytest.approx(expected)


def test_holm_keeps_its_level_where_nothing_differs() -> None:
    rng = np.random.default_rng(0)
    families = rng.random((2_000, 6))
    wrong = np.mean([min(comparison.holm(family)) < 0.05 for family in families.tolist()])
    assert wrong == pytest.approx(0.05, abs=0.012)
    assert np.mean(families.min(axis=1) < 0.05) > 0.2  # without it

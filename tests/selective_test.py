import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_tfdata import selective


def by_permutations(confidences: list[float], correct: list[bool]) -> np.ndarray:
    """The mean risks over all orders in which confidence never rises."""
    risks = []
    for order in itertools.permutations(range(len(correct))):
        if all(confidences[a] >= confidences[b] for a, b in itertools.pairwise(order)):
            wrong = np.cumsum([not correct[place] for place in order])
            risks.append(wrong / np.arange(1, len(correct) + 1))
    return np.mean(risks, axis=0)


@given(
    st.lists(
        st.tuples(st.sampled_from([0.2, 0.5, 0.7, 0.9]), st.booleans()), min_size=1, max_size=6
    )
)
def test_the_curve_is_that_of_brute_force(answers) -> None:
    confidences, correct = ([*column] for column in zip(*answers, strict=True))
    curve = selective.risk_coverage(np.array(confidences), np.array(correct))
    np.testing.assert_allclose(curve.risk, by_permutations(confidences, correct), atol=1e-12)
    np.testing.assert_allclose(curve.coverage * len(correct), np.arange(1, len(correct) + 1))


def test_the_order_of_the_images_does_not_matter() -> None:
    rng = np.random.default_rng(0)
    confidences, correct = rng.random(200).round(1), rng.random(200) < 0.6
    order = rng.permutation(200)
    first = selective.risk_coverage(confidences, correct)
    second = selective.risk_coverage(confidences[order], correct[order])
    np.testing.assert_allclose(first.risk, second.risk)


def test_what_is_known_of_the_area() -> None:
    correct = np.arange(100) < 80
    perfect = selective.risk_coverage(np.linspace(1, 0, 100), correct)
    useless = selective.risk_coverage(np.full(100, 0.5), correct)
    inverted = selective.risk_coverage(np.linspace(0, 1, 100), correct)
    assert perfect.area < useless.area < inverted.area
    assert useless.area == pytest.approx(0.2)
    assert perfect.area == pytest.approx(np.mean([max(0, k - 80) / k for k in range(1, 101)]))


def test_the_accuracy_at_a_coverage() -> None:
    curve = selective.risk_coverage(np.linspace(1, 0, 10), np.arange(10) < 6)
    assert curve.accuracy_at(1.0) == pytest.approx(0.6)
    assert curve.accuracy_at(0.8) == pytest.approx(6 / 8)
    assert curve.accuracy_at(0.5) == 1
    assert curve.accuracy_at(0.01) == 1  # of one image

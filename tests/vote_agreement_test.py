import numpy as np
import pytest

from fer_tfdata.expressions import EXPRESSIONS, NO_LABEL
from fer_tfdata.vote_agreement import vote_agreement
from tests.ferplus_test import votes_of

_HAPPY, _SAD, _NEUTRAL = (EXPRESSIONS.index(name) for name in ("happy", "sad", "neutral"))


def surely(*answers: int, classes: int = 7) -> np.ndarray:
    probabilities = np.full((len(answers), classes), 0.1 / (classes - 1))
    probabilities[np.arange(len(answers)), answers] = 0.9
    return probabilities


def test_answers_and_labels_against_the_majority() -> None:
    votes = np.concatenate(
        [
            votes_of(happiness=10),
            votes_of(sadness=8, neutral=2),
            votes_of(neutral=6, sadness=4),
            votes_of(neutral=5, sadness=5),  # no majority
            votes_of(NF=10),
            votes_of(contempt=8, neutral=2),  # an expression that the classifier does not know
        ]
    )
    labels = np.array([_HAPPY, _NEUTRAL, NO_LABEL, _SAD, _SAD, _NEUTRAL])
    answers = surely(_HAPPY, _SAD, _SAD, _SAD, _SAD, _NEUTRAL)
    agreement = vote_agreement(answers, labels, votes)
    assert agreement.majority_examples == 3
    assert agreement.agreement == pytest.approx(2 / 3)
    assert agreement.labels_agreement == pytest.approx(1 / 2)  # the third has no label
    assert agreement.votes_examples == 4


def test_a_half_of_the_votes_is_not_more_than_a_half() -> None:
    votes = np.concatenate(
        [votes_of(contempt=5, neutral=3, sadness=2), votes_of(contempt=4, neutral=3, sadness=3)]
    )
    agreement = vote_agreement(surely(_NEUTRAL, _NEUTRAL), np.array([_NEUTRAL] * 2), votes)
    assert agreement.votes_examples == 1


def test_the_cross_entropy_is_least_where_the_answer_is_the_votes() -> None:
    votes = votes_of(sadness=6, neutral=4)
    shares = np.zeros((1, 7))
    shares[0, [_SAD, _NEUTRAL]] = 0.6, 0.4
    labels = np.array([_SAD])
    best = vote_agreement(shares, labels, votes)
    entropy = -(0.6 * np.log(0.6) + 0.4 * np.log(0.4))
    assert best.votes_entropy == pytest.approx(entropy, rel=1e-6)
    assert best.cross_entropy == pytest.approx(entropy, rel=1e-6)
    other = vote_agreement(surely(_SAD), labels, votes)
    assert other.cross_entropy == pytest.approx(
        -(0.6 * np.log(0.9) + 0.4 * np.log(0.1 / 6)), rel=1e-6
    )


def test_votes_for_contempt_count_where_the_classifier_knows_it() -> None:
    votes = votes_of(contempt=6, neutral=4)
    labels = np.array([_NEUTRAL])
    seven = vote_agreement(surely(_NEUTRAL), labels, votes)
    assert (seven.majority_examples, seven.agreement, seven.cross_entropy) == (0, None, None)
    eight = vote_agreement(surely(7, classes=8), labels, votes)
    assert (eight.majority_examples, eight.agreement, eight.labels_agreement) == (1, 1, 0)
    assert eight.cross_entropy is not None

"""How a classifier agrees with what FER+'s voters saw."""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.special

from fer_tfdata import ferplus
from fer_tfdata.expressions import NO_LABEL

# Shares are float32, and those of ten votes a twentieth or more from a half that they are not.
_ROUNDING: Final = 1e-3


@dataclasses.dataclass(frozen=True)
class VoteAgreement:
    """A classifier, and the data set's labels, against FER+'s votes on the same images.

    Attributes:
      majority_examples: how many images have a majority (`ferplus.majority`) that is one of the
        classifier's expressions.
      agreement: the share of them on which the answer is the majority; None where there are none.
      labels_agreement: the share of those with a label on which the label is the majority; what a
        classifier that repeats the labels would reach.
      votes_examples: on how many of the images that `ferplus.distribution` keeps more than half of
        the votes for an expression are for one of the classifier's.
      cross_entropy: the mean cross-entropy of the classifier's probabilities with the shares of
        those votes, in nats; None where there are none.
      votes_entropy: the mean entropy of those shares, which no cross-entropy is below.
    """

    majority_examples: int
    agreement: float | None
    labels_agreement: float | None
    votes_examples: int
    cross_entropy: float | None
    votes_entropy: float | None


def vote_agreement(
    probabilities: npt.NDArray[np.float64],
    labels: npt.NDArray[np.int64],
    votes: npt.NDArray[np.int64],
) -> VoteAgreement:
    """Returns how a classifier agrees with votes.

    Args:
      probabilities: float64 [n, 7 or 8].
      labels: int64 [n], the data set's own, or `NO_LABEL`.
      votes: int64 [n, 10], in the order of `ferplus.COLUMNS`.
    """
    num_classes = probabilities.shape[1]
    majorities = ferplus.majority(votes)
    decided = (majorities != NO_LABEL) & (majorities < num_classes)
    labelled = decided & (labels != NO_LABEL)
    shares = ferplus.distribution(votes)[:, :num_classes].astype(np.float64)
    known = shares.sum(axis=1)
    voted = known > 0.5 + _ROUNDING
    shares = shares[voted] / known[voted, np.newaxis]
    logarithms = np.log(np.maximum(probabilities[voted], np.finfo(np.float64).tiny))
    return VoteAgreement(
        majority_examples=int(decided.sum()),
        agreement=_mean((probabilities.argmax(axis=1) == majorities)[decided]),
        labels_agreement=_mean((labels == majorities)[labelled]),
        votes_examples=int(voted.sum()),
        cross_entropy=_mean(-(shares * logarithms).sum(axis=1)),
        votes_entropy=_mean(scipy.special.entr(shares).sum(axis=1)),
    )


def _mean(values: npt.NDArray[np.bool_] | npt.NDArray[np.float64]) -> float | None:
    return float(values.mean()) if len(values) else None

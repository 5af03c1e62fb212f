"""Whether a classifier is as often right as it says: reliability, and temperature scaling.

Guo et al., "On Calibration of Modern Neural Networks", 2017 (arXiv:1706.04599).
"""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt
import scipy.optimize
import scipy.special
import sklearn.model_selection

BINS: Final = 15  # as in Guo et al.
FOLDS: Final = 5
SEED: Final = 0

# What a temperature may be.  A classifier that is always right would want zero, one that is no
# better than chance an infinite one.
_LEAST: Final = 0.01
_MOST: Final = 100.0

Probabilities = npt.NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Reliability:
    """How confidence and accuracy go together, in `BINS` bins of equal width of the confidence.

    Attributes:
      examples: int64 [bins].
      confidence: float64 [bins], their mean confidence; 0 in an empty bin.
      accuracy: float64 [bins], the share of them that is right; 0 in an empty bin.
    """

    examples: npt.NDArray[np.int64]
    confidence: npt.NDArray[np.float64]
    accuracy: npt.NDArray[np.float64]

    @property
    def error(self) -> float:
        """The expected calibration error: the mean gap over the bins, weighted by their size."""
        gaps = np.abs(self.confidence - self.accuracy)
        return float((self.examples * gaps).sum() / self.examples.sum())


def reliability(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> Reliability:
    """Returns the reliability of answers.

    Args:
      confidences: float [n], the probability of the chosen class, in [0, 1].
      correct: bool [n], whether that class was the true one.
    """
    bins = bins_of(confidences)
    examples = np.bincount(bins, minlength=BINS)
    divisors = np.maximum(examples, 1)
    return Reliability(
        examples=examples,
        confidence=np.bincount(bins, weights=confidences, minlength=BINS) / divisors,
        accuracy=np.bincount(bins, weights=correct, minlength=BINS) / divisors,
    )


def bins_of(confidences: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Returns the bin of each confidence, int64 [n]."""
    bins: npt.NDArray[np.int64] = np.minimum((confidences * BINS).astype(np.int64), BINS - 1)
    return bins


def fit_temperature(probabilities: Probabilities, labels: npt.NDArray[np.int64]) -> float:
    """Returns the temperature that makes the labels most likely, from 0.01 to 100.

    Above 1, the probabilities were too sure.

    Args:
      probabilities: float64 [n, classes].
      labels: int64 [n], the true classes.
    """
    logits = _logits(probabilities)
    true = logits[np.arange(len(labels)), labels].mean()

    # The negative log-likelihood is convex in the inverse temperature, so its slope has one zero
    # at most.
    def slope(inverse: float) -> float:
        shares = scipy.special.softmax(logits * inverse, axis=1)
        return float((shares * logits).sum(axis=1).mean() - true)

    least, most = 1 / _MOST, 1 / _LEAST
    if slope(most) <= 0:
        return _LEAST
    if slope(least) >= 0:
        return _MOST
    return float(1 / scipy.optimize.brentq(slope, least, most))


def scaled(
    probabilities: Probabilities, temperatures: float | npt.NDArray[np.float64]
) -> Probabilities:
    """Returns the probabilities with their logits divided by a temperature.

    Logits are known up to a constant, which does not matter; of an average of several views or
    models the logarithm stands for them.  The order of the classes stays as it is.

    Args:
      probabilities: float64 [n, classes].
      temperatures: one, or float64 [n], one for each row.
    """
    logits = _logits(probabilities) / np.reshape(temperatures, (-1, 1))
    softened: Probabilities = scipy.special.softmax(logits, axis=1)
    return softened


def cross_fitted_temperatures(
    probabilities: Probabilities,
    labels: npt.NDArray[np.int64],
    *,
    groups: npt.NDArray[np.uint64],
    fitted_on: npt.NDArray[np.bool_],
) -> npt.NDArray[np.float64]:
    """Returns a temperature for each row that was fitted without its group.

    The groups are dealt at random (`SEED`) into `FOLDS` folds; the rows of a fold get the
    temperature that fits the others.  Where there are no others, it is 1.

    Args:
      probabilities: float64 [n, classes].
      labels: int64 [n], the true classes.
      groups: integers [n], the same for rows that belong together, such as equal images.
      fitted_on: bool [n], the rows that temperatures may be fitted on.

    Returns:
      float64 [n].
    """
    temperatures = np.ones(len(labels))
    count = min(FOLDS, len(np.unique(groups)))
    if count < 2:
        return temperatures
    folds = sklearn.model_selection.GroupKFold(count, shuffle=True, random_state=SEED)
    for outside, fold in folds.split(labels, groups=groups):
        others = outside[fitted_on[outside]]
        if len(others):
            temperatures[fold] = fit_temperature(probabilities[others], labels[others])
    return temperatures


def _logits(probabilities: Probabilities) -> Probabilities:
    logits: Probabilities = np.log(np.maximum(probabilities, np.finfo(np.float64).tiny))
    return logits

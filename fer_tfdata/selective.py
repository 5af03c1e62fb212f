"""What a classifier reaches that may decline to answer where it is unsure.

Geifman and El-Yaniv, "Selective Classification for Deep Neural Networks", 2017 (arXiv:1705.08500);
the area under the curve is that of Geifman et al. 2019 (arXiv:1805.08206).
"""

import dataclasses
from typing import Final

import numpy as np
import numpy.typing as npt

COVERAGES: Final = (1.0, 0.9, 0.8, 0.7, 0.5, 0.3)
"""The shares of the images at which accuracies are told."""


@dataclasses.dataclass(frozen=True)
class RiskCoverage:
    """The share of wrong answers among the k surest, for every k.

    Attributes:
      coverage: float64 [n], k / n, rising to 1.
      risk: float64 [n], the share of wrong answers among these k.
    """

    coverage: npt.NDArray[np.float64]
    risk: npt.NDArray[np.float64]

    @property
    def area(self) -> float:
        """The area under the curve (AURC): the mean risk over all k; lower is better."""
        return float(self.risk.mean())

    def accuracy_at(self, coverage: float) -> float:
        """Returns the accuracy among this share of the images, the surest."""
        answered = max(1, round(coverage * len(self.risk)))
        return float(1 - self.risk[answered - 1])


def risk_coverage(
    confidences: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]
) -> RiskCoverage:
    """Returns the risk-coverage curve.

    Answers of the same confidence have no order: the risk is the expected one, if it is drawn.

    Args:
      confidences: float64 [n].
      correct: bool [n], whether the answer was the true one.
    """
    n = len(confidences)
    _, groups = np.unique(-confidences, return_inverse=True)
    wrong_of_group = np.bincount(groups, weights=~correct) / np.bincount(groups)
    wrong = wrong_of_group[np.sort(groups)]
    answered = np.arange(1, n + 1)
    return RiskCoverage(coverage=answered / n, risk=np.cumsum(wrong) / answered)

"""Whether two classifiers that answered the same images differ by more than chance."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
import scipy.stats

from fer_tfdata import bootstrap


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Two classifiers on the same images.

    Attributes:
      first: a classifier's name.
      second: another's.
      both_right: on how many images both are right.
      only_first_right: on how many the first is, and the second is not.
      only_second_right: the other way round.
      both_wrong: on how many neither is.
      accuracy_difference: the first's accuracy less the second's.
      accuracy_difference_ci95: its interval, by the percentile bootstrap over images, paired;
        equal images are drawn together.
      p_value: of McNemar's exact test, two-sided.
      p_value_holm: the same with Holm's correction for all pairs that were compared.
    """

    first: str
    second: str
    both_right: int
    only_first_right: int
    only_second_right: int
    both_wrong: int
    accuracy_difference: float
    accuracy_difference_ci95: Sequence[float]
    p_value: float
    p_value_holm: float


def compare(
    correct: Mapping[str, npt.NDArray[np.bool_]], images: npt.NDArray[np.uint64]
) -> list[Comparison]:
    """Compares every pair of classifiers, in their order.

    Args:
      correct: by name, bool [n], on which of the same images a classifier is right.
      images: integers [n], the same for equal images.
    """
    compared = [
        _compare_two(first, second, correct[first], correct[second], images)
        for first, second in itertools.combinations(correct, 2)
    ]
    corrected = holm([comparison.p_value for comparison in compared])
    return [
        dataclasses.replace(comparison, p_value_holm=p_value)
        for comparison, p_value in zip(compared, corrected, strict=True)
    ]


def mcnemar(only_first: int, only_second: int) -> float:
    """Returns the p-value of McNemar's exact test, two-sided.

    McNemar, "Note on the sampling error of the difference between correlated proportions or
    percentages", 1947; exact, by the binomial distribution of the images on which one of the two
    alone is right.  Where there is none, it is 1.
    """
    discordant = only_first + only_second
    if not discordant:
        return 1.0
    return float(scipy.stats.binomtest(only_first, discordant, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values such that those below a level are wrong together at that level at most.

    Holm, "A simple sequentially rejective multiple test procedure", 1979.
    """
    values = np.array(p_values)
    order = np.argsort(values, kind="stable")
    raised = values[order] * np.arange(len(values), 0, -1)
    corrected = np.empty(len(values))
    corrected[order] = np.minimum(np.maximum.accumulate(raised), 1)
    return [float(value) for value in corrected]


def _compare_two(
    first: str,
    second: str,
    first_right: npt.NDArray[np.bool_],
    second_right: npt.NDArray[np.bool_],
    images: npt.NDArray[np.uint64],
) -> Comparison:
    only_first = int((first_right & ~second_right).sum())
    only_second = int((second_right & ~first_right).sum())
    differences = first_right.astype(np.float64) - second_right
    values = np.column_stack([differences, np.ones(len(differences))])
    resampled, examples = bootstrap.resampled_sums(values, images).T
    p_value = mcnemar(only_first, only_second)
    return Comparison(
        first=first,
        second=second,
        both_right=int((first_right & second_right).sum()),
        only_first_right=only_first,
        only_second_right=only_second,
        both_wrong=int((~first_right & ~second_right).sum()),
        accuracy_difference=float(differences.mean()),
        accuracy_difference_ci95=bootstrap.interval(resampled / examples),
        p_value=p_value,
        p_value_holm=p_value,
    )

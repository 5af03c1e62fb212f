"""How far a figure would move with other images of the same kind: the percentile bootstrap.

Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
"""

from typing import Final

import numpy as np
import numpy.typing as npt

RESAMPLES: Final = 2_000
SEED: Final = 0
LEVEL: Final = 0.95

_MOST_COUNTS: Final = 1 << 22  # of a block of resamples in memory at once: 32 MiB


def resampled_sums(
    values: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> npt.NDArray[np.float64]:
    """Returns the sums of each column over groups of rows that are drawn with replacement.

    Every figure that is a function of sums over images follows from them; the same seed draws
    the same groups, so that figures of two classifiers on the same images are paired.  Equal
    images are answered alike: drawn apart, they would pass for more evidence than they are.

    Args:
      values: float64 [n, columns], a row for each image.
      groups: integers [n], the same for rows that are drawn together.
      resamples: how often as many groups are drawn as there are.
      seed: of the draws.

    Returns:
      float64 [resamples, columns].
    """
    rng = np.random.default_rng(seed)
    order = np.argsort(groups, kind="stable")
    _, starts = np.unique(groups[order], return_index=True)
    of_groups = np.add.reduceat(values[order], starts)
    n = len(of_groups)
    block = max(1, _MOST_COUNTS // n)
    sums = []
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, n, (size, n)) + n * np.arange(size)[:, np.newaxis]
        counts = np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n)
        sums.append(counts @ of_groups)
    return np.concatenate(sums)


def interval(figures: npt.NDArray[np.float64]) -> list[float]:
    """Returns the bounds within which the middle `LEVEL` of a figure's resamples lies.

    Args:
      figures: float64 [resamples]; those that are no number are left out.
    """
    tail = (1 - LEVEL) / 2
    low, high = np.nanquantile(figures, (tail, 1 - tail))
    return [float(low), float(high)]

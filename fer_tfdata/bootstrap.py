"""How far a figure would move with other images of the same kind: the percentile bootstrap.

Efron, "Bootstrap Methods: Another Look at the Jackknife", 1979.
"""

from collections.abc import Iterator, Sequence
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
    firsts, of_groups = _summed(values, groups)
    draws = _draws(len(firsts), resamples=resamples, seed=seed)
    return np.concatenate([counts @ of_groups for counts in draws])


def resampled_sums_of_parts(
    values: npt.NDArray[np.float64],
    groups: npt.NDArray[np.uint64],
    parts: Sequence[npt.NDArray[np.bool_]],
    *,
    resamples: int = RESAMPLES,
    seed: int = SEED,
) -> list[npt.NDArray[np.float64]]:
    """Returns, from the draws of `resampled_sums`, the sums over the rows of each part alone.

    Args:
      values: as in `resampled_sums`.
      groups: as in `resampled_sums`.
      parts: each bool [n], the same for the rows of a group.
      resamples: as in `resampled_sums`.
      seed: as in `resampled_sums`.

    Returns:
      For each part, float64 [resamples, columns].
    """
    firsts, of_groups = _summed(values, groups)
    in_parts = [part[firsts] for part in parts]
    sums: list[list[npt.NDArray[np.float64]]] = [[] for _ in parts]
    for counts in _draws(len(firsts), resamples=resamples, seed=seed):
        for in_part, blocks in zip(in_parts, sums, strict=True):
            blocks.append((counts * in_part) @ of_groups)
    return [np.concatenate(blocks) for blocks in sums]


def _summed(
    values: npt.NDArray[np.float64], groups: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """Returns the first row of each group, int64 [groups], and the sums over its rows."""
    _, firsts, group_of = np.unique(groups, return_index=True, return_inverse=True)
    sums = values[firsts]
    others = np.full(len(groups), True)
    others[firsts] = False
    np.add.at(sums, group_of[others], values[others])
    return firsts, sums


def _draws(num_groups: int, *, resamples: int, seed: int) -> Iterator[npt.NDArray[np.float64]]:
    """Yields in blocks of resamples how often each draws each group, float64 [block, groups]."""
    rng = np.random.default_rng(seed)
    block = max(1, _MOST_COUNTS // num_groups)
    for start in range(0, resamples, block):
        size = min(block, resamples - start)
        drawn = rng.integers(0, num_groups, (size, num_groups))
        drawn += num_groups * np.arange(size)[:, np.newaxis]
        counts = np.bincount(drawn.ravel(), minlength=size * num_groups)
        yield counts.reshape(size, num_groups).astype(np.float64)


def interval(figures: npt.NDArray[np.float64]) -> list[float]:
    """Returns the bounds within which the middle `LEVEL` of a figure's resamples lies.

    Args:
      figures: float64 [resamples].
    """
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(figures, (tail, 1 - tail))
    return [float(low), float(high)]

import tracemalloc

import numpy as np
import pytest

from fer_tfdata import bootstrap


def apart(count: int) -> np.ndarray:
    return np.arange(count, dtype=np.uint64)


def test_each_resample_holds_as_many_rows_as_there_are() -> None:
    values = np.column_stack([np.ones(50), np.arange(50) == 7])
    sums = bootstrap.resampled_sums(values, apart(50), resamples=4_000)
    assert sums.shape == (4_000, 2)
    assert (sums[:, 0] == 50).all()
    # How often one row is drawn: binomial, of 50 draws.
    assert sums[:, 1].mean() == pytest.approx(1, abs=0.06)
    assert sums[:, 1].var() == pytest.approx(49 / 50, abs=0.12)


def test_the_draws_are_a_function_of_the_seed_alone(monkeypatch) -> None:
    values = np.random.default_rng(0).normal(size=(30, 3))
    sums = bootstrap.resampled_sums(values, apart(30), resamples=100)
    monkeypatch.setattr(bootstrap, "_MOST_COUNTS", 30 * 7)  # in blocks of seven
    np.testing.assert_allclose(bootstrap.resampled_sums(values, apart(30), resamples=100), sums)
    assert not np.allclose(bootstrap.resampled_sums(values, apart(30), resamples=100, seed=1), sums)


def test_an_interval_holds_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for seed in range(400):
        right = rng.random((150, 1)) < 0.7
        sums = bootstrap.resampled_sums(
            right.astype(np.float64), apart(150), resamples=400, seed=seed
        )
        low, high = bootstrap.interval(sums[:, 0] / 150)
        held += low <= 0.7 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_rows_of_a_group_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 8, 50).astype(np.uint64)
    values = np.column_stack([np.ones(50), groups == 3, rng.normal(size=50)])
    sums = bootstrap.resampled_sums(values, groups, resamples=500)
    size = (groups == 3).sum()
    assert set((sums[:, 1] / size).tolist()) <= set(range(9))
    of_groups = [values[groups == group].sum(axis=0) for group in range(8)]
    np.testing.assert_allclose(
        sums, bootstrap.resampled_sums(np.array(of_groups), apart(8), resamples=500)
    )


def test_the_sums_over_parts_are_of_the_same_draws() -> None:
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 8, 50).astype(np.uint64)
    values = rng.normal(size=(50, 2))
    parts = [np.full(50, True), groups % 3 == 0, groups == 7]
    masked = np.hstack([values * part[:, np.newaxis] for part in parts])
    expected = np.split(bootstrap.resampled_sums(masked, groups, resamples=500), 3, axis=1)
    received = bootstrap.resampled_sums_of_parts(values, groups, parts, resamples=500)
    np.testing.assert_allclose(received, expected, atol=1e-12)


@pytest.mark.parametrize("size", [1, 2])
def test_the_rows_are_copied_once_at_most(size, monkeypatch) -> None:
    monkeypatch.setattr(bootstrap, "_MOST_COUNTS", 1)  # a resample at a time
    values = np.random.default_rng(0).normal(size=(2_000, 60))
    groups = np.repeat(apart(2_000 // size), size)
    tracemalloc.start()
    bootstrap.resampled_sums(values, groups, resamples=4)
    bootstrap.resampled_sums_of_parts(values, groups, [groups % 2 == 0], resamples=4)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.3 * values.nbytes


def test_an_interval_of_groups_holds_the_truth_as_often_as_it_says() -> None:
    # Every image stands there three times: drawn apart, 95 % would be 74 %.
    rng = np.random.default_rng(0)
    held = 0
    groups = np.repeat(apart(100), 3)
    for seed in range(400):
        right = np.repeat(rng.random(100) < 0.7, 3)
        values = right[:, np.newaxis].astype(np.float64)
        sums = bootstrap.resampled_sums(values, groups, resamples=400, seed=seed)
        low, high = bootstrap.interval(sums[:, 0] / 300)
        held += low <= 0.7 <= high
    assert 0.91 <= held / 400 <= 0.98


def test_an_interval_leaves_out_as_much_at_both_ends() -> None:
    figures = np.arange(101, dtype=np.float64)
    assert bootstrap.interval(figures) == pytest.approx([2.5, 97.5])

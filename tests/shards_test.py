import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_tfdata import shards

MIB = 1 << 20


@pytest.mark.parametrize(
    ("examples", "num_shards", "expected"),
    [
        (10, 1, [10]),
        (10, 2, [5, 5]),
        (10, 3, [3, 3, 4]),
        (10, 10, [1] * 10),
        (10, 11, [1] * 10),
        (1, 99_999, [1]),
        (28_709, 8, [3588, 3589, 3588, 3589, 3589, 3588, 3589, 3589]),
    ],
)
def test_balanced_lengths(examples: int, num_shards: int, expected: list[int]):
    assert shards.balanced_lengths(examples, num_shards) == expected


@given(st.integers(1, 50_000), st.integers(1, 2_000))
def test_balanced_lengths_are_balanced(examples: int, num_shards: int):
    lengths = shards.balanced_lengths(examples, num_shards)
    assert sum(lengths) == examples
    assert len(lengths) == min(examples, num_shards)
    assert min(lengths) >= 1
    assert max(lengths) - min(lengths) <= 1


@pytest.mark.parametrize(
    ("num_bytes", "expected"),
    [
        (0, 1),
        (1, 1),
        (16 * MIB, 1),
        (16 * MIB + 1, 2),
        (32 * MIB + 1, 4),
        (69_000_000, 8),
        (10 << 30, 1024),
        (1 << 40, 1024),
    ],
)
def test_choose_num_shards(num_bytes: int, expected: int):
    assert shards.choose_num_shards(num_bytes) == expected


@given(st.integers(1, 16 << 30))
def test_the_number_of_shards_is_the_smallest_power_of_two(num_bytes: int):
    count = shards.choose_num_shards(num_bytes)
    assert math.log2(count).is_integer()
    assert num_bytes <= 16 * MIB * count
    assert count == 1 or num_bytes > 16 * MIB * count // 2

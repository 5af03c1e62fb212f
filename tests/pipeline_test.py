import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_tfdata import augmentation, pipeline, records
from fer_tfdata.errors import InputError

IN_MEMORY = pipeline.MEMORY_BUDGET_BYTES
STREAMING = 0


@pytest.fixture(scope="module")
def split(demo_data_dir: Path) -> records.Split:
    return records.open_split(demo_data_dir, "train")


def batches(split, steps, **kwargs):
    dataset = pipeline.train_dataset(split, **kwargs)
    return [(images.numpy(), labels.numpy()) for images, labels in dataset.take(steps)]


def keys(images: np.ndarray) -> list[bytes]:
    return [image.tobytes() for image in images]


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_batches_are_uint8_images_with_their_labels(split, budget) -> None:
    truth = records.load_split(split)
    label_of = dict(zip(keys(truth["image"]), truth["label"], strict=True))
    for images, labels in batches(split, 4, batch_size=32, seed=0, memory_budget_bytes=budget):
        assert images.shape == (32, 48, 48, 1)
        assert images.dtype == np.uint8
        assert labels.dtype == np.int64
        assert [label_of[key] for key in keys(images)] == labels.tolist()


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_an_epoch_has_no_image_twice_and_the_next_has_another_order(split, budget) -> None:
    steps = pipeline.steps_per_epoch(split, 35)
    both = batches(split, 2 * steps, batch_size=35, seed=3, memory_budget_bytes=budget)
    epochs = [
        [key for images, _ in half for key in keys(images)] for half in (both[:steps], both[steps:])
    ]
    everything = Counter(keys(records.load_split(split)["image"]))
    assert [Counter(epoch) for epoch in epochs] == [everything, everything]
    assert epochs[0] != epochs[1]
    assert epochs[0] != keys(records.load_split(split)["image"])


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_what_does_not_fill_a_batch_is_left_out_of_the_epoch(split, budget) -> None:
    steps = pipeline.steps_per_epoch(split, 64)
    assert steps == split.examples // 64
    (first, second) = batches(split, steps, batch_size=64, seed=3, memory_budget_bytes=budget)
    assert len({*keys(first[0]), *keys(second[0])}) == 128


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_the_seed_decides_the_order(split, budget) -> None:
    def order(seed):
        return batches(split, 3, batch_size=20, seed=seed, memory_budget_bytes=budget)

    def same(a, b):
        return all((x[0] == y[0]).all() for x, y in zip(a, b, strict=True))

    assert same(order(1), order(1))
    assert not same(order(1), order(2))


# A window of a few batches, so that starting means skipping windows, batches and epochs.
@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
@pytest.mark.parametrize("augment", [None, augmentation.random_flip])
@settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch_size=st.integers(1, 140), start=st.integers(0, 300), seed=st.integers(0, 2**31 - 1))
def test_starting_at_a_step_continues_what_ran_through(
    split, monkeypatch, budget, augment, batch_size, start, seed
) -> None:
    monkeypatch.setattr(pipeline, "_WINDOW_IMAGES", 48)
    arguments = {
        "batch_size": batch_size,
        "seed": seed,
        "augment": augment,
        "memory_budget_bytes": budget,
    }
    whole = pipeline.train_dataset(split, **arguments).skip(start).take(3)
    part = pipeline.train_dataset(split, start_step=start, **arguments).take(3)
    for (images, labels), (other_images, other_labels) in zip(whole, part, strict=True):
        assert (images.numpy() == other_images.numpy()).all()
        assert (labels.numpy() == other_labels.numpy()).all()


def test_augmentation_changes_with_the_step_and_not_the_labels(split) -> None:
    plain = batches(split, 8, batch_size=35, seed=5)
    flipped = batches(split, 8, batch_size=35, seed=5, augment=augmentation.random_flip)
    shares = []
    for (before, labels), (after, same_labels) in zip(plain, flipped, strict=True):
        assert (labels == same_labels).all()
        kept = (before == after).all(axis=(1, 2, 3))
        mirrored = (before[:, :, ::-1] == after).all(axis=(1, 2, 3))
        assert (kept | mirrored).all()
        shares.append(tuple(mirrored))
    assert len(set(shares)) == len(shares)
    assert 0.3 < np.mean(shares) < 0.7


@pytest.mark.parametrize("batch_size", [1, 16, 35, 1000])
def test_evaluation_sees_every_example_once_in_order(demo_data_dir, batch_size) -> None:
    split = records.open_split(demo_data_dir, "validation")
    parts = list(
        pipeline.eval_dataset(split, batch_size=batch_size, fields=("image", "label", "row"))
    )
    truth = records.load_split(split)
    for index, field in enumerate(("image", "label", "row")):
        assert (np.concatenate([part[index] for part in parts]) == truth[field]).all()


def test_a_split_above_the_memory_budget_streams_and_says_so(split, caplog) -> None:
    with caplog.at_level(logging.WARNING):
        pipeline.train_dataset(split, batch_size=8, seed=0, memory_budget_bytes=IN_MEMORY)
        assert not caplog.records
        pipeline.train_dataset(split, batch_size=8, seed=0, memory_budget_bytes=1000)
    assert "streaming" in caplog.text


@pytest.mark.parametrize("batch_size", [0, -1, 141])
def test_a_batch_that_the_split_cannot_fill_is_refused(split, batch_size) -> None:
    with pytest.raises(InputError, match="batch_size: expected 1 to 140"):
        pipeline.train_dataset(split, batch_size=batch_size, seed=0)


def test_the_dataset_can_be_iterated_twice(split) -> None:
    dataset = pipeline.train_dataset(split, batch_size=16, seed=9).take(2)
    first, second = ([images.numpy() for images, _ in dataset] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_batch_size_is_known_to_the_graph(split) -> None:
    for budget in (IN_MEMORY, STREAMING):
        dataset = pipeline.train_dataset(split, batch_size=16, seed=9, memory_budget_bytes=budget)
        assert dataset.element_spec[0] == tf.TensorSpec((16, 48, 48, 1), tf.uint8)

import dataclasses
import functools
import logging
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_tfdata import conversion, data_service, ferplus, labelling, pipeline, records, streaming
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL
from fer_tfdata.schedule import Schedule, Windows
from fer_tfdata.sources import KaggleCsv
from tests.batch_source import BatchSource, random_batch
from tests.ferplus_test import votes_on_every_row

IN_MEMORY = pipeline.MEMORY_BUDGET_BYTES
STREAMING = 0


@pytest.fixture(scope="module")
def split(demo_data_dir: Path) -> records.Split:
    return records.open_split(demo_data_dir, "train")


@pytest.fixture(scope="module")
def voted_split(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory) -> records.Split:
    """The drawn faces' train with made-up FER+ votes, in three shards."""
    directory = tmp_path_factory.mktemp("voted")
    votes = votes_on_every_row(demo_csv, directory / "votes.csv")
    conversion.convert(KaggleCsv((demo_csv,)), directory / "data", votes=votes, num_shards=3)
    return records.open_split(directory / "data", "train")


@pytest.fixture(scope="module")
def split_of_shards(demo_csv: Path, tmp_path_factory: pytest.TempPathFactory):
    """Returns the drawn faces' train in so many shards."""
    directory = tmp_path_factory.mktemp("sharded")

    @functools.cache
    def convert(num_shards: int) -> records.Split:
        data_dir = directory / str(num_shards)
        conversion.convert(KaggleCsv((demo_csv,)), data_dir, num_shards=num_shards)
        return records.open_split(data_dir, "train")

    return convert


@pytest.fixture
def data_service_address():
    """A dispatcher and two workers."""
    dispatcher, port = data_service.start_dispatcher(port=0)
    address = f"grpc://127.0.0.1:{port}"
    workers = [
        data_service.start_worker(dispatcher=address, host="127.0.0.1", port=0)[0] for _ in range(2)
    ]
    yield address
    for server in (*workers, dispatcher):  # in this order, or the dispatcher waits for them
        server.stop()


def same(a, b) -> bool:
    return len(a) == len(b) and all(
        np.array_equal(x, y) for pair in zip(a, b, strict=True) for x, y in zip(*pair, strict=True)
    )


def expected_targets(split: records.Split, labels: str) -> dict[bytes, list[float]]:
    """The target of every image that has one, by the image."""
    arrays = records.load_split(split)
    if labels == "ferplus_majority":
        targets = ferplus.majority(arrays["votes"])
        kept = targets != NO_LABEL
    else:
        targets = ferplus.distribution(arrays["votes"])
        kept = targets.any(axis=1)
    assert 0 < kept.sum() < len(kept)
    images = keys(arrays["image"])
    return {images[i]: targets[i].tolist() for i in np.flatnonzero(kept)}


def random_flip(images, labels, seed):
    flipped = tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, 1], seed) < 0.5
    return tf.where(flipped, images[:, :, ::-1], images), labels


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


def negative(images, labels, seed):
    return 255 - images, labels


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
@pytest.mark.parametrize("start", [0, 4, 5, 9])
def test_each_step_is_changed_as_its_stage_says(split, budget, start) -> None:
    arguments = {"batch_size": 35, "seed": 2, "memory_budget_bytes": budget, "start_step": start}
    stages = {0: lambda images, labels, seed: (images, labels), 5: negative}
    plain, changed = (batches(split, 4, augment=augment, **arguments) for augment in (None, stages))
    for step, ((images, _), (expected, _)) in enumerate(zip(changed, plain, strict=True), start):
        np.testing.assert_array_equal(images, 255 - expected if step >= 5 else expected)


# Windows of a few batches, so that starting means skipping windows, batches and epochs.
@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), start=st.integers(0, 100), seed=st.integers(0, 2**31 - 1))
def test_starting_at_a_step_continues_what_ran_through(
    split_of_shards, monkeypatch, budget, data, start, seed
) -> None:
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 48)
    process_count = data.draw(st.integers(1, 5))
    arguments = {
        "batch_size": data.draw(st.integers(1, 140 // process_count)),
        "process_count": process_count,
        "process_index": data.draw(st.integers(0, process_count - 1)),
        "seed": seed,
        "augment": data.draw(st.sampled_from([None, {0: random_flip, 7: negative}])),
        "memory_budget_bytes": budget,
    }
    split = split_of_shards(data.draw(st.sampled_from([1, 2, 5, 140])))
    whole = pipeline.train_dataset(split, **arguments).skip(start).take(3)
    part = pipeline.train_dataset(split, start_step=start, **arguments).take(3)
    assert same(list(whole.as_numpy_iterator()), list(part.as_numpy_iterator()))


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
@settings(
    max_examples=4,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(data=st.data(), seed=st.integers(0, 2**31 - 1))
def test_processes_share_an_epoch_without_a_gap_or_a_repeat(
    split_of_shards, monkeypatch, budget, data, seed
) -> None:
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 20)
    process_count = data.draw(st.integers(1, 6))
    batch_size = data.draw(st.integers(1, 140 // process_count))
    split = split_of_shards(data.draw(st.sampled_from([1, 2, 5, 140])))
    steps = pipeline.steps_per_epoch(split, batch_size, process_count=process_count)
    assert steps == 140 // (batch_size * process_count)
    everything = Counter(keys(records.load_split(split)["image"]))
    parts = [
        batches(
            split,
            2 * steps,
            batch_size=batch_size,
            seed=seed,
            process_index=index,
            process_count=process_count,
            memory_budget_bytes=budget,
        )
        for index in range(process_count)
    ]
    for epoch in (slice(steps), slice(steps, None)):
        seen = Counter(key for part in parts for images, _ in part[epoch] for key in keys(images))
        assert seen.total() == steps * batch_size * process_count
        assert seen <= everything


def test_in_memory_the_processes_batches_make_that_of_one_process(split) -> None:
    whole = batches(split, 5, batch_size=60, seed=4)
    parts = [
        batches(split, 5, batch_size=20, seed=4, process_index=index, process_count=3)
        for index in range(3)
    ]
    for step, (images, labels) in enumerate(whole):
        assert (images == np.concatenate([part[step][0] for part in parts])).all()
        assert (labels == np.concatenate([part[step][1] for part in parts])).all()


def test_processes_augment_differently(split) -> None:
    # Each has every image, so that what differs is the augmentation.
    arguments = {"batch_size": 20, "seed": 4, "process_count": 2}
    flips = []
    for index in range(2):
        plain = batches(split, 3, process_index=index, **arguments)
        flipped = batches(split, 3, process_index=index, augment=random_flip, **arguments)
        flips.append(
            [(a[0] != b[0]).any(axis=(1, 2, 3)) for a, b in zip(plain, flipped, strict=True)]
        )
    assert not np.array_equal(*flips)


def test_a_streaming_process_reads_its_own_part_alone(
    split_of_shards, monkeypatch, tmp_path
) -> None:
    # The other one's shards need not be there.
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 10)
    split = split_of_shards(2)
    arguments = {"batch_size": 10, "seed": 0, "memory_budget_bytes": STREAMING}
    shards = [
        [
            key
            for images, _ in batches(split, 7, process_index=i, process_count=2, **arguments)
            for key in keys(images)
        ]
        for i in range(2)
    ]
    directory = tmp_path / "one"
    directory.mkdir()
    for shard in split.shards:
        target = directory / shard.file
        target.write_bytes((split.directory / shard.file).read_bytes())
    alone = dataclasses.replace(split, directory=directory)
    first_shard = keys(records.load_split(split)["image"])[: split.shards[0].records]
    reader_of_first = next(i for i in range(2) if set(shards[i]) <= set(first_shard))
    (directory / split.shards[1].file).unlink()
    part = batches(alone, 7, process_index=reader_of_first, process_count=2, **arguments)
    assert [key for images, _ in part for key in keys(images)] == shards[reader_of_first]


def test_streaming_from_a_late_window_needs_no_shard_that_comes_before_it(
    split_of_shards, monkeypatch, tmp_path
) -> None:
    # A window a shard, and two steps a window.
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 28)
    split = split_of_shards(5)
    assert [shard.records for shard in split.shards] == [28] * 5
    arguments = {"batch_size": 14, "seed": 2, "memory_budget_bytes": STREAMING}
    second_epoch = batches(split, 20, **arguments)[10:]
    shard_of = {
        key: number // 28 for number, key in enumerate(keys(records.load_split(split)["image"]))
    }
    order = [shard_of[keys(images)[0]] for images, _ in second_epoch[::2]]
    assert sorted(order) == list(range(5))
    assert order != list(range(5))

    copied = shutil.copytree(split.directory, tmp_path / "late")
    for number in order[:3]:
        (copied / split.shards[number].file).unlink()
    late = dataclasses.replace(split, directory=copied)
    assert same(batches(late, 4, start_step=16, **arguments), second_epoch[6:])
    with pytest.raises(records.READ_ERRORS):
        batches(late, 4, start_step=14, **arguments)


@pytest.mark.parametrize(
    ("process_index", "process_count", "message"),
    [
        (2, 2, "process_index: expected 0 to 1 .process_count is 2., received 2"),
        (-1, 1, "process_index: expected 0 to 0"),
        (0, 15, "batch_size: expected 1 to 9 .* for each of 15 processes, received 10"),
    ],
)
def test_processes_that_cannot_be_are_refused(split, process_index, process_count, message) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.train_dataset(
            split, batch_size=10, seed=0, process_index=process_index, process_count=process_count
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start_step": -1}, "start_step: expected 0 or more, received -1"),
        ({"process_count": 0}, "process_count: expected 1 or more, received 0"),
        ({"labels": "votes"}, "labels: expected one of fer2013, .*, received 'votes'"),
        ({"augment": {}}, r"augment: expected steps from 0 on, received \[\]"),
        ({"augment": {3: negative}}, r"augment: expected steps from 0 on, received \[3\]"),
    ],
)
@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_arguments_of_a_training_that_cannot_be_are_refused(split, change, message, budget) -> None:
    arguments = {"batch_size": 10, "seed": 0, "memory_budget_bytes": budget}
    with pytest.raises(InputError, match=message):
        pipeline.train_dataset(split, **arguments | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 1 or more, received 0"),
        ({"batch_size": -8}, "batch_size: expected 1 or more, received -8"),
        ({"fields": ("image", "vote")}, r"fields: expected some of image, label, row, .*'vote'\)"),
        ({"fields": ()}, r"fields: expected some of image, label, row, received \(\)"),
        ({"labels": "votes"}, "labels: expected one of fer2013, .*, received 'votes'"),
    ],
)
def test_arguments_of_an_evaluation_that_cannot_be_are_refused(split, change, message) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.eval_dataset(split, **{"batch_size": 8} | change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"batch_size": 0},
            "batch_size: expected a multiple of process_count=2 above 0, received 0",
        ),
        (
            {"batch_size": 7},
            "batch_size: expected a multiple of process_count=2 above 0, received 7",
        ),
        ({"process_index": 2}, "process_index: expected 0 to 1 .process_count is 2., received 2"),
        ({"process_index": -1}, "process_index: expected 0 to 1 .*, received -1"),
        ({"process_count": 0}, "process_count: expected 1 or more, received 0"),
        ({"labels": "votes"}, "labels: expected one of fer2013, .*, received 'votes'"),
    ],
)
def test_a_shared_evaluation_that_cannot_be_is_refused(split, change, message) -> None:
    arguments = {"batch_size": 8, "process_count": 2}
    with pytest.raises(InputError, match=message):
        pipeline.padded_eval_dataset(split, **arguments | change)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 0}, "batch_size: expected 1 to 140"),
        ({"batch_size": 8, "process_count": 0}, "process_count: expected 1 or more, received 0"),
        ({"batch_size": 8, "labels": "votes"}, "labels: expected one of fer2013"),
    ],
)
def test_steps_that_cannot_be_counted_are_refused(split, arguments, message) -> None:
    with pytest.raises(InputError, match=message):
        pipeline.steps_per_epoch(split, **arguments)


def test_augmentation_changes_with_the_step_and_not_the_labels(split) -> None:
    plain = batches(split, 8, batch_size=35, seed=5)
    flipped = batches(split, 8, batch_size=35, seed=5, augment=random_flip)
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


@pytest.mark.parametrize(("batch_size", "process_count"), [(16, 1), (16, 2), (40, 4), (7, 1)])
@pytest.mark.parametrize("labels", [ferplus.OWN_LABELS, "ferplus_distribution"])
def test_the_processes_parts_of_an_evaluation_are_all_of_it(
    voted_split, labels, batch_size, process_count
) -> None:
    whole = list(
        pipeline.eval_dataset(voted_split, labels=labels, batch_size=1).as_numpy_iterator()
    )
    parts = [
        pipeline.padded_eval_dataset(
            voted_split,
            labels=labels,
            batch_size=batch_size,
            process_index=index,
            process_count=process_count,
        ).as_numpy_iterator()
        for index in range(process_count)
    ]
    rows = []
    for step in zip(*parts, strict=True):
        for images, targets, weights in step:
            assert len(images) == len(targets) == len(weights) == batch_size // process_count
            rows.extend(zip(images, targets, weights, strict=True))
    counted = [row for row in rows if row[2] > 0]
    for (image, target, _), (images, targets) in zip(counted, whole, strict=True):
        np.testing.assert_array_equal(image, images[0])
        np.testing.assert_array_equal(target, targets[0])
    # Of anything: here of the images' brightness.
    weighted = np.mean([image.mean() * weight for image, _, weight in rows])
    assert weighted == pytest.approx(np.mean([images.mean() for images, _ in whole]), rel=1e-5)


def test_a_split_above_the_memory_budget_streams_and_says_so(split, caplog, monkeypatch) -> None:
    def refuse(*arguments):
        raise AssertionError("the split was loaded")

    budget = 140 * 48 * 48
    with caplog.at_level(logging.WARNING):
        batches(split, 1, batch_size=8, seed=0, memory_budget_bytes=budget)
        assert not caplog.records
        monkeypatch.setattr(records, "load_split", refuse)
        ((images, _),) = batches(split, 1, batch_size=8, seed=0, memory_budget_bytes=budget - 1)
    assert "streaming" in caplog.text
    assert len(images) == 8
    with pytest.raises(AssertionError, match="the split was loaded"):
        pipeline.train_dataset(split, batch_size=8, seed=0, memory_budget_bytes=budget)


@pytest.mark.parametrize("labels", ferplus.KINDS)
def test_streaming_with_ferplus_loads_no_image(voted_split, monkeypatch, labels) -> None:
    # Of a size that none of the images has, so that decoding one is an error.
    schema = dataclasses.replace(voted_split.schema, image_shape=(96, 96, 1))
    dataset = pipeline.train_dataset(
        dataclasses.replace(voted_split, schema=schema),
        labels=labels,
        batch_size=8,
        seed=0,
        memory_budget_bytes=STREAMING,
    )
    with pytest.raises(records.READ_ERRORS):
        next(iter(dataset))


@pytest.mark.parametrize("batch_size", [0, -1, 141])
def test_a_batch_that_the_split_cannot_fill_is_refused(split, batch_size) -> None:
    with pytest.raises(InputError, match="batch_size: expected 1 to 140"):
        pipeline.train_dataset(split, batch_size=batch_size, seed=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda split: pipeline.train_dataset(split, batch_size=8, seed=0),
        lambda split: pipeline.train_dataset(
            split, batch_size=8, seed=0, memory_budget_bytes=STREAMING
        ),
        lambda split: pipeline.eval_dataset(split, batch_size=8),
        lambda split: pipeline.padded_eval_dataset(split, batch_size=8),
    ],
    ids=["in memory", "streaming", "evaluation", "padded evaluation"],
)
def test_no_dataset_is_autotuned_whose_thread_would_hold_up_its_end(split, make) -> None:
    assert make(split).options().autotune.enabled is False


def test_the_dataset_can_be_iterated_twice(split) -> None:
    dataset = pipeline.train_dataset(split, batch_size=16, seed=9).take(2)
    first, second = ([images.numpy() for images, _ in dataset] for _ in range(2))
    assert all((a == b).all() for a, b in zip(first, second, strict=True))


def test_the_batch_size_is_known_to_the_graph(split) -> None:
    for budget in (IN_MEMORY, STREAMING):
        dataset = pipeline.train_dataset(split, batch_size=16, seed=9, memory_budget_bytes=budget)
        assert dataset.element_spec[0] == tf.TensorSpec((16, 48, 48, 1), tf.uint8)


@pytest.mark.parametrize("labels", ferplus.KINDS)
@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_an_epoch_with_ferplus_is_that_of_the_images_its_voters_agree_on(
    voted_split, labels, budget
) -> None:
    expected = expected_targets(voted_split, labels)
    assert labelling.usable_examples(voted_split, labels) == len(expected)
    arguments = {"labels": labels, "batch_size": 1, "seed": 3, "memory_budget_bytes": budget}
    steps = pipeline.steps_per_epoch(voted_split, 1, labels)
    assert steps == len(expected)
    both = batches(voted_split, 2 * steps, **arguments)
    epochs = [[images.tobytes() for images, _ in half] for half in (both[:steps], both[steps:])]
    assert [sorted(epoch) for epoch in epochs] == [sorted(expected)] * 2
    assert epochs[0] != epochs[1]
    for images, targets in both:
        assert targets.dtype == (np.int64 if labels == "ferplus_majority" else np.float32)
        assert targets[0].tolist() == expected[images.tobytes()]


# A window of a few batches, of which some are dropped as a whole.
@pytest.mark.parametrize(
    "labels",
    ["ferplus_distribution", pytest.param("ferplus_majority", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
@settings(
    max_examples=3,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch_size=st.integers(1, 60), start=st.integers(0, 100), seed=st.integers(0, 2**31 - 1))
def test_starting_at_a_step_continues_what_ran_through_with_ferplus(
    voted_split, monkeypatch, labels, budget, batch_size, start, seed
) -> None:
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 20)
    arguments = {
        "labels": labels,
        "batch_size": batch_size,
        "seed": seed,
        "augment": random_flip,
        "memory_budget_bytes": budget,
    }
    whole = pipeline.train_dataset(voted_split, **arguments).skip(start).take(3)
    part = pipeline.train_dataset(voted_split, start_step=start, **arguments).take(3)
    for (images, targets), (other_images, other_targets) in zip(whole, part, strict=True):
        assert images.shape == (batch_size, 48, 48, 1)
        assert (images.numpy() == other_images.numpy()).all()
        assert (targets.numpy() == other_targets.numpy()).all()


@pytest.mark.parametrize("labels", ferplus.KINDS)
@pytest.mark.parametrize("batch_size", [1, 16, 1000])
def test_evaluation_sees_every_image_that_ferplus_keeps_once_in_order(
    voted_split, labels, batch_size
) -> None:
    expected = expected_targets(voted_split, labels)
    parts = list(
        pipeline.eval_dataset(
            voted_split, labels=labels, batch_size=batch_size, fields=("image", "label", "row")
        )
    )
    assert [len(part[0]) for part in parts[:-1]] == [batch_size] * (len(parts) - 1)
    images, targets, rows = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    assert keys(images) == list(expected)
    assert targets.tolist() == list(expected.values())
    truth = records.load_split(voted_split)
    row_of = dict(zip(keys(truth["image"]), truth["row"], strict=True))
    assert [row_of[key] for key in keys(images)] == rows.tolist()


def test_votes_change_nothing_for_who_wants_the_own_labels(split, voted_split) -> None:
    # The same records in other shards: in memory the order is that of the positions.
    assert pipeline.steps_per_epoch(voted_split, 20) == pipeline.steps_per_epoch(split, 20)
    for budget in (IN_MEMORY, STREAMING):
        dataset = pipeline.train_dataset(
            voted_split, batch_size=20, seed=1, memory_budget_bytes=budget
        )
        assert dataset.element_spec == (
            tf.TensorSpec((20, 48, 48, 1), tf.uint8),
            tf.TensorSpec((20,), tf.int64),
        )
    plain = batches(split, 3, batch_size=20, seed=1)
    voted = batches(voted_split, 3, batch_size=20, seed=1)
    for (images, labels), (other_images, other_labels) in zip(plain, voted, strict=True):
        assert (images == other_images).all()
        assert (labels == other_labels).all()


def test_class_names_are_those_of_the_labels() -> None:
    schema = records.Schema((48, 48, 1), EXPRESSIONS, has_votes=True)
    assert labelling.class_names(schema, "fer2013") == EXPRESSIONS
    for labels in ferplus.KINDS:
        assert labelling.class_names(schema, labels) == EIGHT_EXPRESSIONS


@pytest.mark.parametrize("labels", ferplus.KINDS)
def test_ferplus_without_votes_is_refused(split, labels) -> None:
    with pytest.raises(InputError, match=r"'train': .* convert again with --ferplus_csv"):
        pipeline.train_dataset(split, labels=labels, batch_size=8, seed=0)
    with pytest.raises(InputError, match=r"'train': .* convert again with --ferplus_csv"):
        pipeline.eval_dataset(split, labels=labels, batch_size=8)


def test_votes_on_which_nobody_agrees_are_refused(voted_split) -> None:
    disagreed = dataclasses.replace(voted_split, ferplus_examples=dict.fromkeys(ferplus.KINDS, 0))
    with pytest.raises(InputError, match="received none among 140; choose other labels"):
        pipeline.eval_dataset(disagreed, labels="ferplus_majority", batch_size=8)


@pytest.mark.parametrize("labels", ferplus.KINDS)
def test_votes_on_other_images_are_warned_of(demo_csv, tmp_path, labels, warnings_so_far) -> None:
    votes = votes_on_every_row(demo_csv, tmp_path / "votes.csv")
    rolled = dataclasses.replace(votes, counts=np.roll(votes.counts, 1, axis=0))
    conversion.convert(KaggleCsv((demo_csv,)), tmp_path / "data", votes=rolled)
    split = records.open_split(tmp_path / "data", "train")
    pipeline.train_dataset(split, batch_size=8, seed=0)
    assert not warnings_so_far()
    pipeline.train_dataset(split, labels=labels, batch_size=8, seed=0)
    (message,) = warnings_so_far()
    assert f"{split.ferplus_agreeing} of {split.ferplus_comparable} images, no more than" in message


def test_images_without_labels_are_refused(tmp_path) -> None:
    batch = random_batch(["train"] * 4 + ["test"] * 3)
    batch.labels[4:6] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    split = records.open_split(tmp_path, "test")
    with pytest.raises(InputError, match=r"'test': expected a label .* 2 of 3 without one"):
        pipeline.eval_dataset(split, batch_size=8)
    with pytest.raises(InputError, match=r"'test': expected a label .* 2 of 3 without one"):
        pipeline.train_dataset(split, batch_size=1, seed=0)
    assert pipeline.steps_per_epoch(records.open_split(tmp_path, "train"), 2) == 2


@pytest.mark.parametrize("budget", [IN_MEMORY, STREAMING])
def test_images_of_another_shape_are_given_as_they_are(tmp_path, budget) -> None:
    shape = (20, 20, 3)
    conversion.convert(
        BatchSource([random_batch(["train"] * 30, image_shape=shape)], image_shape=shape), tmp_path
    )
    split = records.open_split(tmp_path, "train")
    everything = sorted(keys(records.load_split(split)["image"]))
    epoch = batches(split, 3, batch_size=10, seed=0, memory_budget_bytes=budget)
    assert sorted(key for images, _ in epoch for key in keys(images)) == everything
    assert epoch[0][0].shape == (10, *shape)
    ((images, _),) = pipeline.eval_dataset(split, batch_size=30)
    assert sorted(keys(images.numpy())) == everything


def test_large_images_are_shuffled_in_windows_of_bounded_bytes() -> None:
    small, large = (records.Schema(shape, EXPRESSIONS) for shape in ((48, 48, 1), (1024, 1024, 3)))
    assert streaming.steps_per_window(small, 64) == 128
    assert streaming.steps_per_window(large, 16) == 2
    assert streaming.steps_per_window(large, 64) == 1  # never less than a batch


FER2013 = (48, 48, 1)
LARGE = (1024, 1024, 3)
TWICE_FER2013 = (68, 68, 1)  # still 8,192 images a window: 38 MB


@pytest.mark.parametrize(
    ("image_shape", "batch_size", "cores", "budget", "expected"),
    [
        (FER2013, 256, 1, 0, 1),
        (FER2013, 256, 2, 0, 2),
        (FER2013, 256, 64, 0, 8),
        (FER2013, 256, 64, IN_MEMORY, 8),
        (TWICE_FER2013, 256, 64, 0, 8),
        (LARGE, 16, 64, 0, 1),
        (LARGE, 16, 2, IN_MEMORY, 2),
        (LARGE, 16, 64, IN_MEMORY, 4),
        (LARGE, 16, 64, 8 << 30, 8),
        (LARGE, 4096, 64, IN_MEMORY, 1),  # a batch is more than the budget
    ],
)
def test_fewer_windows_are_read_at_once_where_memory_would_not_hold_them(
    monkeypatch, image_shape, batch_size, cores, budget, expected
) -> None:
    monkeypatch.setattr(streaming.joblib, "cpu_count", lambda: cores)
    schema = records.Schema(image_shape, EXPRESSIONS)
    schedule = Schedule(examples=100_000, batch_size=batch_size)
    windows = Windows(
        schedule=schedule, steps_per_window=streaming.steps_per_window(schema, batch_size)
    )
    assert streaming.windows_at_once(schema, windows, budget) == expected


@given(
    side=st.integers(1, 2000),
    batch_size=st.integers(1, 4096),
    cores=st.integers(1, 256),
    budget=st.integers(0, 1 << 36),
)
def test_the_windows_in_memory_stay_within_the_budget_or_are_read_one_by_one(
    side, batch_size, cores, budget
) -> None:
    schema = records.Schema((side, side, 3), EXPRESSIONS)
    windows = Windows(
        schedule=Schedule(examples=100_000, batch_size=batch_size),
        steps_per_window=streaming.steps_per_window(schema, batch_size),
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming.joblib, "cpu_count", lambda: cores)
        at_once = streaming.windows_at_once(schema, windows, budget)
    # Each as records, as bytes and as pixels; two more as pixels.
    taken = (3 * at_once + 2) * windows.most * side * side * 3
    assert 1 <= at_once <= cores
    assert at_once == 1 or taken <= max(budget, 1 << 30)


@pytest.mark.parametrize("cores", [1, 2, 64])
def test_the_order_does_not_hang_on_the_cores(split, monkeypatch, cores) -> None:
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 20)
    arguments = {"batch_size": 10, "seed": 0, "memory_budget_bytes": STREAMING}
    here = batches(split, 20, **arguments)
    monkeypatch.setattr(streaming.joblib, "cpu_count", lambda: cores)
    assert same(batches(split, 20, **arguments), here)


def test_a_manifest_that_counts_the_votes_otherwise_is_refused(voted_split) -> None:
    counts = {kind: count - 1 for kind, count in voted_split.ferplus_examples.items()}
    changed = dataclasses.replace(voted_split, ferplus_examples=counts)
    arguments = {"labels": "ferplus_majority", "batch_size": 1, "seed": 0}
    with pytest.raises(InputError, match=r"manifest\.json: expected \d+ images of split 'train'"):
        pipeline.train_dataset(changed, **arguments)
    with pytest.raises(InputError, match=r"manifest\.json: expected \d+ images of split 'train'"):
        pipeline.train_dataset(changed, memory_budget_bytes=STREAMING, **arguments)
    with pytest.raises(records.READ_ERRORS):
        list(pipeline.eval_dataset(changed, labels="ferplus_majority", batch_size=1))


@pytest.mark.parametrize("augment", [None, random_flip])
def test_the_data_service_gives_what_is_streamed_here(
    split_of_shards, monkeypatch, data_service_address, augment
) -> None:
    monkeypatch.setattr(streaming, "_WINDOW_IMAGES", 40)
    arguments = {
        "batch_size": 12,
        "seed": 6,
        "start_step": 5,
        "process_index": 1,
        "process_count": 2,
        "augment": augment,
    }
    split = split_of_shards(5)
    here = batches(split, 14, memory_budget_bytes=STREAMING, **arguments)
    # Though the split would fit into memory.
    served = batches(split, 14, data_service_address=data_service_address, **arguments)
    assert same(here, served)


def test_the_data_service_reads_what_was_given_as_a_relative_path(
    demo_data_dir, monkeypatch, data_service_address
) -> None:
    arguments = {"batch_size": 20, "seed": 6}
    here = batches(
        records.open_split(demo_data_dir, "train"), 3, memory_budget_bytes=STREAMING, **arguments
    )
    monkeypatch.chdir(demo_data_dir.parent)
    split = records.open_split(Path(demo_data_dir.name), "train")
    served = pipeline.train_dataset(split, data_service_address=data_service_address, **arguments)
    monkeypatch.chdir("/")  # where the workers are
    assert same(here, list(served.take(3).as_numpy_iterator()))

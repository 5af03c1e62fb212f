import contextlib
import dataclasses
import importlib.util
import logging
import sys

import matplotlib.axes
import numpy as np
import pytest
from absl import flags
from PIL import Image

from benchmarks import measure, pipeline_benchmark
from benchmarks.pipeline_peers import PEERS, open_inputs, write_image_files
from fer_tfdata import conversion
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from tests import failing_peers
from tests.batch_source import BatchSource, random_batch
from tests.benchmarks_test import check_promises, check_summary

INSTALLED = [
    name
    for name, peer in PEERS.items()
    if all(importlib.util.find_spec(module.split(".")[0]) for module in peer.modules)
]
# What shuffles a buffer mixes epochs, JPEG is not lossless, and augmentation changes images.
SHUFFLES_A_BUFFER = {"dali_records"}
NOT_THE_IMAGES = {"image_generator", "ours_in_memory_augmented", "ours_streaming_augmented"}
BATCH_SIZE = 20


@pytest.fixture(autouse=True)
def _logging_stays_on(monkeypatch) -> None:
    """Off, it would be so for the tests that follow in this process."""
    monkeypatch.setattr(logging, "disable", lambda level: None)


@pytest.fixture(scope="module")
def inputs(demo_data_dir, tmp_path_factory):
    directory = tmp_path_factory.mktemp("race") / "inputs"
    inputs = open_inputs(demo_data_dir, directory, BATCH_SIZE)
    write_image_files(inputs)
    return inputs


@pytest.mark.parametrize("name", INSTALLED)
def test_a_feed_gives_the_split_s_images_with_their_labels(inputs, name) -> None:
    peer = PEERS[name]
    if peer.prepare is not None:
        peer.prepare(inputs)
    label_of = {
        image.tobytes(): label
        for image, label in zip(inputs.images, inputs.labels.tolist(), strict=True)
    }
    seen = []
    with contextlib.closing(pipeline_benchmark._closable(peer.feed(inputs))) as feed:
        while len(seen) < 2 * len(inputs.images):
            # No more than is looked at: the copies of memory_bandwidth are large.
            images, labels = (np.asarray(array[: 2 * 140]) for array in next(feed)[:2])
            assert images.shape[1:] == (48, 48, 1)
            assert len(images) == len(labels)
            labels = labels.astype(int).tolist()
            if name in NOT_THE_IMAGES:
                seen += labels
                continue
            images = [image.tobytes() for image in images.astype(np.uint8)]
            assert [label_of[image] for image in images] == labels
            seen += images
    first, second = seen[:140], seen[140:280]
    if name in NOT_THE_IMAGES:
        assert sorted(first) == sorted(second) == sorted(label_of.values())
    elif name not in SHUFFLES_A_BUFFER:
        assert set(first) == set(second) == set(label_of)
    if name == "memory_bandwidth":
        return
    in_order = [*zip(label_of, label_of.values(), strict=True)]
    unshuffled = [in_order, sorted(in_order, key=lambda pair: pair[1])]  # of shards, of folders
    if name not in NOT_THE_IMAGES:
        assert first not in [[image for image, _ in order] for order in unshuffled]
    else:
        assert first not in [[label for _, label in order] for order in unshuffled]


def test_the_race(run_benchmark, demo_data_dir, tmp_path, monkeypatch) -> None:
    # In this process: one for each would be what takes the time.
    monkeypatch.setattr(
        measure,
        "in_new_process_within",
        lambda seconds, function, *arguments: function(*arguments),
    )
    monkeypatch.setitem(sys.modules, "nvidia.dali", None)
    chart = tmp_path / "chart.png"
    table, content = run_benchmark(
        pipeline_benchmark,
        f"--data_dir={demo_data_dir}",
        *("--seconds=0", "--repeats=1", "--batch_size=35", f"--chart_png={chart}"),
        "--variants=ours_in_memory,ours_streaming,dali_records,numpy_permutation",
    )
    check_promises(pipeline_benchmark, content, repeats=1)
    assert content["variants"].keys() == {"ours_in_memory", "ours_streaming", "numpy_permutation"}
    assert content["images"] == 140
    for name, variant in content["variants"].items():
        assert name in table
        assert variant["dtype"] == "uint8"
        check_summary(variant["images_per_second"], repeats=1)
        check_summary(variant["first_batch_seconds"], repeats=1)
    check_summary(content["variants"]["numpy_permutation"]["ours_streaming_to_this"], repeats=1)
    assert "target streaming, images/s: 200,000.00; received " in table
    assert content["skipped"].keys() == {"dali_records"}
    assert "  dali_records: skipped, not installed (extra: peers): " in table
    assert "against dali_records" not in table
    with Image.open(chart) as picture:
        assert min(picture.size) > 200


@pytest.mark.slow
def test_whatever_becomes_of_a_peer_is_the_reason_why_it_is_left_out(
    demo_data_dir, monkeypatch
) -> None:
    monkeypatch.setattr(pipeline_benchmark, "check", failing_peers.check)
    monkeypatch.setattr(pipeline_benchmark, "measured", failing_peers.measured)
    monkeypatch.setattr(pipeline_benchmark, "_LIMIT_SECONDS", 3.0)
    names = [
        *(failing_peers.CRASHES, failing_peers.EXITS, failing_peers.HANGS),
        *(failing_peers.FAILS_LATER, failing_peers.NOT_INSTALLED, failing_peers.RUNS),
    ]
    content = pipeline_benchmark.race(demo_data_dir, names, repeats=2, seconds=0, batch_size=20)
    reasons = content["skipped"]
    assert "terminated abruptly" in reasons.pop(failing_peers.CRASHES)
    assert reasons == {
        failing_peers.EXITS: "fails: SystemExit: no such device",
        failing_peers.HANGS: "fails: TimeoutError: took longer than 3 s",
        failing_peers.FAILS_LATER: "fails: RuntimeError: out of memory",
        failing_peers.NOT_INSTALLED: "not installed (extra: peers): no grain",
    }
    assert content["variants"].keys() == {failing_peers.RUNS}
    assert content["variants"][failing_peers.RUNS]["images_per_second"]["raw"] == [10, 10]


def test_a_race_that_nobody_can_run_is_refused(demo_data_dir, monkeypatch) -> None:
    monkeypatch.setattr(pipeline_benchmark, "check", failing_peers.check)
    with pytest.raises(InputError, match=r"received grain_memory not installed .*: no grain$"):
        pipeline_benchmark.race(
            demo_data_dir, [failing_peers.NOT_INSTALLED], repeats=1, seconds=0, batch_size=20
        )


def test_what_a_peer_imports_is_imported_before_the_clock_starts(
    inputs, demo_data_dir, tmp_path, monkeypatch
) -> None:
    (tmp_path / "module_of_a_peer.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    peer = PEERS["numpy_permutation"]

    def feed(given):
        assert "module_of_a_peer" in sys.modules
        return peer.feed(given)

    importing = dataclasses.replace(peer, feed=feed, modules=("module_of_a_peer",))
    monkeypatch.setitem(PEERS, "numpy_permutation", importing)
    arguments = ("numpy_permutation", demo_data_dir, inputs.directory, 20)
    assert pipeline_benchmark.measured(*arguments, 0.0)["images_per_second"] > 0


@pytest.mark.parametrize(
    ("image_shape", "expressions", "received"),
    [
        ((48, 48, 3), EXPRESSIONS, "3 channels and 7 expressions"),
        ((48, 48, 1), EIGHT_EXPRESSIONS, "1 channels and 8 expressions"),
    ],
)
def test_data_that_not_all_peers_can_read_are_refused(
    tmp_path, image_shape, expressions, received
) -> None:
    batch = random_batch(["train"] * 4, image_shape=image_shape)
    conversion.convert(BatchSource([batch], image_shape, expressions), tmp_path)
    with pytest.raises(InputError, match=f"gray images of 7 expressions.*received {received}"):
        open_inputs(tmp_path, tmp_path / "inputs", 2)


def test_the_chart_names_the_size_of_the_images(tmp_path, monkeypatch) -> None:
    labels = []
    monkeypatch.setattr(
        matplotlib.axes.Axes, "set_xlabel", lambda axes, label: labels.append(label)
    )
    content = {
        "batch_size": 32,
        "image_shape": [96, 64, 1],
        "hardware": {"cpu": "a processor", "cores": 2},
        "variants": {"tfds": {"images_per_second": {"median": 2.0, "min": 1.0, "max": 3.0}}},
    }
    pipeline_benchmark.draw_chart(content, tmp_path / "chart.png")
    assert [label.split(" (")[0] for label in labels] == ["images a second, 96x64"]


def test_an_unknown_variant_is_refused() -> None:
    with pytest.raises(
        InputError, match=r"--variants: expected some of ours_in_memory, .*received"
    ):
        pipeline_benchmark._known(["ours_in_memory", "theirs"])


def test_every_variant_stands_in_the_help() -> None:
    for name, peer in PEERS.items():
        assert f"{name} " in pipeline_benchmark.description()
        assert peer.note in pipeline_benchmark.description()
    values = flags.FlagValues()
    pipeline_benchmark.define_flags(values)
    assert values["variants"].default == list(PEERS)


def variant(speed: float, **ratios: float) -> dict:
    return {
        "images_per_second": {"median": speed},
        "first_batch_seconds": {"median": 0.5},
        **{name: {"median": ratio} for name, ratio in ratios.items()},
    }


@pytest.mark.parametrize(
    ("batch_size", "least", "share"),
    [
        (32, 1_000_000, 0.25),
        (256, 1_000_000, 0.25),
        (1024, 2_500_000, 0.5),
        (2048, 2_500_000, 0.5),
    ],
)
def test_large_batches_are_to_reach_more(batch_size, least, share) -> None:
    variants = {
        "ours_in_memory": variant(1),
        "numpy_permutation": variant(1, ours_in_memory_to_this=1),
    }
    found = pipeline_benchmark.targets({"batch_size": batch_size, "variants": variants})
    assert [(what, value) for what, value, _ in found] == [
        ("in memory, images/s", least),
        ("in memory, of numpy_permutation", share),
        ("in memory, seconds to the first batch", -1),
    ]


def test_losses_are_counted_as_such() -> None:
    content = {
        "batch_size": 256,
        "variants": {
            "ours_in_memory": variant(900_000),
            "ours_streaming": variant(300_000),
            "dali_records": variant(400_000, ours_streaming_to_this=0.75),
            "numpy_permutation": variant(3_000_000, ours_in_memory_to_this=0.3),
        },
    }
    verdicts = {
        what: received >= least for what, least, received in pipeline_benchmark.targets(content)
    }
    assert verdicts == {
        "in memory, images/s": False,
        "in memory, of numpy_permutation": True,
        "in memory, seconds to the first batch": True,
        "streaming, images/s": True,
        "streaming, against dali_records": False,
        "streaming, seconds to the first batch": True,
    }

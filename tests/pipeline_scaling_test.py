import logging
import os
import types
from pathlib import Path

import numpy as np
import pytest

from benchmarks import measure, pipeline_ablation, pipeline_scaling
from fer_tfdata import records
from fer_tfdata.errors import InputError
from tests.benchmarks_test import check_promises, check_summary


@pytest.fixture
def split(demo_data_dir):
    return records.open_split(demo_data_dir, "train")


@pytest.mark.slow  # a process a case, each with TensorFlow's import
def test_scaling(run_benchmark, demo_data_dir) -> None:
    table, content = run_benchmark(
        pipeline_scaling,
        f"--data_dir={demo_data_dir}",
        *("--seconds=0", "--batch_size=20", "--factor=1", "--repeats=1"),
        "--cores=1",
    )
    check_promises(pipeline_scaling, content, repeats=1)
    assert content["variants"].keys() == {
        *("memory_batch_20", "streaming_batch_20", "numpy_batch_20"),
        *("memory_1x", "streaming_1x", "memory_1_cores", "streaming_1_cores"),
    }
    for name, variant in content["variants"].items():
        assert name in table
        check_summary(variant["images_per_second"], repeats=1)
        check_summary(variant["first_batch_seconds"], repeats=1)
        assert variant["memory"]["risen_anonymous_bytes"]["median"] > 0
        assert "conversion" not in variant["memory"]["what"]


@pytest.mark.parametrize("way", ["memory", "streaming", "numpy"])
def test_the_first_batch_is_there_before_its_fetching_is_traced(split, monkeypatch, way) -> None:
    fetching, traced = measure.fetching, []

    def traces(batches):
        traced.append(1)
        return fetching(batches)

    # A clock that tracing alone moves.
    clock = types.SimpleNamespace(perf_counter=lambda: float(len(traced)))
    monkeypatch.setattr(pipeline_scaling, "time", clock)
    monkeypatch.setattr(measure, "fetching", traces)
    case = pipeline_scaling.Case(way=way, batch_size=20)
    speed = pipeline_scaling._speed(split, case, seconds=0)
    assert speed["first_batch_seconds"] == 0
    assert speed["images_per_second"] > 0
    assert len(traced) == (way != "numpy")


def test_a_repeated_split_has_every_image_so_many_times(demo_data_dir, split, tmp_path) -> None:
    pipeline_scaling.copy_shards(demo_data_dir, 3, tmp_path)
    repeated = pipeline_scaling.repeated_split(demo_data_dir, 3, tmp_path)
    once = records.load_split(split)["image"]
    np.testing.assert_array_equal(records.load_split(repeated)["image"], np.concatenate([once] * 3))
    assert repeated.examples == 3 * split.examples


def test_a_split_is_not_repeated_where_the_disk_has_no_room(demo_data_dir, tmp_path) -> None:
    with pytest.raises(InputError, match="GB of free disk for the factor 1000000000, found"):
        pipeline_scaling.copy_shards(demo_data_dir, 10**9, tmp_path)
    assert not list(tmp_path.iterdir())


def test_more_cores_than_there_are_are_refused() -> None:
    with pytest.raises(InputError, match=r"--cores: expected at most the \d+ .*received 99999"):
        measure_cores([1, 99_999])


def test_cores_are_refused_where_a_process_is_not_kept_to_them(monkeypatch) -> None:
    monkeypatch.delattr(os, "sched_setaffinity", raising=False)
    assert pipeline_scaling._usual_cores() == []
    with pytest.raises(InputError, match=r"--cores: expected Linux, .*received 1 on another"):
        measure_cores([1])


def measure_cores(cores) -> None:
    options = {"batch_sizes": [1], "factors": [1], "seconds": 0, "repeats": 1}
    pipeline_scaling.measure_scaling(Path("nothing there"), cores=cores, **options)


@pytest.mark.slow
def test_ablation(run_benchmark, demo_data_dir, monkeypatch) -> None:
    monkeypatch.setattr(logging, "disable", lambda level: None)  # for good, it would be
    table, content = run_benchmark(
        pipeline_ablation,
        f"--data_dir={demo_data_dir}",
        *("--seconds=0", "--batch_size=20", "--repeats=1"),
    )
    check_promises(pipeline_ablation, content, repeats=1)
    for name, variant in content["variants"].items():
        assert name in table
        check_summary(variant["images_per_second"], repeats=1)
        gains = variant["gain"], variant["gain_over_usual"]
        if "_1_" in name:
            assert gains == (None, None)
            continue
        usual = name.split("_")[0] + "_1_usual_batch_20"
        expected = (
            variant["images_per_second"]["median"]
            / content["variants"][usual]["images_per_second"]["median"]
        )
        assert gains[1]["median"] == pytest.approx(expected)
        assert (gains[0] == gains[1]) == ("_2_" in name)


def test_every_step_of_the_design_gives_the_split_s_images_with_their_labels(split) -> None:
    truth = records.load_split(split)
    label_of = {
        image.tobytes(): label for image, label in zip(truth["image"], truth["label"], strict=True)
    }
    for name, build in pipeline_ablation.design_steps(split).items():
        seen = set()
        for images, labels in build(20).take(140 // 20).as_numpy_iterator():
            assert images.shape == (20, 48, 48, 1), name
            assert images.dtype == np.uint8, name
            assert [label_of[image.tobytes()] for image in images] == labels.tolist(), name
            seen |= {image.tobytes() for image in images}
        if name in ("streaming_4_by_number", "memory_3_gathered", "memory_4_together"):
            assert seen == set(label_of), name

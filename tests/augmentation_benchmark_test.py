import gc
import json
import subprocess
import sys
import weakref
from pathlib import Path

import pytest

from benchmarks import augmentation_benchmark
from fer_tfdata import pipeline, records

ROOT = Path(__file__).resolve().parent.parent
VARIANTS = {
    *("none", "flip", "shift", "rotation", "zoom", "brightness", "contrast", "erasing"),
    *("mixup", "cutmix", "warp", "three_passes", "keras_layers", "all"),
}


@pytest.mark.slow  # a graph for every change
def test_every_change_is_measured_in_the_pipeline(demo_data_dir) -> None:
    split = records.open_split(demo_data_dir, "train")
    content = augmentation_benchmark.measure_changes(split, repeats=2, seconds=0, batch_size=8)
    assert content["variants"].keys() == VARIANTS
    for variant in content["variants"].values():
        assert len(variant["images_per_second"]["raw"]) == 2
        assert variant["images_per_second"]["min"] > 0
    assert content["variants"]["none"]["ratio_to_none"]["raw"] == [1, 1]


def test_a_change_s_images_are_held_only_while_it_is_measured(demo_data_dir, monkeypatch) -> None:
    load, held = pipeline._load, []

    def load_and_note(*arguments):
        images, labels, usable = load(*arguments)
        held.append(weakref.ref(images))
        return images, labels, usable

    monkeypatch.setattr(pipeline, "_load", load_and_note)
    split = records.open_split(demo_data_dir, "train")
    iterate = augmentation_benchmark._iterating(split, None, seconds=0, batch_size=8)
    assert not held
    assert iterate() > 0
    gc.collect()
    assert [images() for images in held] == [None]


def test_the_work_is_a_share_of_the_step() -> None:
    # 64 images at 3,200 a second take 20 ms of a step's 400.
    share = augmentation_benchmark.work_to_step([3200.0, 6400.0], [0.4, 0.4], 64)
    assert share["raw"] == pytest.approx([0.05, 0.025])


@pytest.mark.slow
def test_the_program_prints_tables_and_the_report(demo_data_dir, tmp_path) -> None:
    command = [
        *(sys.executable, "-m", "benchmarks.augmentation_benchmark", f"--data_dir={demo_data_dir}"),
        *("--repeats=2", "--seconds=0", "--batch_size=8", "--steps=1", "--step_batch_size=2"),
        f"--output_json={tmp_path / 'result.json'}",
    ]
    printed = subprocess.check_output(command, cwd=ROOT, text=True)
    *table, last = printed.splitlines()
    content = json.loads(last)
    assert json.loads((tmp_path / "result.json").read_text()) == content
    assert content["training"]["variants"].keys() == {"none", "input", "device"}
    assert content["training"]["cost"].keys() == {"input", "device"}
    assert len(content["warp_work_to_step"]["raw"]) == 2
    for name in VARIANTS:
        assert any(line.startswith(f"{name} ") for line in table)
    assert sum("under 5% of a step: M" in line for line in table) == 2

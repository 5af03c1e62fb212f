import os
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from benchmarks import (
    conversion_benchmark,
    measure,
    memory_benchmark,
    near_duplicates_benchmark,
    pipeline_benchmark,
    prediction_benchmark,
    training_benchmark,
)
from fer_tfdata import conversion, models, near_duplicates, records
from fer_tfdata.errors import InputError
from fer_tfdata.sources import ImageFolder, KaggleCsv

PROGRAMS = [
    conversion_benchmark,
    memory_benchmark,
    pipeline_benchmark,
    prediction_benchmark,
    training_benchmark,
]
PROMISED = {
    "benchmark",
    "command",
    "date",
    "git_commit",
    "hardware",
    "load_average",
    "versions",
    "repeats",
    "variants",
}


def check_promises(program, content, repeats):
    assert content.keys() >= PROMISED
    assert content["benchmark"] == program.NAME
    assert content["command"].startswith(f"python -m benchmarks.{program.NAME} --")
    assert content["hardware"].keys() == {
        "cpu",
        "instructions",
        "onednn",
        "cores",
        "memory_bytes",
        "gpus",
    }
    assert content["versions"].keys() >= {"python", "tensorflow", "keras", "numpy"}
    assert content["repeats"] == repeats


def check_summary(values, repeats):
    assert values.keys() == {"raw", "median", "min", "max"}
    assert len(values["raw"]) == repeats
    assert 0 < values["min"] <= values["median"] <= values["max"]


@pytest.mark.slow
def test_conversion(run_benchmark, demo_csv):
    table, content = run_benchmark(
        conversion_benchmark, f"--csv={demo_csv}", "--rows=30", "--repeats=1"
    )
    check_promises(conversion_benchmark, content, repeats=1)
    assert content["source"]["rows"] == 30
    assert content["variants"].keys() == {
        "ours",
        "ours_without_near_duplicates",
        "tfds_builder",
        "usual_loop",
        "read_only",
        "parse_only",
    }
    for name, variant in content["variants"].items():
        assert name in table
        check_summary(variant["seconds"], repeats=1)
        check_summary(variant["mb_per_second"], repeats=1)
    for name in ("tfds_builder", "usual_loop", "read_only"):
        check_summary(content[f"{name}_to_ours"], repeats=1)
        assert f"ours against {name}: " in table
    memory = content["memory"]
    assert memory["peak_bytes"]["median"] >= memory["before_bytes"]["median"]
    assert "at the end of the conversion" in memory["what"]
    assert "memory of ours" in table


def test_a_cut_takes_rows_from_all_over_the_file(demo_csv, tmp_path):
    cut = conversion_benchmark.cut_rows(demo_csv, tmp_path / "cut.csv", 30)
    header, *rows = demo_csv.read_bytes().splitlines()
    assert len(rows) == 210
    assert cut.read_bytes().splitlines() == [header, *rows[::7]]
    more_than_there_are = conversion_benchmark.cut_rows(demo_csv, tmp_path / "all.csv", 1000)
    assert more_than_there_are.read_bytes() == demo_csv.read_bytes()


def test_the_tfds_builder_writes_what_ours_writes(demo_csv, demo_data_dir, tmp_path):
    conversion_benchmark.convert_with_a_tfds_builder({"train", "test"}, demo_csv, tmp_path)
    builder = tfds.builder("fer2013", data_dir=tmp_path)
    assert builder.info.splits.keys() == {"train", "test"}
    for split in ("train", "test"):
        written = list(builder.as_dataset(split).as_numpy_iterator())
        written.sort(key=lambda example: example["row"])
        expected = records.load_split(records.open_split(demo_data_dir, split))
        order = np.argsort(expected["row"])
        for name, values in expected.items():
            np.testing.assert_array_equal([example[name] for example in written], values[order])


def test_the_search_for_near_duplicates_comes_back_after_it_was_left_out(demo_csv, tmp_path):
    search, signatures = near_duplicates.search, near_duplicates.signatures
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(near_duplicates, "_search", None)  # without which none can be made
        conversion_benchmark.convert_without_near_duplicates(demo_csv, tmp_path)
    assert (near_duplicates.search, near_duplicates.signatures) == (search, signatures)
    manifest = records.read_manifest(tmp_path / records.NAME / records.VERSION)
    assert manifest["audit"]["near_duplicate_pairs"] == []


@pytest.mark.slow  # a process a variant, each with TensorFlow's import
def test_memory(run_benchmark):
    table, content = run_benchmark(memory_benchmark, "--rows=20", "--factor=1", "--repeats=1")
    check_promises(memory_benchmark, content, repeats=1)
    assert content["variants"].keys() == {"generated_1x", "distinct_1x", "csv_1x"}
    assert content["bytes_a_finding"].keys() == {"1x"}
    for name, variant in content["variants"].items():
        assert name in table
        assert variant["rows"] == 20
        assert variant["bytes_written"] > 20 * 48 * 48
        has_copies = not name.startswith("distinct")
        assert variant["findings"] == {
            "duplicate_groups": 1 * has_copies,
            "near_duplicate_pairs": 3 * has_copies,
        }
        for key in ("seconds", "rows_per_second", "risen_to_smallest"):
            check_summary(variant[key], repeats=1)
        check_summary(variant["memory"]["risen_bytes"], repeats=1)


def test_memory_is_not_measured_where_the_disk_has_no_room(tmp_path):
    with pytest.raises(InputError, match="GB of free disk for the factor 1000000000, found"):
        memory_benchmark.measure_memory([10**9], rows=1000, repeats=1)


def test_memory_is_not_measured_where_the_system_does_not_tell_it(monkeypatch, tmp_path):
    monkeypatch.setattr(measure, "_STATUS", tmp_path / "status")
    with pytest.raises(InputError, match="expected Linux, which tells a process's memory"):
        memory_benchmark.measure_memory([10**9], rows=1000, repeats=1)  # for which is no room
    monkeypatch.setattr(near_duplicates_benchmark, "write_table", None)
    with pytest.raises(InputError, match="expected Linux, which tells a process's memory"):
        near_duplicates_benchmark.measure_sizes([1000], repeats=1)


def test_a_search_does_not_use_the_memory_that_one_before_freed():
    if measure.resident_bytes() is None:
        pytest.skip("this system does not tell a process's memory")
    content = near_duplicates_benchmark.measure_sizes([1000], repeats=2)
    [variant] = content["variants"].values()
    assert (variant["pairs"], variant["recall"]) == (100, 1)
    assert variant["search_risen_bytes"]["min"] > 1 << 20


def of_nothing_and_of_what_is_freed():
    return measure.memory_of(lambda: 7), measure.memory_of(
        lambda: int(np.ones(100 << 20, np.uint8).sum())
    )


def test_memory_counts_what_is_freed_before_the_end():
    # As the benchmarks do: what a process freed before may serve it again without a rise.
    (result, held), (_, freed) = measure.in_new_process(of_nothing_and_of_what_is_freed)
    assert result == 7
    if held is None or not held["earlier_peak_excluded"]:
        pytest.skip("this system does not set the peak back")
    assert held["risen_bytes"] < 50 << 20
    assert freed["risen_bytes"] > 90 << 20


def test_a_summary_of_memory_says_what_was_measured():
    _, measured = measure.memory_of(lambda: None)
    if measured is None:
        pytest.skip("this system does not tell a process's memory")
    assert measure.summary_of_memory([measured], what="an array")["what"] == "an array"
    assert measure.summary_of_memory([None], what="an array") is None


def of_a_mapped_and_of_an_own_array(path):
    return (
        measure.memory_of(lambda: read_and_wait(np.memmap(path, np.uint8, "r")))[1],
        measure.memory_of(lambda: read_and_wait(np.ones(100 << 20, np.uint8)))[1],
    )


def test_memory_without_mapped_files_leaves_them_out(tmp_path):
    path = tmp_path / "mapped"
    path.write_bytes(bytes(100 << 20))
    mapped, anonymous = measure.in_new_process(of_a_mapped_and_of_an_own_array, path)
    if mapped is None or not mapped["earlier_peak_excluded"]:
        pytest.skip("this system does not set the peak back")
    assert mapped["risen_bytes"] > 90 << 20
    assert mapped["risen_anonymous_bytes"] < 50 << 20
    assert anonymous["risen_anonymous_bytes"] > 90 << 20


def read_and_wait(array):
    array.sum()
    time.sleep(0.2)  # until a sample was taken


@pytest.mark.parametrize("count", [1, 2, 3, 100])
def test_mixed_faces_are_the_same_in_any_number_of_parts(count):
    source = memory_benchmark.MixedFaces(1300)
    whole = list(source.parts(1)[0].batches(0))
    first_row, cut = 0, []
    for part in source.parts(count):
        cut.extend(part.batches(first_row))
        first_row += part.count_rows()
    assert first_row == 1300
    for batch, of_part in zip(whole, cut, strict=True):
        for field in ("images", "labels", "splits", "rows"):
            np.testing.assert_array_equal(getattr(batch, field), getattr(of_part, field))


def test_as_many_mixed_faces_are_repeats_and_near_copies_as_in_fer2013():
    [part] = memory_benchmark.MixedFaces(1024).parts(1)
    batches = list(part.batches(0))
    images = np.concatenate([batch.images for batch in batches])
    splits = np.array([split for batch in batches for split in batch.splits])
    assert np.unique(splits, return_counts=True)[1].tolist() == [102, 820, 102]
    _, first = np.unique(images.reshape(1024, -1), axis=0, return_index=True)
    assert 1024 - len(first) == 2 * 26
    pairs = np.sort(first)[
        near_duplicates.search(near_duplicates.signatures(images[np.sort(first)])).pairs
    ]
    assert len(pairs) == 2 * 77
    assert (splits[pairs[:, 0]] != splits[pairs[:, 1]]).any()


def test_without_copies_no_mixed_faces_resemble_each_other():
    [part] = memory_benchmark.MixedFaces(1024, has_copies=False).parts(1)
    images = np.concatenate([batch.images for batch in part.batches(0)])
    assert len(np.unique(images.reshape(1024, -1), axis=0)) == 1024
    assert not len(near_duplicates.search(near_duplicates.signatures(images)).pairs)


def test_the_csv_holds_the_mixed_faces(tmp_path):
    [part] = KaggleCsv((memory_benchmark.write_csv(tmp_path / "mixed.csv", 600),)).parts(1)
    read = list(part.batches(0))
    made = list(memory_benchmark.MixedFaces(600).parts(1)[0].batches(0))
    for field in ("images", "labels", "splits", "rows"):
        np.testing.assert_array_equal(
            np.concatenate([getattr(batch, field) for batch in read]),
            np.concatenate([getattr(batch, field) for batch in made]),
        )


def test_the_usual_loop_writes_what_ours_writes(demo_csv, demo_data_dir, tmp_path):
    conversion_benchmark.convert_in_the_usual_loop(demo_csv, tmp_path)
    expected = records.load_split(records.open_split(demo_data_dir, "train"))
    features = {"image": tf.io.FixedLenFeature([], tf.string)}
    serialized = list(tf.data.TFRecordDataset(str(tmp_path / "train.tfrecord")))
    images = tf.io.parse_example(serialized, features)["image"]
    pixels = tf.io.decode_raw(images, tf.uint8).numpy()
    images = expected["image"][np.argsort(expected["row"])]
    np.testing.assert_array_equal(pixels.reshape(images.shape), images)


@pytest.mark.slow
@pytest.mark.timeout(1800)  # minutes alone
def test_training(run_benchmark, demo_data_dir):
    table, content = run_benchmark(
        training_benchmark,
        f"--data_dir={demo_data_dir}",
        "--models=residual_small,seed_cnn",
        "--steps=1",
        "--batch_size=2",
        "--matrix_size=64",
        "--repeats=2",
    )
    check_promises(training_benchmark, content, repeats=2)
    trained = {
        f"{kind}_{model}_{policy}"
        for kind in ("stock", "ours", "plain")
        for model in ("seed_cnn", "residual_small")
        for policy in ("float32", "mixed_bfloat16")
    }
    fed = {"fed_seed_cnn", "fed_residual_small", "notebook_seed_cnn"}
    trained |= {
        f"{kind}_{model}"
        for kind in ("xla", "together", "classify")
        for model in ("seed_cnn", "residual_small")
    }
    assert content["variants"].keys() == trained | fed
    for name, variant in content["variants"].items():
        assert name in table
        for values in variant.values():
            check_summary(values, repeats=2)
    ours = content["variants"]["ours_seed_cnn_mixed_bfloat16"]
    assert ours.keys() >= {
        "ratio_to_stock_seed_cnn_mixed_bfloat16",
        "ratio_to_stock_seed_cnn_float32",
        "ratio_to_plain_seed_cnn_mixed_bfloat16",
        "ratio_to_notebook_seed_cnn",
    }
    assert 0 <= content["variants"]["fed_seed_cnn"]["input_wait"]["median"] < 1
    for kind in ("xla", "together"):
        assert "ratio_to_ours_seed_cnn_float32" in content["variants"][f"{kind}_seed_cnn"]
    measured = {name for name in trained if name.startswith(("ours", "stock"))}
    assert content["memory"].keys() == measured
    check_summary(content["peak"]["tflops"]["mixed_bfloat16"], repeats=2)


def test_the_plain_process_leaves_tensorflow_its_choice(monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "1")
    with training_benchmark._plain_process() as process:
        assert process.submit(os.getenv, "TF_ENABLE_ONEDNN_OPTS").result() is None


def test_classification_alone(run_benchmark):
    table, content = run_benchmark(
        training_benchmark,
        "--models=residual_small",
        "--kinds=classify",
        "--steps=1",
        "--batch_size=2",
        "--matrix_size=64",
        "--repeats=1",
    )
    assert content["variants"].keys() == {"classify_residual_small"}
    assert content["memory"] == {}
    assert content["peak"]["tflops"].keys() == {"float32"}
    assert "classify_residual_small" in table


def test_unknown_models_are_refused(run_benchmark):
    with pytest.raises(
        InputError, match=r"--models: expected some of seed_cnn, .*; received resne"
    ):
        run_benchmark(training_benchmark, "--models=resnet")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--precisions=auto"], r"--precisions: expected some of float32, .*; received auto"),
        (["--precisions=mixed_float16"], "mixed_float16 needs a GPU, and there is none"),
        (["--kinds=serve"], "--kinds: expected some of ours, .*; received serve"),
        (["--kinds=fed"], "--kinds: expected --data_dir for fed, .*; received fed alone"),
    ],
)
def test_what_cannot_be_measured_is_refused(run_benchmark, arguments, message):
    with pytest.raises(InputError, match=message):
        run_benchmark(training_benchmark, "--models=residual_small", *arguments)


def test_data_of_another_form_than_fer2013_s_are_refused(run_benchmark, image_dir, tmp_path):
    conversion.convert(ImageFolder(image_dir, image_size=64, channels=3), tmp_path / "data")
    expected = (
        "expected images of 48x48x1 and 7 expressions, which FER2013 has, received images of "
        "64x64x3 and 7 expressions; convert FER2013"
    )
    with pytest.raises(InputError, match=expected):
        run_benchmark(training_benchmark, f"--data_dir={tmp_path / 'data'}", "--models=seed_cnn")


def test_forward_flops_of_separable_convolutions():
    inputs = keras.Input((8, 8, 4))
    outputs = keras.layers.SeparableConv2D(16, 3, padding="same", use_bias=False)(inputs)
    model = keras.Model(inputs, outputs)
    # Nine a channel, then every channel with every other.
    assert training_benchmark.forward_flops(model) == 2 * 8 * 8 * (9 * 4 + 4 * 16)


def test_forward_flops_of_the_seed_network():
    # Positions x kernel x channels in x channels out, then the dense layers; twice, since a
    # multiplication and an addition count as two.
    convolutions = (
        48**2 * 3**2 * 1 * 64
        + 24**2 * 5**2 * 64 * 128
        + 12**2 * 3**2 * 128 * 512
        + 6**2 * 3**2 * 512 * 512
    )
    dense = 3**2 * 512 * 256 + 256 * 512 + 512 * 7
    assert training_benchmark.forward_flops(models.seed_cnn()) == 2 * (convolutions + dense)


def test_interleaved_takes_the_variants_in_turn():
    calls = []
    results = measure.interleaved(
        {name: lambda name=name: calls.append(name) or len(calls) for name in "ABC"}, repeats=2
    )
    assert calls == list("ABCABC")
    assert results == {"A": [1, 4], "B": [2, 5], "C": [3, 6]}


def test_summaries_and_ratios_keep_every_repeat():
    assert measure.summary([3.0, 1.0, 2.0]) == {
        "raw": [3.0, 1.0, 2.0],
        "median": 2.0,
        "min": 1.0,
        "max": 3.0,
    }
    assert measure.ratios([1.0, 6.0], [2.0, 3.0])["raw"] == [0.5, 2.0]


def test_a_loss_is_called_one():
    assert measure.times_as_fast(measure.summary([0.5])) == "0.50 [0.50, 0.50]x SLOWER"
    assert measure.times_as_fast(measure.summary([1.5])) == "1.50 [1.50, 1.50]x"


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.NAME)
def test_help_lists_the_flags_without_tensorflow(program):
    code = (
        f"import sys; sys.argv = ['x', '--help']; from benchmarks import {program.NAME} as b\n"
        "try: b.run()\n"
        "finally: assert 'tensorflow' not in sys.modules"
    )
    helped = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
        check=False,
    )
    assert helped.returncode == 0, helped.stderr
    for name in ("--repeats", "--output_json"):
        assert name in helped.stdout

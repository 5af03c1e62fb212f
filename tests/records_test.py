import csv
import json
import math
import os
import resource
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st

from fer_tfdata import atomic, records, sources
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, SPLITS
from fer_tfdata.sources import BadRow, RawBatch, read_kaggle_csv

MIB = 1 << 20


def batch(splits: Sequence[str], *, first_row: int = 0, seed: int = 0) -> RawBatch:
    """A row of random pixels for each split named."""
    rng = np.random.default_rng((seed, first_row))
    return RawBatch(
        images=rng.integers(0, 256, (len(splits), 48, 48, 1)).astype(np.uint8),
        labels=rng.integers(0, 7, len(splits)),
        splits=splits,
        rows=np.arange(first_row, first_row + len(splits), dtype=np.int64),
    )


def mixed_batches() -> list[RawBatch]:
    """Three batches with the splits in turn: 7 rows of train, 3 of validation, 2 of test."""
    return [
        batch(["test", "train", "train", "validation"]),
        batch(["train", "train", "validation", "train"], first_row=4),
        batch(["validation", "train", "test", "train"], first_row=10),
    ]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """The file a manifest names; its content does not matter."""
    path = tmp_path / "source.csv"
    path.write_bytes(b"the source")
    return path


@pytest.fixture
def data_dir(demo_data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the demo data directory, for damaging."""
    return shutil.copytree(demo_data_dir, tmp_path / "data")


def dataset_directory(data_dir: Path) -> Path:
    return data_dir / "fer2013" / "1.0.0"


def contents(directory: Path) -> dict[str, bytes]:
    """Every file below, by its name."""
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


def manifest_of(data_dir: Path) -> dict[str, Any]:
    return json.loads((dataset_directory(data_dir) / "manifest.json").read_bytes())


def load(data_dir: Path, name: str) -> dict[str, np.ndarray]:
    return records.load_split(records.open_split(data_dir, name, verify=True))


def assert_holds(data_dir: Path, batches: Sequence[RawBatch]) -> None:
    """Every split holds the rows of the batches, in order."""
    splits = np.array([split for batch in batches for split in batch.splits])
    for name in set(splits.tolist()):
        arrays = load(data_dir, name)
        for key, parts in {
            "image": [batch.images for batch in batches],
            "label": [batch.labels for batch in batches],
            "row": [batch.rows for batch in batches],
        }.items():
            expected = np.concatenate(parts)[splits == name]
            assert arrays[key].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[key], expected)


# Arithmetic.


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
    assert records.balanced_lengths(examples, num_shards) == expected


@given(st.integers(1, 50_000), st.integers(1, 2_000))
def test_balanced_lengths_are_balanced(examples: int, num_shards: int):
    lengths = records.balanced_lengths(examples, num_shards)
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
    assert records.choose_num_shards(num_bytes) == expected


@given(st.integers(1, 16 << 30))
def test_the_number_of_shards_is_the_smallest_power_of_two(num_bytes: int):
    count = records.choose_num_shards(num_bytes)
    assert math.log2(count).is_integer()
    assert num_bytes <= 16 * MIB * count
    assert count == 1 or num_bytes > 16 * MIB * count // 2


# The schema.


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 6), st.integers(0, 2**63 - 1), st.integers(0, 2**32)),
        min_size=1,
        max_size=5,
    )
)
def test_what_is_serialized_is_parsed(examples: list[tuple[int, int, int]]):
    images = [
        np.random.default_rng(seed).integers(0, 256, (48, 48, 1)).astype(np.uint8)
        for _, _, seed in examples
    ]
    serialized = [
        records.Serializer().serialize(image, label, row)
        for image, (label, row, _) in zip(images, examples, strict=True)
    ]
    parsed = records.parse_batch(tf.constant(serialized))
    assert set(parsed) == {"image", "label", "row"}
    assert parsed["image"].dtype == tf.uint8
    assert parsed["label"].dtype == parsed["row"].dtype == tf.int64
    np.testing.assert_array_equal(parsed["image"], images)
    np.testing.assert_array_equal(parsed["label"], [label for label, _, _ in examples])
    np.testing.assert_array_equal(parsed["row"], [row for _, row, _ in examples])


def test_parsing_works_within_a_dataset():
    images = np.arange(3 * 2304, dtype=np.int64).reshape(3, 48, 48, 1).astype(np.uint8)
    serializer = records.Serializer()
    serialized = [serializer.serialize(image, 2, row) for row, image in enumerate(images)]
    dataset = tf.data.Dataset.from_tensor_slices(serialized).batch(3).map(records.parse_batch)
    assert dataset.element_spec["image"].shape.as_list() == [None, 48, 48, 1]
    (features,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(features["image"], images)


def test_an_example_has_the_documented_form():
    image = np.arange(2304, dtype=np.int64).reshape(48, 48, 1).astype(np.uint8)
    example = tf.train.Example.FromString(records.Serializer().serialize(image, 5, 17))
    features = example.features.feature
    assert set(features) == {"image", "label", "row"}
    assert list(features["image"].bytes_list.value) == [image.tobytes()]
    assert list(features["label"].int64_list.value) == [5]
    assert list(features["row"].int64_list.value) == [17]


# The round trip.


def test_the_splits_hold_the_source_byte_for_byte(demo_csv: Path, demo_data_dir: Path):
    with demo_csv.open(encoding="ascii", newline="") as file:
        rows = list(enumerate(csv.DictReader(file)))
    usages = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    for name, usage in usages.items():
        expected = [(number, row) for number, row in rows if row["Usage"] == usage]
        arrays = load(demo_data_dir, name)
        assert arrays["image"].dtype == np.uint8
        assert arrays["image"].shape == (len(expected), 48, 48, 1)
        assert arrays["row"].tolist() == [number for number, _ in expected]
        assert arrays["label"].tolist() == [int(row["emotion"]) for _, row in expected]
        for image, (_, row) in zip(arrays["image"], expected, strict=True):
            assert image.tobytes() == bytes(map(int, row["pixels"].split(" ")))


@pytest.mark.parametrize("num_shards", [0, 1, 2, 3, 7, 50])
def test_any_number_of_shards(tmp_path: Path, source: Path, num_shards: int):
    batches = mixed_batches()
    report = records.write_dataset(batches, tmp_path / "data", source=source, num_shards=num_shards)
    assert report.directory == dataset_directory(tmp_path / "data")
    assert report.bad_rows == []
    assert_holds(tmp_path / "data", batches)
    for name, examples in {"train": 7, "validation": 3, "test": 2}.items():
        split = records.open_split(tmp_path / "data", name)
        count = min(num_shards or 1, examples)
        assert [Path(file).name for file in split.files] == [
            f"fer2013-{name}.tfrecord-{index:05d}-of-{count:05d}" for index in range(count)
        ]
        lengths = [shard.records for shard in split.shards]
        assert lengths == records.balanced_lengths(examples, count)
        for file, length in zip(split.files, lengths, strict=True):
            assert sum(1 for _ in tf.data.TFRecordDataset(file)) == length
    shards = (records.open_split(tmp_path / "data", name).files for name in SPLITS)
    assert set(contents(report.directory)) == {
        *(Path(file).name for files in shards for file in files),
        "manifest.json",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
    }


@pytest.mark.parametrize("splits", [["train"], ["test", "test"]])
def test_a_source_may_lack_a_split(tmp_path: Path, source: Path, splits: list[str]):
    records.write_dataset([batch(splits)], tmp_path / "data", source=source)
    assert_holds(tmp_path / "data", [batch(splits)])
    with pytest.raises(InputError, match=f"expected a split 'validation', .* with {splits[0]}"):
        records.open_split(tmp_path / "data", "validation")


def test_the_same_source_gives_the_same_bytes(
    demo_csv: Path, demo_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sources, "_BLOCK_BYTES", 50_000)  # other batches, the same rows
    moved = shutil.copy(demo_csv, tmp_path / demo_csv.name)
    data_dir = tmp_path / "deep" / "data"
    records.write_dataset(read_kaggle_csv(moved), data_dir, source=moved)
    assert contents(data_dir) == contents(demo_data_dir)
    assert len(contents(data_dir)) == 3 + 4


def test_directories_are_readable_as_any_other(demo_data_dir: Path):
    umask = os.umask(0o022)
    os.umask(umask)
    for path in (demo_data_dir / "fer2013").rglob("*"):
        expected = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == expected & ~umask


# TensorFlow Datasets.


def test_tfds_reads_the_same(demo_data_dir: Path):
    builder = tfds.builder("fer2013", data_dir=demo_data_dir)
    assert builder.info.features["label"].names == list(EXPRESSIONS)
    assert str(builder.info.version) == "1.0.0"
    assert {name: split.num_examples for name, split in builder.info.splits.items()} == {
        "train": 140,
        "validation": 35,
        "test": 35,
    }
    for name in SPLITS:
        arrays = load(demo_data_dir, name)
        dataset = tfds.load("fer2013", data_dir=demo_data_dir, split=name)
        assert dataset.element_spec["image"] == tf.TensorSpec((48, 48, 1), tf.uint8)
        (features,) = dataset.batch(1000).as_numpy_iterator()
        assert set(features) == {"image", "label", "row"}
        for key, array in arrays.items():
            np.testing.assert_array_equal(features[key], array)
    (images, labels), *_ = (
        tfds.load("fer2013", data_dir=demo_data_dir, split="train", as_supervised=True)
        .batch(140)
        .as_numpy_iterator()
    )
    np.testing.assert_array_equal(images, load(demo_data_dir, "train")["image"])
    np.testing.assert_array_equal(labels, load(demo_data_dir, "train")["label"])


def test_tfds_reads_several_shards(tmp_path: Path, source: Path):
    records.write_dataset(mixed_batches(), tmp_path, source=source, num_shards=3)
    for name in SPLITS:
        arrays = load(tmp_path, name)
        features = next(
            tfds.load("fer2013", data_dir=tmp_path, split=name).batch(99).as_numpy_iterator()
        )
        order = np.argsort(features["row"])  # TFDS reads the shards in turn
        for key, array in arrays.items():
            np.testing.assert_array_equal(features[key][order], array)
    assert len(tfds.load("fer2013", data_dir=tmp_path, split="train[2:5]")) == 3


# The manifest.


def test_the_manifest_says_what_is_there(demo_csv: Path, demo_data_dir: Path):
    manifest = manifest_of(demo_data_dir)
    assert set(manifest) == {
        "written_by",
        "schema_version",
        "source",
        "splits",
        "audit",
        "rows_skipped",
    }
    assert manifest["schema_version"] == 1
    assert manifest["source"] == {
        "file": "fer2013.csv",
        "bytes": demo_csv.stat().st_size,
        "sha256": records.sha256_of(demo_csv),
    }
    assert list(manifest["splits"]) == list(SPLITS)
    for name, split in manifest["splits"].items():
        labels = load(demo_data_dir, name)["label"]
        assert split["examples"] == len(labels) == {"train": 140}.get(name, 35)
        assert split["per_expression"] == {
            expression: int((labels == label).sum()) for label, expression in enumerate(EXPRESSIONS)
        }
        for shard in split["shards"]:
            path = dataset_directory(demo_data_dir) / shard["file"]
            assert shard == {
                "file": path.name,
                "records": sum(1 for _ in tf.data.TFRecordDataset(str(path))),
                "bytes": path.stat().st_size,
                "sha256": records.sha256_of(path),
            }
    assert manifest["audit"] == {
        "duplicates": {"train": 0, "validation": 0, "test": 0},
        "leaked_rows": {"validation": [], "test": []},
        "conflicting_labels": 0,
    }
    assert manifest["rows_skipped"] == []


def test_the_manifest_has_the_audit_and_the_rows_left_out(tmp_path: Path, source: Path):
    plain = mixed_batches()[0]  # test, train, train, validation
    images = plain.images.copy()
    images[0] = images[3] = images[1]
    labels = np.array([4, 4, 0, 5])
    bad = [BadRow(row=4, line=6, reason="expected 3 fields, received 1")]
    report = records.write_dataset(
        [RawBatch(images, labels, plain.splits, plain.rows, bad)], tmp_path, source=source
    )
    manifest = manifest_of(tmp_path)
    assert manifest == report.manifest
    assert manifest["audit"] == {
        "duplicates": {"train": 0, "validation": 0, "test": 0},
        "leaked_rows": {"validation": [3], "test": [0]},
        "conflicting_labels": 1,
    }
    assert manifest["rows_skipped"] == [
        {"row": 4, "line": 6, "reason": "expected 3 fields, received 1"}
    ]
    assert list(report.bad_rows) == bad
    assert records.open_split(tmp_path, "validation").leaked_rows == {3}
    assert records.open_split(tmp_path, "train").leaked_rows == frozenset()


def test_a_split_says_which_manifest_it_comes_from(demo_data_dir: Path):
    split = records.open_split(demo_data_dir, "validation")
    manifest = dataset_directory(demo_data_dir) / "manifest.json"
    assert split.manifest_sha256 == records.sha256_of(manifest)
    assert split.examples == 35
    assert sum(split.per_expression.values()) == 35


# Complete or absent.


def assert_untouched(directory: Path, before: dict[str, bytes]) -> None:
    assert contents(directory) == before
    assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]


def test_an_existing_directory_is_refused(data_dir: Path, source: Path):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    with pytest.raises(InputError, match=r"1\.0\.0: exists already; .* --overwrite"):
        records.write_dataset(mixed_batches(), data_dir, source=source)
    assert_untouched(directory, before)


def test_overwrite_replaces_what_was_written_here(data_dir: Path, source: Path):
    directory = dataset_directory(data_dir)
    records.write_dataset(mixed_batches(), data_dir, source=source, num_shards=2, overwrite=True)
    assert_holds(data_dir, mixed_batches())
    assert len(contents(directory)) == 6 + 4
    assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]
    assert (data_dir / "fer2013").is_dir()


def test_overwrite_starts_a_new_directory_too(tmp_path: Path, source: Path):
    records.write_dataset(mixed_batches(), tmp_path / "new", source=source, overwrite=True)
    assert_holds(tmp_path / "new", mixed_batches())


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "fer2013-train.tfrecord-00001", "sub"])
def test_overwrite_leaves_foreign_files(data_dir: Path, source: Path, foreign: str):
    directory = dataset_directory(data_dir)
    if foreign == "sub":
        (directory / foreign).mkdir()
    else:
        (directory / foreign).write_text("mine")
    before = contents(directory)
    with pytest.raises(InputError, match=rf"did not write \({foreign}\)"):
        records.write_dataset(mixed_batches(), data_dir, source=source, overwrite=True)
    assert (directory / foreign).exists()
    assert_untouched(directory, before)


@pytest.mark.parametrize(
    "manifest",
    [
        None,
        "",
        "{",
        "[]",
        '{"written_by": "another"}',
        '{"written_by": "fer_tfdata", "schema_version": 1}',
        '{"written_by": "fer_tfdata", "schema_version": 1, "splits": []}',
        '{"written_by": "fer_tfdata", "schema_version": 1, "splits": {"train": null}}',
    ],
)
def test_overwrite_leaves_a_directory_without_its_manifest(
    data_dir: Path, source: Path, manifest: str | None
):
    directory = dataset_directory(data_dir)
    if manifest is None:
        (directory / "manifest.json").unlink()
    else:
        (directory / "manifest.json").write_text(manifest)
    before = contents(directory)
    with pytest.raises(InputError, match="expected a directory that this program wrote"):
        records.write_dataset(mixed_batches(), data_dir, source=source, overwrite=True)
    assert_untouched(directory, before)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_where_the_directory_should_be(tmp_path: Path, source: Path, overwrite: bool):
    directory = dataset_directory(tmp_path / "data")
    directory.parent.mkdir(parents=True)
    directory.write_text("mine")
    with pytest.raises(InputError, match=r"1\.0\.0: "):
        records.write_dataset([], tmp_path / "data", source=source, overwrite=overwrite)
    assert directory.read_text() == "mine"


@pytest.mark.parametrize("file", ["data", "data/fer2013"])
def test_a_file_where_a_parent_should_be(tmp_path: Path, source: Path, file: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises((InputError, OSError), match=str(tmp_path / "data")):
        records.write_dataset(mixed_batches(), tmp_path / "data", source=source)
    assert (tmp_path / file).read_text() == "mine"


def failing_batches(error: BaseException) -> Iterator[RawBatch]:
    yield from mixed_batches()
    raise error


@pytest.mark.parametrize("error", [InputError("row 12"), OSError("disk"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, source: Path, error: BaseException):
    with pytest.raises(type(error)):
        records.write_dataset(failing_batches(error), tmp_path / "data", source=source)
    assert list(tmp_path.iterdir()) == [source]


def test_a_failure_leaves_no_parents_behind(tmp_path: Path, source: Path):
    with pytest.raises(InputError):
        records.write_dataset(
            failing_batches(InputError("row 12")), tmp_path / "new" / "data", source=source
        )
    assert list(tmp_path.iterdir()) == [source]


def test_a_failure_leaves_directories_that_were_there(tmp_path: Path, source: Path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError):
        records.write_dataset(
            failing_batches(InputError("row 12")), tmp_path / "data", source=source
        )
    assert list((tmp_path / "data").iterdir()) == []


def test_a_failure_leaves_the_old_data(data_dir: Path, source: Path):
    before = contents(dataset_directory(data_dir))
    with pytest.raises(InputError):
        records.write_dataset(
            failing_batches(InputError("row 12")), data_dir, source=source, overwrite=True
        )
    assert_untouched(dataset_directory(data_dir), before)


def test_a_bad_row_leaves_nothing_behind(tmp_path: Path, demo_csv: Path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(demo_csv.read_bytes() + b"3,1 2 3,Training\n")
    with pytest.raises(InputError, match=r"fer2013\.csv, line 212: expected 2304 pixels"):
        records.write_dataset(read_kaggle_csv(path), tmp_path / "data", source=path)
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_source_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "absent.csv"
    with pytest.raises(InputError, match=r"absent\.csv: expected a readable CSV"):
        records.write_dataset(read_kaggle_csv(path), tmp_path / "data", source=path)
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_all_bad(tmp_path: Path):
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n1,2,3\n")
    with pytest.raises(InputError, match="expected at least one row that can be read"):
        records.write_dataset(
            read_kaggle_csv(path, on_bad_row="skip"), tmp_path / "data", source=path
        )
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [1_000, 12_000])
def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing_behind(
    tmp_path: Path, source: Path, limit: int
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((InputError, OSError)):  # the programs print both as one line
            records.write_dataset(mixed_batches(), tmp_path / "data", source=source)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == [source]


@pytest.mark.parametrize("num_shards", [-1, 100_000])
def test_num_shards_has_bounds(tmp_path: Path, source: Path, num_shards: int):
    with pytest.raises(InputError, match=f"expected 0 to 99999, received {num_shards}"):
        records.write_dataset(mixed_batches(), tmp_path / "d", source=source, num_shards=num_shards)
    assert list(tmp_path.iterdir()) == [source]


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path, source: Path):
    work = tmp_path / "data" / "fer2013" / ".1.0.0.incomplete"
    (work / "folder").mkdir(parents=True)
    (work / "train.spool").write_bytes(b"half")
    (work / "folder" / "file").write_bytes(b"")
    (work / "link").symlink_to(tmp_path)
    records.write_dataset(mixed_batches(), tmp_path / "data", source=source)
    assert_holds(tmp_path / "data", mixed_batches())
    assert [path.name for path in work.parent.iterdir()] == ["1.0.0"]
    assert len(contents(dataset_directory(tmp_path / "data"))) == 3 + 4
    assert source.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_between_the_two_renames_loses_nothing(
    data_dir: Path, source: Path, overwrite: bool
):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    directory.rename(directory.with_name(".1.0.0.replaced"))
    work = directory.with_name(".1.0.0.incomplete")
    work.mkdir()
    (work / "manifest.json").write_text("complete, but not yet renamed")
    with pytest.raises(InputError, match="manifest"):
        records.open_split(data_dir, "train")
    if overwrite:
        records.write_dataset(mixed_batches(), data_dir, source=source, overwrite=True)
        assert_holds(data_dir, mixed_batches())
    else:
        with pytest.raises(InputError, match="exists already"):
            records.write_dataset(mixed_batches(), data_dir, source=source)
        assert contents(directory) == before
    assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]


def test_a_kill_between_the_renames_and_then_a_bad_source_lose_nothing(
    data_dir: Path, source: Path
):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    directory.rename(directory.with_name(".1.0.0.replaced"))
    with pytest.raises(InputError, match="row 12"):
        records.write_dataset(
            failing_batches(InputError("row 12")), data_dir, source=source, overwrite=True
        )
    assert_untouched(directory, before)


def test_a_kill_after_the_renames_leaves_the_new_data(data_dir: Path, source: Path):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    replaced = directory.with_name(".1.0.0.replaced")
    replaced.mkdir()
    (replaced / "manifest.json").write_text("old")
    with pytest.raises(InputError, match="exists already"):
        records.write_dataset(mixed_batches(), data_dir, source=source)
    assert_untouched(directory, before)


# One writer at a time.


def test_a_second_writer_is_refused(tmp_path: Path, source: Path):
    def batches() -> Iterator[RawBatch]:
        first, *others = mixed_batches()
        yield first
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another process is writing it"):
                records.write_dataset([], tmp_path / "data", source=source, overwrite=overwrite)
        yield from others

    records.write_dataset(batches(), tmp_path / "data", source=source)
    assert_holds(tmp_path / "data", mixed_batches())


def test_writers_of_other_directories_are_not(tmp_path: Path, source: Path):
    def batches() -> Iterator[RawBatch]:
        records.write_dataset(mixed_batches()[1:], tmp_path / "second", source=source)
        yield from mixed_batches()

    records.write_dataset(batches(), tmp_path / "first", source=source)
    assert_holds(tmp_path / "first", mixed_batches())
    assert_holds(tmp_path / "second", mixed_batches()[1:])


def test_a_writer_that_starts_as_another_ends_is_refused_or_succeeds(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
):
    """The second starts when the first has just renamed its directory, and outlives it."""
    data_dir = tmp_path / "data"
    second_is_writing, first_has_ended = threading.Event(), threading.Event()
    errors: list[BaseException] = []
    sync = atomic.sync

    def paused_batches() -> Iterator[RawBatch]:
        yield mixed_batches()[0]
        second_is_writing.set()
        first_has_ended.wait(60)
        yield from mixed_batches()[1:]

    def write_second() -> None:
        try:
            records.write_dataset(paused_batches(), data_dir, source=source, overwrite=True)
        except BaseException as error:
            errors.append(error)
        finally:
            second_is_writing.set()

    second = threading.Thread(target=write_second)

    def sync_and_start_second(path: Path) -> None:
        if path == data_dir / "fer2013" and not second.ident:
            second.start()
            second_is_writing.wait(60)
        sync(path)

    monkeypatch.setattr(atomic, "sync", sync_and_start_second)
    records.write_dataset(mixed_batches(), data_dir, source=source)
    first_has_ended.set()
    second.join()
    assert [error for error in errors if not isinstance(error, InputError)] == []
    assert_holds(data_dir, mixed_batches())


# Damage.


def shard_path(data_dir: Path, name: str = "validation") -> Path:
    return next(dataset_directory(data_dir).glob(f"fer2013-{name}.tfrecord-*"))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes() + b"\0"), "changed"),
        (lambda path: (path.unlink(), path.mkdir()), "missing"),
    ],
    ids=["missing", "truncated", "empty", "grown", "directory"],
)
def test_a_shard_of_another_size_is_noticed_on_opening(data_dir: Path, damage, message: str):
    path = shard_path(data_dir)
    damage(path)
    with pytest.raises(InputError) as caught:
        records.open_split(data_dir, "validation")
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)
    assert len(load(data_dir, "train")["label"]) == 140


# The frame of a TFRecord: length (8), its checksum (4), the payload, its checksum (4).
@pytest.mark.parametrize("offset", [0, 3, 7, 8, 11, 12, 500, 2000, -5, -4, -1])
@pytest.mark.parametrize("record", [0, 34])
def test_a_flipped_byte_is_noticed_on_reading(data_dir: Path, record: int, offset: int):
    path = shard_path(data_dir)
    content = bytearray(path.read_bytes())
    size, rest = divmod(len(content), 35)
    if rest:  # rows above 127 take a byte more
        size = int.from_bytes(content[:8], "little") + 16
    begins = record * size if record == 0 else len(content) - size
    position = begins + (offset if offset >= 0 else size + offset)
    content[position] ^= 0x10
    path.write_bytes(content)
    split = records.open_split(data_dir, "validation")
    with pytest.raises(InputError, match="damaged") as caught:
        records.load_split(split)
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(InputError, match="SHA-256 expected") as caught:
        records.open_split(data_dir, "validation", verify=True)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_shard_of_other_records_is_noticed(data_dir: Path):
    """Whole records with right checksums, and fewer of them."""
    path = shard_path(data_dir)
    size = path.stat().st_size
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(bytes(size - 16))
    assert path.stat().st_size == size
    with pytest.raises(InputError) as caught:
        load(data_dir, "validation")
    assert str(caught.value).startswith(f"{path}: ")
    with pytest.raises(InputError) as caught:
        records.load_split(records.open_split(data_dir, "validation"))
    assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("count", [34, 36])
def test_a_count_that_the_shard_does_not_hold_is_noticed(data_dir: Path, count: int):
    manifest = manifest_of(data_dir)
    split = manifest["splits"]["validation"]
    split["examples"] = split["shards"][0]["records"] = count
    split["per_expression"]["happy"] += count - 35
    (dataset_directory(data_dir) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=f"expected {count} records") as caught:
        records.load_split(records.open_split(data_dir, "validation"))
    assert str(caught.value).startswith(f"{shard_path(data_dir)}: ")


@pytest.mark.parametrize("where", ["examples", "per_expression", "records"])
def test_counts_that_disagree_are_noticed(data_dir: Path, where: str):
    manifest = manifest_of(data_dir)
    split = manifest["splits"]["train"]
    if where == "examples":
        split["examples"] += 1
    elif where == "records":
        split["shards"][0]["records"] += 1
    else:
        split["per_expression"]["sad"] += 1
    (dataset_directory(data_dir) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: the counts of split 'train' disagree"):
        records.open_split(data_dir, "train")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found; expected a data directory as tools/make_tfrecords writes it"),
        (b"", "expected a readable manifest"),
        (b'{"written_by": "fer_tf', "expected a readable manifest"),
        (b"\xff\xfe\x00", "expected a readable manifest"),
        (b"[1, 2]", "expected a manifest written by fer_tfdata"),
        (b'"text"', "expected a manifest written by fer_tfdata"),
        (b"{}", "expected a manifest written by fer_tfdata"),
        (b'{"written_by": "fer_tfdata"}', "expected schema version 1, received None"),
        (
            b'{"written_by": "fer_tfdata", "schema_version": 2}',
            "expected schema version 1, received 2; convert the source again",
        ),
    ],
)
def test_a_damaged_manifest(data_dir: Path, content: bytes | None, message: str):
    path = dataset_directory(data_dir) / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        records.open_split(data_dir, "train")
    assert str(caught.value).startswith(f"{path}: {message}")


@pytest.mark.parametrize(
    "keys",
    [
        ("splits",),
        ("splits", "train", "examples"),
        ("splits", "train", "per_expression"),
        ("splits", "train", "shards"),
        ("splits", "train", "shards", 0, "sha256"),
        ("audit",),
        ("audit", "leaked_rows"),
    ],
    ids=str,
)
@pytest.mark.parametrize("value", ["absent", None], ids=["absent", "null"])
def test_a_manifest_that_lacks_something(data_dir: Path, keys: tuple, value: str | None):
    path = dataset_directory(data_dir) / "manifest.json"
    manifest = manifest_of(data_dir)
    *parents, last = keys
    holder: Any = manifest
    for key in parents:
        holder = holder[key]
    if value == "absent":
        del holder[last]
    else:
        holder[last] = None
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json|damaged"):
        records.open_split(data_dir, "train", verify=True)


def test_an_unknown_split(demo_data_dir: Path):
    with pytest.raises(InputError) as caught:
        records.open_split(demo_data_dir, "valid")
    assert str(caught.value) == (
        f"{dataset_directory(demo_data_dir)}: expected a split 'valid', received a data set with "
        "train, validation, test"
    )


def test_what_is_no_data_directory(tmp_path: Path):
    for path in (tmp_path, tmp_path / "absent"):
        with pytest.raises(InputError, match=r"manifest\.json: not found"):
            records.open_split(path, "train")


def test_a_file_is_no_data_directory(tmp_path: Path):
    (tmp_path / "data").write_text("")
    with pytest.raises(InputError, match="expected a readable manifest"):
        records.open_split(tmp_path / "data", "train")

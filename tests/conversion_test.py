import csv
import dataclasses
import gzip
import io
import json
import os
import pickle
import resource
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image

from fer_tfdata import atomic, audit, conversion, demo_faces, ferplus, records, shards, spools
from fer_tfdata.engines import LOCAL
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS, NO_LABEL, SPLITS
from fer_tfdata.sources import BadRow, ImageFolder, KaggleCsv, RawBatch, Source, archives
from tests.batch_source import BatchSource, mixed_batches, random_batch
from tests.ferplus_test import made_up_votes, votes_on_every_row, write_votes


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
    """Every split holds the rows of the batches; validation and test in their order."""
    splits = np.array([split for batch in batches for split in batch.splits])
    for name in set(splits.tolist()):
        arrays = load(data_dir, name)
        order = np.argsort(arrays["row"]) if name == "train" else slice(None)
        for key, parts in {
            "image": [batch.images for batch in batches],
            "label": [batch.labels for batch in batches],
            "row": [batch.rows for batch in batches],
        }.items():
            expected = np.concatenate(parts)[splits == name]
            assert arrays[key].dtype == expected.dtype
            np.testing.assert_array_equal(arrays[key][order], expected)


# The round trip.


def test_the_splits_hold_the_source_byte_for_byte(demo_csv: Path, demo_data_dir: Path):
    with demo_csv.open(encoding="ascii", newline="") as file:
        rows = list(enumerate(csv.DictReader(file)))
    usages = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}
    for name, usage in usages.items():
        expected = [(number, row) for number, row in rows if row["Usage"] == usage]
        arrays = load(demo_data_dir, name)
        order = np.argsort(arrays["row"])  # train is written in a random order
        assert (name == "train") == (order.tolist() != sorted(order))
        arrays = {key: array[order] for key, array in arrays.items()}
        assert arrays["image"].dtype == np.uint8
        assert arrays["image"].shape == (len(expected), 48, 48, 1)
        assert arrays["row"].tolist() == [number for number, _ in expected]
        assert arrays["label"].tolist() == [int(row["emotion"]) for _, row in expected]
        for image, (_, row) in zip(arrays["image"], expected, strict=True):
            assert image.tobytes() == bytes(map(int, row["pixels"].split(" ")))


@pytest.mark.parametrize("num_shards", [0, 1, 2, 3, 7, 50])
def test_any_number_of_shards(tmp_path: Path, num_shards: int):
    batches = mixed_batches()
    report = conversion.convert(BatchSource(batches), tmp_path / "data", num_shards=num_shards)
    assert report.directory == dataset_directory(tmp_path / "data")
    assert report.manifest["rows_skipped"] == []
    assert_holds(tmp_path / "data", batches)
    for name, examples in {"train": 7, "validation": 3, "test": 2}.items():
        split = records.open_split(tmp_path / "data", name)
        count = min(num_shards or 1, examples)
        assert [Path(file).name for file in split.files] == [
            f"fer2013-{name}.tfrecord-{index:05d}-of-{count:05d}" for index in range(count)
        ]
        lengths = [shard.records for shard in split.shards]
        assert lengths == shards.balanced_lengths(examples, count)
        for file, length in zip(split.files, lengths, strict=True):
            assert sum(1 for _ in tf.data.TFRecordDataset(file)) == length
    files_of = (records.open_split(tmp_path / "data", name).files for name in SPLITS)
    assert set(contents(report.directory)) == {
        *(Path(file).name for files in files_of for file in files),
        "manifest.json",
        "dataset_info.json",
        "features.json",
        "label.labels.txt",
    }


@pytest.mark.parametrize("splits", [["train"], ["test", "test"]])
def test_a_source_may_lack_a_split(tmp_path: Path, splits: list[str]):
    conversion.convert(BatchSource([random_batch(splits)]), tmp_path / "data")
    assert_holds(tmp_path / "data", [random_batch(splits)])
    with pytest.raises(InputError, match=f"expected a split 'validation', .* with {splits[0]}"):
        records.open_split(tmp_path / "data", "validation")


def test_the_same_source_gives_the_same_bytes(
    demo_csv: Path, demo_data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(archives, "_BLOCK_BYTES", 50_000)  # other batches, the same rows
    moved = shutil.copy(demo_csv, tmp_path / demo_csv.name)
    data_dir = tmp_path / "deep" / "data"
    conversion.convert(KaggleCsv((moved,)), data_dir)
    assert contents(data_dir) == contents(demo_data_dir)
    assert len(contents(data_dir)) == 3 + 4


def test_directories_are_readable_as_any_other(demo_data_dir: Path):
    umask = os.umask(0o022)
    os.umask(umask)
    for path in (demo_data_dir / "fer2013").rglob("*"):
        expected = 0o777 if path.is_dir() else 0o666
        assert path.stat().st_mode & 0o777 == expected & ~umask


def forms_of(csv_file: Path, image_dir: Path, directory: Path) -> dict[str, Source]:
    """The drawn faces in the forms in which people hold faces."""
    content = csv_file.read_bytes()
    (directory / "semicolons.csv").write_bytes(b"\xef\xbb\xbf" + content.replace(b",", b";"))
    (directory / "fer2013.csv.gz").write_bytes(gzip.compress(content, 1))
    with zipfile.ZipFile(directory / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/fer2013.csv", content.replace(b"\n", b"\r\n"))
    with tarfile.open(directory / "a.tar.gz", "w:gz") as archive:
        archive.add(csv_file, "fer2013/fer2013.csv")
    header, *rows = content.splitlines()
    assert header == b"emotion,pixels,Usage"
    with (directory / "train.csv").open("wb") as train, (directory / "test.csv").open("wb") as test:
        train.write(b"emotion,pixels\n")
        test.write(b"pixels\n")
        for number, row in enumerate(rows):
            emotion, pixels, _ = row.split(b",")
            if number % 3:
                train.write(emotion + b"," + pixels + b"\n")
            else:
                test.write(pixels + b"\n")
    names = ("semicolons.csv", "fer2013.csv.gz", "a.zip", "a.tar.gz")
    return {
        **{name: KaggleCsv((directory / name,)) for name in names},
        "train and test": KaggleCsv((directory / "train.csv", directory / "test.csv")),
        "gray folder": ImageFolder(image_dir),
        "colour folder": ImageFolder(image_dir, image_size=37, channels=3),
    }


def test_what_is_written_is_read_byte_for_byte_from_every_source(
    demo_csv: Path, image_dir: Path, tmp_path: Path
):
    for name, source in forms_of(demo_csv, image_dir, tmp_path).items():
        (part, *others) = source.parts(1)
        batches = list(part.batches(0))
        for other in others:
            batches += other.batches(sum(len(batch.rows) for batch in batches))
        data_dir = tmp_path / "data" / name
        conversion.convert(source, data_dir)
        assert_holds(data_dir, batches)
        num_rows = sum(len(batch.rows) for batch in batches)
        written = manifest_of(data_dir)["splits"].values()
        assert num_rows == sum(split["examples"] for split in written)


USAGES = {"train": "Training", "validation": "PublicTest", "test": "PrivateTest"}


def csv_of(images: np.ndarray, labels: Sequence[int], splits: Sequence[str]) -> bytes:
    rows = zip(images, labels, splits, strict=True)
    lines = [
        f"{label},{' '.join(map(str, image.ravel()))},{USAGES[split]}"
        for image, label, split in rows
    ]
    return "\n".join(["emotion,pixels,Usage", *lines, ""]).encode()


def write_plain(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def write_gzip(path: Path, content: bytes) -> None:
    path.write_bytes(gzip.compress(content, 1))


def write_zip(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("in/fer2013.csv", content)


def write_tar(path: Path, content: bytes) -> None:
    member = tarfile.TarInfo("fer2013.csv")
    member.size = len(content)
    with tarfile.open(path, "w:gz") as archive:
        archive.addfile(member, io.BytesIO(content))


def examples_of(image_shape: tuple[int, int, int]) -> st.SearchStrategy:
    """Up to five images with their labels and splits."""
    return st.integers(1, 5).flatmap(
        lambda count: st.tuples(
            hnp.arrays(np.uint8, (count, *image_shape)),
            st.lists(st.integers(0, 6), min_size=count, max_size=count),
            st.lists(st.sampled_from(SPLITS), min_size=count, max_size=count),
        )
    )


def assert_holds_exactly(
    data_dir: Path, images: np.ndarray, labels: Sequence[int], splits: Sequence[str]
) -> None:
    """The splits hold these rows and no others."""
    assert set(manifest_of(data_dir)["splits"]) == set(splits)
    for name in set(splits):
        rows = np.flatnonzero(np.array(splits) == name)
        arrays = load(data_dir, name)
        order = np.argsort(arrays["row"])
        np.testing.assert_array_equal(arrays["row"][order], rows)
        np.testing.assert_array_equal(arrays["label"][order], np.array(labels)[rows])
        np.testing.assert_array_equal(arrays["image"][order], images[rows])


@pytest.mark.parametrize("write", [write_plain, write_gzip, write_zip, write_tar])
@settings(max_examples=3, deadline=None)
@given(examples=examples_of((48, 48, 1)))
def test_any_images_of_a_csv_are_read_byte_for_byte(
    write: Callable[[Path, bytes], None],
    examples: tuple[np.ndarray, list[int], list[str]],
    tmp_path_factory: pytest.TempPathFactory,
):
    directory = tmp_path_factory.mktemp("any")
    write(directory / "source", csv_of(*examples))
    conversion.convert(KaggleCsv((directory / "source",)), directory / "data")
    assert_holds_exactly(directory / "data", *examples)


@pytest.mark.parametrize("channels", [1, 3])
@settings(max_examples=3, deadline=None)
@given(data=st.data())
def test_any_images_of_a_folder_are_read_byte_for_byte(
    channels: int, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
):
    size = data.draw(st.integers(8, 20))
    images, labels, splits = data.draw(examples_of((size, size, channels)))
    directory = tmp_path_factory.mktemp("any")
    paths = []
    for number, (image, label, split) in enumerate(zip(images, labels, splits, strict=True)):
        path = directory / "faces" / split / EXPRESSIONS[label] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze(-1) if channels == 1 else image).save(path)
        paths.append(str(path))
    conversion.convert(ImageFolder(directory / "faces", size, channels), directory / "data")
    order = np.argsort(paths)
    assert_holds_exactly(
        directory / "data",
        images[order],
        [labels[number] for number in order],
        [splits[number] for number in order],
    )


def test_a_split_without_labels_is_written_without(demo_csv: Path, image_dir: Path, tmp_path: Path):
    source = forms_of(demo_csv, image_dir, tmp_path)["train and test"]
    conversion.convert(source, tmp_path / "data")
    split = records.open_split(tmp_path / "data", "test")
    assert (split.examples, split.unlabelled) == (70, 70)
    assert set(records.load_split(split)["label"]) == {NO_LABEL}
    assert records.open_split(tmp_path / "data", "train").unlabelled == 0
    (features,) = tfds.load("fer2013", data_dir=tmp_path / "data", split="test").batch(70)
    assert set(features["label"].numpy()) == {NO_LABEL}


def test_votes_are_written_and_counted(demo_csv: Path, tmp_path: Path):
    votes = votes_on_every_row(demo_csv, tmp_path / "fer2013new.csv")
    conversion.convert(KaggleCsv((demo_csv,)), tmp_path / "data", votes=votes)
    manifest = manifest_of(tmp_path / "data")
    assert manifest["ferplus"]["sha256"] == records.sha256_of(tmp_path / "fer2013new.csv")
    agreeing = comparable = 0
    for name, described in manifest["splits"].items():
        arrays = load(tmp_path / "data", name)
        np.testing.assert_array_equal(arrays["votes"], votes.counts[arrays["row"]])
        majorities = ferplus.majority(arrays["votes"])
        kept = majorities != NO_LABEL
        assert described["ferplus_examples"] == {
            "ferplus_majority": kept.sum(),
            "ferplus_distribution": ferplus.distribution(arrays["votes"]).any(axis=1).sum(),
        }
        counts = np.bincount(majorities[kept], minlength=8)
        assert list(described["per_ferplus_majority"].values()) == counts.tolist()
        comparable += kept.sum()
        agreeing += (majorities == arrays["label"])[kept].sum()
    assert manifest["ferplus"]["images_with_label_and_majority"] == comparable
    assert manifest["ferplus"]["images_where_they_agree"] == agreeing
    dataset = tfds.load("fer2013", data_dir=tmp_path / "data", split="train")
    assert dataset.element_spec["votes"] == tf.TensorSpec((10,), tf.int64)


def test_votes_on_another_number_of_rows_leave_nothing_behind(demo_csv: Path, tmp_path: Path):
    votes = votes_on_every_row(demo_csv, tmp_path / "fer2013new.csv")
    more = dataclasses.replace(votes, counts=np.zeros((211, 10), np.uint8))
    more = dataclasses.replace(more, splits=[*votes.splits, "test"])
    with pytest.raises(InputError, match="votes on the 210 rows of the source, received 211"):
        conversion.convert(KaggleCsv((demo_csv,)), tmp_path / "data", votes=more)
    assert not (tmp_path / "data").exists()


def test_what_a_join_by_name_loses_is_counted(tmp_path: Path):
    batches = mixed_batches()
    usages = ["PrivateTest", "Training", "PublicTest", "PublicTest", "PublicTest"]  # of rows 0 to 4
    write_votes(tmp_path / "votes.csv", usages, made_up_votes(5))
    votes = ferplus.read_votes(tmp_path / "votes.csv", join="name")
    for name, engine in (("local", LOCAL), ("parts", PartsEngine())):
        conversion.convert(BatchSource(batches), tmp_path / name, votes=votes, engine=engine)
        described = manifest_of(tmp_path / name)["ferplus"]
        assert described["rows_without_votes"] == 7
        assert described["rows_with_votes_of_another_usage"] == 2
        assert load(tmp_path / name, "train")["votes"].any(axis=1).sum() == 1


def test_votes_whose_every_name_is_of_another_usage_leave_nothing_behind(tmp_path: Path):
    write_votes(tmp_path / "votes.csv", ["PublicTest"] * 3, made_up_votes(3))
    votes = ferplus.read_votes(tmp_path / "votes.csv", join="name")
    with pytest.raises(InputError, match="0 rows have no votes, and those on 3 rows are on images"):
        conversion.convert(BatchSource([random_batch(["train"] * 3)]), tmp_path / "d", votes=votes)
    assert not (tmp_path / "d").exists()


# TensorFlow Datasets.


def test_tfds_reads_the_same(demo_data_dir: Path):
    builder = tfds.builder("fer2013", data_dir=demo_data_dir)
    info = builder.info
    assert info.features["label"].names == list(EXPRESSIONS)
    assert "converted from fer2013.csv" in info.description
    assert "goodfellow2013challenges" in info.citation
    assert info.homepage.startswith("https://www.kaggle.com/c/challenges-in-representation")
    documented = {entry.name: entry.description for entry in info.features.catalog_documentation()}
    assert all(documented[name] for name in ("image", "label", "row"))
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


def test_a_folder_is_not_called_fer2013(image_dir: Path, tmp_path: Path):
    conversion.convert(ImageFolder(image_dir), tmp_path)
    info = tfds.builder("fer2013", data_dir=tmp_path).info
    assert f"converted from the image folder {image_dir.name}" in info.description
    assert "label -1" in info.description
    assert "FER2013" not in info.description
    assert "PublicTest" not in info.description
    assert info.citation == ""
    # Of data without a homepage TFDS names a page of its own catalogue, which is not written.
    assert info.homepage == "https://www.tensorflow.org/datasets/catalog/fer2013"
    written = (dataset_directory(tmp_path) / "dataset_info.json").read_text()
    assert "http" not in written
    assert "location" not in json.loads(written)


def test_tfds_says_where_the_validation_images_are_from(tmp_path: Path):
    source = BatchSource([random_batch(["train"] * 30)])
    conversion.convert(source, tmp_path / "taken", validation_fraction=0.3)
    conversion.convert(source, tmp_path / "none")
    taken, none = (
        tfds.builder("fer2013", data_dir=tmp_path / name).info.description
        for name in ("taken", "none")
    )
    assert "a share of 0.3 of its training images" in taken
    assert "PublicTest" not in taken
    assert "a share of" not in none
    assert "PublicTest `validation`" in none


def test_tfds_reads_several_shards(tmp_path: Path):
    conversion.convert(BatchSource(mixed_batches()), tmp_path, num_shards=3)
    for name in SPLITS:
        arrays = load(tmp_path, name)
        features = next(
            tfds.load("fer2013", data_dir=tmp_path, split=name).batch(99).as_numpy_iterator()
        )
        order = np.argsort(features["row"])  # TFDS reads the shards in turn
        for key, array in arrays.items():
            expected = array[np.argsort(arrays["row"])]
            np.testing.assert_array_equal(features[key][order], expected)
    assert len(tfds.load("fer2013", data_dir=tmp_path, split="train[2:5]")) == 3


# The manifest.


def test_the_manifest_says_what_is_there(demo_csv: Path, demo_data_dir: Path):
    manifest = manifest_of(demo_data_dir)
    assert manifest["schema_version"] == records.SCHEMA_VERSION
    assert manifest["source"] == {
        "file": "fer2013.csv",
        "bytes": demo_csv.stat().st_size,
        "sha256": records.sha256_of(demo_csv),
    }
    assert manifest["ferplus"] is None
    assert manifest["drop"] == []
    assert manifest["image_shape"] == [48, 48, 1]
    assert manifest["expressions"] == list(EXPRESSIONS)
    assert list(manifest["splits"]) == list(SPLITS)
    for name, split in manifest["splits"].items():
        labels = load(demo_data_dir, name)["label"]
        assert split["examples"] == len(labels) == {"train": 140}.get(name, 35)
        assert split["per_expression"] == {
            expression: int((labels == label).sum()) for label, expression in enumerate(EXPRESSIONS)
        }
        assert split["unlabelled"] == 0
        assert split["ferplus_examples"] == {}
        assert split["leaked_rows"] == []
        assert split["near_leaked_rows"] == manifest["audit"]["near_leaked_rows"].get(name, [])
        for shard in split["shards"]:
            path = dataset_directory(demo_data_dir) / shard["file"]
            assert shard == {
                "file": path.name,
                "records": sum(1 for _ in tf.data.TFRecordDataset(str(path))),
                "bytes": path.stat().st_size,
                "sha256": records.sha256_of(path),
            }
    assert manifest["audit"]["duplicates"] == {"train": 0, "validation": 0, "test": 0}
    assert manifest["audit"]["duplicate_groups"] == []
    assert manifest["rows_skipped"] == manifest["rows_dropped"] == []


def test_the_manifest_has_the_audit_and_the_rows_left_out(tmp_path: Path):
    plain = mixed_batches()[0]  # test, train, train, validation
    images = plain.images.copy()
    images[0] = images[3] = images[1]
    labels = np.array([4, 4, 0, 5])
    bad = BadRow(row=4, place="source.csv, line 6", reason="expected 3 fields, received 1")
    batch = RawBatch(images, labels, plain.splits, plain.rows, [bad])
    report = conversion.convert(BatchSource([batch]), tmp_path, on_bad_row="skip")
    manifest = manifest_of(tmp_path)
    assert manifest == report.manifest
    assert manifest["audit"]["duplicate_groups"] == [[0, 1, 3]]
    assert manifest["audit"]["conflicting_groups"] == [[0, 1, 3]]
    assert manifest["audit"]["leaked_rows"] == {"validation": [3], "test": [0]}
    assert manifest["rows_skipped"] == [
        {
            "row": 4,
            "place": "source.csv, line 6",
            "reason": "expected 3 fields, received 1",
        }
    ]
    assert records.open_split(tmp_path, "validation").leaked_rows == {3}
    assert records.open_split(tmp_path, "train").leaked_rows == frozenset()


def test_lists_of_numbers_stand_on_one_line_and_nothing_else_changes(tmp_path: Path):
    bad = BadRow(row=4, place="a [1,   2] b.csv", reason="[\n 1,   2 ]")
    batch = random_batch(["train", "test"])
    conversion.convert(
        BatchSource([dataclasses.replace(batch, bad_rows=[bad])]), tmp_path, on_bad_row="skip"
    )
    manifest = manifest_of(tmp_path)
    assert manifest["rows_skipped"] == [dataclasses.asdict(bad)]
    text = (dataset_directory(tmp_path) / "manifest.json").read_text()
    assert '"image_shape": [ 48, 48, 1 ],' in text


# What is dropped, and what becomes validation.


def faulty_batches() -> list[RawBatch]:
    """A batch with every fault: which rows have which, the names below say."""
    splits = ["train"] * 8 + ["validation", "test"]
    batch = random_batch(splits)
    images, labels = batch.images, np.zeros(10, np.int64)
    images[8] = images[0]  # rows 0 and 8: a leak
    images[2], labels[2] = images[1], 3  # rows 1 and 2: a conflict
    images[3] = 77  # of one colour
    images[4] = 77
    images[4, 0, 0] = 78  # nearly so
    images[9], labels[9] = images[5], 6  # rows 5 and 9: a leak, and a conflict
    return [dataclasses.replace(batch, labels=labels)]


LEAKS, CONFLICTS, FLAT = {0, 5}, {1, 2, 5}, {3, 4}


@pytest.mark.parametrize(
    ("drop", "gone"),
    [
        ([], set()),
        (["leaks"], LEAKS),
        (["conflicts"], CONFLICTS),
        (["flat"], FLAT),
        (["leaks", "conflicts", "flat"], LEAKS | CONFLICTS | FLAT),
    ],
)
def test_training_images_with_a_fault_are_dropped_and_listed(
    tmp_path: Path, drop: list, gone: set[int]
):
    report = conversion.convert(BatchSource(faulty_batches()), tmp_path, drop=drop)
    assert set(load(tmp_path, "train")["row"]) == set(range(8)) - gone
    assert load(tmp_path, "validation")["row"].tolist() == [8]
    assert load(tmp_path, "test")["row"].tolist() == [9]
    dropped = report.manifest["rows_dropped"]
    assert [entry["row"] for entry in dropped] == sorted(gone)
    reasons = {entry["row"]: entry["reason"] for entry in dropped}
    for row in gone:
        expected = [
            reason
            for reason, rows in {"leaks": LEAKS, "conflicts": CONFLICTS, "flat": FLAT}.items()
            if reason in drop and row in rows
        ]
        assert reasons[row] == ", ".join(expected)
    split = report.manifest["splits"]["train"]
    assert split["examples"] == sum(split["per_expression"].values()) == 8 - len(gone)
    assert report.manifest["drop"] == sorted(drop)
    # What was found in the source stays said, whatever was done about it.
    assert report.manifest["audit"]["leaked_rows"] == {"validation": [8], "test": [9]}
    # And what leaks is what still stands on both sides.
    for name, row, twin in (("validation", 8, 0), ("test", 9, 5)):
        expected_leaks = set() if twin in gone else {row}
        assert records.open_split(tmp_path, name).leaked_rows == expected_leaks


def test_the_manifest_has_the_near_leaks_of_train_as_written(tmp_path: Path):
    batch = random_batch(["train", "validation", "train"])
    batch.images[:] = demo_faces.draw_face(3, seed=0).reshape(48, 48, 1)
    batch.images[2, 0, 0] ^= 1
    for name, drop, expected in (("all", [], []), ("dropped", ["leaks"], [1])):
        report = conversion.convert(BatchSource([batch]), tmp_path / name, drop=drop)
        assert report.manifest["splits"]["validation"]["near_leaked_rows"] == expected
        split = records.open_split(tmp_path / name, "validation")
        assert split.near_leaked_rows == set(expected)
        assert report.manifest["audit"]["near_leaked_rows"]["validation"] == []


def test_a_split_of_which_all_is_dropped_is_not_there(tmp_path: Path):
    batch = random_batch(["train", "validation"])
    batch.images[0] = 5
    conversion.convert(BatchSource([batch]), tmp_path, drop=["flat"])
    with pytest.raises(InputError, match=r"expected a split 'train', .* with validation"):
        records.open_split(tmp_path, "train")


def test_validation_is_taken_from_train_and_equal_images_stay_together(tmp_path: Path):
    batch = random_batch(["train"] * 400)
    batch.images[200:] = batch.images[:200]
    conversion.convert(BatchSource([batch]), tmp_path / "a", validation_fraction=0.2)
    conversion.convert(BatchSource([batch]), tmp_path / "b", validation_fraction=0.2, seed=5)
    for data_dir in (tmp_path / "a", tmp_path / "b"):
        rows = set(load(data_dir, "validation")["row"].tolist())
        assert 40 <= len(rows) <= 120
        assert {(row + 200) % 400 for row in rows} == rows
        assert set(load(data_dir, "train")["row"].tolist()) == set(range(400)) - rows
        assert records.open_split(data_dir, "validation").leaked_rows == frozenset()


def test_data_of_which_all_is_dropped_leave_nothing_behind(tmp_path: Path):
    batch = random_batch(["train"] * 2)
    batch.images[:] = 5
    with pytest.raises(InputError, match="drop: expected images that are kept, received none"):
        conversion.convert(BatchSource([batch]), tmp_path / "data", drop=["flat"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("fraction", [1e-6, 0.999999])
def test_a_fraction_that_leaves_one_side_empty_is_refused(tmp_path: Path, fraction: float):
    source = BatchSource([random_batch(["train"] * 30)])
    with pytest.raises(InputError, match="validation_fraction: expected what leaves images on bo"):
        conversion.convert(source, tmp_path / "data", validation_fraction=fraction)
    assert list(tmp_path.iterdir()) == []


def test_a_side_that_dropping_leaves_empty_is_blamed_on_both(tmp_path: Path):
    batch = random_batch(["train"] * 30)
    batch.images[:] = np.arange(30)[:, np.newaxis, np.newaxis, np.newaxis]
    message = r"validation_fraction, drop: .* a share of 0\.5, with drop=flat, which .* validation"
    with pytest.raises(InputError, match=message):
        conversion.convert(
            BatchSource([batch]), tmp_path / "data", validation_fraction=0.5, drop=["flat"]
        )


def test_votes_on_other_images_drop_none(tmp_path: Path, demo_csv: Path):
    votes = votes_on_every_row(demo_csv, tmp_path / "fer2013new.csv")
    votes = dataclasses.replace(votes, counts=np.roll(votes.counts, 1, axis=0))
    with pytest.raises(InputError, match="no more than chance; see --ferplus_join"):
        conversion.convert(
            KaggleCsv((demo_csv,)), tmp_path / "data", votes=votes, drop=["not_a_face"]
        )
    assert not (tmp_path / "data").exists()


def test_votes_without_a_majority_to_compare_drop_none(tmp_path: Path):
    votes = np.zeros((3, 10), np.int64)
    votes[:2, :2] = 5  # a tie
    votes[2, 9] = 10  # no face
    write_votes(tmp_path / "votes.csv", ["Training"] * 3, votes)
    with pytest.raises(InputError, match="the label on 0 of 0 images, no more than chance"):
        conversion.convert(
            BatchSource([random_batch(["train"] * 3)]),
            tmp_path / "data",
            votes=ferplus.read_votes(tmp_path / "votes.csv"),
            drop=["not_a_face"],
        )


def test_validation_is_not_taken_where_there_is_one(tmp_path: Path):
    with pytest.raises(InputError, match="validation_fraction: expected a source without"):
        conversion.convert(BatchSource(mixed_batches()), tmp_path / "d", validation_fraction=0.5)
    assert list(tmp_path.iterdir()) == []


# The order of writing.


def test_the_seed_decides_the_order_of_train_and_nothing_else(tmp_path: Path):
    batches = [random_batch(["train"] * 50 + ["validation"] * 9)]
    orders = []
    for seed in (0, 1):
        data_dir = tmp_path / str(seed)
        conversion.convert(BatchSource(batches), data_dir, seed=seed, num_shards=3)
        assert_holds(data_dir, batches)
        orders.append(load(data_dir, "train")["row"].tolist())
    assert orders[0] != orders[1]
    assert sorted(orders[0]) != orders[0]


def test_a_source_sorted_by_expression_is_mixed_in_every_shard(tmp_path: Path):
    batch = random_batch(["train"] * 700)
    batch = dataclasses.replace(batch, labels=np.repeat(np.arange(7), 100))
    conversion.convert(BatchSource([batch]), tmp_path, num_shards=4)
    for file in records.open_split(tmp_path, "train").files:
        (serialized,) = tf.data.TFRecordDataset(file).batch(700)
        schema = records.Schema((48, 48, 1), EXPRESSIONS)
        counts = np.bincount(records.parse_batch(serialized, schema)["label"], minlength=7)
        assert counts.min() >= 10


def test_passes_do_not_show_in_the_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    batches = [random_batch(["train", "test", "train"] * 5, first_row=15 * i) for i in range(4)]
    batches[3].images[:9] = batches[0].images[:9]
    conversion.convert(BatchSource(batches), tmp_path / "one", num_shards=3)
    for module, name, size in (
        (shards, "_RECORDS_A_PASS", 7),
        (shards, "_ENTRIES_A_READ", 3),
        (shards, "_RECORDS_A_WRITE", 2),
        (spools, "_ENTRIES_A_WRITE", 4),
        (audit, "_ENTRIES_A_PASS", 5),
        (audit, "_ENTRIES_A_READ", 3),
    ):
        monkeypatch.setattr(module, name, size)
    conversion.convert(BatchSource(batches), tmp_path / "many", num_shards=3)
    assert contents(tmp_path / "one") == contents(tmp_path / "many")


# Engines.


class PartsEngine:
    """Cuts the source into parts, and runs every task twice, as a cluster may."""

    num_parts = 4

    def map(self, function: Callable, tasks: Iterable, scratch: Path) -> list:
        assert scratch.is_dir()
        pickled = [pickle.dumps(task) for task in tasks]
        function = pickle.loads(pickle.dumps(function))
        first = [function(pickle.loads(task)) for task in pickled]
        second = [function(pickle.loads(task)) for task in pickled]
        return [*first[:1], *second[1:]]


def test_stages_are_told_as_they_begin(tmp_path: Path):
    work = tmp_path / "fer2013" / ".1.0.0.incomplete"
    there = {}

    def look(stage: str) -> None:
        there[stage] = [any(work.glob(name)) for name in ("spool/*.tfrecord", "*.tfrecord-*")]

    conversion.convert(BatchSource(mixed_batches()), tmp_path, on_stage=look)
    assert there == {
        "reading": [False, False],
        "searching for duplicates": [True, False],
        "writing": [True, False],
    }
    assert list(there) == ["reading", "searching for duplicates", "writing"]


def test_an_engine_does_not_show_in_the_bytes(tmp_path: Path, demo_csv: Path, demo_data_dir: Path):
    batches = [*faulty_batches(), random_batch(["train", "validation"] * 5, first_row=10)]
    for name, engine in (("local", LOCAL), ("parts", PartsEngine())):
        conversion.convert(
            BatchSource(batches), tmp_path / name, num_shards=2, drop=["leaks"], engine=engine
        )
    assert contents(tmp_path / "local") == contents(tmp_path / "parts")
    conversion.convert(KaggleCsv((demo_csv,)), tmp_path / "csv", engine=PartsEngine())
    assert contents(tmp_path / "csv") == contents(demo_data_dir)


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


def test_an_existing_directory_is_refused(data_dir: Path):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    with pytest.raises(InputError, match=r"1\.0\.0: exists already; .* --overwrite"):
        conversion.convert(BatchSource(mixed_batches()), data_dir)
    assert_untouched(directory, before)


def test_overwrite_replaces_what_was_written_here(data_dir: Path):
    directory = dataset_directory(data_dir)
    conversion.convert(BatchSource(mixed_batches()), data_dir, num_shards=2, overwrite=True)
    assert_holds(data_dir, mixed_batches())
    assert len(contents(directory)) == 6 + 4
    assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]
    assert (data_dir / "fer2013").is_dir()


def test_overwrite_starts_a_new_directory_too(tmp_path: Path):
    conversion.convert(BatchSource(mixed_batches()), tmp_path / "new", overwrite=True)
    assert_holds(tmp_path / "new", mixed_batches())


def test_overwrite_of_a_link_leaves_what_it_leads_to(data_dir: Path, tmp_path: Path):
    directory = dataset_directory(data_dir)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    before = contents(tmp_path / "elsewhere")
    for _ in range(2):
        conversion.convert(BatchSource(mixed_batches()), data_dir, overwrite=True)
        assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]
    assert contents(tmp_path / "elsewhere") == before
    assert_holds(data_dir, mixed_batches())


def test_a_csv_whose_name_is_no_utf_8(tmp_path: Path, demo_csv: Path):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/t\xff.csv"))
    shutil.copy(demo_csv, path)
    conversion.convert(KaggleCsv((path,)), tmp_path / "data")
    info = tfds.builder("fer2013", data_dir=tmp_path / "data").info
    assert "converted from t?.csv" in info.description


@pytest.mark.parametrize("foreign", ["notes.txt", ".hidden", "fer2013-train.tfrecord-00001", "sub"])
def test_overwrite_leaves_foreign_files(data_dir: Path, foreign: str):
    directory = dataset_directory(data_dir)
    if foreign == "sub":
        (directory / foreign).mkdir()
    else:
        (directory / foreign).write_text("mine")
    before = contents(directory)
    with pytest.raises(InputError, match=rf"did not write \({foreign}\)"):
        conversion.convert(BatchSource(mixed_batches()), data_dir, overwrite=True)
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
def test_overwrite_leaves_a_directory_without_its_manifest(data_dir: Path, manifest: str | None):
    directory = dataset_directory(data_dir)
    if manifest is None:
        (directory / "manifest.json").unlink()
    else:
        (directory / "manifest.json").write_text(manifest)
    before = contents(directory)
    with pytest.raises(InputError, match="expected a directory that this program wrote"):
        conversion.convert(BatchSource(mixed_batches()), data_dir, overwrite=True)
    assert_untouched(directory, before)


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_where_the_directory_should_be(tmp_path: Path, overwrite: bool):
    directory = dataset_directory(tmp_path / "data")
    directory.parent.mkdir(parents=True)
    directory.write_text("mine")
    with pytest.raises(InputError, match=r"1\.0\.0: "):
        conversion.convert(BatchSource([]), tmp_path / "data", overwrite=overwrite)
    assert directory.read_text() == "mine"


@pytest.mark.parametrize("file", ["data", "data/fer2013"])
def test_a_file_where_a_parent_should_be(tmp_path: Path, file: str):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    (tmp_path / file).write_text("mine")
    with pytest.raises((InputError, OSError), match=str(tmp_path / "data")):
        conversion.convert(BatchSource(mixed_batches()), tmp_path / "data")
    assert (tmp_path / file).read_text() == "mine"


def failing_batches(error: BaseException) -> Iterator[RawBatch]:
    yield from mixed_batches()
    raise error


@pytest.mark.parametrize("error", [InputError("row 12"), OSError("disk"), KeyboardInterrupt()])
def test_a_failure_leaves_nothing_behind(tmp_path: Path, error: BaseException):
    with pytest.raises(type(error)):
        conversion.convert(BatchSource(failing_batches(error)), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_no_parents_behind(tmp_path: Path):
    with pytest.raises(InputError):
        conversion.convert(
            BatchSource(failing_batches(InputError("row 12"))), tmp_path / "new" / "data"
        )
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_directories_that_were_there(tmp_path: Path):
    (tmp_path / "data").mkdir()
    with pytest.raises(InputError):
        conversion.convert(BatchSource(failing_batches(InputError("row 12"))), tmp_path / "data")
    assert list((tmp_path / "data").iterdir()) == []


def test_a_failure_leaves_the_old_data(data_dir: Path):
    before = contents(dataset_directory(data_dir))
    with pytest.raises(InputError):
        conversion.convert(
            BatchSource(failing_batches(InputError("row 12"))), data_dir, overwrite=True
        )
    assert_untouched(dataset_directory(data_dir), before)


def test_a_bad_row_leaves_nothing_behind(tmp_path: Path, demo_csv: Path):
    path = tmp_path / "fer2013.csv"
    path.write_bytes(demo_csv.read_bytes() + b"3,1 2 3,Training\n")
    with pytest.raises(InputError, match=r"fer2013\.csv, line 212: expected 2304 pixels"):
        conversion.convert(KaggleCsv((path,)), tmp_path / "data")
    assert list(tmp_path.iterdir()) == [path]


def test_an_absent_source_leaves_nothing_behind(tmp_path: Path):
    path = tmp_path / "absent.csv"
    with pytest.raises(InputError, match=r"absent\.csv: expected a readable CSV"):
        conversion.convert(KaggleCsv((path,)), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_rows_that_are_all_bad(tmp_path: Path):
    path = tmp_path / "fer2013.csv"
    path.write_text("emotion,pixels,Usage\n1,2,3\n")
    with pytest.raises(InputError, match="expected at least one row that can be used"):
        conversion.convert(KaggleCsv((path,)), tmp_path / "data", on_bad_row="skip")
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("limit", [1_000, 12_000])
def test_a_full_disk_is_an_error_of_the_system_and_leaves_nothing_behind(
    tmp_path: Path, limit: int
):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        with pytest.raises((InputError, OSError)):  # the programs print both as one line
            conversion.convert(BatchSource(mixed_batches()), tmp_path / "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_is_cleared_away(tmp_path: Path):
    work = tmp_path / "data" / "fer2013" / ".1.0.0.incomplete"
    (work / "folder").mkdir(parents=True)
    (work / "train.spool").write_bytes(b"half")
    (work / "folder" / "file").write_bytes(b"")
    (work / "link").symlink_to(tmp_path)
    conversion.convert(BatchSource(mixed_batches()), tmp_path / "data")
    assert_holds(tmp_path / "data", mixed_batches())
    assert [path.name for path in work.parent.iterdir()] == ["1.0.0"]
    assert len(contents(dataset_directory(tmp_path / "data"))) == 3 + 4


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_kill_between_the_two_renames_loses_nothing(data_dir: Path, overwrite: bool):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    directory.rename(directory.with_name(".1.0.0.replaced"))
    work = directory.with_name(".1.0.0.incomplete")
    work.mkdir()
    (work / "manifest.json").write_text("complete, but not yet renamed")
    with pytest.raises(InputError, match="manifest"):
        records.open_split(data_dir, "train")
    if overwrite:
        conversion.convert(BatchSource(mixed_batches()), data_dir, overwrite=True)
        assert_holds(data_dir, mixed_batches())
    else:
        with pytest.raises(InputError, match="exists already"):
            conversion.convert(BatchSource(mixed_batches()), data_dir)
        assert contents(directory) == before
    assert [path.name for path in directory.parent.iterdir()] == ["1.0.0"]


def test_a_kill_between_the_renames_and_then_a_bad_source_lose_nothing(data_dir: Path):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    directory.rename(directory.with_name(".1.0.0.replaced"))
    with pytest.raises(InputError, match="row 12"):
        conversion.convert(
            BatchSource(failing_batches(InputError("row 12"))), data_dir, overwrite=True
        )
    assert_untouched(directory, before)


def test_a_kill_after_the_renames_leaves_the_new_data(data_dir: Path):
    directory = dataset_directory(data_dir)
    before = contents(directory)
    replaced = directory.with_name(".1.0.0.replaced")
    replaced.mkdir()
    (replaced / "manifest.json").write_text("old")
    with pytest.raises(InputError, match="exists already"):
        conversion.convert(BatchSource(mixed_batches()), data_dir)
    assert_untouched(directory, before)


# One writer at a time.


def test_a_second_writer_is_refused(tmp_path: Path):
    def batches() -> Iterator[RawBatch]:
        first, *others = mixed_batches()
        yield first
        for overwrite in (False, True):
            with pytest.raises(InputError, match="another process is writing it"):
                conversion.convert(BatchSource([]), tmp_path / "data", overwrite=overwrite)
        yield from others

    conversion.convert(BatchSource(batches()), tmp_path / "data")
    assert_holds(tmp_path / "data", mixed_batches())


def test_writers_of_other_directories_are_not(tmp_path: Path):
    def batches() -> Iterator[RawBatch]:
        conversion.convert(BatchSource(mixed_batches()[1:]), tmp_path / "second")
        yield from mixed_batches()

    conversion.convert(BatchSource(batches()), tmp_path / "first")
    assert_holds(tmp_path / "first", mixed_batches())
    assert_holds(tmp_path / "second", mixed_batches()[1:])


def test_a_writer_that_starts_as_another_ends_is_refused_or_succeeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
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
            conversion.convert(BatchSource(paused_batches()), data_dir, overwrite=True)
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
    conversion.convert(BatchSource(mixed_batches()), data_dir)
    first_has_ended.set()
    second.join()
    assert [error for error in errors if not isinstance(error, InputError)] == []
    assert_holds(data_dir, mixed_batches())

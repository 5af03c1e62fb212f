import json
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_tfdata import conversion, demo_faces, ferplus, inspection, inspection_page, records
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS, NO_LABEL
from fer_tfdata.sources import BadRow, RawBatch
from tests.batch_source import BatchSource, random_batch


def faces_with_faults() -> RawBatch:
    """Twelve rows: 0, 3 and 8 are equal, 1 and 4 too, 2 is flat, 5 almost; 9 and 10 have no label.

    Rows 0 to 5 are of train, 6 to 8 of validation, the others of test.
    """
    images = demo_faces.draw_faces(12, seed=0)[0].reshape(12, 48, 48, 1).copy()
    images[[3, 8]], images[4] = images[0], images[1]
    images[2], images[5] = 7, 100
    images[5, 0, 0] = 101
    return RawBatch(
        images=images,
        labels=np.array([0, 1, 2, 0, 5, 6, 3, 4, 2, NO_LABEL, NO_LABEL, 3]),
        splits=["train"] * 6 + ["validation"] * 3 + ["test"] * 3,
        rows=np.arange(12),
        bad_rows=[BadRow(12, "faces.csv, line 14", "too few pixels")],
    )


def votes(counts: Sequence[Sequence[int]], splits: Sequence[str]) -> ferplus.Votes:
    return ferplus.Votes(Path(__file__), np.array(counts, np.uint8), splits)


@pytest.fixture(scope="module")
def faulty_data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data_dir = tmp_path_factory.mktemp("faulty")
    conversion.convert(BatchSource([faces_with_faults()]), data_dir, on_bad_row="skip")
    return data_dir


def near_leak_after_dropping(directory: Path) -> Path:
    """A data set of which a leak was dropped, and a near-duplicate of it not.

    Row 0 of train, which was dropped, equals row 1 of validation, and row 2 of train nearly does.
    """
    batch = random_batch(["train", "validation", "train"])
    batch.images[:] = demo_faces.draw_face(3, seed=0).reshape(48, 48, 1)
    batch.images[2, 0, 0] ^= 1
    conversion.convert(BatchSource([batch]), directory, drop=("leaks",))
    return directory


# What the manifest says.


def test_the_faults_are_those_of_the_audit(faulty_data_dir: Path) -> None:
    faults = inspection.inspect(faulty_data_dir).contents.faults
    assert faults.repeated == {"train": 2, "validation": 0, "test": 0}
    assert faults.leaked == {"validation": 1, "test": 0}
    assert faults.leaks == inspection.Fault(1, 3, 3, [[0, 3, 8]])
    assert faults.repeats == inspection.Fault(1, 2, 2, [[1, 4]])
    assert faults.conflicts == inspection.Fault(2, 5, 5, [[0, 3, 8], [1, 4]])
    assert faults.flat == inspection.Fault(1, 1, 1, [[2]])
    assert faults.almost_flat == inspection.Fault(1, 1, 1, [[5]])
    assert faults.not_a_face is None


def test_the_images_of_the_faults_are_those_of_the_source(faulty_data_dir: Path) -> None:
    source = faces_with_faults()
    examples = inspection.inspect(faulty_data_dir).examples
    assert {0, 1, 2, 3, 4, 5, 8} <= set(examples)
    for row, example in examples.items():
        assert (example.row, example.split) == (row, source.splits[row])
        assert (example.label, example.majority) == (source.labels[row], NO_LABEL)
        np.testing.assert_array_equal(example.image, source.images[row])


def test_skipped_rows_keep_their_place_and_reason(faulty_data_dir: Path) -> None:
    contents = inspection.inspect(faulty_data_dir).contents
    assert contents.skipped == [BadRow(12, "faces.csv, line 14", "too few pixels")]
    assert contents.dropped == []


def test_dropped_rows_point_to_an_equal_image_that_was_kept(tmp_path: Path) -> None:
    batch = faces_with_faults()
    source = BatchSource([batch])
    conversion.convert(source, tmp_path, on_bad_row="skip", drop=("leaks", "flat", "conflicts"))
    inspected = inspection.inspect(tmp_path)
    assert [(row.row, row.twin) for row in inspected.contents.dropped] == [
        (0, 8),
        (1, None),
        (2, None),
        (3, 8),
        (4, None),
        (5, None),
    ]
    assert inspected.contents.dropped[0].reason == "leaks, conflicts"
    assert inspected.contents.dropped[0].split == "train"
    assert set(inspected.examples) & set(range(6)) == set()
    assert "train" not in {split.name for split in inspected.contents.splits}
    assert inspected.sampled_split == "validation"


def test_what_is_left_of_the_faults_is_what_was_not_dropped(tmp_path: Path) -> None:
    batch = faces_with_faults()
    batch.images[4] = batch.images[0]  # of train 0, 3 and 4 are equal, of validation 8
    batch.images[11] = batch.images[10]
    conversion.convert(BatchSource([batch]), tmp_path / "all", on_bad_row="skip")
    conversion.convert(BatchSource([batch]), tmp_path / "d", on_bad_row="skip", drop=("leaks",))
    before, after = (inspection.inspect(tmp_path / name).contents.faults for name in ("all", "d"))
    assert (before.leaks.rows, before.leaks.kept) == (after.leaks.rows, 4) == (4, 4)
    assert after.leaks.kept == after.conflicts.kept == 1
    assert after.flat.kept == after.almost_flat.kept == 1
    assert before.repeated == after.repeated == {"train": 2, "validation": 0, "test": 1}
    assert (before.repeated_dropped, after.repeated_dropped) == (0, 2)


@settings(max_examples=12, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from(["leaks", "conflicts", "flat"]))
def test_the_repeats_that_are_left_are_those_of_the_records(
    tmp_path_factory: pytest.TempPathFactory, seed: int, drop: str
) -> None:
    rng = np.random.default_rng(seed)
    batch = random_batch([str(split) for split in rng.choice(["train", "test"], 30)])
    batch.images[:] = batch.images[rng.integers(0, 12, 30)]
    batch.images[rng.integers(0, 30, 3)] = 7
    data_dir = tmp_path_factory.mktemp("repeats")
    conversion.convert(BatchSource([batch]), data_dir, drop=(drop,))
    contents = inspection.inspect(data_dir).contents
    train = [split for split in contents.splits if split.name == "train"]
    images = [image.tobytes() for split in train for image in records.load_split(split)["image"]]
    left = contents.faults.repeated["train"] - contents.faults.repeated_dropped
    assert left == len(images) - len(set(images))


def test_of_a_near_duplicate_that_was_dropped_its_equal_is_shown(tmp_path: Path) -> None:
    inspected = inspection.inspect(near_leak_after_dropping(tmp_path))
    assert inspected.contents.faults.near_duplicates == inspection.Fault(1, 2, 2, [[1, 2]])
    assert {1, 2} <= set(inspected.examples)


def test_groups_that_were_dropped_altogether_come_last(tmp_path: Path) -> None:
    batch = random_batch(["train"] * 4)
    batch.images[1], batch.images[3] = batch.images[0], batch.images[2]
    batch.labels[:] = [0, 1, 2, 2]
    conversion.convert(BatchSource([batch]), tmp_path, drop=("conflicts",))
    inspected = inspection.inspect(tmp_path)
    assert inspected.contents.faults.repeats == inspection.Fault(2, 4, 2, [[2, 3], [0, 1]])
    assert set(inspected.examples) == {2, 3}


def test_at_most_some_groups_are_shown_and_all_are_counted(tmp_path: Path) -> None:
    first = random_batch(["train"] * 30)
    again = RawBatch(first.images, first.labels, ["test"] * 30, first.rows + 30)
    conversion.convert(BatchSource([first, again]), tmp_path)
    inspected = inspection.inspect(tmp_path)
    leaks = inspected.contents.faults.leaks
    assert (leaks.groups, leaks.rows, len(leaks.shown)) == (30, 60, inspection.GROUPS)
    assert set(inspected.examples) == {row for group in leaks.shown for row in group}


def test_of_a_large_group_some_images_are_kept(tmp_path: Path) -> None:
    batch = random_batch(["train"] * 50)
    batch.images[:] = batch.images[0]
    conversion.convert(BatchSource([batch]), tmp_path)
    inspected = inspection.inspect(tmp_path)
    assert inspected.contents.faults.repeats.shown == [list(range(50))]
    assert set(inspected.examples) == set(range(inspection.IMAGES_OF_A_GROUP))


# What the records say.


@settings(max_examples=8, deadline=None)
@given(st.integers(0, 2**32), st.sampled_from([(48, 48, 1), (20, 20, 3), (9, 9, 1)]))
def test_the_statistics_of_the_pixels_are_those_of_numpy(
    tmp_path_factory: pytest.TempPathFactory, seed: int, image_shape: tuple[int, int, int]
) -> None:
    data_dir = tmp_path_factory.mktemp("pixels")
    batch = random_batch(["train"] * 5 + ["test"], seed=seed, image_shape=image_shape)
    batch.images[0, :3] = 255
    batch.images[1, :4] = 0
    conversion.convert(BatchSource([batch], image_shape=image_shape), data_dir)
    pixels = inspection.inspect(data_dir).pixels
    assert set(pixels) == {"train", "test"}
    for name, images in {"train": batch.images[:5], "test": batch.images[5:]}.items():
        np.testing.assert_allclose(pixels[name].mean, images.mean(axis=(0, 1, 2)))
        np.testing.assert_allclose(pixels[name].std, images.std(axis=(0, 1, 2)))
        np.testing.assert_allclose(pixels[name].shares.sum(), 1)
        for value in (0, 17, 255):
            np.testing.assert_allclose(pixels[name].shares[value], (images == value).mean())


def test_a_mean_face_is_the_mean_of_the_training_images(demo_data_dir: Path) -> None:
    inspected = inspection.inspect(demo_data_dir)
    train = records.load_split(records.open_split(demo_data_dir, "train"))
    assert inspected.sampled_split == "train"
    assert list(inspected.mean_faces) == list(range(7))
    for label, mean in inspected.mean_faces.items():
        expected = train["image"][train["label"] == label].mean(axis=0)
        assert mean.dtype == np.uint8
        assert np.abs(mean - expected).max() <= 0.5


def test_the_samples_are_training_images_of_their_label(demo_data_dir: Path) -> None:
    inspected = inspection.inspect(demo_data_dir)
    train = records.load_split(records.open_split(demo_data_dir, "train"))
    labels = dict(zip(train["row"].tolist(), train["label"].tolist(), strict=True))
    assert list(inspected.samples) == list(range(7))
    for label, examples in inspected.samples.items():
        rows = [example.row for example in examples]
        assert len(rows) == min(20, inspection.SAMPLES)  # 140 images of seven expressions
        assert rows == sorted(set(rows))
        assert {labels[row] for row in rows} == {label}


def test_the_samples_are_the_same_at_every_run_whatever_the_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    conversion.convert(BatchSource([random_batch(["train"] * 400)]), tmp_path)

    def rows() -> dict[int, list[int]]:
        samples = inspection.inspect(tmp_path).samples
        return {label: [example.row for example in sample] for label, sample in samples.items()}

    first = rows()
    assert all(len(sample) == inspection.SAMPLES for sample in first.values())
    assert rows() == first
    monkeypatch.setattr(inspection, "_BATCH_BYTES", 48 * 48 * 30)
    assert rows() == first


def test_images_without_a_label_have_a_sample_of_their_own(tmp_path: Path) -> None:
    batch = random_batch(["train"] * 4)
    batch.labels[:] = NO_LABEL
    conversion.convert(BatchSource([batch]), tmp_path)
    inspected = inspection.inspect(tmp_path)
    assert list(inspected.samples) == list(inspected.mean_faces) == [NO_LABEL]
    assert [example.row for example in inspected.samples[NO_LABEL]] == [0, 1, 2, 3]


def test_labels_are_compared_with_the_majorities_of_the_votes(tmp_path: Path) -> None:
    splits = ["train", "train", "train", "test"]
    batch = random_batch(splits)
    happy, sad, neutral = (EXPRESSIONS.index(name) for name in ("happy", "sad", "neutral"))
    batch.labels[:] = [happy, happy, sad, sad]
    # neutral, happiness, surprise, sadness, anger, disgust, fear, contempt, unknown, NF
    on_happiness, on_neutral, no_face = [0, 10] + [0] * 8, [10] + [0] * 9, [0] * 9 + [10]
    given = votes([on_happiness, on_neutral, no_face, on_neutral], splits)
    conversion.convert(BatchSource([batch]), tmp_path, votes=given)
    inspected = inspection.inspect(tmp_path)
    agreement = inspected.agreement
    assert agreement is not None
    expected = np.zeros((7, len(EIGHT_EXPRESSIONS)), int)
    expected[happy, happy] = expected[happy, neutral] = expected[sad, neutral] = 1
    np.testing.assert_array_equal(agreement.counts, expected)
    assert (agreement.total, agreement.agreeing, agreement.share) == (3, 1, 1 / 3)
    assert [example.row for example in agreement.sample] == [1]  # of train alone
    assert agreement.sample[0].majority == neutral
    assert inspected.contents.faults.not_a_face == inspection.Fault(1, 1, 1, [[2]])
    assert inspected.contents.majorities["train"]["happy"] == 1


def test_progress_is_told_by_the_number_of_records(demo_data_dir: Path) -> None:
    counts: list[int] = []
    inspection.inspect(demo_data_dir, on_read=counts.append)
    assert sum(counts) == 140 + 35 + 35


# Damage.


def test_what_is_no_data_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"manifest\.json: not found"):
        inspection.inspect(tmp_path)


def test_a_damaged_shard_is_named(demo_data_dir: Path, tmp_path: Path) -> None:
    data_dir = shutil.copytree(demo_data_dir, tmp_path / "data")
    (path,) = (data_dir / "fer2013" / "1.0.0").glob("fer2013-test.tfrecord-*")
    content = bytearray(path.read_bytes())
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged") as caught:
        inspection.inspect(data_dir)
    assert str(caught.value).startswith(f"{path}: ")


def test_a_count_that_the_shard_does_not_hold_has_a_remedy(
    voted_data_dir: Path, tmp_path: Path
) -> None:
    data_dir = shutil.copytree(voted_data_dir, tmp_path / "data")
    path = data_dir / "fer2013" / "1.0.0" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    split = manifest["splits"]["train"]
    split["examples"] = split["shards"][0]["records"] = 139  # which could take as many bytes
    split["per_expression"]["happy"] -= 1
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"expected 139 records, received 140; .* --overwrite"):
        inspection.inspect(data_dir)


@pytest.mark.parametrize(
    "keys",
    [
        ("source",),
        ("audit",),
        ("audit", "duplicate_groups"),
        ("audit", "duplicates", "train"),
        ("audit", "leaked_rows", "test"),
        ("audit", "near_duplicate_pairs"),
        ("splits",),
        ("rows_dropped",),
        ("rows_skipped",),
        ("validation_fraction",),
    ],
    ids=str,
)
def test_a_manifest_that_lacks_something(
    faulty_data_dir: Path, tmp_path: Path, keys: tuple[str, ...]
) -> None:
    data_dir = shutil.copytree(faulty_data_dir, tmp_path / "data")
    path = data_dir / "fer2013" / "1.0.0" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    holder = manifest
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = None
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: the manifest is damaged"):
        inspection.inspect(data_dir)


def test_an_object_in_place_of_a_group_s_rows_is_a_damaged_manifest(
    faulty_data_dir: Path, tmp_path: Path
) -> None:
    shutil.copytree(faulty_data_dir, tmp_path / "data")
    path = tmp_path / "data" / "fer2013" / "1.0.0" / "manifest.json"
    manifest = json.loads(path.read_bytes())
    manifest["audit"]["duplicate_groups"][1] = {}
    path.write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=r"manifest\.json: the manifest is damaged"):
        inspection.inspect(tmp_path / "data")


def places(value: object) -> Iterator[tuple[Any, Any]]:
    """Every list and dictionary in it, with every place there."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_a_manifest_says_gives_a_page_or_an_error_of_one_line(
    faulty_data_dir: Path, tmp_path: Path, data: st.DataObject
) -> None:
    if not (tmp_path / "data").exists():
        shutil.copytree(faulty_data_dir, tmp_path / "data")
    intact = (faulty_data_dir / "fer2013" / "1.0.0" / "manifest.json").read_bytes()
    manifest = json.loads(intact)
    holder, key = data.draw(st.sampled_from(list(places(manifest))))
    holder[key] = data.draw(
        st.sampled_from(
            [
                *(None, True, -1, 1, 2**70, 1.5, float("nan"), float("inf"), "", "a\nb", "\ud800"),
                *([], {}, [1], [None], ["x"], [[]], [[1, 2, 3]], [[1, "x"]], [[True, 2]], {"x": 1}),
            ]
        )
    )
    path = tmp_path / "data" / "fer2013" / "1.0.0" / "manifest.json"
    path.write_text(json.dumps(manifest))
    try:
        page = inspection_page.render(inspection.inspect(tmp_path / "data"))
    except InputError as error:
        (line,) = str(error).splitlines()
        assert str(tmp_path / "data") in line
    else:
        assert page.endswith("</html>\n")

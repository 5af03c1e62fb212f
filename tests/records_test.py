import copy
import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fer_tfdata import conversion, ferplus, records, training
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EXPRESSIONS
from fer_tfdata.sources import KaggleCsv
from fer_tfdata.train_config import TrainConfig
from tests.ferplus_test import votes_on_every_row

SCHEMA = records.Schema((48, 48, 1), EXPRESSIONS)


@pytest.fixture
def data_dir(demo_data_dir: Path, tmp_path: Path) -> Path:
    """A copy of the demo data directory, for damaging."""
    return shutil.copytree(demo_data_dir, tmp_path / "data")


def dataset_directory(data_dir: Path) -> Path:
    return data_dir / "fer2013" / "1.0.0"


def manifest_of(data_dir: Path) -> dict[str, Any]:
    return json.loads((dataset_directory(data_dir) / "manifest.json").read_bytes())


def load(data_dir: Path, name: str) -> dict[str, np.ndarray]:
    return records.load_split(records.open_split(data_dir, name, verify=True))


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
        records.Serializer(SCHEMA).serialize(image, label, row)
        for image, (label, row, _) in zip(images, examples, strict=True)
    ]
    parsed = records.parse_batch(tf.constant(serialized), SCHEMA)
    assert set(parsed) == {"image", "label", "row"}
    assert parsed["image"].dtype == tf.uint8
    assert parsed["label"].dtype == parsed["row"].dtype == tf.int64
    np.testing.assert_array_equal(parsed["image"], images)
    np.testing.assert_array_equal(parsed["label"], [label for label, _, _ in examples])
    np.testing.assert_array_equal(parsed["row"], [row for _, row, _ in examples])


def test_parsing_works_within_a_dataset():
    images = np.arange(3 * 2304, dtype=np.int64).reshape(3, 48, 48, 1).astype(np.uint8)
    serializer = records.Serializer(SCHEMA)
    serialized = [serializer.serialize(image, 2, row) for row, image in enumerate(images)]
    dataset = (
        tf.data.Dataset.from_tensor_slices(serialized)
        .batch(3)
        .map(lambda batch: records.parse_batch(batch, SCHEMA))
    )
    assert dataset.element_spec["image"].shape.as_list() == [None, 48, 48, 1]
    (features,) = dataset.as_numpy_iterator()
    np.testing.assert_array_equal(features["image"], images)


def test_an_example_has_the_documented_form():
    image = np.arange(2304, dtype=np.int64).reshape(48, 48, 1).astype(np.uint8)
    example = tf.train.Example.FromString(records.Serializer(SCHEMA).serialize(image, 5, 17))
    features = example.features.feature
    assert set(features) == {"image", "label", "row"}
    assert list(features["image"].bytes_list.value) == [image.tobytes()]
    assert list(features["label"].int64_list.value) == [5]
    assert list(features["row"].int64_list.value) == [17]


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


@pytest.mark.parametrize(("label", "feature"), [(9, "image"), (0, "imagf")])
def test_records_of_another_content_are_noticed(data_dir: Path, label: int, feature: str):
    """Right checksums and sizes, and yet not what the schema says."""
    path = shard_path(data_dir)
    content = [bytes(record.numpy()) for record in tf.data.TFRecordDataset(str(path))]
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in content:
            example = tf.train.Example.FromString(record)
            example.features.feature["label"].int64_list.value[:] = [label]
            serialized = example.SerializeToString(deterministic=True)
            writer.write(serialized.replace(b"image", feature.encode()))
    split = records.open_split(data_dir, "validation")
    for read in (records.load_split, lambda split: list(records.read_batches(split, 10))):
        with pytest.raises(InputError, match="damaged") as caught:
            read(split)
        assert str(caught.value).startswith(f"{path}: ")


@pytest.mark.parametrize("batch_size", [1, 16, 35, 1000])
def test_batches_of_a_split_are_all_of_it(data_dir: Path, batch_size: int):
    split = records.open_split(data_dir, "validation")
    batches = list(records.read_batches(split, batch_size))
    assert [len(batch["row"]) for batch in batches[:-1]] == [batch_size] * (len(batches) - 1)
    for name, expected in records.load_split(split).items():
        np.testing.assert_array_equal(np.concatenate([batch[name] for batch in batches]), expected)


def test_what_is_not_asked_for_is_not_decoded(data_dir: Path):
    split = records.open_split(data_dir, "validation")
    # Of which no image could be decoded.
    larger = dataclasses.replace(split, schema=records.Schema((96, 96, 1), EXPRESSIONS))
    with pytest.raises(InputError, match="damaged"):
        records.load_split(larger, ["image"])
    loaded = records.load_split(larger, ["row"])
    assert loaded.keys() == {"row"}
    np.testing.assert_array_equal(loaded["row"], records.load_split(split)["row"])


def test_a_flipped_byte_of_an_image_is_noticed_where_only_votes_are_read(
    demo_csv: Path, tmp_path: Path
):
    votes = votes_on_every_row(demo_csv, tmp_path / "votes.csv")
    conversion.convert(KaggleCsv((demo_csv,)), tmp_path / "data", votes=votes)
    split = records.open_split(tmp_path / "data", "validation")
    expected = records.load_split(split)["votes"]
    np.testing.assert_array_equal(records.load_split(split, ["votes"])["votes"], expected)
    path = shard_path(tmp_path / "data")
    content = bytearray(path.read_bytes())
    content[1000] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        records.load_split(split, ["votes"])


def test_the_shards_paths_are_absolute(data_dir: Path, monkeypatch):
    monkeypatch.chdir(data_dir.parent)
    split = records.open_split(Path(data_dir.name), "validation")
    assert split.files == [str(shard_path(data_dir))]


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


@pytest.mark.parametrize("count", [34, 36])
def test_the_records_of_a_shard_are_counted_while_they_are_read(data_dir: Path, count: int):
    # Of a large shard, the size alone would not tell.
    split = records.open_split(data_dir, "validation")
    (shard,) = split.shards
    wrong = dataclasses.replace(
        split, examples=count, shards=[dataclasses.replace(shard, records=count)]
    )
    with pytest.raises(InputError, match=f"expected {count} records, received 35; convert"):
        records.load_split(wrong)


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
        (
            b'{"written_by": "fer_tfdata"}',
            f"expected schema version {records.SCHEMA_VERSION}, received None",
        ),
        (
            b'{"written_by": "fer_tfdata", "schema_version": 1}',
            f"expected schema version {records.SCHEMA_VERSION}, received 1; convert the source",
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
        ("splits", "train", "leaked_rows"),
        ("splits", "train", "unlabelled"),
        ("splits", "train", "ferplus_examples"),
        ("image_shape",),
        ("expressions",),
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


# Anything may have happened to the files; what is read is what was written, or it is an error.


@st.composite
def damaged(draw: st.DrawFn, content: bytes) -> bytes:
    """A few bytes changed, cut out or put in."""
    for _ in range(draw(st.integers(1, 3))):
        position = draw(st.integers(0, len(content)))
        length = draw(st.integers(0, 40))
        content = content[:position] + draw(st.binary(max_size=40)) + content[position + length :]
    return content


def read_or_error(data_dir: Path) -> tuple[str | None, dict[str, np.ndarray]]:
    """What reading the directory gives, which is removed then: an error's line, or the arrays."""
    try:
        return None, records.load_split(records.open_split(data_dir, "validation"))
    except InputError as error:
        (line,) = str(error).splitlines()
        return line, {}
    finally:
        shutil.rmtree(data_dir)


@pytest.fixture(scope="module")
def intact(demo_data_dir: Path) -> dict[str, np.ndarray]:
    return load(demo_data_dir, "validation")


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_shard_is_never_read_as_something_else(
    demo_data_dir: Path,
    intact: dict[str, np.ndarray],
    tmp_path_factory: pytest.TempPathFactory,
    data: st.DataObject,
):
    data_dir = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(demo_data_dir, data_dir)
    path = shard_path(data_dir)
    content = data.draw(damaged(path.read_bytes()))
    path.write_bytes(content)
    manifest = manifest_of(data_dir)
    manifest["splits"]["validation"]["shards"][0]["bytes"] = len(content)  # past the first check
    (dataset_directory(data_dir) / "manifest.json").write_text(json.dumps(manifest))
    message, arrays = read_or_error(data_dir)
    if message is None:
        for key, array in intact.items():
            np.testing.assert_array_equal(arrays[key], array)
    else:
        assert str(path) in message


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_manifest_is_read_or_an_error(
    demo_data_dir: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    data_dir = tmp_path_factory.mktemp("damaged") / "data"
    shutil.copytree(demo_data_dir, data_dir)
    path = dataset_directory(data_dir) / "manifest.json"
    path.write_bytes(data.draw(damaged(path.read_bytes())))
    message, arrays = read_or_error(data_dir)
    assert len(arrays["label"]) == 35 if message is None else str(data_dir) in message


ODD_VALUES = st.sampled_from(
    [
        *(None, True, False, -1, 0, 1, 2, 3, 70, 2**31, 2**40, 2**63, 2**70, 1.5, 70.0, -0.0),
        *(float("nan"), float("inf"), "", "x", "a\nb", "\0", "\ud800", "../../x", "/etc/passwd"),
        *([], {}, [1], [None], [[]], ["happy"], {"happy": 1}, [48, 48, 1], [48, 48, 3]),
        *([48, 48, -1], [0, 0, 0], [-48, -48, 1], [2304, 1, 1], [48, 48], [48, 48, 1, 1]),
        *([48.0, 48, 1], [16, 16, 1], [16, 16, 3], [28, 28, 3], [1, 48, 48], [24, 24, 4]),
        *([2**40, 2**40, 1], [2**31, 2**31, 3], [True, True, True], {"48": 1, "x": 2, "y": 3}),
    ]
) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
DAMAGED = r"the manifest is damaged|the counts of split"
READ_KEYS = ["written_by", "schema_version", "ferplus", "image_shape", "expressions"]


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every list and dictionary in it, with every place there."""
    if isinstance(value, dict | list):
        for key in value if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def change(manifest: dict[str, Any], data: st.DataObject) -> None:
    """Puts something else, or nothing, into places of a manifest."""
    for _ in range(data.draw(st.integers(1, 2))):
        holder, key = data.draw(st.sampled_from(list(places(manifest))))
        if data.draw(st.integers(0, 4)):
            # A copy, since the next change may be to what is put in now.
            holder[key] = copy.deepcopy(data.draw(ODD_VALUES))
        else:
            del holder[key]


@pytest.fixture(params=["demo_data_dir", "voted_data_dir"], ids=["plain", "voted"])
def own_data_dir(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A copy of a data directory, for changing its manifest again and again."""
    return shutil.copytree(request.getfixturevalue(request.param), tmp_path / "data")


@settings(
    max_examples=75, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_whatever_a_manifest_says_is_read_right_or_an_error_of_one_line(
    own_data_dir: Path, data: st.DataObject
):
    path = dataset_directory(own_data_dir) / "manifest.json"
    intact = path.read_bytes()
    manifest = json.loads(intact)
    read = {key: manifest[key] for key in READ_KEYS}
    read["splits"] = {"validation": manifest["splits"]["validation"]}
    change(read, data)
    path.write_text(json.dumps(read))
    try:
        split = records.open_split(own_data_dir, "validation", verify=True)
        arrays = records.load_split(split)
    except InputError as error:
        (line,) = str(error).splitlines()
        assert str(own_data_dir) in line
    else:
        assert arrays["image"].shape == (35, 48, 48, 1)
        assert split.ferplus_examples.keys() == (set(ferplus.KINDS) if "votes" in arrays else set())
        assert all(isinstance(row, int) for row in split.leaked_rows)
    finally:
        path.write_bytes(intact)


@pytest.mark.parametrize(
    ("keys", "value"),
    [
        *((("image_shape",), value) for value in ([48, 48, -1], [], [1], "x", [48.0, 48, 1])),
        *((("image_shape",), value) for value in ([48, None, 1], [2**40, 2**40, 1], [1, 48, 1])),
        *((("image_shape",), value) for value in ([16, 16, 1], [28, 28, 3], [48, 48, True])),
        *((("ferplus",), value) for value in ("x", {}, {"images_where_they_agree": 1})),
        *((("ferplus_examples",), value) for value in ("x", [], {}, {"ferplus_majority": 1})),
        *((("ferplus_examples", "ferplus_majority"), value) for value in (1.0, -1, 36, True, "1")),
        *((("per_expression",), value) for value in ([35], {}, {"angry": 35})),
        *((("leaked_rows",), value) for value in ([1.5], ["1"], [None], [-1], [2**63])),
        *((("near_leaked_rows",), value) for value in ([1.5], None)),
        *((("shards", 0, "file"), value) for value in ("", "../x", "a\0", 1)),
        *((("shards", 0, "records"), value) for value in (0, -1, 35.0, True, 2**70)),
        *((("shards", 0, "bytes"), value) for value in (None, -1, "x")),
        (("shards", 0, "sha256"), "0"),
        (("shards",), []),
    ],
    ids=str,
)
def test_a_damaged_manifest_is_called_so(
    voted_data_dir: Path, tmp_path: Path, keys: tuple, value: object
):
    data_dir = shutil.copytree(voted_data_dir, tmp_path / "data")
    manifest = manifest_of(data_dir)
    holder: Any = manifest if keys[0] in manifest else manifest["splits"]["validation"]
    for key in keys[:-1]:
        holder = holder[key]
    holder[keys[-1]] = value
    (dataset_directory(data_dir) / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(InputError, match=DAMAGED) as caught:
        records.open_split(data_dir, "validation")
    assert str(caught.value).startswith(str(dataset_directory(data_dir)))
    # And a training blames nothing else and leaves nothing behind.
    config = TrainConfig(data_dir=str(data_dir), epochs=1, batch_size=35)
    with pytest.raises(InputError, match=DAMAGED):
        training.train(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_manifest_nested_too_deeply_is_refused(data_dir: Path):
    (dataset_directory(data_dir) / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(InputError, match=r"manifest\.json: expected a readable manifest"):
        records.open_split(data_dir, "train")


def test_images_of_another_size_do_not_pass_for_fewer_or_more():
    serializer = records.Serializer(records.Schema((28, 28, 3), EXPRESSIONS))
    serialized = [serializer.serialize(np.zeros((28, 28, 3), np.uint8), 0, 0)] * 48
    with pytest.raises(tf.errors.InvalidArgumentError):  # as many bytes as 49 of the schema's
        records.parse_batch(tf.constant(serialized), SCHEMA)

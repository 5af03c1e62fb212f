import hashlib
import io
import os
import pickle
import random
import subprocess
import sys
import threading
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import joblib
import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from fer_tfdata import demo_faces, images
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.sources import ImageFolder, RawBatch, Source, parse_expression_names


def face(seed: int) -> npt.NDArray[np.uint8]:
    return demo_faces.draw_face(seed % 7, seed=seed)


def write_faces(root: Path, *paths: str) -> None:
    """Writes the faces of the seeds 0, 1, ... in the paths' order."""
    for seed, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(face(seed)).save(root / path)


def read(source: Source, *, num_parts: int = 1) -> RawBatch:
    """Returns all rows of a source as one batch."""
    batches: list[RawBatch] = []
    first_row = 0
    for part in source.parts(num_parts):
        of_part = list(part.batches(first_row))
        assert sum(len(b.rows) + len(b.bad_rows) for b in of_part) == part.count_rows()
        first_row += part.count_rows()
        batches += of_part
    return RawBatch(
        images=np.concatenate([batch.images for batch in batches]),
        labels=np.concatenate([batch.labels for batch in batches]),
        splits=[split for batch in batches for split in batch.splits],
        rows=np.concatenate([batch.rows for batch in batches]),
        bad_rows=[bad_row for batch in batches for bad_row in batch.bad_rows],
    )


def expressions_of(batch: RawBatch) -> list[str]:
    return [EIGHT_EXPRESSIONS[label] for label in batch.labels]


def paths_of(source: ImageFolder) -> list[str]:
    return [path for part in source.parts(1) for path in part.paths]


# Layouts and names


def test_gray_pngs_of_the_size_come_back_byte_for_byte(tmp_path: Path) -> None:
    folders = [f"{split}/{name}" for split in ("train", "test") for name in EXPRESSIONS]
    names = [f"{folder}/{n}.png" for folder in folders for n in range(3)]
    write_faces(tmp_path, *names)
    source = ImageFolder(tmp_path)
    batch = read(source)
    assert source.image_shape == (48, 48, 1)
    assert source.expressions == EXPRESSIONS
    order = sorted(range(len(names)), key=lambda seed: names[seed])
    np.testing.assert_array_equal(batch.images[..., 0], [face(seed) for seed in order])
    assert [f"{s}/{e}" for s, e in zip(batch.splits, expressions_of(batch), strict=True)] == [
        names[seed].rpartition("/")[0] for seed in order
    ]
    assert batch.images.dtype == np.uint8
    assert batch.labels.dtype == batch.rows.dtype == np.int64
    np.testing.assert_array_equal(batch.rows, np.arange(len(names)))
    assert not batch.bad_rows


def test_without_a_level_of_splits_all_is_train(tmp_path: Path) -> None:
    write_faces(tmp_path, "happy/1.png", "sad/deep/er/1.png", "sad/2.png")
    batch = read(ImageFolder(tmp_path))
    assert expressions_of(batch) == ["happy", "sad", "sad"]
    assert list(batch.splits) == ["train"] * 3


def test_names_are_known_in_any_case_and_by_their_synonyms(tmp_path: Path) -> None:
    write_faces(
        tmp_path,
        "TRAIN/Anger/1.PNG",
        "TRAIN/HAPPINESS/1.png",
        "TRAIN/Joy/1.png",
        "TRAIN/suprise/1.png",
        "Val/Fearful/1.png",
        "testing/Disgusted/1.png",
    )
    batch = read(ImageFolder(tmp_path))
    assert expressions_of(batch) == ["angry", "happy", "happy", "surprise", "fear", "disgust"]
    assert list(batch.splits) == ["train"] * 4 + ["validation", "test"]


def test_a_files_usage_decides_the_split(tmp_path: Path) -> None:
    write_faces(
        tmp_path,
        "test/happy/PrivateTest_1.png",
        "test/happy/PublicTest_1.png",
        "test/happy/PublicTestament.png",
        "test/happy/Training_1.png",
        "train/happy/PrivateTest_2.png",
        "train/happy/training.png",
    )
    splits = ["test", "validation", "test", "train", "test", "train"]
    assert list(read(ImageFolder(tmp_path)).splits) == splits


def test_labels_go_by_name_and_not_by_position(tmp_path: Path) -> None:
    write_faces(tmp_path, "neutral/1.png", "sad/1.png")
    assert read(ImageFolder(tmp_path)).labels.tolist() == [6, 4]


def test_contempt_makes_eight_expressions(tmp_path: Path) -> None:
    write_faces(tmp_path, "train/happy/1.png", "validation/Contempt/1.png")
    source = ImageFolder(tmp_path)
    assert source.expressions == EIGHT_EXPRESSIONS
    assert read(source).labels.tolist() == [3, 7]


RAF_DB = [
    *("1=surprise", "2=fear", "3=disgust", "4=happiness", "5=sadness", "6=anger", "7=neutral")
]


def test_numbers_are_the_expressions_that_one_says_they_are(tmp_path: Path) -> None:
    write_faces(tmp_path, *(f"train/{number}/a.png" for number in range(1, 8)), "test/ 4 /a.png")
    names = parse_expression_names(RAF_DB)
    source = ImageFolder(tmp_path, expression_names=names)
    batch = read(source)
    assert expressions_of(batch) == (
        ["happy", "surprise", "fear", "disgust", "happy", "sad", "angry", "neutral"]
    )
    assert batch.splits == ["test"] + ["train"] * 7
    assert source.expressions == EXPRESSIONS
    assert source.describe()["expression_names"] == {
        "1": "surprise",
        "2": "fear",
        "3": "disgust",
        "4": "happy",
        "5": "sad",
        "6": "angry",
        "7": "neutral",
    }
    (part,) = source.parts(1)
    assert pickle.loads(pickle.dumps(part)) == part


def test_a_name_of_any_case_may_be_given_a_meaning_beside_the_known_ones(tmp_path: Path) -> None:
    write_faces(tmp_path, "Verachtung/1.png", "sad/1.png")
    source = ImageFolder(tmp_path, expression_names=parse_expression_names(["VERACHTUNG=Contempt"]))
    assert source.expressions == EIGHT_EXPRESSIONS
    assert expressions_of(read(source)) == ["contempt", "sad"]


def test_a_number_without_a_meaning_stays_refused(tmp_path: Path) -> None:
    write_faces(tmp_path, "train/1/1.png", "train/8/1.png")
    with pytest.raises(InputError, match=r"train/8: .*=8=happy, or move away a folder"):
        ImageFolder(tmp_path, expression_names=parse_expression_names(RAF_DB)).parts(1)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["1"], "expected the name of a folder, = and one of angry, .*, received '1'"),
        (["=happy"], "received '=happy'"),
        (["1=bored"], "received '1=bored'"),
        (["1="], "received '1='"),
        ([""], "received ''"),
        (["a/b=sad"], "received 'a/b=sad'"),
        (["1=sad", " 1 =sad"], "each name once, .* received ' 1 =sad', and '1' means sad already"),
        (["x=sad", "X=happy"], "'x' means sad already"),
        (["anger=happy"], "'anger' means angry already"),
        (["Train=happy"], "'train' means train already"),
    ],
)
def test_names_that_mean_nothing_or_two_things_are_refused(
    texts: Sequence[str], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        parse_expression_names(texts)


# Images


def test_colour_jpegs_of_any_size_become_squares(tmp_path: Path) -> None:
    (tmp_path / "happy").mkdir()
    rng = np.random.default_rng(0)
    for index, shape in enumerate([(64, 64), (200, 31), (20, 47), (480, 640)]):
        pixels = np.kron(rng.integers(0, 256, (1, 1, 3)), np.ones((*shape, 1))).astype(np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"happy/{index}.jpg")
    for size, channels in ((48, 1), (64, 3), (33, 3)):
        source = ImageFolder(tmp_path, image_size=size, channels=channels)
        batch = read(source)
        assert batch.images.shape == (4, *source.image_shape)
        for index, image in enumerate(batch.images):
            path = tmp_path / f"happy/{index}.jpg"
            np.testing.assert_array_equal(image, images.read_square(path, size, channels=channels))


def test_images_that_cannot_be_read_are_bad_rows_in_their_place(tmp_path: Path) -> None:
    write_faces(tmp_path, "sad/a.png", "sad/c.png", "sad/g.png")
    content = (tmp_path / "sad/a.png").read_bytes()
    (tmp_path / "sad/b.png").write_bytes(content[: len(content) // 2])
    (tmp_path / "sad/d.jpg").write_bytes(b"")
    (tmp_path / "sad/e.txt").write_text("notes")
    (tmp_path / "sad/f.png").symlink_to("missing.png")
    os.mkfifo(tmp_path / "sad/pipe.png")
    (tmp_path / "sad/self.png").symlink_to("self.png")
    batch = read(ImageFolder(tmp_path))
    assert batch.rows.tolist() == [0, 2, 6]
    np.testing.assert_array_equal(batch.images[..., 0], [face(0), face(1), face(2)])
    assert [bad.row for bad in batch.bad_rows] == [1, 3, 4, 5, 7, 8]
    for bad, (name, reason) in zip(
        batch.bad_rows,
        [
            ("b.png", "expected a complete image, received: "),
            ("d.jpg", "received an empty file"),
            ("e.txt", "expected an image's suffix"),
            ("f.png", "received nothing there"),
            ("pipe.png", "received something that is not a file"),
            ("self.png", "received nothing there"),
        ],
        strict=True,
    ):
        assert bad.place == str(tmp_path / "sad" / name)
        assert reason in bad.reason
        assert bad.reason.startswith("expected ")
        assert "\n" not in bad.reason


def test_too_large_an_image_is_a_bad_row(tmp_path: Path) -> None:
    write_faces(tmp_path, "sad/a.png")
    header = bytearray((tmp_path / "sad/a.png").read_bytes()[:33])
    header[16:24] = (20_000).to_bytes(4, "big") * 2
    header[29:33] = zlib.crc32(header[12:29]).to_bytes(4, "big")
    (tmp_path / "sad/b.png").write_bytes(header + b"\0\0\0\x09IDAT")
    (bad,) = read(ImageFolder(tmp_path)).bad_rows
    assert "make it smaller" in bad.reason


def test_rows_may_all_be_bad(tmp_path: Path) -> None:
    (tmp_path / "sad").mkdir()
    (tmp_path / "sad/a.png").write_bytes(b"no image")
    batch = read(ImageFolder(tmp_path, image_size=20, channels=3))
    assert batch.images.shape == (0, 20, 20, 3)
    assert len(batch.bad_rows) == 1


# Listing


def test_the_order_is_that_of_the_paths_bytes_whatever_the_order_of_writing(
    tmp_path: Path,
) -> None:
    names = ["10.png", "9.png", "A.png", "a.png", "a-b.png", "a/1.png", "a/b/1.png", "a0.png"]
    names += ["\udcff.png", "é.png", "\U0001f600.png", "\uff21.png"]
    paths = [f"{top}/{name}" for top in ("happy", "Sad", "sadness") for name in names]
    for number, seed in enumerate((1, 2)):
        shuffled = random.Random(seed).sample(paths, len(paths))
        write_faces(tmp_path / str(number), *shuffled)
    first, second = (paths_of(ImageFolder(tmp_path / str(number))) for number in (0, 1))
    assert first == second == sorted(paths, key=os.fsencode)


def test_leftovers_are_no_rows(tmp_path: Path) -> None:
    write_faces(
        tmp_path,
        "train/sad/1.png",
        "train/sad/._1.png",
        "train/sad/.ipynb_checkpoints/1-checkpoint.png",
        "train/sad/__MACOSX/1.png",
        "train/__MACOSX/sad/1.png",
        "__MACOSX/train/sad/1.png",
        ".git/1.png",
    )
    for name in ("Thumbs.db", ".DS_Store", "desktop.ini"):
        for folder in ("", "train", "train/sad"):
            (tmp_path / folder / name).write_bytes(b"\0")
    for folder in ("", "train"):
        (tmp_path / folder / "README.txt").write_text("about")
    assert paths_of(ImageFolder(tmp_path)) == ["train/sad/1.png"]


def test_links_to_files_and_folders_are_followed(tmp_path: Path) -> None:
    write_faces(tmp_path / "store", "one.png", "more/two.png", "happy/three.png")
    root = tmp_path / "root"
    (root / "train/sad").mkdir(parents=True)
    (root / "train/sad/1.png").symlink_to(tmp_path / "store/one.png")
    (root / "train/sad/more").symlink_to(tmp_path / "store/more")
    (root / "train/sad/much_more").symlink_to(tmp_path / "store/more")
    (root / "train/happy").symlink_to(tmp_path / "store/happy")
    paths = ["train/happy/three.png", "train/sad/1.png", "train/sad/more/two.png"]
    assert paths_of(ImageFolder(root)) == paths
    batch = read(ImageFolder(root))
    np.testing.assert_array_equal(batch.images[..., 0], [face(2), face(0), face(1)])


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "../happy", "../../test"])
def test_a_link_back_into_the_folder_ends(tmp_path: Path, target: str) -> None:
    root = tmp_path / "root"
    paths = ["test/happy/1.png", "train/happy/1.png", "train/sad/1.png"]
    write_faces(root, *paths)
    (root / "train/happy/a").symlink_to(target)
    assert paths_of(ImageFolder(root)) == paths


def test_a_folder_under_two_expressions_is_refused(tmp_path: Path) -> None:
    write_faces(tmp_path, "train/happy/1.png")
    (tmp_path / "train/sad").symlink_to("happy")
    with pytest.raises(InputError, match=r"train/sad: .*a link to one that is read under another"):
        ImageFolder(tmp_path).parts(1)
    (tmp_path / "train/sad").unlink()
    (tmp_path / "test").symlink_to("train")
    with pytest.raises(InputError, match=r"train/happy: .*remove the link"):
        ImageFolder(tmp_path).parts(1)


def test_the_description_identifies_the_listing(tmp_path: Path) -> None:
    write_faces(tmp_path, "train/sad/2.png", "train/happy/1.png")
    sizes = {p: (tmp_path / p).stat().st_size for p in ("train/happy/1.png", "train/sad/2.png")}
    lines = "".join(f"{path}\t{size}\n" for path, size in sizes.items())
    description = ImageFolder(tmp_path).describe()
    assert description == {
        "directory": tmp_path.name,
        "files": 2,
        "bytes": sum(sizes.values()),
        "sha256": hashlib.sha256(lines.encode()).hexdigest(),
    }
    (tmp_path / "train/sad/2.png").rename(tmp_path / "train/sad/3.png")
    assert ImageFolder(tmp_path).describe()["sha256"] != description["sha256"]


def test_the_folder_of_the_shell_has_a_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_faces(tmp_path, "sad/2.png")
    monkeypatch.chdir(tmp_path)
    assert ImageFolder(Path()).describe()["directory"] == tmp_path.name


def test_the_folder_is_listed_once(tmp_path: Path) -> None:
    write_faces(tmp_path, "sad/1.png")
    source = ImageFolder(tmp_path)
    before = source.describe()
    write_faces(tmp_path, "contempt/1.png")
    assert source.expressions == EXPRESSIONS
    assert source.describe() == before
    assert ImageFolder(tmp_path).expressions == EIGHT_EXPRESSIONS


# Errors


@pytest.mark.parametrize(
    ("paths", "message"),
    [
        ([], "root: expected a folder that can be listed, received: No such file or directory"),
        (["."], "root: expected folders named after expressions .*contempt.*, received none"),
        (["train/"], "root/train: expected folders named after expressions .*, received none"),
        (
            ["train/0/1.png"],
            "root/train/0: .*an expression .*neutral.* received '0'; say .*--expression_names=0=",
        ),
        (
            ["0/1.png"],
            "root/0: .*an expression .*neutral.* or a split .*received '0'; .*=0=happy",
        ),
        (["train/sad/1.png", "train/bored/1.png"], "root/train/bored: .*received 'bored'"),
        (["sad/1.png", "data/1.png"], "root/data: .* received 'data'; rename it, or give"),
        (["train/train/sad/1.png"], "root/train/train: .*received 'train'"),
        (["sad/1.png", "1.png"], "root/1.png: expected images in folders named after expressions"),
        (["train/sad/1.png", "train/1.png"], "root/train/1.png: expected images in folders"),
        (["sad/1.png", "happy/"], "root/happy: expected images, received an empty folder"),
        (["sad/1.png", "happy/more/"], "root/happy: expected images, received an empty folder"),
        (["sad/1.png", "happy/.hidden/1.png"], "root/happy: .* an empty folder; remove it"),
        (["sad/1.txt", "sad/2.txt"], "root: expected images .* received 2 files of other kinds,"),
    ],
)
def test_a_folder_that_is_not_as_it_must_be_is_refused(
    tmp_path: Path, paths: Sequence[str], message: str
) -> None:
    root = tmp_path / "root"
    for path in paths:
        folder = root / path if path.endswith((".", "/")) else (root / path).parent
        folder.mkdir(parents=True, exist_ok=True)
        if folder != root / path:
            (root / path).write_bytes(b"content")
    for use in (
        lambda: ImageFolder(root).parts(1),
        lambda: ImageFolder(root).describe(),
        lambda: ImageFolder(root).expressions,
    ):
        with pytest.raises(InputError, match=message) as caught:
            use()
        assert "\n" not in str(caught.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "faces.zip").write_bytes(b"PK")
    with pytest.raises(InputError, match=r"faces\.zip: expected a folder .* Not a directory"):
        ImageFolder(tmp_path / "faces.zip").parts(1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image_size": 0}, "image_size must be at least 1. Got: 0"),
        ({"channels": 4}, r"channels must be 1 \(gray\) or 3 \(RGB\). Got: 4"),
    ],
)
def test_other_shapes_are_refused(
    tmp_path: Path, arguments: Mapping[str, int], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        ImageFolder(tmp_path, **arguments)


# Parts


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """150 files in two splits, every tenth damaged."""
    root = tmp_path_factory.mktemp("mixed")
    paths = [
        f"{('train', 'test')[n % 2]}/{EXPRESSIONS[n % 7]}/{n * 37 % 150}.png" for n in range(150)
    ]
    write_faces(root, *paths)
    for path in paths[::10]:
        (root / path).write_bytes(b"damaged")
    return root


@settings(max_examples=25, deadline=None)
@given(count=st.integers(1, 400))
def test_any_number_of_parts_gives_the_same_rows(mixed_folder: Path, count: int) -> None:
    source = ImageFolder(mixed_folder)
    parts = source.parts(count)
    counts = [part.count_rows() for part in parts]
    assert len(parts) <= count
    assert min(counts) >= 16
    assert max(counts) - min(counts) <= 1
    whole, cut = read(source), read(source, num_parts=count)
    np.testing.assert_array_equal(cut.images, whole.images)
    np.testing.assert_array_equal(cut.labels, whole.labels)
    np.testing.assert_array_equal(cut.rows, whole.rows)
    assert cut.splits == whole.splits
    assert cut.bad_rows == whole.bad_rows
    assert len(whole.bad_rows) == 15


def test_few_files_are_one_part(tmp_path: Path) -> None:
    write_faces(tmp_path, "sad/1.png", "sad/2.png")
    assert [part.count_rows() for part in ImageFolder(tmp_path).parts(8)] == [2]


def test_a_part_can_be_pickled(mixed_folder: Path) -> None:
    part = ImageFolder(mixed_folder).parts(3)[1]
    again = pickle.loads(pickle.dumps(part))
    assert again == part
    for batch, same in zip(part.batches(7), again.batches(7), strict=True):
        np.testing.assert_array_equal(batch.images, same.images)
        np.testing.assert_array_equal(batch.rows, same.rows)


def test_large_files_are_read_by_several_threads_in_the_same_order(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "sad").mkdir()
    for index in range(70):
        pixels = rng.integers(0, 256, (150, 150), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"sad/{index:02}.png", compress_level=0)
    (part,) = ImageFolder(tmp_path).parts(1)
    assert part.num_threads == min(joblib.cpu_count(), 4)
    batches = list(part.batches(5))
    assert (len(batches) > 1) == (part.num_threads > 1)
    assert [row for batch in batches for row in batch.rows] == list(range(5, 75))
    for index in (0, 33, 69):
        image = np.concatenate([batch.images for batch in batches])[index]
        path = tmp_path / f"sad/{index:02}.png"
        np.testing.assert_array_equal(image, images.read_square(path, 48, channels=1))


def test_memory_is_bounded_for_large_squares(tmp_path: Path) -> None:
    write_faces(tmp_path, *(f"sad/{index}.png" for index in range(9)))
    (part,) = ImageFolder(tmp_path, image_size=1024, channels=3).parts(1)
    assert max(batch.images.nbytes for batch in part.batches(0)) <= 8 << 20


def test_reading_that_is_given_up_leaves_no_thread(mixed_folder: Path) -> None:
    (part,) = ImageFolder(mixed_folder).parts(1)
    num_threads = threading.active_count()
    batches = part.batches(0)
    next(batches)
    assert threading.active_count() > num_threads
    del batches
    assert threading.active_count() == num_threads


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_content_of_a_file_is_a_row_or_a_bad_row(tmp_path: Path, data: st.DataObject) -> None:
    buffer = io.BytesIO()
    Image.fromarray(face(0)).save(buffer, data.draw(st.sampled_from(["PNG", "JPEG", "GIF"])))
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "sad").mkdir(exist_ok=True)
    (tmp_path / "sad/1.png").write_bytes(content[: data.draw(st.integers(0, len(content)))])
    batch = read(ImageFolder(tmp_path))
    assert len(batch.rows) + len(batch.bad_rows) == 1
    assert batch.images.shape == (len(batch.rows), 48, 48, 1)


def test_importing_imports_no_tensorflow() -> None:
    code = (
        "import sys, fer_tfdata.sources.image_folder;"
        "assert not {'tensorflow', 'keras'} & {*sys.modules}"
    )
    subprocess.run([sys.executable, "-c", code], check=True)

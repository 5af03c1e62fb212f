import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fer_tfdata import audit as auditing
from fer_tfdata import demo_faces, near_duplicates
from fer_tfdata.audit import Findings, TableWriter
from fer_tfdata.expressions import NO_LABEL

# Far from each other, so that no two are nearly the same.
PATTERNS = np.random.default_rng(0).integers(0, 256, (256, 48, 48, 1)).astype(np.uint8)


def faces(*numbers: int) -> npt.NDArray[np.uint8]:
    """Images uint8 [n, 48, 48, 1], one for each number."""
    return PATTERNS[list(numbers)]


def findings(
    tmp_path: Path,
    images: npt.NDArray[np.uint8],
    labels: Sequence[int],
    splits: Sequence[str],
    *,
    rows: Sequence[int] | None = None,
    votes: npt.NDArray[np.int64] | None = None,
    batch_size: int = 100,
    num_tables: int = 1,
) -> Findings:
    """Writes the table in batches and parts, and returns what is found in it."""
    rows = range(len(images)) if rows is None else rows
    bounds = np.linspace(0, len(images), num_tables + 1).astype(int)
    tables = []
    for part, (begin, end) in enumerate(itertools.pairwise(bounds.tolist())):
        tables.append(tmp_path / f"{part}.table")
        with TableWriter(tables[-1]) as writer:
            for first in range(begin, end, batch_size):
                chosen = slice(first, min(first + batch_size, end))
                writer.add(
                    images[chosen],
                    np.array(labels[chosen], np.int64),
                    splits[chosen],
                    np.array(rows[chosen], np.int64),
                    None if votes is None else votes[chosen],
                )
    return auditing.report(tables, tmp_path, num_expressions=7, votes=votes is not None)


def audit(tmp_path: Path, *rows: tuple[int, int, str], **options: int) -> auditing.Audit:
    """The report on (image, label, split) a row, numbered from 0."""
    numbers, labels, splits = zip(*rows, strict=True)
    return findings(tmp_path, faces(*numbers), labels, splits, **options).audit


def test_distinct_images_give_nothing_to_report(tmp_path: Path):
    report = audit(tmp_path, (1, 0, "train"), (2, 0, "train"), (3, 1, "validation"), (4, 2, "test"))
    assert report.duplicates == {"train": 0, "validation": 0, "test": 0}
    assert report.leaked_rows == {"validation": [], "test": []}
    assert report.near_leaked_rows == {"validation": [], "test": []}
    assert list(report.duplicate_groups) == list(report.conflicting_groups) == []
    assert list(report.near_duplicate_pairs) == []
    assert list(report.flat_rows) == list(report.almost_flat_rows) == []
    assert report.not_a_face_rows is None


def test_duplicates_are_counted_within_their_split(tmp_path: Path):
    report = audit(
        tmp_path,
        *[(1, 0, "train")] * 3,
        (2, 0, "train"),
        (2, 0, "train"),
        (5, 0, "validation"),
        (5, 0, "test"),  # once in each of two splits is no duplicate
        (6, 0, "test"),
        (6, 0, "test"),
    )
    assert report.duplicates == {"train": 3, "validation": 0, "test": 1}
    assert report.duplicate_groups == [[0, 1, 2], [3, 4], [5, 6], [7, 8]]


@pytest.mark.parametrize("num_tables", [1, 3])
@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_leaks_are_found_whichever_comes_first(tmp_path: Path, batch_size: int, num_tables: int):
    report = audit(
        tmp_path,
        (7, 3, "test"),  # row 0: its twin of train comes last
        (1, 0, "train"),
        (1, 0, "validation"),  # row 2
        (8, 0, "validation"),
        (8, 0, "test"),  # between validation and test: no leak from train
        (1, 0, "validation"),  # row 5, and a duplicate
        (1, 0, "test"),  # row 6
        (7, 3, "train"),
        batch_size=batch_size,
        num_tables=num_tables,
    )
    assert report.leaked_rows == {"test": [0, 6], "validation": [2, 5]}
    assert report.duplicates == {"test": 0, "train": 0, "validation": 1}
    assert list(report.conflicting_groups) == []


def test_conflicts_are_counted_per_image_and_across_splits(tmp_path: Path):
    report = audit(
        tmp_path,
        (1, 0, "train"),
        (1, 1, "train"),
        (1, 2, "train"),  # three labels, one image
        (2, 4, "train"),
        (2, 5, "test"),
        (3, 6, "validation"),
        (3, 6, "test"),
        (4, 6, "train"),
        (4, NO_LABEL, "test"),  # what has no label contradicts none
    )
    assert report.conflicting_groups == [[0, 1, 2], [3, 4]]


def test_one_pixel_makes_another_image_that_is_nearly_the_same(tmp_path: Path):
    face = demo_faces.draw_face(3, seed=0).reshape(1, 48, 48, 1)
    images = np.concatenate([face, face])
    images[1, 47, 47, 0] ^= 1
    report = findings(tmp_path, images, [0, 1], ["train", "test"]).audit
    assert report.leaked_rows == {"validation": [], "test": []}
    assert report.near_leaked_rows == {"validation": [], "test": [1]}
    assert report.near_duplicate_pairs == [[0, 1]]
    assert list(report.conflicting_groups) == []


def test_of_equal_images_the_first_stands_for_all_in_the_near_duplicates(tmp_path: Path):
    face = demo_faces.draw_face(3, seed=0).reshape(1, 48, 48, 1)
    images = np.concatenate([face, face, face, face])
    images[2:, 0, 0, 0] ^= 1
    report = findings(tmp_path, images, [0] * 4, ["train"] * 4, rows=[3, 5, 8, 9]).audit
    assert report.duplicate_groups == [[3, 5], [8, 9]]
    assert report.near_duplicate_pairs == [[3, 8]]


def test_near_leaks_are_found_whichever_row_stands_for_equal_images(tmp_path: Path):
    face = demo_faces.draw_face(3, seed=0).reshape(1, 48, 48, 1)
    images = np.concatenate([face] * 6)
    images[2:, 0, 0, 0] ^= 1
    # Rows 0 and 1 are equal, and so are 2 to 5; both groups begin outside of train.
    splits = ["test", "validation", "test", "train", "validation", "test"]
    report = findings(tmp_path, images, [0] * 6, splits).audit
    assert report.near_duplicate_pairs == [[0, 2]]
    assert report.near_leaked_rows == {"validation": [1], "test": [0]}
    assert report.leaked_rows == {"validation": [4], "test": [2, 5]}


def test_images_need_not_be_contiguous(tmp_path: Path):
    images = faces(1, 2, 1, 2)
    images[0, 0, 0] = images[2, 0, 0] = 5
    with TableWriter(tmp_path / "table") as writer:
        writer.add(images[::2], np.array([0, 0]), ["train"] * 2, np.array([0, 2]))
        writer.add(np.asfortranarray(images[:1]), np.array([0]), ["test"], np.array([4]))
    report = auditing.report([tmp_path / "table"], tmp_path, num_expressions=7, votes=False).audit
    assert report.duplicates == {"train": 1, "validation": 0, "test": 0}
    assert report.leaked_rows["test"] == [4]


def test_rows_keep_the_numbers_of_the_source(tmp_path: Path):
    report = findings(
        tmp_path, faces(1, 1), [0, 0], ["train", "test"], rows=[10**12, 10**12 + 5]
    ).audit
    assert report.leaked_rows["test"] == [10**12 + 5]


@pytest.mark.parametrize("channels", [1, 3])
def test_flat_and_almost_flat_images_are_told_apart(tmp_path: Path, channels: int):
    rng = np.random.default_rng(0)
    images = np.zeros((5, 20, 20, channels), np.uint8)
    images[1] = 255
    if channels == 3:
        images[0] = (255, 0, 0)  # one colour, though its channels differ
    images[2] = rng.normal(100, 5, images[2].shape)
    images[3] = rng.normal(100, 12, images[3].shape)
    images[4] = rng.integers(0, 256, images[4].shape)
    report = findings(tmp_path, images, [0] * 5, ["train"] * 5).audit
    assert report.flat_rows == [0, 1]
    assert report.almost_flat_rows == [2]


def test_what_the_voters_found_to_be_no_face(tmp_path: Path):
    votes = np.zeros((3, 10), np.int64)
    votes[0, 9] = 10
    votes[1, [0, 9]] = 5
    votes[2, 0] = 10
    found = findings(tmp_path, faces(1, 2, 3), [0] * 3, ["train"] * 3, votes=votes)
    assert found.audit.not_a_face_rows == [0]
    assert found.rows_to_drop(get_args(auditing.DropReason)) == {0: ["not_a_face"]}


def test_imbalance_is_the_greatest_count_by_the_least(tmp_path: Path):
    labels = [0, 1, 2, 3, 3, 3, 4, 5, 6, 6, 0]
    splits = ["train"] * 10 + ["test"]
    report = findings(tmp_path, faces(*range(11)), labels, splits).audit
    assert report.imbalance == {"train": 3.0, "test": None}


def test_reasons_are_those_of_training_rows_alone(tmp_path: Path):
    found = findings(
        tmp_path,
        faces(1, 1, 2, 2, 3, 3),
        [0, 0, 1, 2, 4, 5],
        ["train", "test", "train", "validation", "validation", "test"],
    )
    assert found.rows_to_drop(get_args(auditing.DropReason)) == {
        0: ["leaks"],
        2: ["leaks", "conflicts"],
    }


def test_a_leak_ends_when_all_its_training_rows_are_dropped(tmp_path: Path):
    found = findings(
        tmp_path, faces(1, 1, 1, 2, 2), [0] * 5, ["train", "train", "test", "train", "test"]
    )
    assert found.leaked_rows_without(()) == {"validation": [], "test": [2, 4]}
    assert found.leaked_rows_without({0}) == {"validation": [], "test": [2, 4]}
    assert found.leaked_rows_without({0, 1}) == {"validation": [], "test": [4]}


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_near_leaks_are_found_whichever_row_stands_for_a_signature(
    tmp_path: Path, order: Sequence[int]
):
    face = np.clip(demo_faces.draw_face(3, seed=0), 1, 254).reshape(48, 48, 1)
    # Three that differ by a shade, which a signature does not see, and one by a step to the side.
    images = np.stack([face, face + 1, face - 1, np.roll(face, 1, axis=1)])[list(order)]
    splits = [("train", "test", "validation", "validation")[place] for place in order]
    found = findings(tmp_path, images, [0] * 4, splits)
    by_row = {"validation": sorted(order.index(n) for n in (2, 3)), "test": [order.index(1)]}
    assert found.audit.near_leaked_rows == by_row
    nothing = {"validation": [], "test": []}
    assert found.near_leaked_rows_without({order.index(0)}) == nothing


def test_a_near_leak_is_one_of_what_train_keeps(tmp_path: Path):
    face = demo_faces.draw_face(3, seed=0).reshape(1, 48, 48, 1)
    images = np.concatenate([face] * 6)
    images[4:, 0, 0, 0] ^= 1
    # Rows 0 to 3 are equal, and so are 4 and 5.
    splits = ["train", "validation", "train", "test", "train", "test"]
    found = findings(tmp_path, images, [0] * 6, splits)
    nothing = {"validation": [], "test": []}
    assert found.audit.near_leaked_rows == found.near_leaked_rows_without(()) == nothing
    assert found.near_leaked_rows_without({0}) == nothing  # row 2 equals row 0
    assert found.near_leaked_rows_without({0, 2}) == {"validation": [1], "test": [3]}
    assert found.near_leaked_rows_without({4}) == {"validation": [], "test": [5]}
    assert found.near_leaked_rows_without({0, 2, 4}) == nothing


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32), st.sets(st.integers(0, 24)))
@example(2475076, set())
def test_what_leaks_is_what_a_look_at_every_row_finds(
    tmp_path_factory: pytest.TempPathFactory, seed: int, dropped: set[int]
):
    rng = np.random.default_rng(seed)
    images = faces(*rng.integers(0, 6, 25).tolist()).copy()
    images[:, 0, 0, 0] = rng.integers(0, 3, 25)  # by which equal ones become nearly equal
    splits = [str(split) for split in rng.choice(["train", "train", "validation", "test"], 25)]
    found = findings(tmp_path_factory.mktemp("audit"), images, [0] * 25, splits, num_tables=3)
    pixels = [image.tobytes() for image in images]
    # What is near one image is near all with its signature.
    alike = [near_duplicates.signatures(image[np.newaxis]).tobytes() for image in images]
    pairs = {(alike[a], alike[b]) for a, b in found.audit.near_duplicate_pairs}
    pairs |= {(b, a) for a, b in pairs} | {(one, one) for one in alike}
    kept = {
        pixels[row]: alike[row]
        for row in range(25)
        if splits[row] == "train" and row not in dropped
    }
    equal, near = ({split: [] for split in ("validation", "test")} for _ in range(2))
    for row in range(25):
        if splits[row] != "train":
            if pixels[row] in kept:
                equal[splits[row]].append(row)
            elif any((alike[row], other) in pairs for other in kept.values()):
                near[splits[row]].append(row)
    assert found.leaked_rows_without(dropped) == equal
    assert found.near_leaked_rows_without(dropped) == near


def test_the_arguments_must_have_one_length(tmp_path: Path):
    with TableWriter(tmp_path / "table") as writer, pytest.raises(ValueError, match="broadcast"):
        writer.add(faces(1, 2), np.array([0, 1, 2]), ["train"] * 2, np.array([0, 1]))


def test_nothing_added_gives_an_empty_report(tmp_path: Path):
    TableWriter(tmp_path / "table").__exit__()
    report = auditing.report([tmp_path / "table"], tmp_path, num_expressions=7, votes=False).audit
    assert report.duplicates == {"train": 0, "validation": 0, "test": 0}
    assert report.imbalance == {}
    assert list(report.near_duplicate_pairs) == []


def test_the_manifest_form_survives_json(tmp_path: Path):
    report = audit(tmp_path, (1, 0, "train"), (1, 1, "test"))
    assert json.loads(json.dumps(report.to_json())) == {
        "duplicates": {"train": 0, "validation": 0, "test": 0},
        "duplicate_groups": [[0, 1]],
        "leaked_rows": {"validation": [], "test": [1]},
        "conflicting_groups": [[0, 1]],
        "near_duplicate_pairs": [],
        "near_leaked_rows": {"validation": [], "test": []},
        "flat_rows": [],
        "almost_flat_rows": [],
        "not_a_face_rows": None,
        "imbalance": {"train": None, "test": None},
    }

import json
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pytest

from fer_tfdata.audit import Audit, Auditor


def faces(*tones: int) -> npt.NDArray[np.uint8]:
    """Images [n, 48, 48, 1] of one tone each."""
    return np.broadcast_to(
        np.array(tones, np.uint8).reshape(-1, 1, 1, 1), (len(tones), 48, 48, 1)
    ).copy()


def audit(*rows: tuple[int, int, str], batch_size: int = 100) -> Audit:
    """The report on (tone, label, split) a row, numbered from 0."""
    auditor = Auditor()
    for first in range(0, len(rows), batch_size):
        tones, labels, splits = zip(*rows[first : first + batch_size], strict=True)
        auditor.add(
            faces(*tones),
            np.array(labels, np.int64),
            splits,
            np.arange(first, first + len(tones), dtype=np.int64),
        )
    return auditor.report()


def leaked(report: Audit) -> dict[str, Sequence[int]]:
    return {split: list(rows) for split, rows in report.leaked_rows.items()}


def test_distinct_images_give_nothing_to_report():
    report = audit((1, 0, "train"), (2, 0, "train"), (3, 1, "validation"), (4, 2, "test"))
    assert report.duplicates == {"train": 0, "validation": 0, "test": 0}
    assert leaked(report) == {"validation": [], "test": []}
    assert report.conflicting_labels == 0


def test_duplicates_are_counted_within_their_split():
    report = audit(
        *[(1, 0, "train")] * 3,
        (2, 0, "train"),
        (2, 0, "train"),
        (5, 0, "validation"),
        (5, 0, "test"),  # once in each of two splits is no duplicate
        (6, 0, "test"),
        (6, 0, "test"),
    )
    assert report.duplicates == {"train": 3, "validation": 0, "test": 1}


@pytest.mark.parametrize("batch_size", [1, 2, 100])
def test_leaks_are_found_whichever_comes_first(batch_size: int):
    report = audit(
        (7, 3, "test"),  # row 0: its twin of train comes last
        (1, 0, "train"),
        (1, 0, "validation"),  # row 2
        (8, 0, "validation"),
        (8, 0, "test"),  # between validation and test: no leak from train
        (1, 0, "validation"),  # row 5, and a duplicate
        (1, 0, "test"),  # row 6
        (7, 3, "train"),
        batch_size=batch_size,
    )
    assert leaked(report) == {"test": [0, 6], "validation": [2, 5]}
    assert report.duplicates == {"test": 0, "train": 0, "validation": 1}
    assert report.conflicting_labels == 0


def test_conflicts_are_counted_per_image_and_across_splits():
    report = audit(
        (1, 0, "train"),
        (1, 1, "train"),
        (1, 2, "train"),  # three labels, one image
        (2, 4, "train"),
        (2, 5, "test"),
        (3, 6, "validation"),
        (3, 6, "test"),
    )
    assert report.conflicting_labels == 2


def test_one_pixel_makes_another_image():
    images = faces(9, 9)
    images[1, 47, 47, 0] += 1
    auditor = Auditor()
    auditor.add(images, np.array([0, 1]), ["train", "test"], np.array([0, 1]))
    report = auditor.report()
    assert leaked(report) == {"test": []}
    assert report.conflicting_labels == 0


def test_images_need_not_be_contiguous():
    images = faces(1, 2, 1, 2)
    images[0, 0, 0] = images[2, 0, 0] = 5
    auditor = Auditor()
    auditor.add(images[::2], np.array([0, 0]), ["train"] * 2, np.array([0, 2]))
    auditor.add(np.asfortranarray(images[:1]), np.array([0]), ["test"], np.array([4]))
    report = auditor.report()
    assert report.duplicates == {"train": 1, "test": 0}
    assert leaked(report) == {"test": [4]}


def test_rows_keep_the_numbers_of_the_source():
    auditor = Auditor()
    auditor.add(faces(1), np.array([0]), ["train"], np.array([10**9]))
    auditor.add(faces(1), np.array([0]), ["test"], np.array([10**9 + 5]))
    assert leaked(auditor.report()) == {"test": [10**9 + 5]}


def test_the_arguments_must_have_one_length():
    with pytest.raises(ValueError, match=r"shorter|longer"):
        Auditor().add(faces(1, 2), np.array([0]), ["train"] * 2, np.array([0, 1]))


def test_nothing_added_gives_an_empty_report():
    assert Auditor().report() == Audit(duplicates={}, leaked_rows={}, conflicting_labels=0)


def test_the_manifest_form_survives_json():
    report = audit((1, 0, "train"), (1, 1, "test"))
    assert json.loads(json.dumps(report.to_json())) == {
        "duplicates": {"train": 0, "test": 0},
        "leaked_rows": {"test": [1]},
        "conflicting_labels": 1,
    }

import dataclasses
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest

from fer_tfdata import demo_faces, near_duplicates
from fer_tfdata.errors import InputError

Images = npt.NDArray[np.uint8]

NUM_FACES = 300


@pytest.fixture(scope="module")
def faces() -> Images:
    """Drawn faces with a margin to crop from, uint8 [n, 56, 56]."""
    return np.stack([demo_faces.draw_face(i % 7, seed=i, size=56) for i in range(NUM_FACES)])


def cropped(faces: Images, down: int = 4, right: int = 4, size: int = 48) -> Images:
    """Returns the faces as a source yields them, [n, 48, 48, 1]."""
    crops = faces[:, down : down + size, right : right + size]
    return np.stack([cv2.resize(crop, (48, 48), interpolation=cv2.INTER_AREA) for crop in crops])[
        ..., None
    ]


def reencoded(images: Images) -> Images:
    encoded = [cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 40])[1] for image in images]
    decoded = [np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)) for jpeg in encoded]
    return np.stack(decoded)[..., None]


def retoned(images: Images) -> Images:
    return (images * 0.6 + 30).astype(np.uint8)


def captioned(images: Images) -> Images:
    with_caption = images.copy()
    with_caption[:, 44:, 10:30] = 255
    return with_caption


def pairs_of(*parts: Images) -> set[tuple[int, int]]:
    table = near_duplicates.signatures(np.concatenate(parts))
    return {(int(first), int(second)) for first, second in near_duplicates.search(table).pairs}


def random_table(num_rows: int) -> npt.NDArray[np.void]:
    """Returns signatures of smooth random pictures, with a near-duplicate of every fifth."""
    rng = np.random.default_rng(7)
    table = np.empty(num_rows, near_duplicates.SIGNATURE_DTYPE)
    values = rng.normal(0, 31, table["coefficients"].shape)
    values[4::5] = values[:-4:5] + rng.normal(size=values[4::5].shape) * 2
    table["coefficients"] = np.clip(values, -127, 127)
    return table


@dataclasses.dataclass(frozen=True)
class Alteration:
    """How copies are altered, and which share of them is found at least."""

    apply: Callable[[Images], Images]
    least_share: float


ALTERATIONS = {
    "re-encoded": Alteration(lambda faces: reencoded(cropped(faces)), 1.0),
    "another brightness and contrast": Alteration(lambda faces: retoned(cropped(faces)), 1.0),
    "captioned": Alteration(lambda faces: captioned(cropped(faces)), 0.7),
    "shifted by a pixel": Alteration(lambda faces: cropped(faces, down=5, right=3), 0.98),
    "shifted by two pixels": Alteration(lambda faces: cropped(faces, down=2, right=4), 0.95),
    "cropped more tightly": Alteration(lambda faces: cropped(faces, down=6, right=6, size=44), 0.8),
    "all of it": Alteration(
        lambda faces: retoned(reencoded(cropped(faces, down=5, right=5, size=45))), 0.95
    ),
}


@pytest.mark.parametrize("alteration", ALTERATIONS)
def test_altered_copies_are_found(faces: Images, alteration: str) -> None:
    found = pairs_of(cropped(faces), ALTERATIONS[alteration].apply(faces))
    planted = {(i, i + NUM_FACES) for i in range(NUM_FACES)}
    assert len(planted & found) >= ALTERATIONS[alteration].least_share * NUM_FACES


def test_different_drawn_faces_are_no_near_duplicates(faces: Images) -> None:
    # They are drawn by one hand, and yet no two of these are alike enough.
    assert not pairs_of(cropped(faces))


def test_mirrored_copies_are_not_found(faces: Images) -> None:
    images = cropped(faces[:50])
    mirrored = {(i, i + 50) for i in range(50)}
    assert len(mirrored & pairs_of(images, images[:, :, ::-1])) <= 5


def test_a_copy_in_another_size_and_in_colour_is_found() -> None:
    small = np.stack([demo_faces.draw_face(3, seed=i, size=48) for i in range(20)])
    large = np.stack([demo_faces.draw_face(3, seed=i, size=96) for i in range(20)])
    table = np.concatenate(
        [
            near_duplicates.signatures(small[..., None]),
            near_duplicates.signatures(np.repeat(large[..., None], 3, axis=3)),
        ]
    )
    found = {tuple(pair) for pair in near_duplicates.search(table).pairs.tolist()}
    assert found >= {(i, i + 20) for i in range(20)}


def test_a_signature_is_small() -> None:
    assert near_duplicates.SIGNATURE_DTYPE.itemsize <= 96


def test_signatures_do_not_depend_on_the_batches(faces: Images) -> None:
    images = cropped(faces)
    whole = near_duplicates.signatures(images)
    for size in (1, 7, 100):
        parts = [
            near_duplicates.signatures(images[start : start + size])
            for start in range(0, len(images), size)
        ]
        assert np.concatenate(parts).tobytes() == whole.tobytes()


@pytest.mark.parametrize("size", [16, 47, 50, 200])
def test_signatures_do_not_depend_on_brightness_and_contrast_at_any_size(size: int) -> None:
    dark = demo_faces.draw_face(0, seed=1, size=size)[None, :, :, None] // 3
    before, after = near_duplicates.signatures(np.concatenate([dark, dark * 2 + 50]))
    np.testing.assert_array_equal(before["coefficients"], after["coefficients"])


def test_images_of_one_colour_have_no_near_duplicates() -> None:
    flat = np.repeat(np.arange(10, dtype=np.uint8), 48 * 48).reshape(10, 48, 48, 1)
    table = near_duplicates.signatures(flat)
    assert not table["coefficients"].any()
    assert near_duplicates.search(table).pairs.shape == (0, 2)


@pytest.mark.parametrize("num_rows", [0, 1])
def test_no_row_and_one_row_have_no_pairs(faces: Images, num_rows: int) -> None:
    found = near_duplicates.search(near_duplicates.signatures(cropped(faces)[:num_rows])).pairs
    assert found.shape == (0, 2)
    assert found.dtype == np.int64


def test_pairs_are_ascending_and_each_comes_once(faces: Images) -> None:
    images = cropped(faces[:100])
    found = near_duplicates.search(
        near_duplicates.signatures(np.concatenate([images, reencoded(images), retoned(images)]))
    ).pairs
    assert (found[:, 0] < found[:, 1]).all()
    assert [tuple(pair) for pair in found] == sorted({tuple(pair) for pair in found})


def test_a_table_on_disk_gives_the_same_pairs(tmp_path: Path) -> None:
    table = random_table(1000)
    table.tofile(tmp_path / "signatures")
    mapped = np.memmap(tmp_path / "signatures", near_duplicates.SIGNATURE_DTYPE, "r")
    np.testing.assert_array_equal(
        near_duplicates.search(mapped).pairs, near_duplicates.search(table).pairs
    )


def test_passes_do_not_change_the_result(monkeypatch: pytest.MonkeyPatch) -> None:
    table = random_table(3000)
    table[100:1200:2] = table[100]  # equal ones that stand in several passes
    whole = near_duplicates.search(table)
    monkeypatch.setattr(near_duplicates, "_ROWS_A_READ", 300)
    in_passes = near_duplicates.search(table, rows_a_pass=512)
    np.testing.assert_array_equal(in_passes.pairs, whole.pairs)
    assert (in_passes.comparisons, in_passes.alignments) == (whole.comparisons, whole.alignments)
    assert len(whole.pairs) > 549


def test_a_pass_of_part_of_a_block_is_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 512"):
        near_duplicates.search(random_table(10), rows_a_pass=100)


def test_equal_signatures_are_paired_with_the_first_alone(faces: Images) -> None:
    images = cropped(faces[:3])
    table = near_duplicates.signatures(np.concatenate([images, reencoded(images[:1])]))
    crowd = np.concatenate([table[:3], np.repeat(table[:1], 50_000), table[3:]])
    result = near_duplicates.search(crowd)
    expected = [(0, i) for i in range(3, 50_004)]
    assert sorted(map(tuple, result.pairs.tolist())) == expected
    assert result.comparisons < 1000


def test_a_crowd_of_near_duplicates_does_not_become_quadratic(faces: Images) -> None:
    num_rows = 1000
    noise = np.random.default_rng(0).integers(0, 8, (num_rows, 48, 48, 1), np.uint8)
    table = near_duplicates.signatures(cropped(faces[:1]) // 2 + noise)
    result = near_duplicates.search(table)
    assert result.alignments <= 50 * num_rows
    assert len(result.pairs) <= 50 * num_rows
    assert len(np.unique(result.pairs)) == num_rows


def test_comparisons_grow_with_the_rows_and_hardly_faster() -> None:
    few, many = (near_duplicates.search(random_table(rows)).comparisons for rows in (2048, 8192))
    assert many <= 4 * few * 4 / 2 * 1.2  # four orders instead of two


def test_near_duplicates_are_found_among_thousands() -> None:
    table = random_table(5000)
    planted = {(i, i + 4) for i in range(0, 5000, 5)}
    found = set(map(tuple, near_duplicates.search(table).pairs.tolist()))
    assert len(found & planted) >= 0.99 * len(planted)
    assert len(found - planted) <= 0.01 * len(planted)


def test_images_of_another_form_are_refused() -> None:
    with pytest.raises(InputError, match=r"expected uint8 \[n, height, width, channels\]"):
        near_duplicates.signatures(np.zeros((2, 48, 48), np.uint8))

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fer_tfdata import faces, images
from fer_tfdata.faces import Box


def test_the_crop_has_the_frame_around_the_box() -> None:
    image = np.zeros((200, 200, 3), np.uint8)
    image[48:152, 48:152] = 255  # the box of 100 pixels with 2 on each side
    assert (faces.crop_face(image, Box(50, 50, 100, 100), 48, channels=1) == 255).all()
    assert not (faces.crop_face(image, Box(48, 48, 104, 104), 48, channels=1) == 255).all()


def test_a_crop_beyond_the_border_repeats_the_border() -> None:
    image = np.zeros((60, 60, 3), np.uint8)
    image[:, :2] = 255
    crop = faces.crop_face(image, Box(0, 0, 50, 100), 104, channels=1)
    assert crop.shape == (104, 104, 1)
    assert (crop[:, :28] == 255).all()  # 27 columns of border, and the first two
    assert (crop[:, 30:] == 0).all()


def test_gray_is_the_luma_of_itu_r_601() -> None:
    image = np.zeros((10, 40, 3), np.uint8)
    for column, colour in enumerate([(255, 0, 0), (0, 255, 0), (0, 0, 255), (77, 77, 77)]):
        image[:, column * 10 : column * 10 + 10] = colour
    crops = [faces.fit_face(image[:, left : left + 10], 4, channels=1) for left in (0, 10, 20, 30)]
    assert [int(crop[1, 1, 0]) for crop in crops] == [76, 150, 29, 77]


def test_three_channels_keep_their_colours() -> None:
    image = np.zeros((40, 30, 3), np.uint8)
    image[...] = (200, 100, 50)
    for crop in (
        faces.crop_face(image, Box(5, 5, 20, 20), 48, channels=3),
        faces.fit_face(image, 48, channels=3),
    ):
        assert crop.shape == (48, 48, 3)
        assert (crop == (200, 100, 50)).all()


def test_a_crop_shrinks_by_the_mean_and_grows_without_blocks() -> None:
    stripes = np.zeros((960, 960, 3), np.uint8)
    stripes[:, ::2] = 255
    shrunk = faces.fit_face(stripes, 48, channels=1)
    assert np.ptp(shrunk) <= 3  # the filter's support ends at the border
    assert 126 <= shrunk[0, 0, 0] <= 129
    ramp = np.repeat(np.arange(0, 80, 10, dtype=np.uint8)[np.newaxis], 8, axis=0)
    grown = faces.fit_face(images.as_rgb(ramp), 48, channels=1)
    assert np.diff(grown[0, :, 0].astype(int)).max() <= 2


@pytest.mark.parametrize("shape", [(40, 20), (20, 40), (1, 50_000), (39, 40)])
def test_a_whole_face_keeps_its_proportions(shape: tuple[int, int]) -> None:
    image = np.full((*shape, 3), 9, np.uint8)
    crop = faces.fit_face(image, 48, channels=1)
    assert crop.shape == (48, 48, 1)
    assert (crop == 9).all()


def test_a_narrow_face_stands_in_the_middle() -> None:
    image = np.zeros((48, 24, 3), np.uint8)
    image[:, 12:] = 200
    crop = faces.fit_face(image, 48, channels=1)
    assert (crop[:, :24] == 0).all()
    assert (crop[:, 24:] == 200).all()


def test_a_box_that_is_all_of_the_image_is_a_face_cut_out_already() -> None:
    face = np.random.default_rng(0).integers(0, 256, (48, 48), dtype=np.uint8)
    image = images.as_rgb(face)
    assert faces.whole(image) == Box(0, 0, 48, 48)
    crop = faces.crop_face(image, faces.whole(image), 48, channels=1)
    np.testing.assert_array_equal(crop[..., 0], face)
    narrow = image[:, :20]
    np.testing.assert_array_equal(
        faces.crop_face(narrow, faces.whole(narrow), 48, channels=1),
        faces.fit_face(narrow, 48, channels=1),
    )


boxes = st.builds(
    Box, st.integers(0, 500), st.integers(0, 500), st.integers(1, 300), st.integers(1, 300)
)


@given(boxes, boxes)
def test_the_overlap_is_a_share(a: Box, b: Box) -> None:
    assert 0 <= faces.overlap(a, b) == faces.overlap(b, a) <= 1
    assert faces.overlap(a, a) == 1


def test_the_overlap_by_hand() -> None:
    assert faces.overlap(Box(0, 0, 10, 10), Box(5, 0, 10, 10)) == pytest.approx(50 / 150)
    assert faces.overlap(Box(0, 0, 10, 10), Box(10, 0, 10, 10)) == 0

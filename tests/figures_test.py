import numpy as np
import pytest
from PIL import Image

from fer_tfdata import figures
from fer_tfdata.models import seed_cnn


def coloured_share(path) -> float:
    """How much of a picture is not white."""
    pixels = np.asarray(Image.open(path).convert("L"))
    return float((pixels < 250).mean())


def test_the_confusion_matrix_shows_its_counts(tmp_path) -> None:
    metrics = {
        "split": "validation",
        "accuracy": 1.0,
        "examples": 70,
        "confusion_matrix": (10 * np.eye(7, dtype=int)).tolist(),
    }
    figures.confusion_matrix(metrics, tmp_path / "figures" / "matrix.png")
    diagonal = coloured_share(tmp_path / "figures" / "matrix.png")
    metrics["confusion_matrix"] = np.zeros((7, 7), int).tolist()  # a split without images
    figures.confusion_matrix(metrics, tmp_path / "empty.png")
    assert diagonal > coloured_share(tmp_path / "empty.png") > 0


def test_the_confusion_matrix_has_a_row_for_each_expression_of_the_model(tmp_path) -> None:
    sizes = []
    for number in (7, 8):
        metrics = {
            "split": "validation",
            "accuracy": 1.0,
            "examples": 80,
            "confusion_matrix": np.full((number, number), 3).tolist(),
        }
        figures.confusion_matrix(metrics, tmp_path / f"{number}.png")
        sizes.append(coloured_share(tmp_path / f"{number}.png"))
    assert sizes[1] != sizes[0]


def test_learning_curves_are_drawn_from_one_epoch_on(tmp_path) -> None:
    history = tmp_path / "history.csv"
    history.write_text("epoch,loss,accuracy,val_loss,val_accuracy\n0,2.0,0.1,1.9,0.2\n")
    figures.learning_curves(history, tmp_path / "curves.png")
    assert coloured_share(tmp_path / "curves.png") > 0.01


def test_the_model_s_picture_shows_every_layer(tmp_path) -> None:
    figures.model_diagram(seed_cnn(image_size=16), tmp_path / "model.png")
    with Image.open(tmp_path / "model.png") as picture:
        assert picture.height > 60 * 33


@pytest.mark.parametrize("channels", [1, 3])
def test_rows_of_images_are_drawn_each_with_its_name(tmp_path, channels) -> None:
    # Twice as high as wide, gray to the left and dark to the right.
    images = np.full((4, 20, 10, channels), 128, np.uint8)
    images[2:] = 40
    figures.image_rows({"one": images, "other": images}, tmp_path / "rows.png")
    with Image.open(tmp_path / "rows.png") as picture:
        pixels = np.asarray(picture.convert("L"))
    height, width = pixels.shape
    assert (pixels == 255).all(axis=0).any()  # the margin
    (names,) = np.nonzero((pixels[:, : width // 4] < 200).any(axis=1))
    assert names.min() < height / 2 < names.max()
    for row in (height // 4, 3 * height // 4):
        line = pixels[row]
        left, right = np.flatnonzero(line == 128), np.flatnonzero(line == 40)
        assert left.max() < right.min()
        np.testing.assert_allclose(len(left), len(right), atol=2)
        # As high as the picture's half, and twice as high as wide.
        assert 0.9 < len(left) / 2 / (height / 2 / 2) < 1.1


def test_captioned_images_stand_in_rows_each_below_its_words(tmp_path) -> None:
    images = np.full((3, 10, 10, 1), 128, np.uint8)
    heights = {}
    for caption in ("", "happy"):
        figures.captioned_images(images, [caption] * 3, tmp_path / "grid.png", columns=2)
        with Image.open(tmp_path / "grid.png") as picture:
            pixels = np.asarray(picture.convert("L"))
        height, width = pixels.shape
        quarters = [
            pixels[top : top + height // 2, left : left + width // 2]
            for top in (0, height // 2)
            for left in (0, width // 2)
        ]
        assert [bool((quarter == 128).any()) for quarter in quarters] == [True, True, True, False]
        heights[caption] = np.flatnonzero((pixels < 100).any(axis=1))  # black words alone
    assert not len(heights[""])
    assert len(heights["happy"])


def test_mistakes_show_the_truth_s_bar_and_the_answer_s(tmp_path) -> None:
    figures.mistakes(
        np.full((2, 10, 10, 3), 128, np.uint8),
        np.array([1, 2]),
        np.array([[0.6, 0.3, 0.06, 0.04], [0.6, 0.38, 0.01, 0.01]]),  # the second truth is third
        ["row 1", "row 2"],
        ["angry", "disgust", "fear", "happy"],
        tmp_path / "mistakes.png",
        columns=1,
    )
    with Image.open(tmp_path / "mistakes.png") as picture:
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    for half, true_share in ((pixels[: len(pixels) // 2], 0.3), (pixels[len(pixels) // 2 :], 0.01)):
        red = (half[..., 0] - half[..., 1:].max(axis=-1) > 100).sum()
        green = (half[..., 1] - half[..., [0, 2]].max(axis=-1) > 100).sum()
        assert green / red == pytest.approx(true_share / 0.6, abs=0.02)

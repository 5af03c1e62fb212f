import numpy as np
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

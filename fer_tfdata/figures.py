"""Pictures of results, each written to one PNG file."""

import csv
import shutil
import sysconfig
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib.figure
import matplotlib.patches
import numpy as np
import numpy.typing as npt
import seaborn

from fer_tfdata import atomic
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS

if TYPE_CHECKING:
    import keras

# Figures are made without pyplot, so that no window system and no global state is touched.


def confusion_matrix(metrics: Mapping[str, Any], path: Path) -> None:
    """Draws the confusion matrix of `metrics.json`: counts, coloured by the share of the row."""
    counts = np.array(metrics["confusion_matrix"])
    expressions = EIGHT_EXPRESSIONS[: len(counts)]  # which begin with the seven
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = matplotlib.figure.Figure(figsize=(8, 6.4))
    axes = figure.subplots()
    # The margins that the names need; to have them found takes half as long again as to draw.
    figure.subplots_adjust(left=0.15, right=0.98, bottom=0.1, top=0.94)
    seaborn.heatmap(
        shares,
        annot=counts,
        fmt="d",
        cmap="Blues",
        vmin=0,
        vmax=1,
        square=True,
        xticklabels=expressions,
        yticklabels=expressions,
        cbar_kws={"label": "share of the true expression"},
        ax=axes,
    )
    axes.set_xlabel("predicted")
    axes.set_ylabel("true")
    axes.tick_params(axis="y", rotation=0)
    axes.set_title(f"{metrics['split']}: {metrics['accuracy']:.1%} of {metrics['examples']} images")
    _save(figure, path)


def learning_curves(history: Path, path: Path) -> None:
    """Draws loss and accuracy by epoch, on training and validation, from a `history.csv`."""
    with history.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    epochs = [int(row["epoch"]) + 1 for row in rows]
    figure = matplotlib.figure.Figure(figsize=(10, 4), layout="constrained")
    for axes, quantity in zip(figure.subplots(1, 2), ("loss", "accuracy"), strict=True):
        for key, name in ((quantity, "train"), (f"val_{quantity}", "validation")):
            axes.plot(epochs, [float(row[key]) for row in rows], marker="o", label=name)
        axes.set_xlabel("epoch")
        axes.set_ylabel("loss (nats)" if quantity == "loss" else quantity)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)
        axes.legend()
    _save(figure, path)


def image_rows(rows: Mapping[str, npt.NDArray[np.uint8]], path: Path) -> None:
    """Draws images in rows, each with its name to the left.

    Args:
      rows: name to images, uint8 [n, height, width, 1 or 3], as many in every row; those of a row
        are of one size, and all rows are drawn as large as the first.
      path: the PNG.
    """
    count, height, width, _ = next(iter(rows.values())).shape
    inches, margin = 0.8, 1.35
    size = (margin + count * inches, len(rows) * inches * height / width)
    figure = matplotlib.figure.Figure(figsize=size)
    left = margin / size[0]
    grid = figure.add_gridspec(
        len(rows), count, left=left, right=1, bottom=0, top=1, wspace=0.05, hspace=0.05
    )
    for row, (name, images) in enumerate(rows.items()):
        for column, image in enumerate(images):
            axes = figure.add_subplot(grid[row, column])
            axes.imshow(image, cmap="gray", vmin=0, vmax=255)  # colour images ignore the map
            axes.axis("off")
            if column == 0:
                axes.annotate(
                    name,
                    (0, 0.5),
                    (-8, 0),
                    xycoords="axes fraction",
                    textcoords="offset points",
                    ha="right",
                    va="center",
                    fontsize=10,
                )
    _save(figure, path)


def captioned_images(
    images: npt.NDArray[np.uint8], captions: Sequence[str], path: Path, *, columns: int = 8
) -> None:
    """Draws images row by row, each below its caption.

    Args:
      images: uint8 [n, height, width, 1 or 3].
      captions: n.
      path: the PNG.
      columns: images in a row.
    """
    sheet = _Sheet(len(images), columns, cell=(1.5, 1.75))
    for number, (image, caption) in enumerate(zip(images, captions, strict=True)):
        left, top = sheet.corner(number)
        sheet.write(left + 0.75, top + 0.2, caption, ha="center")
        sheet.show(image, left + 0.05, top + 0.3, side=1.4)
    _save(sheet.figure, path)


def mistakes(
    images: npt.NDArray[np.uint8],
    labels: npt.NDArray[np.int64],
    probabilities: npt.NDArray[np.float64],
    names: Sequence[str],
    expressions: Sequence[str],
    path: Path,
    *,
    columns: int = 4,
) -> None:
    """Draws wrongly answered images, each beside its three highest probabilities.

    Args:
      images: uint8 [n, height, width, 1 or 3].
      labels: int64 [n], the truth.
      probabilities: float64 [n, expressions].
      names: of the images, n.
      expressions: in order.
      path: the PNG.
      columns: images in a row.
    """
    sheet = _Sheet(len(images), columns, cell=(3.6, 1.9), title=0.3)
    title = "surest wrong answers: the truth green, the answer red"
    sheet.write(1.8 * columns, 0.2, title, ha="center", fontsize=11)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        left, top = sheet.corner(number)
        words = f"true: {expressions[label]}\n{names[number]}"
        sheet.write(left + 0.85, top + 0.4, words, ha="center")
        sheet.show(image, left + 0.15, top + 0.45, side=1.4)
        _draw_highest(sheet, left + 1.75, top + 0.45, probabilities[number], label, expressions)
    _save(sheet.figure, path)


def _draw_highest(
    sheet: "_Sheet",
    left: float,
    top: float,
    probabilities: npt.NDArray[np.float64],
    label: int,
    expressions: Sequence[str],
) -> None:
    highest = np.argsort(-probabilities, kind="stable")[:3]
    certain = 1.7  # inches
    for place, i in enumerate(highest):
        colour = "tab:green" if i == label else "tab:red" if i == highest[0] else "lightgray"
        line = top + 0.45 * place
        sheet.write(left + 0.04, line + 0.17, f"{expressions[i]} {probabilities[i]:.2f}")
        sheet.fill(left, line + 0.2, certain * probabilities[i], 0.17, colour)
    for end in (left - 0.01, left + certain):
        sheet.fill(end, top, 0.01, 1.4, "gray")


class _Sheet:
    """Cells row by row, laid out by hand, in inches from the top left corner.

    One pair of axes holds them all: with some dozens of axes, making and laying out the axes takes
    ten times as long as drawing what is in them.
    """

    def __init__(
        self, count: int, columns: int, *, cell: tuple[float, float], title: float = 0.0
    ) -> None:
        rows = -(-count // columns)
        width, height = columns * cell[0], title + rows * cell[1]
        self.figure = matplotlib.figure.Figure(figsize=(width, height))
        self._axes = self.figure.add_axes((0, 0, 1, 1))
        self._axes.axis("off")
        self._axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
        self._columns, self._cell, self._title = columns, cell, title

    def corner(self, number: int) -> tuple[float, float]:
        """Returns where a cell begins, from the left and from the top."""
        row, column = divmod(number, self._columns)
        return column * self._cell[0], self._title + row * self._cell[1]

    def write(self, x: float, baseline: float, words: str, **how: Any) -> None:
        """Writes at a point, whose second number is where the last line stands."""
        self._axes.text(x, baseline, words, **{"fontsize": 9, "va": "baseline", **how})

    def show(self, image: npt.NDArray[np.uint8], left: float, top: float, *, side: float) -> None:
        """Shows an image as large as it can be in the middle of a square."""
        height, width = image.shape[:2]
        scale = side / max(height, width)
        left += (side - scale * width) / 2
        top += (side - scale * height) / 2
        extent = (left, left + scale * width, top + scale * height, top)
        self._axes.imshow(image, cmap="gray", vmin=0, vmax=255, extent=extent, aspect="auto")

    def fill(self, left: float, top: float, width: float, height: float, colour: str) -> None:
        """Fills a rectangle."""
        patch = matplotlib.patches.Rectangle(
            (left, top), width, height, facecolor=colour, linewidth=0
        )
        self._axes.add_patch(patch)


def model_diagram(model: "keras.Model", path: Path) -> None:
    """Draws the model's layers with their shapes, as `keras.utils.plot_model` does.

    `plot_model` itself wants a Graphviz installed beside Python; the same graph is drawn here by
    the program that the `graphviz-pure` wheel brings along.

    Raises:
      InputError: that program is not there, or fails.
    """
    import keras

    graph = keras.utils.model_to_dot(
        model, show_shapes=True, show_dtype=True, show_layer_names=True, rankdir="TB", dpi=96
    )
    scripts = sysconfig.get_path("scripts")
    program = shutil.which("graphviz-pure", path=scripts) or shutil.which("graphviz-pure")
    if program is None:
        raise InputError(f"expected the program graphviz-pure in {scripts} or on PATH, found none")
    with atomic.replacing(path) as temporary:
        try:
            graph.write(str(temporary), prog=program, format="png")
        except AssertionError as error:  # pydot's way to say that the program failed
            raise InputError(f"{program} failed on the model's graph") from error


def _save(figure: matplotlib.figure.Figure, path: Path) -> None:
    with atomic.replacing(path) as temporary:
        figure.savefig(temporary, dpi=120)

"""Where the files of a training run stand, and how a model is found from what a user names."""

import dataclasses
import json
import zipfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS

if TYPE_CHECKING:
    import keras

# By the number of logits; an id means the same in both.
_EXPRESSIONS_OF_OUTPUTS: Final = {len(names): names for names in (EXPRESSIONS, EIGHT_EXPRESSIONS)}


@dataclasses.dataclass(frozen=True)
class RunDirectory:
    """The paths of one run; nothing here touches the disk."""

    root: Path

    @property
    def config(self) -> Path:
        """The training configuration, as JSON."""
        return self.root / "config.json"

    @property
    def environment(self) -> Path:
        """Versions, device, commit and data checksum, as JSON."""
        return self.root / "environment.json"

    @property
    def checkpoints(self) -> Path:
        """Weights: the best in validation, the last, and the checkpoints to resume from."""
        return self.root / "checkpoints"

    @property
    def best_weights(self) -> Path:
        """The weights that did best in validation, which become the model."""
        return self.checkpoints / "best.weights.h5"

    @property
    def last_weights(self) -> Path:
        """The weights after the last complete epoch."""
        return self.checkpoints / "last.weights.h5"

    @property
    def tensorboard(self) -> Path:
        """Event files."""
        return self.root / "tensorboard"

    @property
    def history(self) -> Path:
        """One row an epoch, as CSV."""
        return self.root / "history.csv"

    @property
    def model(self) -> Path:
        """The chosen weights with their architecture; loads in plain Keras."""
        return self.root / "model.keras"

    @property
    def metrics(self) -> Path:
        """The figures of the chosen weights on the validation split, as JSON."""
        return self.root / "metrics.json"

    @property
    def figures(self) -> Path:
        """Pictures."""
        return self.root / "figures"


def find_model(path: Path) -> Path:
    """Returns the `.keras` file that `path` means: itself, or that of a run directory.

    Raises:
      InputError: if there is none.
    """
    if path.is_file() and path.suffix == ".keras":
        return path
    model = RunDirectory(path).model
    if model.is_file():
        return model
    received = (
        f"a directory without {model.name} (is the training still running?)"
        if path.is_dir()
        else "a file of another kind"
        if path.is_file()
        else "nothing there"
    )
    raise InputError(f"{path}: expected a run directory or a .keras file, received {received}")


def run_of(file: Path) -> RunDirectory | None:
    """Returns the run whose model a file is; None of one that has not the place of a run's."""
    run = RunDirectory(file.parent)
    return run if file == run.model else None


def trained_on(path: Path) -> list[str] | None:
    """Returns the splits that a run's weights were trained on; None where no run says so.

    Args:
      path: a run directory, or a `.keras` file, in one or not.

    Raises:
      InputError: there is no model.
    """
    if (run := run_of(find_model(path))) is None:
        return None
    try:
        content = json.loads(run.metrics.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    splits: list[str] | None = content.get("trained_on") if isinstance(content, dict) else None
    return splits


def load_model(path: Path) -> "keras.Model":
    """Loads the model that `path` means, for prediction and evaluation (uncompiled).

    Raises:
      InputError: if there is none, or the file cannot be read.
    """
    import keras

    file = find_model(path)
    try:
        _check_checksums(file)
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{file}: expected a Keras model file, received: {reason}") from error


def _check_checksums(file: Path) -> None:
    """Checks a model file's content, which Keras reads without looking at its checksums.

    Raises:
      ValueError: it is damaged.
    """
    if zipfile.is_zipfile(file):  # what else it is, Keras says
        with zipfile.ZipFile(file) as archive:
            if (damaged := archive.testzip()) is not None:
                raise ValueError(f"a damaged one, whose {damaged} is not what its checksum says")


@dataclasses.dataclass(frozen=True)
class ModelForm:
    """What a model takes, and what it says.

    Attributes:
      image_shape: height, width and channels; height and width are equal.
      expressions: what its logits stand for, `EXPRESSIONS` or `EIGHT_EXPRESSIONS`.
    """

    image_shape: tuple[int, int, int]
    expressions: tuple[str, ...]


def check_model(model: "keras.Model") -> ModelForm:
    """Checks that a model is one of expressions, and returns its form.

    Args:
      model: must take uint8 images [n, side, side, 1 or 3] and return seven or eight logits.  A few
        random images go through it, to tell logits from probabilities.

    Raises:
      InputError: it is something else.
    """
    if len(model.inputs) != 1 or len(model.outputs) != 1:
        raise InputError(
            "expected a model with one input and one output,"
            f" received {len(model.inputs)} and {len(model.outputs)}"
        )
    shape = tuple(model.inputs[0].shape)
    dtype = model.inputs[0].dtype
    square = len(shape) == 4 and shape[1] is not None and shape[1] == shape[2]
    if dtype != "uint8" or not square or shape[3] not in (1, 3):
        raise InputError(
            "expected a model that takes uint8 images [N, side, side, 1 or 3],"
            f" received one that takes {dtype} {list(shape)}"
        )
    returned = tuple(model.outputs[0].shape)
    if len(returned) != 2 or returned[1] not in _EXPRESSIONS_OF_OUTPUTS:
        numbers = " or ".join(str(number) for number in _EXPRESSIONS_OF_OUTPUTS)
        raise InputError(
            f"expected a model that returns logits [N, {numbers}],"
            f" received one that returns {list(returned)}"
        )
    _check_not_probabilities(model, shape[1:])
    return ModelForm((shape[1], shape[2], shape[3]), _EXPRESSIONS_OF_OUTPUTS[returned[1]])


def _check_not_probabilities(model: "keras.Model", input_shape: tuple[int, ...]) -> None:
    # A second softmax would not fail, it would flatten every answer.
    images = np.random.default_rng(0).integers(0, 256, (8, *input_shape), dtype=np.uint8)
    values = np.asarray(model.predict_on_batch(images)).astype(np.float64)
    if (values >= 0).all() and np.allclose(values.sum(axis=1), 1, atol=0.01):
        raise InputError(
            "expected a model that returns logits, received one that returns probabilities;"
            " leave out its softmax"
        )

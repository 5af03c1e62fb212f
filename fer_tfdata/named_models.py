"""What a program's --model names, as a classifier."""

from pathlib import Path
from typing import Final

from fer_tfdata import pretrained, run_directory
from fer_tfdata.classifier import Classifier, KerasClassifier
from fer_tfdata.errors import InputError

PRETRAINED: Final = "pretrained"
"""The model that ships with the package."""


def load(name: str) -> Classifier:
    """Loads the model that `name` means: `pretrained`, a run directory or a `.keras` file.

    Raises:
      InputError: there is none, it cannot be read, or it is no model of expressions.
    """
    model = pretrained.load() if name == PRETRAINED else run_directory.load_model(Path(name))
    try:
        return KerasClassifier(model)
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def trained_on(name: str) -> list[str] | None:
    """Returns the splits that the model `name` was trained on; None where nothing says so.

    Raises:
      InputError: there is no such model.
    """
    if name == PRETRAINED:
        return pretrained.trained_on()
    return run_directory.trained_on(Path(name))

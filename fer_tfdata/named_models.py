"""What a program's --model names, as a classifier."""

import contextlib
import dataclasses
import functools
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

from fer_tfdata import exported, pretrained, run_directory
from fer_tfdata.classifier import Classifier, KerasClassifier
from fer_tfdata.errors import InputError
from fer_tfdata.run_directory import ModelForm

if TYPE_CHECKING:
    import keras

PRETRAINED: Final = "pretrained"
"""The model that ships with the package."""

MODEL_HELP: Final = (
    "A run directory, a .keras file, an export (a SavedModel's directory, .tflite or .onnx), or "
    "pretrained: the model that ships with the package."
)
"""What `load` takes, as the programs' --help says it."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class NamedModel:
    """A Keras model, and where it came from.

    Attributes:
      name: what names it.
      model: uint8 images to logits.
      form: what it takes, and what it says.
      sha256: the checksum of the file that its weights came from.
      manifest_sha256: that of the manifest of the data that it was trained on; None where nothing
        says it.
      trained_on: the splits that it was trained on; None where nothing says so.
    """

    name: str
    model: "keras.Model"
    form: ModelForm
    sha256: str
    manifest_sha256: str | None
    trained_on: tuple[str, ...] | None

    @functools.cached_property
    def classifier(self) -> KerasClassifier:
        """The same as a classifier, which takes a second to make."""
        return KerasClassifier(self.model)


def load(name: str) -> Classifier:
    """Loads the model that `name` means: `pretrained`, a run directory, a `.keras` file, an export.

    Raises:
      InputError: there is none, it cannot be read, or it is no model of expressions.
    """
    path = Path(name)
    if name != PRETRAINED and exported.is_export(path):
        return exported.load(path)
    model = _model(name)
    with _naming(name):
        return KerasClassifier(model)


def load_keras(name: str) -> NamedModel:
    """Loads the Keras model that `name` means: `pretrained`, a run directory or a `.keras` file.

    Raises:
      InputError: as `load`, or it is an export, of which Keras knows nothing.
    """
    if name != PRETRAINED and exported.is_export(Path(name)):
        raise InputError(
            f"{name}: expected {PRETRAINED}, a run directory or a .keras file, received an export"
        )
    model = _model(name)
    with _naming(name):
        form = run_directory.check_model(model)
    sha256, manifest_sha256 = checksums(name)
    splits = trained_on(name)
    return NamedModel(
        name=name,
        model=model,
        form=form,
        sha256=sha256,
        manifest_sha256=manifest_sha256,
        trained_on=None if splits is None else tuple(splits),
    )


def _model(name: str) -> "keras.Model":
    return pretrained.load() if name == PRETRAINED else run_directory.load_model(Path(name))


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Says of which model an error is."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{name}: {error}") from error


def trained_on(name: str) -> list[str] | None:
    """Returns the splits that the model `name` was trained on; None where nothing says so.

    Raises:
      InputError: there is no such model, or an export cannot be read.
    """
    if name == PRETRAINED:
        return pretrained.trained_on()
    if exported.is_export(Path(name)):
        splits = exported.read_metadata(Path(name)).trained_on
        return None if splits is None else list(splits)
    return run_directory.trained_on(Path(name))


def checksums(name: str) -> tuple[str, str | None]:
    """Returns the SHA-256 of a Keras model's weights, and that of the manifest of its data.

    The latter is None where nothing says it.

    Raises:
      InputError: there is no such model.
    """
    if name == PRETRAINED:
        description = pretrained.read_description()
        return description["sha256"], description["trained_in"]["manifest_sha256"]
    path = run_directory.find_model(Path(name))
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    run = run_directory.run_of(path)
    return sha256, None if run is None else _manifest_sha256(run.environment)


def _manifest_sha256(environment: Path) -> str | None:
    try:
        content = json.loads(environment.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # a file that was taken out of its run, or a damaged run
        return None
    sha256 = content.get("manifest_sha256") if isinstance(content, dict) else None
    return sha256 if isinstance(sha256, str) else None

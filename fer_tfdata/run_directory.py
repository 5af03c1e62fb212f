"""Where the files of a training run stand, and how a model is found from what a user names."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from fer_tfdata.errors import InputError

if TYPE_CHECKING:
    import keras


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
        """Weights: the best by validation accuracy, the last, and the backup to resume from."""
        return self.root / "checkpoints"

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


def load_model(path: Path) -> "keras.Model":
    """Loads the model that `path` means, for prediction and evaluation (uncompiled).

    Raises:
      InputError: if there is none, or the file cannot be read.
    """
    import keras

    file = find_model(path)
    try:
        return keras.models.load_model(file, compile=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(f"{file}: expected a Keras model file, received: {reason}") from error

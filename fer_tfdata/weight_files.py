"""Keras's weight files with a checksum of the weights, without which damage goes unseen.

HDF5 reads a changed number as it reads any other; the checksum is an attribute that Keras ignores,
and so is the validation accuracy that the weights were kept for.
"""

import hashlib
from pathlib import Path
from typing import Final

import h5py
import keras
import numpy as np

from fer_tfdata import atomic
from fer_tfdata.errors import InputError

_CHECKSUM: Final = "fer_tfdata_sha256"
_VAL_ACCURACY: Final = "fer_tfdata_val_accuracy"
_OPTIMIZER: Final = "optimizer/"  # whose state Keras saves too, and nobody reads

# What HDF5 and Keras raise for a file that is cut off, altered, or of another network.
_DAMAGE: Final = (OSError, KeyError, ValueError, RuntimeError)


class DamagedError(InputError):
    """The file is not there, or does not hold the weights that were written."""


def seal(path: Path, *, val_accuracy: float | None = None) -> None:
    """Writes the checksum into a file of weights, and what they are kept for."""
    with h5py.File(path, "r+") as file:
        file.attrs[_CHECKSUM] = _sha256(file)
        if val_accuracy is not None:
            file.attrs[_VAL_ACCURACY] = val_accuracy


def check(path: Path) -> float | None:
    """Checks that a file holds the weights that were sealed; one without a checksum opens.

    Returns:
      The validation accuracy that was written with them; None where none was.

    Raises:
      DamagedError: it is missing or damaged.
      InputError: the system does not let it be read.
    """
    if not path.is_file():
        raise _damaged(path, "no file there")
    try:
        with h5py.File(path) as file:
            stated = file.attrs.get(_CHECKSUM)
            if stated is not None and stated != _sha256(file):
                raise ValueError("numbers that are not what its checksum says")
            val_accuracy = file.attrs.get(_VAL_ACCURACY)
    except _DAMAGE as error:
        raise _explained(path, error) from error
    return None if val_accuracy is None else float(val_accuracy)


def load(model: keras.Model, path: Path) -> None:
    """Gives a model the weights of a file.

    Raises:
      DamagedError: the file is missing, damaged or of another network.
      InputError: the system does not let it be read.
    """
    check(path)
    try:
        model.load_weights(path)
    except _DAMAGE as error:
        raise _explained(path, error) from error


def _explained(path: Path, error: Exception) -> InputError:
    if (reason := atomic.not_read(error)) is not None:
        return InputError(
            f"{path}: could not be read ({reason}); continue with --resume once it can be"
        )
    return _damaged(path, next(iter(str(error).splitlines()), type(error).__name__))


def _damaged(path: Path, received: str) -> DamagedError:
    return DamagedError(
        f"{path}: expected the weights that were written there, received {received}"
    )


def _sha256(file: h5py.File) -> str:
    """Returns the SHA-256 of all weights and their places, which HDF5 visits in one order."""
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset) and not name.startswith(_OPTIMIZER):
            values = np.asarray(item)
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes())

    file.visititems(add)
    return digest.hexdigest()

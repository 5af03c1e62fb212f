"""Keras's weight files with a checksum of what they hold, without which damage goes unseen.

HDF5 reads a changed number as it reads any other; the checksum is an attribute that Keras ignores.
"""

import hashlib
from pathlib import Path
from typing import Final

import h5py
import keras
import numpy as np

from fer_tfdata.errors import InputError

_ATTRIBUTE: Final = "fer_tfdata_sha256"

# What HDF5 and Keras raise for a file that is cut off, altered, or of another network.
_DAMAGE: Final = (OSError, KeyError, ValueError, RuntimeError)


def seal(path: Path) -> None:
    """Writes the checksum into a file of weights."""
    with h5py.File(path, "r+") as file:
        file.attrs[_ATTRIBUTE] = _sha256(file)


def check(path: Path) -> None:
    """Checks that a file of weights is there as it was sealed; one without a checksum opens.

    Raises:
      InputError: it is missing, damaged or cannot be read.
    """
    if not path.is_file():
        raise _lost(path, "no file there")
    try:
        with h5py.File(path) as file:
            stated = file.attrs.get(_ATTRIBUTE)
            if stated is not None and stated != _sha256(file):
                raise ValueError("numbers that are not what its checksum says")
    except _DAMAGE as error:
        raise _lost(path, _reason(error)) from error


def load(model: keras.Model, path: Path) -> None:
    """Gives a model the weights of a file.

    Raises:
      InputError: the file is missing, damaged or cannot be read.
    """
    check(path)
    try:
        model.load_weights(path)
    except _DAMAGE as error:
        raise _lost(path, _reason(error)) from error


def _reason(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _lost(path: Path, received: str) -> InputError:
    return InputError(
        f"{path}: expected the weights that were written there, received {received}; put them "
        "back, or a copy of last.weights.h5 in their place, and continue with --resume"
    )


def _sha256(file: h5py.File) -> str:
    """Returns the SHA-256 of all arrays and their places, which HDF5 visits in one order."""
    digest = hashlib.sha256()

    def add(name: str, item: h5py.Dataset | h5py.Group) -> None:
        if isinstance(item, h5py.Dataset):
            values = np.asarray(item)
            digest.update(f"{name} {values.dtype.str} {values.shape}\n".encode())
            digest.update(values.tobytes())

    file.visititems(add)
    return digest.hexdigest()

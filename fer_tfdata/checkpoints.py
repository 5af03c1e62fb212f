"""All that a training goes on from, in files that are complete, checked and two at a time.

A checkpoint holds the values of every variable that a step reads or writes: weights, moving
averages, the optimizer's moments and step count, the loss scale, random states, and the sums behind
the epoch's loss and accuracy.  Everything else is a function of the step (order of the data, their
changes, a learning rate that follows a cosine), or of the run's history (when a plateau next lowers
the learning rate, which is itself one of the optimizer's variables).
"""

import logging
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import numpy.typing as npt

from fer_tfdata import atomic, cluster
from fer_tfdata.errors import InputError

_KEPT: Final = 2
_PATTERN: Final = "step-*.npz"

# What reading a file raises that is cut off or altered; each array carries a checksum.
_DAMAGE: Final = (
    OSError,
    EOFError,
    KeyError,
    ValueError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)

_Arrays = list[npt.NDArray[Any]]

_log = logging.getLogger(__name__)


class Checkpoints:
    """The checkpoints of one run.

    Args:
      directory: where they stand, nothing else with such names beside them.
      model: compiled, with its optimizer built.
    """

    def __init__(self, directory: Path, model: keras.Model) -> None:
        self._directory = directory
        self._model = model
        self._metrics: _Arrays = []

    def save(self, step: int) -> None:
        """Writes the model's state after so many steps, and deletes all but the newest two.

        Of several processes, whose models are the same, the first one does.

        Raises:
          InputError: it cannot be written, the disk being full for instance; those before stay.
        """
        if not cluster.is_first():
            return
        if keras.backend.backend() == "jax":
            self._model.jax_state_sync()  # a step leaves its results beside the variables
        path = self._directory / f"step-{step:09d}.npz"
        arrays = {
            f"{number:05d} {variable.path}": keras.ops.convert_to_numpy(variable)
            for number, variable in enumerate(self._variables())
        }
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            with atomic.replacing(path) as temporary, temporary.open("wb") as file:
                np.savez(file, **arrays)
        except OSError as error:
            remedy = (
                "continue with --resume once it can be"
                if atomic.lack_of_room(error) is None
                else "make room and continue with --resume"
            )
            raise InputError(
                f"{path}: could not be written ({error.strerror or error}); {remedy}, from the "
                "checkpoint before"
            ) from error
        for old in _paths(self._directory)[_KEPT:]:
            old.unlink(missing_ok=True)

    def restore(self) -> int:
        """Brings the model to the newest readable checkpoint's state and returns its step.

        A damaged one makes way for the one before, with a warning: it would else be kept in place
        of a good one.  Of several processes, the first one reads for all.

        Returns:
          The step, 0 where there is no checkpoint and nothing was changed.

        Raises:
          InputError: there are checkpoints, and none can be read, or the newest cannot be for
            another reason than its content.
        """
        arrays: _Arrays = []

        def read() -> int:
            step, found = self._read_newest()
            arrays.extend(found)
            return step

        step = cluster.from_first(read)
        if step == 0:
            return 0
        variables = self._variables()
        values = cluster.arrays_from_first(arrays, variables)
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)
        self._metrics = values[len(variables) - len(self._model.metrics_variables) :]
        return step

    def _read_newest(self) -> tuple[int, _Arrays]:
        """Returns the newest readable checkpoint's step and values; 0 where there is none."""
        paths = _paths(self._directory)
        for place, path in enumerate(paths):
            try:
                values = self._read(path)
            except _DAMAGE as error:
                if (reason := atomic.not_read(error)) is not None:
                    instead = (
                        ", or delete it to go on from the one before" if paths[place + 1 :] else ""
                    )
                    raise InputError(
                        f"{path}: could not be read ({reason}); continue with --resume "
                        f"once it can be{instead}"
                    ) from error
                _log.warning("%s is damaged (%s); trying the one before", path, error)
            else:
                for damaged in paths[:place]:
                    damaged.unlink()
                return int(path.stem.removeprefix("step-")), values
        if paths:
            raise InputError(
                f"{self._directory}: expected a checkpoint of this run, received "
                f"{len(paths)} that cannot be read; start a new run"
            )
        return 0, []

    def restore_metrics(self) -> None:
        """Brings the epoch's sums, which `fit` has set to zero, to where `restore` found them."""
        for variable, value in zip(self._model.metrics_variables, self._metrics, strict=True):
            variable.assign(value)

    def _variables(self) -> Sequence[Any]:
        model = self._model
        return [*model.variables, *model.optimizer.variables, *model.metrics_variables]

    def _read(self, path: Path) -> _Arrays:
        with np.load(path, allow_pickle=False) as file:
            arrays = [file[name] for name in sorted(file.files)]
        shapes = [tuple(variable.shape) for variable in self._variables()]
        if [array.shape for array in arrays] != shapes:
            raise ValueError("its variables are not those of this model")
        return arrays


def delete_all(directory: Path) -> None:
    """Deletes the checkpoints in a directory: the run is complete."""
    for path in _paths(directory):
        path.unlink()


def _paths(directory: Path) -> list[Path]:
    """Returns the checkpoints in a directory, the newest first."""
    return sorted(directory.glob(_PATTERN), reverse=True)

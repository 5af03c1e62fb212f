"""The model that ships with the package: packed small, checked, loaded without a network.

A packed model is a directory of two files.  `weights.npz` holds a network's weights, the large ones
in float16; `model.json` says which network it is, how it was trained, what it reaches, and the
weights' SHA-256.
"""

import contextlib
import hashlib
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from fer_tfdata import atomic, run_directory
from fer_tfdata.errors import InputError
from fer_tfdata.run_directory import RunDirectory

if TYPE_CHECKING:
    import keras

MOST_BYTES: Final = 6_000_000

_SHIPPED: Final = Path(__file__).resolve().parent / "shipped"
_WEIGHTS: Final = "weights.npz"
_DESCRIPTION: Final = "model.json"
_FILES: Final = (_WEIGHTS, _DESCRIPTION)

# Vectors stay float32: they are few, and the variances among them span more than float16 does.
_LEAST_RANK_PACKED: Final = 2

# Of a configuration, what means something on one machine only.
_PLACES: Final = ("data_dir", "data_service", "start_from", "teacher")

# Of the environment of a run, what its weights depend on.
_TRAINED_IN: Final = (
    "fer_tfdata",
    "git_commit",
    "python",
    "versions",
    "backend",
    "num_processes",
    "devices",
    "threads",
    "onednn",
    "dtype_policy",
    "manifest_sha256",
)

# TensorFlow and Keras are imported where they are used: importing this is part of `--help`.


@contextlib.contextmanager
def replacing(directory: Path) -> Iterator[Path]:
    """Gives an empty directory, which takes the place of `directory` once all has gone well.

    Raises:
      InputError: there is something else than a packed model in that place, or it cannot be
        written to.
    """
    directory = directory.resolve()
    others = [path.name for path in _entries(directory) if path.name not in _FILES]
    if others:
        raise InputError(
            f"{directory}: expected a packed model to replace, or nothing, received {others[0]}; "
            "name another directory"
        )
    with atomic.replacing_directory(directory) as work:
        yield work


def _entries(directory: Path) -> list[Path]:
    """Returns what stands in a directory; of what is none, itself; nothing where nothing is."""
    if directory.is_dir():
        return sorted(directory.iterdir())
    return [directory] if directory.exists() else []


def pack(run_dir: Path, directory: Path) -> dict[str, Any]:
    """Packs the model of a finished run, and checks that it answers as the run's does.

    Args:
      run_dir: as `training.train` left it.
      directory: an empty one, such as `replacing` gives.

    Returns:
      The content of `model.json`, without `metrics`, which `describe` adds.

    Raises:
      InputError: the run is not finished, the packed weights are too large, or the packed model
        answers otherwise.
    """
    run = RunDirectory(run_dir)
    if not run.metrics.is_file():
        raise InputError(f"{run_dir}: expected a finished run, received none; end it with --resume")
    model = run_directory.load_model(run_dir)
    config = json.loads(run.config.read_text(encoding="utf-8"))
    metrics = json.loads(run.metrics.read_text(encoding="utf-8"))
    environment = json.loads(run.environment.read_text(encoding="utf-8"))
    form = run_directory.check_model(model)
    content = _packed(model.get_weights())
    if len(content) > MOST_BYTES:
        raise InputError(
            f"{run_dir}: expected a model that packs into {MOST_BYTES:,} bytes, received one of "
            f"{len(content):,}; train a smaller network"
        )
    description = {
        "network": config["model"],
        "image_size": form.image_shape[0],
        "channels": form.image_shape[2],
        "expressions": list(form.expressions),
        # A run of before there was a choice says nothing.
        "trained_on": metrics.get("trained_on", ["train"]),
        "start_sha256": environment.get("start_sha256"),
        "teachers_sha256": environment.get("teachers_sha256", []),
        "sha256": hashlib.sha256(content).hexdigest(),
        "trained_in": {name: environment[name] for name in _TRAINED_IN if name in environment},
        "config": {name: value for name, value in config.items() if name not in _PLACES},
    }
    _check_answers(model, _built(description, content))
    (directory / _WEIGHTS).write_bytes(content)
    _write(directory, description)
    return description


def describe(directory: Path, metrics: dict[str, Any]) -> None:
    """Adds to a packed model what it reaches, by split: contents of `metrics.json`."""
    description = json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))
    _write(directory, {**description, "metrics": metrics})


def load(directory: Path = _SHIPPED) -> "keras.Model":
    """Loads a packed model, by default the one that ships with the package.

    Returns:
      float32, uncompiled, uint8 images to logits; as `run_directory.load_model` would.

    Raises:
      InputError: there is none, or its weights are not those that `model.json` names.
    """
    description = read_description(directory)
    with _reading(directory):
        content = (directory / _WEIGHTS).read_bytes()
    if hashlib.sha256(content).hexdigest() != description["sha256"]:
        raise InputError(
            f"{directory / _WEIGHTS}: expected the SHA-256 {description['sha256']}, which "
            f"{_DESCRIPTION} names, received another; install the package again, or name another "
            "--model"
        )
    return _built(description, content)


def trained_on(directory: Path = _SHIPPED) -> list[str] | None:
    """Returns the splits that a packed model was trained on; None where nothing says so.

    Raises:
      InputError: there is no packed model.
    """
    splits: list[str] | None = read_description(directory)["trained_on"]
    return splits


def read_description(directory: Path = _SHIPPED) -> dict[str, Any]:
    """Returns the content of a packed model's `model.json`.

    Raises:
      InputError: there is none.
    """
    with _reading(directory):
        return json.loads((directory / _DESCRIPTION).read_text(encoding="utf-8"))


@contextlib.contextmanager
def _reading(directory: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        raise InputError(
            f"{directory}: expected a packed model, {_DESCRIPTION} and {_WEIGHTS}, received: "
            f"{error}; install the package again, or name another --model"
        ) from error


def _packed(weights: Sequence[npt.NDArray[np.float32]]) -> bytes:
    buffer = io.BytesIO()
    with np.errstate(over="ignore"):  # whose answers are compared afterwards
        arrays: dict[str, Any] = {
            f"{number:05d}": value.astype(np.float16) if value.ndim >= _LEAST_RANK_PACKED else value
            for number, value in enumerate(weights)
        }
    np.savez(buffer, **arrays)
    return buffer.getvalue()


def _built(description: dict[str, Any], content: bytes) -> "keras.Model":
    from fer_tfdata import models, precision

    with precision.policy_scope("float32"):
        model = models.BUILDERS[description["network"]](
            image_size=description["image_size"],
            channels=description["channels"],
            num_classes=len(description["expressions"]),
        )
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        model.set_weights([arrays[name].astype(np.float32) for name in sorted(arrays.files)])
    return model


def _check_answers(model: "keras.Model", packed: "keras.Model") -> None:
    images = np.random.default_rng(0).integers(0, 256, (64, *model.inputs[0].shape[1:]), np.uint8)
    expected = np.asarray(model.predict_on_batch(images))
    received = np.asarray(packed.predict_on_batch(images))
    farthest = np.abs(expected - received).max()
    if not farthest < 0.05:  # in logits: a probability moves by little more than a hundredth
        raise InputError(
            f"expected the packed model's logits within 0.05 of the run's, received {farthest:.3f} "
            "between two; its weights do not fit into float16"
        )


def _write(directory: Path, description: dict[str, Any]) -> None:
    atomic.write_text(directory / _DESCRIPTION, json.dumps(description, indent=2) + "\n")

"""What a run writes about itself: configuration, environment, history; and what may go on."""

import contextlib
import csv
import dataclasses
import fcntl
import io
import json
import logging
import math
import os
import platform
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import keras
import numpy as np
import tensorflow as tf

import fer_tfdata
from fer_tfdata import atomic, checkout, cluster, processor
from fer_tfdata.augmentation_config import AugmentationConfig
from fer_tfdata.errors import InputError
from fer_tfdata.run_directory import RunDirectory
from fer_tfdata.train_config import TrainConfig

# Which data these are, their checksum says.
_FREE: Final = ("data_dir", "checkpoint_every")
# What the same operations may give other last bits with.
_BITS_REST_ON: Final = (
    *("fer_tfdata", "git_commit", "python", "versions", "devices", "threads", "onednn"),
)

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def locked(run: RunDirectory) -> Iterator[None]:
    """Makes the run directory, and keeps other processes out of it, however this one ends.

    Raises:
      InputError: another process is in it, or it cannot be a directory.
    """
    try:
        run.root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(run.root, os.O_RDONLY | os.O_DIRECTORY)
    except (FileExistsError, NotADirectoryError):
        raise InputError(
            f"{run.root}: expected an empty or no directory; it, or what it is to stand in, is a "
            "file"
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(f"{run.root}: another process is training it") from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def errors_named(run: RunDirectory) -> Iterator[None]:
    """Raises what the system refuses, but for a lack of room, as an InputError with the file."""
    try:
        yield
    except OSError as error:
        if atomic.lack_of_room(error) is not None:
            raise
        raise InputError(
            f"{error.filename or run.root}: expected to be able to read and write it, received: "
            f"{error.strerror or error}"
        ) from error


def prepare(run: RunDirectory, config: TrainConfig, *, resume: bool) -> None:
    """Begins the run, or checks that the one there may be continued, and clears what a kill left.

    Raises:
      InputError: there is something else, or it was started with another configuration.
    """
    _check_or_write_config(run, config, resume=resume)
    for path in atomic.left_by_kills(run.root):
        path.unlink()
    run.checkpoints.mkdir(exist_ok=True)


def _check_or_write_config(run: RunDirectory, config: TrainConfig, *, resume: bool) -> None:
    if run.config.is_file():
        if not resume:
            raise InputError(
                f"{run.root}: holds a run already; continue it with --resume, or choose another "
                "--run_dir"
            )
        started = _choices(read_json(run.config))
        changed = [
            f"{name} {started.get(name)!r} (now {value!r})"
            for name, value in _choices(dataclasses.asdict(config)).items()
            if not _may_become(name, started.get(name), value)
        ]
        if changed:
            raise InputError(
                f"{run.config}: the run was started with {', '.join(changed)}; a run is continued "
                "with the flags it was started with"
            )
        return
    # A hidden file is what a kill amid the writing of the configuration leaves.
    if any(not path.name.startswith(".") for path in run.root.iterdir()):
        raise InputError(f"{run.root}: expected an empty or no directory, received one in use")
    write_json(run.config, dataclasses.asdict(config))


def _may_become(name: str, started: Any, value: Any) -> bool:
    """Returns whether a run that started with one value may be continued with another."""
    if name in _FREE:
        return True
    if name == "data_service":  # of another address, but what is streamed has its own order
        return (started is None) == (value is None)
    return bool(started == value)


def _choices(written: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a configuration as its flags: with what older runs do not name, and flat."""
    defaults = {
        field.name: field.default
        for kind in (TrainConfig, AugmentationConfig)
        for field in dataclasses.fields(kind)
        if field.default is not dataclasses.MISSING
    }
    flat = {name: value for name, value in written.items() if name != "augmentation"}
    return {**defaults, **flat, **written.get("augmentation", {})}


def hyperparameters(config: TrainConfig) -> dict[str, bool | int | float | str]:
    """Returns what tells a run from others: the flags, without those that change no result."""
    return {
        name: "" if value is None else value
        for name, value in _choices(dataclasses.asdict(config)).items()
        if name not in _FREE
    }


def common_facts(config: TrainConfig, policy: str, manifest_sha256: str) -> dict[str, Any]:
    """Returns what all processes of one training must have in common, by name."""
    return {
        **hyperparameters(config),
        "dtype_policy": policy,
        "manifest_sha256": manifest_sha256,
        "fer_tfdata": fer_tfdata.__version__,
        **_versions(),
    }


def note_environment(
    run: RunDirectory,
    *,
    policy: str,
    manifest_sha256: str,
    checksums: Mapping[str, Any],
) -> None:
    """Writes what the run starts in, or checks that it goes on with what it started with.

    Args:
      run: the run.
      policy: the dtype policy.
      manifest_sha256: of the data.
      checksums: `start_sha256` and `teachers_sha256`, of the models that it makes use of.

    Raises:
      InputError: the data, the weights at its start, the teachers, the dtype policy, the backend or
        the number of processes are others than those it started with.
    """
    environment = {**_environment(policy), "manifest_sha256": manifest_sha256, **checksums}
    if run.environment.is_file():
        started = read_json(run.environment, "manifest_sha256", "dtype_policy")
        # Before there was a choice, a run did not name them.
        for name, only in (("backend", "tensorflow"), ("num_processes", 1)):
            if started.get(name, only) != environment[name]:
                raise InputError(
                    f"{run.root}: the run was started with {name} {started.get(name, only)!r} (now "
                    f"{environment[name]!r}); continue it as it was started, or choose another "
                    "--run_dir"
                )
        if started["manifest_sha256"] != environment["manifest_sha256"]:
            raise InputError(
                f"{run.root}: the run was started on other data than those given now; choose "
                "another --run_dir"
            )
        for name, none, what in (
            ("start_sha256", None, "from other weights"),
            ("teachers_sha256", [], "with other teachers"),
        ):
            if started.get(name, none) != environment[name]:
                raise InputError(
                    f"{run.root}: the run was started {what} than those that stand there now; "
                    "choose another --run_dir"
                )
        if started["dtype_policy"] != environment["dtype_policy"]:
            raise InputError(
                f"{run.root}: the run was started in {started['dtype_policy']}, and --precision "
                f"means {environment['dtype_policy']} on this machine; continue it on one like the "
                "first, or choose another --run_dir"
            )
        # Before oneDNN was asked for, TensorFlow made its own choice.
        before = environment | {"onednn": processor.takes_onednn_by_itself()} | started
        for name in _BITS_REST_ON:
            known = None not in (before[name], environment[name])  # not all run from a checkout
            if known and before[name] != environment[name]:
                _log.warning(
                    "%s: the run was started with %s %r (now %r); it goes on, but need not end bit "
                    "for bit as it would have",
                    *(run.root, name, before[name], environment[name]),
                )
        return
    write_json(run.environment, environment)


def past_epochs(run: RunDirectory, completed: int) -> list[dict[str, float]]:
    """Returns the history of the completed epochs.

    Raises:
      InputError: it does not hold them.
    """
    # What a run of before it was measured did not note is not a number.
    past = [{"input_wait": math.nan, **row} for row in read_history(run.history)[:completed]]
    if len(past) != completed:
        raise InputError(
            f"{run.history}: expected the {completed} epochs that the checkpoint holds, received "
            f"{len(past)}; the run cannot be continued, start a new one"
        )
    return past


def read_history(path: Path) -> list[dict[str, float]]:
    """Returns the complete rows: a kill may have cut the last one.

    Raises:
      InputError: a row has other columns than the first line names, or no numbers.
    """
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8")
        whole_lines = text[: text.rfind("\n") + 1].splitlines()
        return [
            {name: float(value) for name, value in row.items()}
            for row in csv.DictReader(whole_lines)
        ]
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{path}: expected in each row a number for each column, received other rows; the run "
            "cannot be continued, start a new one"
        ) from error


def write_history(path: Path, rows: Sequence[Mapping[str, float]]) -> None:
    """Writes the rows of the completed epochs, and nothing of what came after."""
    if not rows:
        path.unlink(missing_ok=True)
        return
    buffer = io.StringIO()
    # As CSVLogger, which goes on with them, writes columns and lines.
    columns = sorted(rows[0], key=lambda name: (name != "epoch", name))
    writer = csv.DictWriter(buffer, columns, lineterminator="\r\n")
    writer.writeheader()
    writer.writerows({**row, "epoch": int(row["epoch"])} for row in rows)
    atomic.write_text(path, buffer.getvalue())


def _environment(policy: str) -> dict[str, Any]:
    return {
        "fer_tfdata": fer_tfdata.__version__,
        "git_commit": checkout.commit(),
        "python": platform.python_version(),
        "versions": _versions(),
        "platform": platform.platform(),
        "backend": keras.backend.backend(),
        "num_processes": cluster.process_count(),
        "devices": _device_names(),
        "threads": _threads(),
        "onednn": processor.takes_onednn(),
        "dtype_policy": policy,
    }


def _versions() -> dict[str, str]:
    packages = ["tensorflow", "keras", "numpy", "tensorflow-datasets", "tensorboard"]
    if keras.backend.backend() == "jax":
        packages.append("jax")
    return {name: metadata.version(name) for name in packages}


def _device_names() -> list[str]:
    if keras.backend.backend() != "jax":
        return [_device_name(device) for device in tf.config.get_visible_devices()]
    import jax

    return [
        f"CPU {_cpu_name()}"
        if device.platform == "cpu"
        else f"{device.platform.upper()} {device.device_kind}"
        for device in jax.devices()
    ]


def _threads() -> int:
    """Returns how many threads an operation is shared out to on the CPU."""
    chosen: int = tf.config.threading.get_intra_op_parallelism_threads()
    chosen = chosen or int(os.environ.get("TF_NUM_INTRAOP_THREADS") or 0)
    if chosen or not hasattr(os, "sched_getaffinity"):
        return chosen or os.cpu_count() or 1
    return len(os.sched_getaffinity(0))


def _device_name(device: Any) -> str:
    if device.device_type == "GPU":
        details = tf.config.experimental.get_device_details(device)
        return f"GPU {details.get('device_name', '')}".strip()
    return f"{device.device_type} {_cpu_name()}" if device.device_type == "CPU" else device.name


def _cpu_name() -> str:
    return f"{processor.name()}, {os.cpu_count()} cores"


def read_json(path: Path, *names: str) -> dict[str, Any]:
    """Returns what a run wrote into a file of JSON.

    Raises:
      InputError: it is not that: damaged, or without one of the names.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _not_written(path, str(error)) from error
    if not isinstance(content, dict):
        raise _not_written(path, f"{type(content).__name__}")
    if missing := [name for name in names if name not in content]:
        raise _not_written(path, f"nothing called {' and '.join(missing)}")
    return content


def _not_written(path: Path, received: str) -> InputError:
    return InputError(
        f"{path}: expected the JSON that the run wrote there, received {received}; put it back, or "
        "start a new run"
    )


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Writes a file of JSON, complete or not at all."""
    atomic.write_text(path, json.dumps(content, indent=2, default=_plain) + "\n")


def _plain(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} has no form in JSON")

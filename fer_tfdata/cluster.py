"""The processes that train together, and what they tell each other.

There may be several under JAX.  Each takes the same steps as all others, on its part of every
batch, and holds the same variables.  So whatever changes variables, or may end the training, has to
happen in all of them alike; the first one alone reads and writes the run's files.
"""

import atexit
import collections
import contextlib
import json
import logging
import os
import re
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import keras
import numpy as np
import numpy.typing as npt

from fer_tfdata.cluster_config import ClusterConfig
from fer_tfdata.errors import InputError

# How long they wait for each other to begin.
_START_SECONDS: Final = 300
# After how long one that says nothing counts as lost.
_HEARTBEAT_SECONDS: Final = 60
# How long they wait for each other to end, once all is done.
_END_SECONDS: Final = 60

_Value = TypeVar("_Value")

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def joined(config: ClusterConfig) -> Iterator[None]:
    """Within the block, this process trains with the others; it is to be entered before all else.

    Whoever leaves it with an error ends the process without waiting for the others, which JAX would
    do: they wait for this process themselves.

    Raises:
      InputError: there are to be several and the backend is not JAX, or they do not meet, or one of
        them has more devices than another, or is lost.
    """
    if config.num_processes == 1:
        yield
        return
    if keras.backend.backend() != "jax":
        raise InputError(
            "num_processes: expected 1, or KERAS_BACKEND=jax in the environment of every process, "
            f"received {config.num_processes} with KERAS_BACKEND={keras.backend.backend()}"
        )
    import jax

    try:
        _meet(config)
        _check_devices()
        yield
    except BaseException as error:
        lost = _loss_of_process(error)
        atexit.register(_end_at_once, 2 if lost or isinstance(error, InputError) else 1)
        if lost:
            raise lost from error
        raise
    jax.distributed.shutdown()


def _meet(config: ClusterConfig) -> None:
    """Waits for the other processes, in a thread, since JAX aborts where it waits in vain."""
    if config.process_id == 0:
        _check_port(int(str(config.coordinator).rpartition(":")[2]))
    _log.warning(
        "process %d of %d meets the others at %s",
        config.process_id,
        config.num_processes,
        config.coordinator,
    )
    errors: list[Exception] = []
    thread = threading.Thread(target=_initialize, args=(config, errors), daemon=True)
    thread.start()
    thread.join(_START_SECONDS)
    if not thread.is_alive() and not errors:
        return
    received = _first_line(errors[0]) if errors else f"fewer within {_START_SECONDS} s"
    raise InputError(
        f"coordinator: expected {config.num_processes} processes to meet at {config.coordinator}, "
        f"an address of the host of process 0, received {received}; start all of them, with the "
        "same address, which a firewall must let through"
    )


def _check_port(port: int) -> None:
    """Checks that the port is free: gRPC shares a taken one in silence."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except OSError as error:
            raise InputError(
                f"coordinator: expected a port that is free on this host, received {port}: "
                f"{error.strerror}; choose another one, and --process_id=0 for one process alone"
            ) from None


def _initialize(config: ClusterConfig, errors: list[Exception]) -> None:
    import jax

    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator,
            num_processes=config.num_processes,
            process_id=config.process_id,
            cluster_detection_method="deactivate",  # a process has all devices of its host
            initialization_timeout=2 * _START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except (RuntimeError, ValueError) as error:
        errors.append(error)


def _check_devices() -> None:
    """Checks that all processes have as many devices, or JAX cannot gather what they say."""
    import jax

    counts = collections.Counter(device.process_index for device in jax.devices())
    if len(set(counts.values())) > 1:
        received = ", ".join(f"{counts[index]} of process {index}" for index in sorted(counts))
        raise InputError(
            f"devices: expected as many of every process, received {received}; let as many be seen "
            "everywhere (CUDA_VISIBLE_DEVICES)"
        )


def _loss_of_process(error: BaseException) -> InputError | None:
    """Returns what to tell of an error that came of another process's end; None for any other."""
    of_jax = isinstance(error, (RuntimeError, ValueError)) and not isinstance(error, InputError)
    if not of_jax or not re.search("gloo|nccl|coordination", str(error), re.IGNORECASE):
        return None
    return InputError(
        f"another process of this training was lost ({_first_line(error)}); start all of them "
        "again with --resume"
    )


def _end_at_once(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def process_count() -> int:
    """Returns how many processes train together."""
    if keras.backend.backend() != "jax":
        return 1
    import jax

    return jax.process_count()


def process_index() -> int:
    """Returns which of them this one is, from 0."""
    if keras.backend.backend() != "jax":
        return 0
    import jax

    return jax.process_index()


def is_first() -> bool:
    """Returns whether this process is the one that reads and writes the run's files."""
    return process_index() == 0


@contextlib.contextmanager
def all_or_none() -> Iterator[None]:
    """Raises in every process what the block raises in one.

    Raises:
      InputError: this process's, or that of the first process that has one.
    """
    error: InputError | None = None
    try:
        yield
    except InputError as raised:
        error = raised
    messages = gathered(None if error is None else str(error))
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise InputError(f"process {index} cannot go on: {message}")


def from_first(make: Callable[[], _Value]) -> _Value:
    """Returns in every process what the first one makes.

    Args:
      make: called in the first process alone; returns what JSON can hold.

    Raises:
      InputError: what it raises, in every process.
    """
    value = None
    with all_or_none():
        if is_first():
            value = make()
    return gathered(value)[0]


def arrays_from_first(
    arrays: Sequence[npt.NDArray[Any]], like: Sequence[Any]
) -> list[npt.NDArray[Any]]:
    """Returns the first process's arrays in every process.

    Args:
      arrays: any in the other processes.
      like: variables of the same shapes and dtypes, in every process.
    """
    if process_count() == 1:
        return list(arrays)
    from jax.experimental import multihost_utils

    if not is_first():
        arrays = [np.zeros(variable.shape, variable.dtype) for variable in like]
    return multihost_utils.broadcast_one_to_all(list(arrays))


def check_alike(facts: Mapping[str, Any]) -> None:
    """Checks that all processes have the same facts.

    Args:
      facts: by their names; what JSON can hold.

    Raises:
      InputError: in every process, if one differs; the message names what and how.
    """
    of_first, *of_others = gathered(dict(facts))
    for index, others in enumerate(of_others, start=1):
        for name, value in of_first.items():
            if others.get(name) != value:
                raise InputError(
                    f"process {index}: expected {name} {value!r}, as process 0 has, received "
                    f"{others.get(name)!r}; start all processes with the same flags, versions and "
                    "data"
                )


def gathered(value: Any) -> list[Any]:
    """Returns every process's value, in their order.

    Args:
      value: what JSON can hold.
    """
    if process_count() == 1:
        return [value]
    from jax.experimental import multihost_utils

    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    sizes = multihost_utils.process_allgather(np.array([text.size], np.int32)).ravel()
    padded = np.zeros(sizes.max(), np.uint8)
    padded[: text.size] = text
    rows = multihost_utils.process_allgather(padded)
    return [json.loads(row[:size].tobytes()) for row, size in zip(rows, sizes, strict=True)]


def stop_agreed_on(step: int) -> bool:
    """Returns whether all of several processes are to stop after a step, since one got SIGTERM.

    To be asked after every step, in all of them.
    """
    from jax.experimental import multihost_utils

    return multihost_utils.reached_preemption_sync_point(step)


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

"""Which devices train together: those of this host, or under JAX those of several hosts.

Under TensorFlow one process has all devices of a host.  Under JAX there may be several processes:
each takes the same steps as all others, on its part of every batch, and holds the same variables.
So whatever changes variables, or may end the training, has to happen in all of them alike; the
first process alone reads and writes the run's files.
"""

import atexit
import contextlib
import json
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, NoReturn, TypeVar

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from fer_tfdata.cluster_config import ClusterConfig
from fer_tfdata.errors import InputError

# How long processes wait for each other to begin.
_START_SECONDS: Final = 300
# After how long a process that says nothing counts as lost.
_HEARTBEAT_SECONDS: Final = 60
# How long they wait for each other to end, once all is done.
_END_SECONDS: Final = 60

_Value = TypeVar("_Value")


def on_jax() -> bool:
    """Returns whether Keras computes by JAX."""
    return bool(keras.backend.backend() == "jax")


def choose_strategy(devices: Sequence[str] | None = None) -> tf.distribute.Strategy:
    """Returns what a model is to be built under for TensorFlow.

    Several devices each hold the weights, take their part of every batch, normalise by its moments,
    and add up their gradients (`tf.distribute.MirroredStrategy`).

    Args:
      devices: names of logical devices, such as `GPU:0`; None for all GPUs.
    """
    names = devices or [device.name for device in tf.config.list_logical_devices("GPU")]
    if len(names) > 1 and not on_jax():
        return tf.distribute.MirroredStrategy(names)
    return tf.distribute.get_strategy()  # what there is without one


@contextlib.contextmanager
def joined(config: ClusterConfig) -> Iterator[None]:
    """Within the block, this process trains with the others; it is to be entered before all else.

    Raises:
      InputError: there are to be several and the backend is not JAX, or they do not find each
        other.
    """
    if config.num_processes == 1:
        yield
        return
    if not on_jax():
        raise InputError(
            "num_processes: expected 1, or KERAS_BACKEND=jax in the environment of every process, "
            f"received {config.num_processes} with KERAS_BACKEND={keras.backend.backend()}"
        )
    import jax

    try:
        jax.distributed.initialize(
            coordinator_address=config.coordinator,
            num_processes=config.num_processes,
            process_id=config.process_id,
            cluster_detection_method="deactivate",  # a process has all devices of its host
            initialization_timeout=_START_SECONDS,
            heartbeat_timeout_seconds=_HEARTBEAT_SECONDS,
            shutdown_timeout_seconds=_END_SECONDS,
        )
    except RuntimeError as error:
        raise InputError(
            f"{config.coordinator}: expected {config.num_processes} processes to meet there within "
            f"{_START_SECONDS} s, received: {_first_line(error)}"
        ) from error
    try:
        yield
    except BaseException as error:
        # Before JAX, which would wait for the others, who wait for this process, and then abort it.
        atexit.register(_end_at_once, 2 if isinstance(error, InputError) else 1)
        raise
    jax.distributed.shutdown()


def _end_at_once(status: int) -> NoReturn:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


@contextlib.contextmanager
def data_parallel() -> Iterator[None]:
    """Within the block, JAX trains on all devices of all processes (`DataParallel`).

    Each holds the variables and takes its part of every batch; what is computed of a batch, such as
    the moments to normalise by, is that of the whole one.
    """
    if on_jax() and device_count() > 1:
        with keras.distribution.DataParallel(auto_shard_dataset=False).scope():
            yield
    else:
        yield


def device_count() -> int:
    """Returns how many devices share every batch under JAX; under TensorFlow 1."""
    if not on_jax():
        return 1
    import jax

    return jax.device_count()


def process_count() -> int:
    """Returns how many processes train together."""
    if not on_jax():
        return 1
    import jax

    return jax.process_count()


def process_index() -> int:
    """Returns which of them this one is, from 0."""
    if not on_jax():
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


@contextlib.contextmanager
def stop_agreed_on() -> Iterator[Callable[[int], bool]]:
    """Yields whether all of several processes are to stop after a step, since one got SIGTERM.

    What is yielded is to be called after every step, with the step, in all of them.
    """
    from jax.experimental import multihost_utils

    yield multihost_utils.reached_preemption_sync_point
    # JAX notes the signal instead of ending, from the first moment on.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def loss_of_process(error: Exception) -> InputError | None:
    """Returns what to tell of an error that came of another process's end; None for any other."""
    if process_count() == 1 or not re.search("gloo|nccl|coordination", str(error), re.IGNORECASE):
        return None
    return InputError(
        f"another process of this training was lost ({_first_line(error)}); start all of them "
        "again with --resume"
    )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

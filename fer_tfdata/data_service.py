"""A map stage on tf.data service: windows computed by other processes, in the order of here.

The service hands the windows' numbers to its workers and knows no order; and where a worker is
lost, it goes on without the windows that the worker held.  Numbering makes both good: the client
puts the windows in order, and ends with an error where one is missing.
"""

import atexit
import ipaddress
import queue
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, Final

import tensorflow as tf

from fer_tfdata.dataset_options import untuned
from fer_tfdata.errors import InputError

TIMEOUT_SECONDS: Final = 60.0

# Windows that a worker computes at once: enough to keep reading and decoding busy together, few
# enough that what a worker has ready, and with it what the client holds back, stays small.
_WINDOWS_AT_ONCE: Final = 2

# Windows on their way to the client: one arrives while another is asked for.  tf.data's own choice
# piles up dozens.
_REQUESTS: Final = 2

# Later windows that may come before one that is late.  A worker holds fewer than eight, so that
# eight workers stay below; more of them, and the window is lost.
_MAX_HELD_BACK: Final = 64

# What every dispatcher answers, since clients ask it first; a worker does not know the question.
_GET_VERSION: Final = "/tensorflow.data.DispatcherService/GetVersion"

_MOST_PORT: Final = 65_535

_CONNECT_SECONDS: Final = 5.0
_EXIT_SECONDS: Final = 2.0

_service: Final = tf.data.experimental.service


def map_windows(
    make_window: Callable[[tf.Tensor], Any],
    *,
    first: int,
    address: str,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> tf.data.Dataset:
    """Returns `make_window` of `first`, `first + 1`, ... without end, computed by the workers.

    The windows come exactly once and in the order of their numbers, however many workers there
    are, also where workers join later.  Each iteration is a job of its own, which starts at
    `first`.  Where that cannot be kept, iterating raises a tf.errors.InvalidArgumentError that
    `input_error` makes an `InputError` of: a worker or the dispatcher was lost or restarted, no
    window came in time, or `make_window` raised an error on a worker.

    Args:
      make_window: makes a window, a structure of tensors, of its number, int64 []; a function of
        the number alone, traced without AutoGraph, which runs on the workers: the files that it
        reads must be there under the same paths.
      first: the number of the first window.
      address: of the dispatcher, `grpc://host:port`.
      timeout_seconds: how long to wait for a window.

    Raises:
      InputError: the address is none, or no dispatcher answers there.
    """
    check_reachable(address)

    @tf.autograph.experimental.do_not_convert
    def number_window(number: tf.Tensor) -> tuple[tf.Tensor, Any]:
        return number, make_window(number)

    numbered = (
        tf.data.Dataset.range(first, tf.int64.max)
        .map(
            number_window,
            num_parallel_calls=_WINDOWS_AT_ONCE,
            deterministic=True,
        )
        # Never begun again: strict rounds over the workers are for endless datasets alone, and
        # only in rounds does no worker run ahead of the others further than the client can hold.
        .repeat()
        .with_options(_bounded_buffers())
    )
    _, window_spec = numbered.element_spec

    def in_order() -> Iterator[Any]:
        return _in_order(_Puller(numbered, address), first, address, timeout_seconds)

    return tf.data.Dataset.from_generator(in_order, output_signature=window_spec)


def input_error(error: tf.errors.OpError) -> InputError | None:
    """Returns what a person can mend of an error of `map_windows`, None where it is another."""
    # tf.data carries no exception through its graph, only the name and the text of one.
    found = re.search(rf"\b{InputError.__name__}: (.*)", error.message)
    return InputError(found[1]) if found else None


def check_reachable(address: str) -> None:
    """Checks that a dispatcher answers at an address.

    Waits five seconds at most for a connection, to each of the addresses that a name stands for,
    and as many for the answer.

    Raises:
      InputError: the address is not of the form `grpc://host:port`, nothing listens there, or
        something that is no dispatcher.
    """
    try:
        with socket.create_connection(split_address(address), _CONNECT_SECONDS):
            pass
    except OSError as error:
        raise InputError(_no_dispatcher(address, str(error.strerror or error))) from None
    if received := _answer_of_another(address):
        raise InputError(_no_dispatcher(address, received))


def _answer_of_another(address: str) -> str | None:
    """Returns what answers at an address where something listens; None where a dispatcher does."""
    import grpc  # here, since it is for trainings with a service alone

    # Its own connection, since gRPC would remember for a while that an earlier one had failed.
    options = [("grpc.use_local_subchannel_pool", 1)]
    with grpc.insecure_channel(address.removeprefix("grpc://"), options) as channel:
        try:
            channel.unary_unary(_GET_VERSION)(b"", timeout=_CONNECT_SECONDS)
        except grpc.RpcError as error:
            code = error.code()
        else:
            return None
    if code == grpc.StatusCode.DEADLINE_EXCEEDED:
        return f"a server that does not answer within {_CONNECT_SECONDS:g} s"
    if code == grpc.StatusCode.UNIMPLEMENTED:
        return "another gRPC server, such as a worker"
    return "a server of another kind"


def _no_dispatcher(address: str, received: str) -> str:
    return (
        f"{address}: expected a tf.data service dispatcher, received: {received}; start one there, "
        "or give the address that it printed"
    )


def split_address(address: str) -> tuple[str, int]:
    """Returns the host, an IPv6 address without its brackets, and the port of `grpc://host:port`.

    Raises:
      InputError: the address is of another form.
    """
    match = re.fullmatch(r"grpc://([^\s:/?#@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})", address)
    if match is None or not _is_name(match[1]) or not 1 <= int(match[2]) <= _MOST_PORT:
        raise InputError(
            "data service: expected an address like grpc://host:5050 or grpc://[::1]:5050, with a "
            f"port from 1 to {_MOST_PORT}, received {address!r}"
        )
    return match[1].strip("[]"), int(match[2])


def join_address(host: str, port: int) -> str:
    """Returns `grpc://host:port`, with brackets around an IPv6 address whether it has them or not.

    Raises:
      InputError: the host or the port can stand in no address.
    """
    plain = host.strip("[]")
    address = f"grpc://[{plain}]:{port}" if ":" in plain else f"grpc://{plain}:{port}"
    split_address(address)
    return address


def start_dispatcher(*, port: int) -> tuple[Any, int]:
    """Starts a dispatcher in this process, on all of the machine's network interfaces.

    Returns:
      The server, with a method `stop()`, and the port; the server ends with its last reference.

    Raises:
      InputError: the port is taken or not one that may be had.
    """
    port = _free_port(port)
    return _service.DispatchServer(_service.DispatcherConfig(port=port)), port


def start_worker(*, dispatcher: str, host: str, port: int) -> tuple[Any, int]:
    """Starts a worker in this process, on all of the machine's network interfaces.

    Args:
      dispatcher: the dispatcher's address, `grpc://host:port`.
      host: the name or address under which clients reach this machine; they learn it from the
        dispatcher.
      port: the worker's, 0 for any.

    Returns:
      The server, with a method `stop()`, and the port; the server ends with its last reference.

    Raises:
      InputError: no dispatcher answers at its address, or it is elsewhere and the host is this
        machine's name for itself or none, or the port is taken or not one that may be had.
    """
    if _is_this_machine(host) and not _is_this_machine(split_address(dispatcher)[0]):
        raise InputError(
            "host: expected the name or IP address under which the training reaches this worker, "
            f"since its dispatcher is at {dispatcher}; received {host}, where every machine finds "
            "itself; pass this machine's name or IP address as --host"
        )
    check_reachable(dispatcher)
    port = _free_port(port)
    config = _service.WorkerConfig(
        dispatcher_address=dispatcher.removeprefix("grpc://"),
        worker_address=join_address(host, port).removeprefix("grpc://"),
        port=port,
    )
    return _service.WorkerServer(config), port


class _Puller:
    """Reads numbered windows from the service in a thread of its own.

    What waits for the service waits in C++, where nothing can interrupt it: the thread does that,
    and who takes from it can give up.
    """

    def __init__(self, numbered: tf.data.Dataset, address: str) -> None:
        self._numbered = numbered
        self._address = address
        self._arrived: queue.Queue[Any] = queue.Queue(maxsize=1)
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._pull, name="data service", daemon=True)
        # A thread that comes back from C++ while Python ends aborts the process.
        atexit.register(self._stop_and_wait)
        self._thread.start()

    def take(self, timeout_seconds: float) -> tuple[int, Any]:
        """Returns a number and its window; raises queue.Empty, or what the service raised."""
        arrived = self._arrived.get(timeout=timeout_seconds)
        if isinstance(arrived, Exception):
            raise arrived
        number, window = arrived
        return int(number), window

    def stop(self) -> None:
        """Lets the thread end as soon as it comes back from the service."""
        self._stopped.set()
        while not self._arrived.empty():
            self._arrived.get()

    def _pull(self) -> None:
        try:
            self._put_all()
        except Exception as error:
            self._arrived.put(error)
        finally:
            atexit.unregister(self._stop_and_wait)

    def _put_all(self) -> None:
        # Here, since even to register a dataset waits for the dispatcher.
        distribute = _service.distribute(
            processing_mode=_service.ShardingPolicy.DYNAMIC,
            service=self._address,
            job_name=uuid.uuid4().hex,  # another job's rounds cannot be joined
            consumer_index=0,
            num_consumers=1,
            max_outstanding_requests=_REQUESTS,
            compression=None,  # pixels do not shrink
        )
        for element in untuned(self._numbered.apply(distribute)):
            self._arrived.put(element)
            if self._stopped.is_set():
                return

    def _stop_and_wait(self) -> None:
        self.stop()
        self._thread.join(_EXIT_SECONDS)


def _in_order(puller: _Puller, first: int, address: str, timeout_seconds: float) -> Iterator[Any]:
    """Yields the windows in the order of their numbers.

    Raises:
      InputError: a window is missing.
    """
    held: dict[int, Any] = {}
    expected = first
    try:
        while True:
            deadline = time.monotonic() + timeout_seconds
            while expected not in held:
                if len(held) > _MAX_HELD_BACK:
                    raise InputError(
                        f"{address}: expected window {expected}, received {len(held)} later ones "
                        f"without it: a worker was lost or restarted{_WHAT_TO_DO}"
                    )
                try:
                    number, window = puller.take(max(0.0, deadline - time.monotonic()))
                except queue.Empty:
                    raise InputError(_silence(address, expected, timeout_seconds)) from None
                except tf.errors.OpError as error:
                    raise InputError(_failure(address, expected, error.message)) from error
                held[number] = window
            yield held.pop(expected)
            expected += 1
    finally:
        puller.stop()


_WHAT_TO_DO: Final = (
    "; see that the dispatcher and its workers run, and continue the training with --resume"
)


def _silence(address: str, expected: int, timeout_seconds: float) -> str:
    """Says as much of a silent service as can be found out."""
    try:
        check_reachable(address)
    except InputError:
        cause = "the dispatcher was lost"
    else:
        cause = "the dispatcher answers, but it has no workers, or one was lost or is too slow"
    return (
        f"{address}: expected window {expected} within {timeout_seconds:g} s, received none: "
        f"{cause}{_WHAT_TO_DO}"
    )


def _failure(address: str, expected: int, message: str) -> str:
    """Says what a worker or the dispatcher reported."""
    # Without the names of nodes that nobody gave.
    plain = " ".join(re.sub(r"\{\{.*?\}\}|\[\[.*?\]\]|\[Op:\w+\] name:", "", message).split())
    return (
        f"{address}: expected window {expected}, received an error: {plain}; every worker must "
        "have the data under the path that the training has them"
    )


def _bounded_buffers() -> tf.data.Options:
    """Keeps a worker from buffering more windows than the map stage has in hand."""
    options = tf.data.Options()
    options.autotune.enabled = False
    options.experimental_optimization.inject_prefetch = False
    return options


def _is_name(host: str) -> bool:
    """Returns whether a host can be looked up: no part of it is empty or longer than 63 bytes."""
    try:
        host.encode("idna")  # as socket does
    except UnicodeError:
        return False
    return True


def _is_this_machine(host: str) -> bool:
    """Returns whether every machine reaches itself under a host's name or address."""
    try:
        address = ipaddress.ip_address(host.strip("[]"))
    except ValueError:  # a name
        return host == "localhost"
    return address.is_loopback or address.is_unspecified


def _free_port(port: int) -> int:
    """Returns the port, or a free one for 0.

    gRPC shares a taken port in silence.

    Raises:
      InputError: the port is taken or not one that may be had.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise InputError(
                f"port: expected one that is free, received {port}: {reason}; choose another one, "
                "or 0 for any"
            ) from None
        return int(probe.getsockname()[1])

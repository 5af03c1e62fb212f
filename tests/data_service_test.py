"""Real servers throughout: in this process for the order, processes of their own for the losses."""

import contextlib
import http.server
import itertools
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from fer_tfdata import data_service
from fer_tfdata.errors import InputError

ROOT = Path(__file__).resolve().parent.parent
TOOL = [sys.executable, "-m", "tools.data_service"]


def make_window(number: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Of 1 to 3 batches of two images, random in (number)."""
    shape = tf.stack([1 + number % 3, 2, 4, 4, 1])
    images = tf.random.stateless_uniform(shape, [number, 0], 0, 256, tf.int32)
    return tf.cast(images, tf.uint8), tf.fill(shape[:2], number)


def local(first: int) -> tf.data.Dataset:
    return tf.data.Dataset.range(first, tf.int64.max).map(make_window)


def start_here(workers: int) -> tuple[str, list]:
    dispatcher, port = data_service.start_dispatcher(port=0)
    address = f"grpc://127.0.0.1:{port}"
    return address, [dispatcher, *(worker_here(address) for _ in range(workers))]


def worker_here(address: str):
    return data_service.start_worker(dispatcher=address, host="127.0.0.1", port=0)[0]


def assert_equal(received: tf.data.Dataset, expected: tf.data.Dataset, windows: int) -> None:
    pairs = zip(received.take(windows), expected.take(windows), strict=True)
    for one, other in pairs:
        tf.nest.map_structure(np.testing.assert_array_equal, one, other)


@contextlib.contextmanager
def process(*arguments: str) -> Iterator[subprocess.Popen]:
    """A server as its own process."""
    with subprocess.Popen(
        [*TOOL, *arguments], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as server:
        try:
            yield server
        finally:
            server.kill()


def address_of(server: subprocess.Popen) -> str:
    """Waits until a server is ready."""
    return server.stdout.readline().split()[-1]


@contextlib.contextmanager
def cluster(workers: int) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    """A dispatcher's address, and the processes: the dispatcher, then the workers."""
    with contextlib.ExitStack() as stack:
        dispatcher = stack.enter_context(process("--role=dispatcher"))
        address = address_of(dispatcher)
        started = [
            stack.enter_context(process("--role=worker", f"--dispatcher={address}"))
            for _ in range(workers)
        ]
        for worker in started:
            address_of(worker)
        yield address, [dispatcher, *started]


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.mark.parametrize(("workers", "first"), [(1, 0), (2, 5), (3, 1_000_003)])
def test_the_windows_are_those_of_the_local_run_in_their_order(workers, first) -> None:
    address, servers = start_here(workers)
    received = data_service.map_windows(make_window, first=first, address=address)
    assert received.element_spec == local(first).element_spec
    assert_equal(received, local(first), 100)
    assert_equal(received, local(first), 10)  # an iteration begins at the first window again
    assert len(servers) == workers + 1


def test_batches_of_windows_are_the_local_ones() -> None:
    address, servers = start_here(2)
    received = data_service.map_windows(make_window, first=3, address=address)
    assert_equal(received.unbatch().prefetch(2), local(3).unbatch(), 60)
    assert servers


def test_a_worker_that_joins_later_changes_no_order() -> None:
    address, servers = start_here(1)
    received = iter(data_service.map_windows(make_window, first=0, address=address))
    numbers = [int(labels[0, 0]) for _, labels in itertools.islice(received, 20)]
    servers.append(worker_here(address))
    # The client learns of it within a second or so, amid these.
    end = time.monotonic() + 1.5
    while time.monotonic() < end:
        numbers.append(int(next(received)[1][0, 0]))
    assert numbers == list(range(len(numbers)))


@pytest.mark.slow
def test_one_dispatcher_serves_several_trainings_at_once() -> None:
    address, servers = start_here(2)
    one, other = (
        iter(data_service.map_windows(make_window, first=first, address=address))
        for first in (0, 7)
    )
    numbers = [[int(next(received)[1][0, 0]) for received in (one, other)] for _ in range(40)]
    assert numbers == [[number, number + 7] for number in range(40)]
    assert servers


def test_no_window_is_made_far_ahead(tmp_path) -> None:
    def make(number: tf.Tensor) -> tf.Tensor:
        name = tf.strings.join([str(tmp_path) + "/", tf.as_string(number)])
        with tf.control_dependencies([tf.io.write_file(name, "")]):
            return tf.identity(number)

    address, servers = start_here(2)
    received = iter(data_service.map_windows(make, first=0, address=address))
    assert [int(number) for number in itertools.islice(received, 50)] == list(range(50))
    time.sleep(0.2)  # in which a worker without bounds would make thousands
    assert 50 <= len(list(tmp_path.iterdir())) < 50 + 2 * 16
    assert servers


def test_an_iteration_that_ends_leaves_no_thread() -> None:
    address, servers = start_here(2)
    before = threading.active_count()
    for _ in data_service.map_windows(make_window, first=0, address=address).take(3):
        pass
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() == before
    assert servers


def test_an_error_of_a_worker_names_its_cause() -> None:
    address, servers = start_here(1)
    received = data_service.map_windows(
        lambda number: tf.io.read_file(tf.strings.join(["/no/such/file/", tf.as_string(number)])),
        first=4,
        address=address,
    )
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iter(received))
    message = str(data_service.input_error(caught.value))
    assert message.startswith(f"{address}: expected window 4, received an error: ")
    assert "/no/such/file/4; No such file or directory" in message
    assert "{{" not in message
    assert servers


def test_a_service_without_workers_is_an_error_in_time() -> None:
    address, servers = start_here(0)
    received = data_service.map_windows(make_window, first=0, address=address, timeout_seconds=0.5)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        next(iter(received))
    message = str(data_service.input_error(caught.value))
    assert message.startswith(f"{address}: expected window 0 within 0.5 s, received none: ")
    assert "no workers" in message
    assert servers


def test_fit_ends_with_the_error_when_its_worker_is_lost() -> None:
    address, servers = start_here(1)
    received = data_service.map_windows(
        lambda number: (tf.ones((4, 2)), tf.fill((4,), tf.cast(number, tf.float32))),
        first=0,
        address=address,
        timeout_seconds=1,
    )
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")

    def lose(step: int, logs: object) -> None:
        del logs
        if step == 3:
            servers[1].stop()

    losing = keras.callbacks.LambdaCallback(on_train_batch_end=lose)
    with pytest.raises(tf.errors.InvalidArgumentError) as caught:
        model.fit(received, steps_per_epoch=10_000, callbacks=[losing], verbose=0)
    message = str(data_service.input_error(caught.value))
    assert message.startswith(f"{address}: expected window ")
    assert len(message.splitlines()) == 1


def test_another_error_is_left_alone() -> None:
    other = tf.errors.InvalidArgumentError(None, None, "shapes do not match")
    assert data_service.input_error(other) is None


@pytest.mark.parametrize(
    "address",
    [
        *("", "localhost:5050", "http://localhost:5050", "grpc://:5050", "grpc://localhost"),
        *("grpc://localhost:0", "grpc://localhost:65536", "grpc://local host:1", "grpc://a:1/b"),
        *("grpc://", "http://x:1", "grpc://host:", "grpc://host:-1", "grpc://host:5050\n"),
        *("grpc://::1:5050", "grpc://[::1]", "grpc://[::1:5050", "grpc://[host:5050"),
        *("grpc://[host]:5050", "grpc://name@host:5050", "grpc://host:\u0665"),
        *("grpc://a..b:5050", "grpc://.host:5050", f"grpc://{'a' * 64}.example:5050"),
    ],
)
def test_what_is_no_address_is_refused(address) -> None:
    with pytest.raises(InputError, match=r"expected an address like grpc://host:5050 .* received "):
        data_service.check_reachable(address)


def test_an_address_is_split() -> None:
    assert data_service.split_address("grpc://host-1.example:5050") == ("host-1.example", 5050)
    assert data_service.split_address("grpc://[::1]:5050") == ("::1", 5050)


@pytest.mark.parametrize("host", ["host-1.example", "127.0.0.1", "::1", "2001:db8::5"])
def test_an_address_that_is_joined_is_split_again(host) -> None:
    assert data_service.split_address(data_service.join_address(host, 5050)) == (host, 5050)
    assert data_service.join_address(f"[{host}]", 1) == data_service.join_address(host, 1)


@pytest.mark.parametrize("host", ["", "two words", "grpc://host", "host/path"])
def test_a_host_that_can_stand_in_no_address_is_refused(host) -> None:
    dispatcher, port = data_service.start_dispatcher(port=0)
    with pytest.raises(InputError, match=r"expected an address like grpc://host:5050 "):
        data_service.start_worker(dispatcher=f"grpc://127.0.0.1:{port}", host=host, port=0)
    dispatcher.stop()


def has_ipv6() -> bool:
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            return True
    except OSError:
        return False


@pytest.mark.skipif(not has_ipv6(), reason="this machine has no ::1")
def test_a_worker_has_windows_fetched_at_an_ipv6_address() -> None:
    dispatcher, port = data_service.start_dispatcher(port=0)
    worker, _ = data_service.start_worker(dispatcher=f"grpc://127.0.0.1:{port}", host="::1", port=0)
    address = f"grpc://127.0.0.1:{port}"
    received = data_service.map_windows(make_window, first=2, address=address, timeout_seconds=5)
    assert_equal(received, local(2), 5)
    worker.stop()
    dispatcher.stop()


def test_a_dispatcher_is_reached_by_each_of_its_addresses() -> None:
    dispatcher, port = data_service.start_dispatcher(port=0)
    for host in ("127.0.0.1", "localhost"):
        data_service.check_reachable(f"grpc://{host}:{port}")
    dispatcher.stop()
    with pytest.raises(InputError, match="dispatcher, received: Connection refused; start"):
        data_service.check_reachable(f"grpc://127.0.0.1:{port}")


def test_a_worker_is_told_apart_from_a_dispatcher() -> None:
    dispatcher, port = data_service.start_dispatcher(port=0)
    worker, worker_port = data_service.start_worker(
        dispatcher=f"grpc://127.0.0.1:{port}", host="127.0.0.1", port=0
    )
    with pytest.raises(InputError, match="received: another gRPC server, such as a worker; start"):
        data_service.check_reachable(f"grpc://127.0.0.1:{worker_port}")
    worker.stop()
    dispatcher.stop()


def test_a_server_that_never_answers_is_told_apart_from_a_dispatcher(monkeypatch) -> None:
    monkeypatch.setattr(data_service, "_CONNECT_SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"grpc://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(InputError, match=f"{address}: .* does not answer within 0.5 s; start"):
            data_service.map_windows(make_window, first=0, address=address)


def test_a_web_server_is_told_apart_from_a_dispatcher() -> None:
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        with pytest.raises(InputError, match="received: a server of another kind; start"):
            data_service.check_reachable(f"grpc://127.0.0.1:{server.server_port}")
        server.shutdown()


def test_where_nothing_listens_is_an_error_before_the_first_window() -> None:
    address = f"grpc://127.0.0.1:{unused_port()}"
    with pytest.raises(InputError, match=f"{address}: expected a tf.data service dispatcher"):
        data_service.map_windows(make_window, first=0, address=address)


def test_a_host_that_is_none_is_an_error() -> None:
    with pytest.raises(InputError, match=r"grpc://no\.such\.host\.invalid:5050: expected"):
        data_service.check_reachable("grpc://no.such.host.invalid:5050")


# A client of its own: that it ends at all, with an error and no abort, is what is tested.
CLIENT = """
import sys, time
import tensorflow as tf
from fer_tfdata import data_service

windows = data_service.map_windows(
    lambda number: tf.fill((64, 1024), number), first=0, address=sys.argv[1], timeout_seconds=4
)
expected = 0
try:
    for window in windows:
        if int(window[0, 0]) != expected:
            sys.exit(f"received window {int(window[0, 0])} for {expected}")
        expected += 1
        if expected == 50:
            print("running", flush=True)
        time.sleep(0.002)
except tf.errors.OpError as error:
    sys.exit(str(data_service.input_error(error)))
"""


@contextlib.contextmanager
def client(address: str) -> Iterator[subprocess.Popen]:
    """A client that has received its first windows."""
    with subprocess.Popen(
        [sys.executable, "-c", CLIENT, address],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        try:
            assert running.stdout.readline() == "running\n"
            yield running
        finally:
            running.kill()


def error_about(address: str, errors: str) -> str:
    """The one line of the client's own, among what TensorFlow logs."""
    (message,) = [line for line in errors.splitlines() if line.startswith(address)]
    assert message.startswith(f"{address}: expected window ")
    return message


@pytest.mark.slow
def test_the_kill_of_a_worker_is_an_error_and_the_end_of_the_other_is_clean() -> None:
    address, servers = start_here(0)
    worker = ("--role=worker", f"--dispatcher={address}")
    with process(*worker) as lost, process(*worker) as other:
        assert address_of(lost) != address_of(other)
        received = iter(
            data_service.map_windows(make_window, first=0, address=address, timeout_seconds=2)
        )
        numbers = [int(next(received)[1][0, 0]) for _ in range(20)]
        lost.kill()
        with pytest.raises(tf.errors.InvalidArgumentError) as caught:
            numbers.extend(int(labels[0, 0]) for _, labels in received)
        assert "lost" in error_about(address, str(data_service.input_error(caught.value)))
        assert numbers == list(range(len(numbers)))
        other.send_signal(signal.SIGTERM)
        assert other.wait(10) == 0
    assert servers


@pytest.mark.slow
def test_the_kill_of_a_worker_ends_the_client_and_servers_end_cleanly() -> None:
    with cluster(2) as (address, servers), client(address) as running:
        servers[1].kill()
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 1
        assert "lost" in error_about(address, errors)
        servers[2].send_signal(signal.SIGTERM)
        servers[0].send_signal(signal.SIGINT)
        assert [servers[2].wait(30), servers[0].wait(30)] == [0, 0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "number", "cause"),
    [
        (0, signal.SIGKILL, "the dispatcher was lost"),
        (1, signal.SIGSTOP, "one was lost or is too slow"),
        (1, signal.SIGTERM, "a worker was lost|one was lost"),
    ],
)
def test_any_loss_ends_the_client_with_an_error(lost, number, cause) -> None:
    with cluster(2) as (address, servers), client(address) as running:
        servers[lost].send_signal(number)
        if number == signal.SIGTERM:  # with a client's requests in flight
            assert servers[lost].wait(10) == 0
        _, errors = running.communicate(timeout=60)
        assert running.returncode == 1
        message = error_about(address, errors)
        assert any(text in message for text in cause.split("|"))


@pytest.mark.slow
def test_a_worker_that_comes_back_does_not_hide_what_was_lost() -> None:
    with cluster(2) as (address, servers), client(address) as running:
        servers[1].kill()
        with process("--role=worker", f"--dispatcher={address}") as replacement:
            address_of(replacement)
            _, errors = running.communicate(timeout=60)
        assert running.returncode == 1
        assert "lost" in error_about(address, errors)


def test_the_tool_says_what_is_missing_in_one_line() -> None:
    result = subprocess.run(
        [*TOOL, "--role=worker"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.startswith("data_service.py: --dispatcher: expected the address of ")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "127.1.2.3", "localhost", "::1", "[::1]", "0.0.0.0", "::", "[::]"]
)
def test_a_worker_that_nobody_else_would_find_is_refused(host) -> None:
    for dispatcher in ("grpc://192.0.2.1:5050", "grpc://trainer.example:5050", "grpc://[2::1]:1"):
        with pytest.raises(InputError) as caught:
            data_service.start_worker(dispatcher=dispatcher, host=host, port=0)
        assert str(caught.value).startswith("host: expected the name or IP address under which ")
        assert f"dispatcher is at {dispatcher}; received {host}, " in str(caught.value)
        assert "as --host" in str(caught.value)


@pytest.mark.parametrize("dispatcher", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "192.0.2.1", "worker.example"])
def test_a_worker_of_a_dispatcher_on_its_machine_may_have_any_name(dispatcher, host) -> None:
    server, port = data_service.start_dispatcher(port=0)
    worker, _ = data_service.start_worker(
        dispatcher=f"grpc://{dispatcher}:{port}", host=host, port=0
    )
    worker.stop()
    server.stop()


def test_a_taken_port_is_refused() -> None:
    dispatcher, port = data_service.start_dispatcher(port=0)
    with pytest.raises(InputError, match=f"received {port}: Address already in use"):
        data_service.start_dispatcher(port=port)
    with pytest.raises(InputError, match="received 70000: "):
        data_service.start_dispatcher(port=70_000)
    assert dispatcher

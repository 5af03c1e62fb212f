"""Runs a dispatcher or a worker of tf.data service, which prepare images for a training.

    python -m tools.data_service --role=dispatcher --port=5050
    python -m tools.data_service --role=worker --dispatcher=grpc://127.0.0.1:5050
    python -m tools.train --data_dir=data --run_dir=runs/first --data_service=grpc://127.0.0.1:5050

Each prints its address when it is ready and runs until SIGTERM or Ctrl-C. Both listen on all of
the machine's network interfaces, and neither asks who connects: use them in a trusted network.
With several machines, give each of them its --host.
"""

import os
import signal
import threading
from collections.abc import Sequence
from typing import Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.errors import InputError

_ROLES: Final = ("dispatcher", "worker")


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_enum(
        "role",
        None,
        _ROLES,
        "dispatcher: knows the workers and hands out the work, one a service; worker: does it.",
        required=True,
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "The name or IP address under which the others reach this machine. Of a worker: where the "
        "training fetches what it prepared. Of a dispatcher: what stands in the address that it "
        "prints, for workers and training to use.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "port", 0, "The port to listen on; 0: any that is free.", flag_values=flag_values
    )
    flags.DEFINE_string(
        "dispatcher",
        None,
        "Of a worker: the address that its dispatcher printed, grpc://host:port.",
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Starts the server, prints its address, and ends on a signal."""
    del argv
    values = flags.FLAGS
    _check_flags(values.role, values.dispatcher)
    # Before TensorFlow's import takes its seconds, in which a signal may come as well.
    ended = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: ended.set())
    command_line.import_tensorflow_quietly()
    import tensorflow as tf

    from fer_tfdata import data_service

    tf.config.set_visible_devices([], "GPU")  # whose memory is for the training

    # A server lives as long as its name.
    _server, port = (
        data_service.start_dispatcher(port=values.port)
        if values.role == "dispatcher"
        else data_service.start_worker(
            dispatcher=values.dispatcher, host=values.host, port=values.port
        )
    )
    address = data_service.join_address(values.host, port)
    print(f"{values.role} ready at {address}", flush=True)
    ended.wait()
    # Stopping the server waits for requests in flight, for ever where the other side is silent;
    # and it holds nothing that could be lost.
    os._exit(0)


def _check_flags(role: str, dispatcher: str | None) -> None:
    if role == "worker" and dispatcher is None:
        raise InputError(
            "--dispatcher: expected the address of the worker's dispatcher, received none; give "
            "the one that the dispatcher printed, grpc://host:port"
        )
    if role == "dispatcher" and dispatcher is not None:
        raise InputError(
            f"--dispatcher: expected of a worker alone, received {dispatcher!r} of a dispatcher; "
            "leave it out"
        )


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

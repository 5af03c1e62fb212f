"""Serves a web page that shows the expressions of faces in photographs and before a camera.

    python -m tools.serve
    python -m tools.serve --model=pretrained --model=runs/first --port=8000

Prints its address when it is ready, and runs until SIGTERM or Ctrl-C.  An uploaded picture is
deleted once its faces are found, and nothing is asked of another machine.  The page asks nobody who
they are: unless --host says otherwise, it can be reached from this machine alone.  docs/web_page.md
tells what becomes of a picture, and of the programming interface.
"""

import os
import signal
import sys
import threading
from collections.abc import Sequence
from typing import Final

from absl import flags

from fer_tfdata import command_line
from fer_tfdata.named_models import MODEL_HELP, PRETRAINED

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


def define_flags(flag_values: flags.FlagValues = flags.FLAGS) -> None:
    """Adds this program's flags."""
    flags.DEFINE_multi_string(
        "model",
        [PRETRAINED],
        f"{MODEL_HELP} Give it several times to have a choice on the page.",
        flag_values=flag_values,
    )
    flags.DEFINE_string(
        "host",
        "127.0.0.1",
        "The name or address of this machine to listen at; 0.0.0.0: all of its network interfaces.",
        flag_values=flag_values,
    )
    flags.DEFINE_integer(
        "port",
        7860,
        "The port to listen on; 0: any that is free.",
        lower_bound=0,
        upper_bound=65_535,
        flag_values=flag_values,
    )


def main(argv: Sequence[str]) -> None:
    """Serves the page until a signal ends it."""
    del argv
    values = flags.FLAGS
    ended = threading.Event()
    _end_on_signals(ended)
    try:
        _serve(values.model, values.host, values.port, ended)
    finally:
        if ended.is_set():
            # All is put away; Python would go on for seconds, taking its modules apart.
            os._exit(0)


def _serve(models: Sequence[str], host: str, port: int, ended: threading.Event) -> None:
    from fer_tfdata import web_server

    with web_server.listen(host, port) as listening:
        if not web_server.is_private(listening):
            print(
                f"warning: --host={host}: whoever reaches this machine can use the page, which "
                "asks nobody who they are",
                file=sys.stderr,
            )
        command_line.import_tensorflow_quietly()
        web_server.serve(
            models,
            listening,
            ended=ended,
            on_ready=lambda: print(f"page ready at {web_server.address_of(listening)}", flush=True),
        )


def _end_on_signals(ended: threading.Event) -> None:
    """Makes a signal the end, with exit code 0, during the start too, which takes seconds."""

    def end(*_: object) -> None:
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # what is left to do is done once
        ended.set()
        raise SystemExit(0)

    for number in _SIGNALS:
        signal.signal(number, end)


def run() -> None:
    """The console command."""
    command_line.run(main, define_flags, __doc__)


if __name__ == "__main__":
    run()

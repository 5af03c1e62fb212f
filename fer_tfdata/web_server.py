"""Serves the web page: one process, one socket, limits on what comes in, nothing left behind."""

import contextlib
import ipaddress
import os
import socket
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final

from fer_tfdata import uploads
from fer_tfdata.errors import InputError
from fer_tfdata.prediction import Predictor
from fer_tfdata.request_limits import LimitedApp, RequestLimits

# gradio and what comes with it are imported where they are used: they are an extra, and their
# settings are read when they are imported.

# Of what gradio serves, what the page and its programming interface need.
_PATHS: Final = frozenset(
    {
        *("/", "/config", "/theme.css", "/favicon.ico", "/manifest.json", "/gradio_api/info"),
        *(uploads.UPLOAD_PATH, "/gradio_api/upload_progress", "/gradio_api/cancel"),
    }
)
_PREFIXES: Final = (
    *("/assets/", "/static/", "/gradio_api/heartbeat/"),
    *("/gradio_api/queue/", "/gradio_api/call/", "/gradio_api/stream/"),
)

_MAX_UPLOAD_SECONDS: Final = 60

# Visitors' pages hold connections open for as long as they are shown.
_SECONDS_TO_END: Final = 1


def listen(host: str, port: int) -> socket.socket:
    """Returns a socket that listens.

    Args:
      host: a name or an address of this machine.
      port: 0 for any that is free.

    Raises:
      InputError: the address is none of this machine's, or the port is taken.
    """
    try:
        family, _, _, _, address = socket.getaddrinfo(
            host.strip("[]"), port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return socket.create_server(address, family=family)
    except OSError as error:
        # Python adds the address to the system's words.
        reason = (error.strerror or str(error)).partition(" (while")[0]
        raise InputError(
            f"expected an address of this machine and a free port, received {host}, port {port}: "
            f"{reason}; choose another --host or --port (0: any that is free)"
        ) from error


def address_of(listening: socket.socket) -> str:
    """Returns the page's address."""
    host, port = listening.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def is_private(listening: socket.socket) -> bool:
    """Returns whether nobody but this machine reaches a socket."""
    return ipaddress.ip_address(listening.getsockname()[0].partition("%")[0]).is_loopback


def serve(
    models: Sequence[str],
    listening: socket.socket,
    *,
    ended: threading.Event,
    on_ready: Callable[[], None],
) -> None:
    """Serves the page until `ended` is set.

    Wants a process of its own: it sets environment variables and the directory of temporary files,
    and then refuses every connection of the process to another.

    Args:
      models: what the page offers, see `named_models.load`.
      listening: where to serve it.
      ended: ends it.
      on_ready: called once it is there.

    Raises:
      InputError: gradio is not installed, or a model cannot be loaded.
    """
    with _own_directory() as upload_dir:
        try:
            from fer_tfdata import web_page
        except ModuleNotFoundError as error:
            if error.name != "gradio":
                raise
            raise InputError(
                "expected gradio, which the web page is made with, received none; "
                "pip install 'fer-tfdata[demo]'"
            ) from error
        predictors = {name: Predictor.from_name(name) for name in models}
        limits = RequestLimits(
            paths=_PATHS,
            # An upload is shown to who sent it, until its faces are.
            prefixes=(*_PREFIXES, f"/gradio_api/file={upload_dir}/"),
            # In base64, and with what is around it.
            max_bytes=web_page.MAX_UPLOAD_BYTES * 4 // 3 + 100_000,
            max_seconds=_MAX_UPLOAD_SECONDS,
        )
        app = LimitedApp(web_page.create_app(predictors, upload_dir), limits)
        web_page.refuse_connections()
        with _serving(app, listening):
            on_ready()
            ended.wait()


@contextlib.contextmanager
def _own_directory() -> Iterator[Path]:
    """Gives a directory for uploads, within one that nobody else reads and that is deleted.

    TensorFlow's and gradio's temporary files go there too.
    """
    with tempfile.TemporaryDirectory(prefix="fer_serve_") as created:
        directory = Path(created).resolve()
        upload_dir = directory / "uploads"
        tempfile.tempdir = str(directory)
        os.environ |= {
            "GRADIO_TEMP_DIR": str(upload_dir),
            "GRADIO_EXAMPLES_CACHE": str(upload_dir),
            "GRADIO_ANALYTICS_ENABLED": "False",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_OFFLINE": "1",
        }
        yield upload_dir


@contextlib.contextmanager
def _serving(app: LimitedApp, listening: socket.socket) -> Iterator[None]:
    """Serves in a thread of its own, which leaves the signals to this one."""
    import uvicorn

    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_level="critical",
            access_log=False,
            server_header=False,
            ws="none",
            lifespan="on",
            timeout_graceful_shutdown=_SECONDS_TO_END,
        )
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    try:
        while not server.started:
            if not thread.is_alive():
                raise RuntimeError("the server ended before it was ready")
            time.sleep(0.01)
        yield
    finally:
        server.should_exit = True
        thread.join()

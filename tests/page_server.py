"""The web page's program, running in a process of its own."""

import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


class PageServer:
    """A running program, in a home, a folder and a temporary folder of its own below `root`."""

    def __init__(self, root: Path, *arguments: str) -> None:
        self.root = root
        self.arguments = arguments
        self.outside = _Listener()
        for name in ("home", "work", "tmp"):
            (root / name).mkdir()
        proxy = f"http://127.0.0.1:{self.outside.port}"
        places = {"HOME": str(root / "home"), "TMPDIR": str(root / "tmp"), "PYTHONPATH": str(ROOT)}
        proxies = {f"{name}_proxy": proxy for name in ("http", "https", "all")}
        unset = {"no_proxy", "NO_PROXY", "XDG_CACHE_HOME", "PYTHONPATH"}
        environment = {name: value for name, value in os.environ.items() if name not in unset}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tools.serve", "--port=0", *arguments],
            cwd=root / "work",
            env=environment | places | proxies,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("page ready at http://127.0.0.1:"):
            raise AssertionError(f"{line}{self.process.communicate()[1]}")
        self.address = line.removeprefix("page ready at ").rstrip()

    def files(self) -> list[Path]:
        """What the program wrote, wherever a program would."""
        return [path for path in self.root.rglob("*") if path.is_file()]

    def end(self, number: signal.Signals = signal.SIGTERM) -> tuple[int, str, str]:
        """Ends the program; returns its exit code and what it printed."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        output, errors = self.process.communicate(timeout=30)
        self.outside.close()
        return self.process.returncode, output, errors


class _Listener:
    """Counts who comes: the proxy through which the program would have to go."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self.visits = 0
        threading.Thread(target=self._count, daemon=True).start()

    def _count(self) -> None:
        while True:
            try:
                visitor, _ = self._socket.accept()
            except OSError:  # closed
                return
            self.visits += 1
            visitor.close()

    def close(self) -> None:
        self._socket.close()


@contextmanager
def running(root: Path, *arguments: str) -> Iterator[PageServer]:
    """Gives a running program; what a test has not ended is killed."""
    server = PageServer(root, *arguments)
    try:
        yield server
    finally:
        server.process.kill()
        server.process.wait()
        server.outside.close()

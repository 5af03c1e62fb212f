"""TensorBoard on a directory, and what it answers."""

import contextlib
import gzip
import json
import re
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any


@contextlib.contextmanager
def tensorboard(log_dir: Path, log: Path) -> Iterator[str]:
    """Serves a directory, and yields the address."""
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={log_dir}", "--port=0"]
    with log.open("wb") as file:
        server = subprocess.Popen([*command, "--host=127.0.0.1"], stdout=file, stderr=file)
    try:

        def address() -> str | None:
            assert server.poll() is None, log.read_text()
            said = re.search(r"TensorBoard \S+ at (http://\S+?)/? ", log.read_text())
            return said and said[1]

        yield wait_for(address)
    finally:
        server.terminate()
        server.wait()


def wait_for(get: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 120
    while not (value := get()):
        assert time.monotonic() < deadline
        time.sleep(0.2)
    return value


def served(address: str, path: str, body: Any = None, **query: Any) -> Any:
    """What TensorBoard answers: the content of JSON, or else bytes."""
    url = f"{address}/data/plugin/{path}?{urllib.parse.urlencode(query)}"
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as response:
        content = response.read()
        if response.headers["Content-Encoding"] == "gzip":  # which the Profile tab does unasked
            content = gzip.decompress(content)
        return json.loads(content) if "json" in response.headers["Content-Type"] else content

"""Uploads, deleted once nobody waits for them: gradio stores equal files as one."""

import contextlib
import json
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fer_tfdata.request_limits import App, Message, Receive, Scope, Send

UPLOAD_PATH: Final = "/gradio_api/upload"


class Uploads:
    """Counts how often each file was uploaded, and deletes it when it was used as often.

    Two visitors may send the same photograph, and a program may send one several times at once:
    the first answer must not take it away from the next.  Several threads may share one.

    Args:
      directory: where uploads are stored; absolute and without links.
      unclaimed_seconds: after so long nobody will ask about an upload any more.
    """

    def __init__(self, directory: Path, *, unclaimed_seconds: float) -> None:
        self._directory = directory
        self._unclaimed_seconds = unclaimed_seconds
        self._lock = threading.Lock()
        self._num_arriving = 0
        self._awaited: dict[Path, list[float]] = defaultdict(list)  # since when, for each upload
        self._used: set[Path] = set()

    def holds(self, path: Path) -> bool:
        """Returns whether a path, absolute and without links, is that of an upload."""
        return path.is_relative_to(self._directory)

    @contextlib.contextmanager
    def arriving(self) -> Iterator[None]:
        """While an upload arrives nothing is deleted: it may be stored, and not counted yet."""
        with self._lock:
            self._num_arriving += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_arriving -= 1
                self._delete_used()

    def add(self, path: Path) -> None:
        """Counts an upload that is arriving."""
        with self._lock:
            self._forget_unclaimed()
            self._awaited[path].append(time.monotonic())

    def use(self, path: Path) -> None:
        """Counts that an upload was looked at."""
        with self._lock:
            self._forget_unclaimed()
            if self._awaited[path]:
                self._awaited[path].pop(0)
            self._used.add(path)
            self._delete_used()

    def _forget_unclaimed(self) -> None:
        since = time.monotonic() - self._unclaimed_seconds
        for path, times in list(self._awaited.items()):
            self._awaited[path] = [at for at in times if at > since]
            if not self._awaited[path]:
                del self._awaited[path]

    def _delete_used(self) -> None:
        if self._num_arriving:
            return
        for path in self._used:
            if not self._awaited.get(path):
                path.unlink(missing_ok=True)
        self._used.clear()


class CountedUploads:
    """An ASGI application whose uploads are counted before who sent them hears of it."""

    def __init__(self, app: App, uploads: Uploads) -> None:
        self._app = app
        self._uploads = uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection, as ASGI wants it."""
        if scope["type"] != "http" or scope["path"] != UPLOAD_PATH:
            await self._app(scope, receive, send)
            return

        async def send_counted(message: Message) -> None:
            if message["type"] == "http.response.body":
                for path in _stored(message.get("body", b"")):
                    self._uploads.add(path)
            await send(message)

        with self._uploads.arriving():
            await self._app(scope, receive, send_counted)


def _stored(answer: bytes) -> list[Path]:
    """Returns the files of gradio's answer to an upload; none where it was refused."""
    try:
        content = json.loads(answer)
    except ValueError:
        return []
    return [Path(path) for path in content] if isinstance(content, list) else []

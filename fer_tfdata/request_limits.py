"""What a web server takes of its visitors, and what their browsers may do with its page."""

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, NamedTuple

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

_HEADERS: Final = {
    # The browser itself holds the page to its word: nothing is asked of another server.
    "content-security-policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "style-src 'self' 'unsafe-inline'; img-src 'self' data: blob:; "
        "media-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; "
        "worker-src 'self' blob:; object-src 'none'; form-action 'self'; frame-ancestors 'self'"
    ),
    "permissions-policy": "camera=(self), microphone=(), geolocation=()",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    # Nor does the browser keep a picture.
    "cache-control": "no-store",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class RequestLimits:
    """What a request may be.

    Attributes:
      paths: what is served; a request for another path is answered with "not found".
      prefixes: what paths that are served begin with, beside `paths`.
      max_bytes: the most that a request's body has.
      max_seconds: the most that a request's body takes to arrive.
    """

    paths: frozenset[str]
    prefixes: tuple[str, ...]
    max_bytes: int
    max_seconds: float


class _Refusal(NamedTuple):
    status: int
    text: str


class LimitedApp:
    """An ASGI application behind `RequestLimits`.

    The body of a request is in memory before the application sees the request, so that one that
    is too large, too slow or cut off leaves nothing behind there.
    """

    def __init__(self, app: App, limits: RequestLimits) -> None:
        self._app = app
        self._limits = limits

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serves a connection, as ASGI wants it."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            await self._serve(scope, receive, _with_headers(send))
        # Of web sockets there are none; the server refuses what is not accepted.

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope["path"]
        if path not in self._limits.paths and not path.startswith(self._limits.prefixes):
            await _refuse(send, _Refusal(404, "not found"))
            return
        try:
            async with asyncio.timeout(self._limits.max_seconds):
                body = await self._body(scope, receive)
        except TimeoutError:
            body = _Refusal(408, f"expected a request within {self._limits.max_seconds:g} s")
        if isinstance(body, _Refusal):
            await _refuse(send, body)
        elif body is not None:
            await self._app(scope, _replayed(body, receive), send)

    async def _body(self, scope: Scope, receive: Receive) -> bytes | _Refusal | None:
        """Returns the body, or why it is refused, or None if who sent it has gone."""
        most = self._limits.max_bytes
        body, size = bytearray(), 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            # Too large a body is read to its end all the same: before, its sender reads no answer.
            if size <= most:
                body += chunk
            else:
                body.clear()
            if not message.get("more_body", False):
                break
        if size > most:
            return _Refusal(413, f"expected a request of at most {most:,} bytes, received {size:,}")
        return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    """Returns what gives a body that is there already, and then what comes after it."""
    waiting = [body]

    async def replay() -> Message:
        if waiting:
            return {"type": "http.request", "body": waiting.pop(), "more_body": False}
        return await receive()

    return replay


def _with_headers(send: Send) -> Send:
    async def send_with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            kept = [(name, value) for name, value in message["headers"] if name not in _NAMES]
            message = {**message, "headers": [*kept, *_ENCODED]}
        await send(message)

    return send_with_headers


_ENCODED: Final = [(name.encode(), value.encode()) for name, value in _HEADERS.items()]
_NAMES: Final = frozenset(name for name, _ in _ENCODED)


async def _refuse(send: Send, refusal: _Refusal) -> None:
    content = refusal.text.encode()
    headers = [
        (b"content-type", b"text/plain; charset=utf-8"),
        (b"content-length", str(len(content)).encode()),
        (b"connection", b"close"),
    ]
    await send({"type": "http.response.start", "status": refusal.status, "headers": headers})
    await send({"type": "http.response.body", "body": content})

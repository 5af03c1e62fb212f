import asyncio
from typing import Any

import pytest

from fer_tfdata.request_limits import LimitedApp, Message, Receive, RequestLimits, Scope, Send

LIMITS = RequestLimits(
    paths=frozenset({"/", "/upload"}), prefixes=("/file/",), max_bytes=10, max_seconds=0.2
)


class Recorder:
    """An application that answers with the body that it got, and then waits for the end."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []
        self.afterwards: list[str] = []
        self.types: list[str] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.types.append(scope["type"])
        if scope["type"] != "http":
            return
        message = await receive()
        self.bodies.append(message["body"])
        headers = [(b"content-type", b"text/plain"), (b"cache-control", b"public")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": message["body"]})
        self.afterwards.append((await receive())["type"])


def chunks(*bodies: bytes) -> list[Message]:
    return [
        {"type": "http.request", "body": body, "more_body": number < len(bodies)}
        for number, body in enumerate(bodies, 1)
    ]


def request(
    path: str,
    messages: list[Message],
    *,
    pause: float = 0,
    last_pause: float = 0,
) -> tuple[Recorder, list[Message]]:
    """Sends a request, and the end of the connection after it."""
    recorder, sent = Recorder(), []
    arriving = iter([(pause, message) for message in messages])
    end: Message = {"type": "http.disconnect"}

    async def receive() -> Message:
        seconds, message = next(arriving, (last_pause, end))
        await asyncio.sleep(seconds)
        return message

    async def send(message: Message) -> None:
        sent.append(message)

    scope: dict[str, Any] = {"type": "http", "path": path}
    asyncio.run(LimitedApp(recorder, LIMITS)(scope, receive, send))
    return recorder, sent


def test_a_request_arrives_as_it_was_sent() -> None:
    for messages in (chunks(b"0123456789"), chunks(b"01234", b"", b"56789")):
        recorder, sent = request("/upload", messages)
        assert recorder.bodies == [b"0123456789"]
        assert recorder.afterwards == ["http.disconnect"]
        assert sent[0]["status"] == 200
        assert sent[1]["body"] == b"0123456789"


def test_the_browser_is_told_to_ask_nobody_else_and_to_keep_nothing() -> None:
    for path in ("/", "/nothing"):
        headers = dict(request(path, chunks(b""))[1][0]["headers"])
        policy = headers[b"content-security-policy"].decode()
        assert "default-src 'self'" in policy
        assert "//" not in policy
        assert "*" not in policy
        assert headers[b"cache-control"] == b"no-store"
        assert headers[b"content-type"].startswith(b"text/plain")


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 200),
        ("/upload", 200),
        ("/file/a/b", 200),
        ("/upload/", 404),
        ("/other", 404),
        ("/file", 404),
        ("", 404),
    ],
)
def test_what_is_not_served_is_not_there(path: str, status: int) -> None:
    recorder, sent = request(path, chunks(b""))
    assert sent[0]["status"] == status
    assert recorder.bodies == ([b""] if status == 200 else [])


@pytest.mark.parametrize(
    "messages", [chunks(b"0" * 11), chunks(b"0" * 6, b"0" * 5), chunks(b"0" * 9, b"", b"01")]
)
def test_too_large_a_request_is_refused(messages: list[Message]) -> None:
    recorder, sent = request("/upload", messages)
    assert sent[0]["status"] == 413
    assert sent[1]["body"] == b"expected a request of at most 10 bytes, received 11"
    assert recorder.types == []


def test_too_slow_a_request_is_refused() -> None:
    recorder, sent = request("/upload", chunks(*[b"0"] * 5), pause=0.06)
    assert sent[0]["status"] == 408
    assert sent[1]["body"] == b"expected a request within 0.2 s"
    assert recorder.types == []
    # What comes after the request may take its time: a page is open for hours.
    recorder, sent = request("/upload", chunks(b"0"), last_pause=0.3)
    assert (sent[0]["status"], recorder.afterwards) == (200, ["http.disconnect"])


def test_of_a_request_that_is_cut_off_nothing_arrives() -> None:
    recorder, sent = request("/upload", chunks(b"01", b"23")[:1])
    assert (recorder.types, sent) == ([], [])


@pytest.mark.parametrize(("kind", "served"), [("lifespan", True), ("websocket", False)])
def test_what_is_no_request(kind: str, served: bool) -> None:
    recorder = Recorder()

    async def nothing() -> Message:
        raise AssertionError

    async def send(message: Message) -> None:
        raise AssertionError(message)

    asyncio.run(LimitedApp(recorder, LIMITS)({"type": kind, "path": "/"}, nothing, send))
    assert recorder.types == ([kind] if served else [])

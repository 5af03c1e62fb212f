import asyncio
import json
from pathlib import Path

import pytest

from fer_tfdata.uploads import UPLOAD_PATH, CountedUploads, Uploads


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "face.jpg").write_bytes(b"a face")
    return tmp_path / "face.jpg"


@pytest.fixture
def uploads(tmp_path: Path) -> Uploads:
    return Uploads(tmp_path, unclaimed_seconds=60)


def test_an_upload_is_there_until_all_who_sent_it_have_used_it(uploads, file) -> None:
    for _ in range(3):
        uploads.add(file)
    for left in (True, True, False):
        uploads.use(file)
        assert file.exists() == left
    uploads.use(file)  # a request for what is not there any more


def test_nothing_is_deleted_while_an_upload_arrives(uploads, file) -> None:
    uploads.add(file)
    with uploads.arriving():
        uploads.use(file)
        assert file.exists()
        uploads.add(file)  # the same picture was stored again
    assert file.exists()
    uploads.use(file)
    assert not file.exists()


def test_who_never_asks_is_not_waited_for(tmp_path, file) -> None:
    uploads = Uploads(tmp_path, unclaimed_seconds=0)
    uploads.add(file)
    uploads.add(file)
    uploads.use(file)
    assert not file.exists()


@pytest.mark.parametrize(
    ("path", "answer", "left"),
    [
        (UPLOAD_PATH, True, True),
        ("/config", True, False),
        (UPLOAD_PATH, "refused", False),
        (UPLOAD_PATH, {"detail": "refused"}, False),
    ],
)
def test_what_an_application_stores_is_counted(uploads, file, path, answer, left) -> None:
    content = json.dumps([str(file)] if answer is True else answer).encode()
    sent = []

    async def app(scope, receive, send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": content})

    async def send(message) -> None:
        sent.append(message)

    uploads.add(file)
    asyncio.run(CountedUploads(app, uploads)({"type": "http", "path": path}, None, send))
    assert sent[1]["body"] == content
    uploads.use(file)
    assert file.exists() == left

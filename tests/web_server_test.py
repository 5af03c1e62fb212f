"""The program as a client sees it: one server for all tests, ended by the last of them."""

import base64
import io
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError
from PIL import Image
from skimage import data

from fer_tfdata import web_server
from fer_tfdata.errors import InputError
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from tests.page_server import ROOT, PageServer, running
from tests.prediction_test import tiny_model

META = {"_type": "gradio.FileData"}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    models = tmp_path_factory.mktemp("models")
    tiny_model().save(models / "seven.keras")
    tiny_model(outputs=8).save(models / "eight.keras")
    flags = [f"--model={models / name}.keras" for name in ("seven", "eight")]
    with running(tmp_path_factory.mktemp("server"), *flags) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: PageServer) -> Client:
    return Client(server.address, verbose=False)


@pytest.fixture(scope="module")
def photograph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photographs") / "astronaut.jpg"
    Image.fromarray(data.astronaut()).save(path, quality=95)
    return path


def call(server: PageServer, *arguments: Any) -> tuple[str, Any]:
    """Calls the page as `curl` would, with whatever it is given."""
    address = f"{server.address}/gradio_api/call/predict"
    begun = httpx.post(address, json={"data": list(arguments)}).raise_for_status().json()
    events = httpx.get(f"{address}/{begun['event_id']}", timeout=60).text
    kind, content = re.findall(r"event: (\w+)\ndata: (.*)\n", events)[-1]
    return kind, json.loads(content)


def written(server: PageServer) -> list[Path]:
    """What there is of uploads."""
    return [
        path for path in (server.root / "tmp").glob("fer_serve_*/uploads/**/*") if path.is_file()
    ]


def test_a_photograph_s_face_its_box_and_its_probabilities(
    client: Client, server: PageServer, photograph: Path
) -> None:
    answer = client.predict(image=handle_file(photograph), api_name="/predict")
    assert (answer["width"], answer["height"]) == (512, 512)
    (face,) = answer["faces"]
    assert face["box"].keys() == {"left", "top", "width", "height"}
    assert abs(face["box"]["left"] - 177) < 10
    assert tuple(face["probabilities"]) == EXPRESSIONS
    assert sum(face["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    assert face["expression"] == max(EXPRESSIONS, key=face["probabilities"].__getitem__)


def documented(language: str, server: PageServer, containing: str) -> str:
    """Returns a piece of the document's code, for this server and its first model."""
    text = (ROOT / "docs" / "web_page.md").read_text(encoding="utf-8")
    pieces = re.findall(rf"```{language}\n(.*?)```", text, re.DOTALL)
    (piece,) = [piece for piece in pieces if containing in piece]
    return piece.replace("http://127.0.0.1:7860", server.address).replace(
        "pretrained", first_model(server)
    )


def first_model(server: PageServer) -> str:
    return next(str(a) for a in server.arguments if a.startswith("--model=")).partition("=")[2]


def test_the_calls_in_the_document_give_what_it_says(
    server: PageServer, photograph: Path, tmp_path: Path
) -> None:
    (tmp_path / "photo.jpg").write_bytes(photograph.read_bytes())
    python = subprocess.run(
        [sys.executable, "-c", documented("python", server, "gradio_client")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    shell = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", documented("sh", server, "curl")],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    kind, content = shell.stdout.strip().split("\n")
    assert kind == "event: complete"
    (answer,) = json.loads(content.removeprefix("data: "))
    (face,) = answer["faces"]
    assert python.stdout == f"{face['box']} {face['expression']} {face['probabilities']}\n"
    shown = json.loads(documented("json", server, "faces"))
    assert shown.keys() == answer.keys()
    assert shown["faces"][0].keys() == face.keys()
    assert shown["faces"][0]["box"].keys() == face["box"].keys()
    assert list(shown["faces"][0]["probabilities"]) == list(face["probabilities"])


def test_another_model_can_be_chosen(client: Client, photograph: Path) -> None:
    (parameters,) = [
        endpoint["parameters"]
        for name, endpoint in client.view_api(return_format="dict")["named_endpoints"].items()
        if name == "/predict"
    ]
    assert [parameter["parameter_name"] for parameter in parameters] == ["image", "model"]
    first, second = parameters[1]["type"]["enum"]
    assert parameters[1]["parameter_default"] == first
    answer = client.predict(handle_file(photograph), second, api_name="/predict")
    assert tuple(answer["faces"][0]["probabilities"]) == EIGHT_EXPRESSIONS


def test_visitors_at_the_same_time(server: PageServer, photograph: Path, tmp_path: Path) -> None:
    # Each with a picture of his own, through one detector.
    picture = Image.open(photograph)
    names = [tmp_path / f"{side}.png" for side in range(400, 520, 20)]
    for side, name in zip(range(400, 520, 20), names, strict=True):
        picture.resize((side, side)).save(name)

    def ask(name: Path) -> Any:
        visitor = Client(server.address, verbose=False)
        return visitor.predict(image=handle_file(name), api_name="/predict")

    one_by_one = [ask(name) for name in names]
    with ThreadPoolExecutor(len(names)) as visitors:
        assert list(visitors.map(ask, names)) == one_by_one
    assert [answer["width"] for answer in one_by_one] == list(range(400, 520, 20))
    assert all(len(answer["faces"]) == 1 for answer in one_by_one)


def test_visitors_with_the_same_picture(server: PageServer, photograph: Path) -> None:
    def ask(_: int) -> Any:
        visitor = Client(server.address, verbose=False)
        return visitor.predict(image=handle_file(photograph), api_name="/predict")

    with ThreadPoolExecutor(6) as visitors:
        first, *others = visitors.map(ask, range(6))
    assert len(first["faces"]) == 1
    assert others == [first] * 5
    assert [path for path in server.files() if path.suffix == ".jpg"] == []


def test_the_page_s_own_events_are_no_interface(client: Client) -> None:
    assert list(client.view_api(return_format="dict")["named_endpoints"]) == ["/predict"]
    assert client.view_api(return_format="dict")["unnamed_endpoints"] == {}


def test_a_picture_without_a_face_has_none(client: Client, tmp_path: Path) -> None:
    Image.new("RGB", (300, 200), "gray").save(tmp_path / "wall.png")
    answer = client.predict(handle_file(tmp_path / "wall.png"), api_name="/predict")
    assert answer == {"width": 300, "height": 200, "faces": []}


def test_a_picture_may_come_within_the_request(server: PageServer, photograph: Path) -> None:
    model = first_model(server)
    content = base64.b64encode(photograph.read_bytes()).decode()
    payload = {"url": f"data:image/jpeg;base64,{content}", "meta": META}
    kind, (answer,) = call(server, payload, model)
    assert (kind, len(answer["faces"])) == ("complete", 1)
    for wrong in (
        "data:image/jpeg;base64,?",
        "data:image/jpeg;base64,\xe9",
        "data:image/jpeg,abc",
        "file:///etc/passwd",
        "",
    ):
        kind, answer = call(server, {"url": wrong, "meta": META}, model)
        assert kind == "error"
        assert "data URL in base64" in answer["error"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"no image", "picture.jpg: expected an image .*, received a file of another kind"),
        (b"", "picture.jpg: expected an image .*, received an empty file"),
    ],
)
def test_what_is_no_picture_is_said(
    client: Client, tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "picture.jpg").write_bytes(content)
    with pytest.raises(AppError, match=message):
        client.predict(handle_file(tmp_path / "picture.jpg"), api_name="/predict")


def test_what_is_too_large_is_refused(client: Client, server: PageServer, tmp_path: Path) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "bomb.png")
    with pytest.raises(AppError, match="at most 89478485 pixels, received a larger one"):
        client.predict(handle_file(tmp_path / "bomb.png"), api_name="/predict")
    upload = f"{server.address}/gradio_api/upload"
    for size, message in (
        (20_000_001, "exceeded maximum allowed size of 20000000 bytes"),
        (30_000_000, "expected a request of at most 26,766,666 bytes"),
    ):
        answer = httpx.post(upload, files={"files": ("a.jpg", io.BytesIO(bytes(size)))})
        assert answer.status_code == 413
        assert message in answer.text
    join = f"{server.address}/gradio_api/queue/join"
    assert httpx.post(join, content=bytes(30_000_000)).status_code == 413
    assert written(server) == []


def test_no_picture_and_no_such_model(client: Client, photograph: Path) -> None:
    with pytest.raises(AppError, match="image: expected a picture, received none"):
        client.predict(None, api_name="/predict")
    for name, received in (("other", "other"), (["pretrained"], r"\['pretrained'\]")):
        with pytest.raises(AppError, match=f"model: expected one of .*, received {received}"):
            client.predict(handle_file(photograph), name, api_name="/predict")


def test_an_address_is_not_looked_at(client: Client, server: PageServer) -> None:
    for address in (f"http://127.0.0.1:{server.outside.port}/a.jpg", "https://huggingface.co/a"):
        with pytest.raises(AppError):
            client.predict(handle_file(address), api_name="/predict")
    payload = {"path": "http://192.0.2.1/a", "is_stream": True, "meta": META}
    kind, _ = call(server, payload, first_model(server))
    assert kind == "error"


@pytest.mark.parametrize("more", [{}, {"is_stream": True}, {"url": "data:,"}])
def test_a_file_of_the_machine_is_neither_read_nor_deleted(
    server: PageServer, photograph: Path, more: dict[str, Any]
) -> None:
    kind, answer = call(
        server, {"path": str(photograph), "meta": META, **more}, first_model(server)
    )
    assert kind == "error"
    assert str(photograph) not in str(answer)
    assert photograph.is_file()
    assert written(server) == []
    served = httpx.get(f"{server.address}/gradio_api/file={photograph}")
    assert served.status_code == 404


@pytest.mark.parametrize(
    "path",
    [
        *("docs", "openapi.json", "monitoring", "monitoring/summary", "login", "svelte/x"),
        *("gradio_api/runs", "gradio_api/deep_link?session_hash=x", "gradio_api/vibe-code/"),
        *("gradio_api/file=https://example.com/a", "gradio_api/proxy=https://example.com/a"),
    ],
)
def test_what_the_page_does_not_need_is_not_served(server: PageServer, path: str) -> None:
    assert httpx.get(f"{server.address}/{path}").status_code == 404


@pytest.mark.parametrize("path", ["run/predict", "api/predict", "component_server", "vibe-edit"])
def test_nobody_passes_by_the_queue(server: PageServer, path: str) -> None:
    answer = httpx.post(f"{server.address}/gradio_api/{path}", json={"data": [None, "x"]})
    assert answer.status_code == 404


def test_the_page_uses_nothing_of_another_server(server: PageServer) -> None:
    answer = httpx.get(server.address)
    assert answer.status_code == 200
    assert "connect-src 'self' data: blob:" in answer.headers["content-security-policy"]
    config = httpx.get(f"{server.address}/config").json()
    assert not config["analytics_enabled"]
    assert config["stylesheets"] == []
    assert config["footer_links"] == []
    style = httpx.get(f"{server.address}/theme.css").text
    assert "font-face" not in style
    assert re.findall(r"""url\((?!['"]?data:)""", style) == []


def test_a_taken_port_is_one_line(server: PageServer) -> None:
    port = server.address.rpartition(":")[2]
    done = subprocess.run(
        [sys.executable, "-m", "tools.serve", f"--port={port}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "serve.py: expected an address of this machine and a free port, received 127.0.0.1, port "
        f"{port}: Address already in use; choose another --host or --port (0: any that is free)\n"
    )


def test_at_the_end_nothing_is_left_of_it(server: PageServer, photograph: Path) -> None:
    # After all that the other tests sent, and an upload that nobody asked about.
    upload = f"{server.address}/gradio_api/upload"
    content = photograph.read_bytes()
    answer = httpx.post(upload, files={"files": ("unasked.jpg", content)})
    (path,) = answer.json()
    assert Path(path).parents[2].stat().st_mode & 0o077 == 0
    assert [Path(path)] == written(server)
    # A browser shows the page; it keeps connections open.
    with httpx.stream("GET", f"{server.address}/gradio_api/heartbeat/x", timeout=30):
        code, output, errors = server.end()
    assert (code, output) == (0, "")
    assert list((server.root / "tmp").iterdir()) == []
    samples = [content[start : start + 64] for start in range(1000, len(content), 5000)]
    for file in server.files():
        assert not any(sample in file.read_bytes() for sample in samples), file
    # Nor did it ask anybody anything.
    assert server.outside.visits == 0
    assert str(photograph) in errors  # the attempts to read it are told to who runs the page
    assert "Address" not in errors


# Without the server


def test_a_signal_during_the_start_ends_it() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "tools.serve", f"--port={port}"],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while True:
        assert process.poll() is None
        try:
            socket.create_connection(("127.0.0.1", port)).close()
        except ConnectionRefusedError:
            time.sleep(0.02)
        else:
            break
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, output, errors) == (0, "", "")


def test_who_can_reach_it() -> None:
    for host, private in (("127.0.0.1", True), ("localhost", True), ("0.0.0.0", False)):
        with web_server.listen(host, 0) as listening:
            assert web_server.is_private(listening) == private
            port = listening.getsockname()[1]
            assert web_server.address_of(listening).endswith(f":{port}")


@pytest.mark.parametrize(
    ("host", "port", "received"),
    [
        ("192.0.2.1", 0, "Cannot assign requested address"),
        ("no.such.host.invalid", 0, "no.such.host.invalid"),
    ],
)
def test_an_address_that_is_none_of_this_machine_s(host: str, port: int, received: str) -> None:
    with pytest.raises(InputError, match=f"expected an address of .*{received}"):
        web_server.listen(host, port)


def test_without_gradio_the_extra_is_named() -> None:
    code = (
        "import sys, threading; sys.modules['gradio'] = None\n"
        "from fer_tfdata import web_server\n"
        "web_server.serve([], None, ended=threading.Event(), on_ready=print)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "InputError: expected gradio, which the web page is made with" in done.stderr
    assert "pip install 'fer-tfdata[demo]'" in done.stderr

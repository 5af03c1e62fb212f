"""The page in Chromium, before a camera that shows a video file."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import av
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser, Page, Request, expect
from skimage import data

from fer_tfdata.expressions import EXPRESSIONS
from tests.browser import chromium
from tests.page_server import PageServer, running
from tests.prediction_test import tiny_model

pytestmark = pytest.mark.slow

DESKTOP, PHONE = (1280, 900), (390, 844)
LOOKS = [(DESKTOP, "light"), (PHONE, "dark"), (PHONE, "light"), (DESKTOP, "dark")]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PageServer]:
    other = tmp_path_factory.mktemp("models") / "other.keras"
    tiny_model().save(other)
    flags = ["--model=pretrained", f"--model={other}"]
    with running(tmp_path_factory.mktemp("server"), *flags) as started:
        yield started


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    video = tmp_path_factory.mktemp("camera") / "astronaut.mjpeg"
    write_video(video)
    with chromium(
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
        f"--use-file-for-fake-video-capture={video}",
    ) as started:
        yield started


def write_video(path: Path) -> None:
    """Writes what the camera sees, over and over: the photograph, moving to and fro."""
    photograph = np.asarray(Image.fromarray(data.astronaut()).resize((480, 480)))
    with av.open(path, "w", format="mjpeg") as container:
        stream = container.add_stream("mjpeg", rate=10)
        stream.width, stream.height, stream.pix_fmt = 640, 480, "yuvj420p"
        for left in [*range(60, 100, 4), *range(100, 60, -4)]:
            picture = np.zeros((480, 640, 3), np.uint8)
            picture[:, left : left + 480] = photograph
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            for packet in stream.encode(frame):
                container.mux(packet)
        for packet in stream.encode():
            container.mux(packet)


@pytest.fixture
def open_page(
    server: PageServer, browser: Browser, tmp_path: Path
) -> Iterator[Callable[[tuple[int, int], str], Page]]:
    """Opens the page; at the end, checks that no page asked another server for anything."""
    requests: list[Request] = []
    faults: list[str] = []
    contexts = []

    def opened(size: tuple[int, int], scheme: Any) -> Page:
        viewport: Any = {"width": size[0], "height": size[1]}
        context = browser.new_context(
            viewport=viewport, color_scheme=scheme, permissions=["camera"], reduced_motion="reduce"
        )
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.on("request", lambda request: requests.append(request))
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda line: faults.append(line.text) if "Policy" in line.text else None)
        page.goto(server.address)
        return page

    yield opened
    for context in contexts:
        context.close()
    addresses = [urlsplit(request.url) for request in requests]
    asked = {address.netloc for address in addresses if address.scheme not in ("data", "blob")}
    assert asked == {urlsplit(server.address).netloc}
    assert faults == []


@pytest.fixture
def photograph(tmp_path: Path) -> Path:
    Image.fromarray(data.astronaut()).save(tmp_path / "astronaut.jpg")
    return tmp_path / "astronaut.jpg"


def check_result(page: Page) -> None:
    """Checks that a face is framed, and that its expression and seven bars are shown."""
    expect(page.locator(".fer .said")).to_have_text("1 face: happy", timeout=60_000)
    expect(page.locator(".fer .face")).to_have_count(1)
    expect(page.locator(".fer .face h3")).to_have_text("Face 1: happy")
    expect(page.locator(".fer .bars span")).to_have_text(list(EXPRESSIONS))
    shown = page.evaluate(_SHOWN)  # at once: a live camera's result is another one soon
    shares = [int(text.removesuffix("%")) for text in shown["shares"]]
    assert abs(sum(shares) - 100) <= 4
    np.testing.assert_allclose(shown["bars"], np.array(shares) / 100, atol=0.02)
    picture, frame = shown["picture"], shown["frame"]
    assert picture["left"] < frame["left"] < frame["right"] < picture["right"]
    assert picture["top"] < frame["top"] < frame["bottom"] < picture["bottom"]
    assert 0.1 < frame["width"] / picture["width"] < 0.4


# The words, how much of its bar each share fills, and where the picture and the frame stand.
_SHOWN = """() => {
  const all = name => [...document.querySelectorAll('.fer ' + name)];
  const box = element => element.getBoundingClientRect().toJSON();
  const filled = bar => parseFloat(getComputedStyle(bar, '::before').width) / box(bar).width;
  return {
    shares: all('.bars b').map(share => share.innerText),
    bars: all('.bars i').map(filled),
    picture: box(all('.picture img')[0]),
    frame: box(all('.picture rect')[0]),
  };
}"""


def check_layout(page: Page) -> None:
    """Checks that the page is no wider than its window."""
    width = page.evaluate("document.documentElement.scrollWidth")
    assert width == page.evaluate("window.innerWidth")


@pytest.mark.parametrize(("size", "scheme"), LOOKS)
def test_a_photograph(open_page, photograph, size, scheme) -> None:  # type: ignore[no-untyped-def]
    page = open_page(size, scheme)
    expect(page.locator(".fer .said")).to_have_text("Results appear here.")
    page.set_input_files("input[type=file]", photograph)
    check_result(page)
    check_layout(page)
    # Light on dark or dark on light, as the system wants it.
    ink = page.locator(".fer .face h3").evaluate("title => getComputedStyle(title).color")
    brightness = np.mean([int(number) for number in re.findall(r"\d+", ink)[:3]])
    assert (brightness > 128) == (scheme == "dark")


def test_one_photograph_after_another_and_another_model(open_page, photograph) -> None:  # type: ignore[no-untyped-def]
    page = open_page(DESKTOP, "light")
    wrong, wall = photograph.with_name("wrong.jpg"), photograph.with_name("wall.png")
    wrong.write_text("no image")
    Image.new("RGB", (300, 200), "gray").save(wall)
    page.set_input_files("input[type=file]", wrong)
    expect(page.get_by_role("alert")).to_contain_text("wrong.jpg: expected an image")
    page.set_input_files("input[type=file]", wall)
    expect(page.locator(".fer .said")).to_contain_text("No face was found")
    page.set_input_files("input[type=file]", photograph)
    check_result(page)
    before = page.locator(".fer .bars b").all_inner_texts()
    page.get_by_label("Model").click()
    page.get_by_role("option", name="other.keras").click()
    expect(page.locator(".fer .bars b")).not_to_have_text(before)
    page.get_by_label("Model").click()
    page.get_by_role("option", name="pretrained").click()
    check_result(page)
    assert page.locator(".fer .bars b").all_inner_texts() == before


def test_a_file_that_is_too_large(open_page, tmp_path) -> None:  # type: ignore[no-untyped-def]
    (tmp_path / "large.jpg").write_bytes(bytes(21_000_000))
    page = open_page(PHONE, "light")
    page.set_input_files("input[type=file]", tmp_path / "large.jpg")
    expect(page.get_by_text("exceed the maximum allowed size")).to_be_visible()


def open_camera(page: Page, tab: str) -> None:
    page.get_by_role("tab", name=tab, exact=True).click()
    page.get_by_text("Click to Access Webcam").click()
    expect(page.locator("video")).to_be_visible()
    page.wait_for_function("document.querySelector('video').videoWidth > 0")


def wait_for_another_picture(page: Page) -> None:
    last = page.locator(".fer .picture img").get_attribute("src")
    page.wait_for_function("last => document.querySelector('.fer img').src != last", arg=last)


@pytest.mark.parametrize(("size", "scheme"), LOOKS[:2])
def test_a_snapshot(open_page, size, scheme) -> None:  # type: ignore[no-untyped-def]
    page = open_page(size, scheme)
    open_camera(page, "Camera")
    page.get_by_label("capture photo").click()
    check_result(page)
    check_layout(page)


@pytest.mark.parametrize(("size", "scheme"), LOOKS[:2])
def test_a_live_camera(open_page, size, scheme) -> None:  # type: ignore[no-untyped-def]
    page = open_page(size, scheme)
    open_camera(page, "Live camera")
    page.get_by_text("Record").click()
    check_result(page)
    check_layout(page)
    for _ in range(3):  # pictures come, one after another
        wait_for_another_picture(page)
    # A camera that is not shown is off.
    page.get_by_role("tab", name="Photograph").click()
    expect(page.locator("video")).to_have_count(0)


def test_nothing_is_left(open_page, server, photograph) -> None:  # type: ignore[no-untyped-def]
    page = open_page(DESKTOP, "light")
    page.set_input_files("input[type=file]", photograph)
    check_result(page)
    open_camera(page, "Camera")
    page.get_by_label("capture photo").click()
    wait_for_another_picture(page)
    uploads = (server.root / "tmp").glob("fer_serve_*/uploads/**/*")
    assert [path for path in uploads if path.is_file()] == []
    code, _, errors = server.end()
    assert (code, errors) == (0, "")
    assert list((server.root / "tmp").iterdir()) == []
    assert server.outside.visits == 0

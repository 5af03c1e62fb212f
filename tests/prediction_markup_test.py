import base64
import io
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image
from skimage import data

from fer_tfdata import prediction_markup
from fer_tfdata.expressions import EIGHT_EXPRESSIONS, EXPRESSIONS
from fer_tfdata.faces import Box
from fer_tfdata.results import FacePrediction


class Elements(HTMLParser):
    """The elements of a fragment, each with its text; reading fails where tags are unbalanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None], list[str]]] = []
        self._open: list[int] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes), []))
        if tag != "img":
            self._open.append(len(self.found) - 1)

    def handle_endtag(self, tag: str) -> None:
        assert self.found[self._open.pop()][0] == tag

    def handle_data(self, text: str) -> None:
        self.found[self._open[-1]][2].append(text)

    def texts(self, tag: str) -> list[str]:
        return ["".join(text) for name, _, text in self.found if name == tag]

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes, _ in self.found if name == tag]


def face(
    box: Box, expression: str = "happy", expressions: tuple[str, ...] = EXPRESSIONS
) -> FacePrediction:
    rest = 0.2 / (len(expressions) - 1)
    return FacePrediction(box, {n: 0.8 if n == expression else rest for n in expressions})


def shown_image(page: Elements) -> Image.Image:
    (attributes,) = page.attributes("img")
    head, content = str(attributes["src"]).split(",")
    assert head == "data:image/jpeg;base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


@pytest.mark.parametrize("expressions", [EXPRESSIONS, EIGHT_EXPRESSIONS])
def test_every_face_has_its_box_and_all_its_bars(expressions: tuple[str, ...]) -> None:
    faces = [
        face(Box(177, 66, 98, 98), "happy", expressions),
        face(Box(5, 0, 40, 30), "sad", expressions),
    ]
    page = Elements(prediction_markup.render(data.astronaut(), faces))
    (drawing,) = page.attributes("svg")
    assert drawing["viewbox"] == "0 0 512 512"  # HTML's parser lowers the names of attributes
    boxes = {(box["x"], box["y"], box["width"], box["height"]) for box in page.attributes("rect")}
    assert boxes == {("177", "66", "98", "98"), ("5", "0", "40", "30")}
    assert page.texts("text") == ["1 happy", "2 sad"]
    assert page.texts("h3") == ["Face 1: happy", "Face 2: sad"]
    assert page.texts("span") == [*expressions, *expressions]
    shares = [str(bar["style"]).removeprefix("--share: ") for bar in page.attributes("i")]
    assert sum(map(float, shares)) == pytest.approx(2, abs=0.001)
    assert page.texts("b")[expressions.index("happy")] == "80%"
    most = [li["class"] == "most" for li in page.attributes("li") if li]
    assert most == [True, True]


def test_labels_stand_within_the_picture() -> None:
    for top in (0, 10, 450):
        page = Elements(
            prediction_markup.render(data.astronaut(), [face(Box(400, top, 50, 50), "surprise")])
        )
        (label,) = page.attributes("text")
        size, base = float(str(label["font-size"])), float(str(label["y"]))
        assert size <= base <= 512


def test_the_picture_is_shown_as_it_is_and_a_large_one_smaller() -> None:
    picture = data.astronaut()
    shown = np.asarray(shown_image(Elements(prediction_markup.render(picture, []))), int)
    assert np.abs(shown - picture).mean() < 4
    page = Elements(prediction_markup.render(np.zeros((600, 3000, 3), np.uint8), []))
    assert shown_image(page).size == (1280, 256)
    assert page.attributes("svg")[0]["viewbox"] == "0 0 3000 600"


def test_no_face_is_said() -> None:
    page = Elements(prediction_markup.render(np.zeros((50, 50, 3), np.uint8), []))
    assert page.texts("p")[0].startswith("No face was found")
    assert page.attributes("rect") == []


def test_a_result_is_read_out_and_a_frame_is_not() -> None:
    faces = [face(Box(1, 1, 9, 9))]
    for announced in (True, False):
        text = prediction_markup.render(data.astronaut(), faces, announced=announced)
        (said,) = Elements(text).attributes("p")
        assert (said.get("role") == "status") == announced
    assert Elements(prediction_markup.render_message("Oh", wrong=True)).attributes("p") == [
        {"class": "said wrong", "role": "alert"}
    ]


def test_what_is_said_is_escaped() -> None:
    hostile = "<script>alert('\"&')</script>.png: no image"
    page = Elements(prediction_markup.render_message(hostile, wrong=True))
    assert page.texts("p") == [hostile]
    assert page.attributes("script") == []

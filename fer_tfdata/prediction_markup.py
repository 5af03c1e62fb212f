"""The faces of an image as HTML: the image with its boxes, and every probability as a bar."""

import base64
import io
from collections.abc import Sequence
from typing import Final

from PIL import Image

from fer_tfdata.images import Pixels
from fer_tfdata.markup import Markup, element, join
from fer_tfdata.results import FacePrediction

STYLE: Final = """
.fer { --ink: #1c1e21; --faint: #565c64; --line: #d9dce1; --raised: #f4f5f7; --bar: #8a94a3;
  --accent: #0b57a4; color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }
.dark .fer { --ink: #e6e8eb; --faint: #a9b0ba; --line: #363b42; --raised: #1f2226; --bar: #737d8c;
  --accent: #7db8f0; }
.fer h3, .fer p, .fer figure, .fer ul { margin: 0; padding: 0; color: inherit; }
.fer .said { margin: 0 0 .6rem; color: var(--faint); }
.fer .said.wrong { border-left: 4px solid #c62828; padding-left: .7rem; color: var(--ink);
  overflow-wrap: anywhere; }
.fer .picture { position: relative; width: fit-content; max-width: 100%; margin: 0 auto 1rem;
  line-height: 0; border-radius: 8px; overflow: hidden; background: var(--raised); }
.fer .picture img { display: block; margin: 0; min-width: min(100%, 12rem); max-width: 100%;
  max-height: 60vh; width: auto; height: auto; object-fit: contain; }
.fer .picture svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.fer rect { fill: none; stroke: #ffb000; stroke-width: 3; vector-effect: non-scaling-stroke; }
.fer rect.under { stroke: #000; stroke-width: 5; stroke-opacity: .5; }
.fer text { fill: #ffb000; stroke: #000; stroke-width: .18em; stroke-linejoin: round;
  paint-order: stroke; font: 700 1em system-ui, sans-serif; }
.fer .faces { display: grid; gap: .8rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr)); }
.fer .face { border: 1px solid var(--line); border-radius: 8px; padding: .7rem .9rem .8rem; }
.fer h3 { font-size: 1.05rem; font-weight: 600; line-height: 1.3; margin-bottom: .5rem; }
.fer .bars { list-style: none; display: grid; grid-template-columns: max-content 1fr max-content;
  gap: .25rem .6rem; align-items: center; font-size: .9rem; font-variant-numeric: tabular-nums; }
.fer .bars li { display: contents; }
.fer .bars i { display: block; height: .6rem; border-radius: .3rem; background: var(--raised);
  overflow: hidden; }
.fer .bars i::before { content: ""; display: block; height: 100%; border-radius: inherit;
  width: calc(var(--share) * 100%); background: var(--bar); }
.fer .bars b { font-weight: 400; text-align: right; min-width: 2.8em; }
.fer .bars .most { font-weight: 600; }
.fer .bars .most b { font-weight: 600; }
.fer .bars .most i::before { background: var(--accent); }
"""
"""What `render` and `render_message` look like, light and, within `.dark`, dark."""

# What a page shows of a larger picture; as many pixels as a sharp screen has for it.
_MAX_SHOWN_SIDE: Final = 1280


def render(image: Pixels, faces: Sequence[FacePrediction], *, announced: bool = True) -> Markup:
    """Returns an image with a numbered box around each face, and a list of bars a face.

    Args:
      image: RGB uint8 `[height, width, 3]`.
      faces: the image's.
      announced: whether a screen reader reads the result out; not that of each frame of a video.
    """
    said = element("p", _summary(faces), class_="said", role="status" if announced else "")
    cards = [_card(number, face) for number, face in enumerate(faces, 1)]
    return element(
        "div",
        said,
        _picture(image, faces),
        element("div", *cards, class_="faces"),
        class_="fer",
    )


def render_message(text: str, *, wrong: bool = False) -> Markup:
    """Returns a sentence in a result's place.

    Args:
      text: the sentence.
      wrong: whether it says what went wrong; a screen reader reads it out at once.
    """
    classes = "said wrong" if wrong else "said"
    sentence = element("p", text, class_=classes, role="alert" if wrong else "")
    return element("div", sentence, class_="fer")


def _summary(faces: Sequence[FacePrediction]) -> str:
    if not faces:
        return "No face was found: faces must be upright, frontal and not too small in the picture."
    count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
    return f"{count}: {', '.join(face.expression for face in faces)}"


def _picture(image: Pixels, faces: Sequence[FacePrediction]) -> Markup:
    height, width = image.shape[:2]
    size = max(height, width) / 22
    boxes = (_box(number, face, size) for number, face in enumerate(faces, 1))
    drawing = element(
        "svg",
        *boxes,
        viewBox=f"0 0 {width} {height}",
        aria_hidden="true",
    )
    return element("figure", _shown(image), drawing, class_="picture")


def _shown(image: Pixels) -> Markup:
    picture = Image.fromarray(image)
    picture.thumbnail((_MAX_SHOWN_SIDE, _MAX_SHOWN_SIDE))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return element(
        "img",
        src=f"data:image/jpeg;base64,{data}",
        alt="The picture, with its faces framed",
        width=str(picture.width),
        height=str(picture.height),
    )


def _box(number: int, face: FacePrediction, size: float) -> Markup:
    box = face.box
    place = {
        "x": str(box.left),
        "y": str(box.top),
        "width": str(box.width),
        "height": str(box.height),
    }
    # Above the box; inside where the picture ends there.
    base = box.top - size * 0.35 if box.top > size * 1.4 else box.top + size * 1.15
    label = element(
        "text",
        f"{number} {face.expression}",
        x=f"{box.left + size * 0.15:.1f}",
        y=f"{base:.1f}",
        font_size=f"{size:.1f}",
    )
    return join(element("rect", class_="under", **place), element("rect", **place), label)


def _card(number: int, face: FacePrediction) -> Markup:
    name = f"Face {number}: {face.expression}"
    bars = (
        _bar(expression, share, most=expression == face.expression)
        for expression, share in face.probabilities.items()
    )
    return element(
        "section",
        element("h3", name),
        element("ul", *bars, class_="bars"),
        class_="face",
        aria_label=name,
    )


def _bar(expression: str, share: float, *, most: bool) -> Markup:
    return element(
        "li",
        element("span", expression),
        element("i", style=f"--share: {share:.4f}", aria_hidden="true"),
        element("b", f"{share:.0%}"),
        class_="most" if most else "",
    )

"""HTML made of elements, so that it is balanced and every text in it escaped.

A text is escaped where it enters an element, unless it is an element itself.  So a file name that
holds markup is shown as it is, and nobody has to think of it.
"""

import base64
import html
import io
from collections.abc import Iterable, Sequence
from typing import Final

import numpy as np
import numpy.typing as npt
from PIL import Image

_VOID: Final = frozenset({"img", "meta"})


class Markup(str):
    """Text that is HTML already."""

    __slots__ = ()


def element(tag: str, *content: str, **attributes: str) -> Markup:
    """Returns an element.

    Args:
      tag: its name.
      *content: texts and elements.
      **attributes: `class_` is class, `aria_label` aria-label.
    """
    opened = f"<{tag}{''.join(map(_attribute, attributes, attributes.values()))}>"
    if tag in _VOID:
        return Markup(opened)
    return Markup(f"{opened}{join(*content)}</{tag}>")


def join(*content: str) -> Markup:
    """Returns texts and elements one after another."""
    return Markup("".join(map(_escaped, content)))


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, class_: str = ""
) -> Markup:
    """Returns a table whose rows begin with their names, in a box of its own to scroll in.

    A cell that is a `td` already is taken as it is.
    """
    names = element("tr", *(element("th", name, scope="col") for name in head))
    body = (element("tr", element("th", row[0], scope="row"), *map(_cell, row[1:])) for row in rows)
    content = element(
        "table",
        element("thead", names),
        element("tbody", *body),
        class_=class_,
        aria_label=caption,
    )
    # A region that takes the focus can be scrolled with the keyboard too.
    box = element("div", content, class_="scroll", tabindex="0", role="region", aria_label=caption)
    return element("figure", element("figcaption", caption), box)


def image(pixels: npt.NDArray[np.uint8], *, alt: str, max_side: int) -> Markup:
    """Returns an image with its pixels in it, as PNG.

    Args:
      pixels: uint8 [height, width, channels], of 1 or 3 channels.
      alt: what it shows.
      max_side: what is larger is made smaller.
    """
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    picture.thumbnail((max_side, max_side))
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return element(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=alt,
        width=str(picture.width),
        height=str(picture.height),
    )


def _attribute(name: str, value: str) -> str:
    return f' {name.rstrip("_").replace("_", "-")}="{_escape(value)}"' if value else ""


def _escaped(content: str) -> str:
    return content if isinstance(content, Markup) else _escape(content)


def _cell(content: str) -> Markup:
    if isinstance(content, Markup) and content.startswith("<td"):
        return content
    return element("td", content)


def _escape(text: str) -> str:
    # What a file name holds beside UTF-8 has no form in a page.
    return html.escape(text.encode("utf-8", "replace").decode())

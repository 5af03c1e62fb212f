"""What the pages have in common: one file each, without network, scripts or other files."""

from collections.abc import Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt

from fer_tfdata.markup import Markup, element, image

# Larger images are made smaller for a page.
MAX_SIDE: Final = 96

_STYLE: Final = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1c1e21; --faint: #5d636b;
  --line: #d9dce1; --raised: #f4f5f7; --link: #0b57a4; --face: 96px; --shade: #0072b2; }
@media (prefers-color-scheme: dark) { :root { --paper: #15171a; --ink: #e6e8eb; --faint: #a2a9b3;
  --line: #363b42; --raised: #1f2226; --link: #7db8f0; --shade: #56b4e9; } }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; padding: 1rem; max-width: 80rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: .5rem 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.3rem; margin: 0 0 .5rem; }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .4rem; }
p { max-width: 44rem; margin: .4rem 0 .8rem; }
a { color: var(--link); }
section { border-top: 1px solid var(--line); margin-top: 2rem; padding-top: 1.5rem; }
nav ul { list-style: none; margin: 1.2rem 0 0; padding: 0; display: flex; flex-wrap: wrap;
  gap: .4rem; }
nav a { display: block; padding: .35rem .7rem; border: 1px solid var(--line);
  border-radius: 1rem; text-decoration: none; font-size: .9rem; }
nav a:hover { background: var(--raised); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .3rem 1rem; margin: 0 0 1.2rem; }
dt { color: var(--faint); }
dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
code { font: .85em ui-monospace, monospace; }
ul { margin: .4rem 0 .8rem; padding-left: 1.2rem; }
figure { margin: 0; min-width: 0; }
figcaption, .share, .note { color: var(--faint); font-size: .85rem; }
.beside { display: flex; flex-wrap: wrap; gap: 1rem 3rem; margin: .8rem 0; }
.beside .chart { flex: 1 1 20rem; }
.scroll { overflow-x: auto; margin: .2rem 0 1rem; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th { font-weight: 600; }
tbody th { text-align: left; padding-left: 0; }
.texts th, .texts td { text-align: left; vertical-align: top; }
.texts th, .texts figcaption { white-space: nowrap; }
.texts td { overflow-wrap: anywhere; }
.shaded td { background: color-mix(in srgb, var(--shade) calc(var(--share) * 60%), transparent); }
.chart { max-width: 44rem; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; margin: .3rem 0; }
.legend span::before { content: ""; display: inline-block; width: .8em; height: .8em;
  margin-right: .4em; border-radius: 2px; background: var(--colour); }
.faces { display: flex; flex-wrap: wrap; gap: .6rem .5rem; margin: .6rem 0; }
.face { width: var(--face); }
.face img { display: block; width: 100%; height: auto; border-radius: 3px;
  background: var(--raised); image-rendering: pixelated; }
.face figcaption { font-size: .75rem; line-height: 1.3; margin-top: .2rem; }
@media (max-width: 40rem) {
  :root { --face: 68px; }
  th, td { padding: .3rem .4rem; }
  table { font-size: .85rem; }
}
@media print { nav { display: none; } .face, tr { break-inside: avoid; } }
"""

# What makes the browser itself hold the page to its word.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


class Section(NamedTuple):
    """A part of a page that its head leads to."""

    anchor: str
    title: str
    body: Iterable[Markup]


def render(
    title: str, overview: Iterable[Markup], sections: Sequence[Section], *, style: str
) -> str:
    """Returns a page.

    Args:
      title: its heading too.
      overview: what stands below the heading.
      sections: what follows, with links to each.
      style: CSS beside that of all pages.
    """
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("title", title),
        element("style", Markup(_STYLE + style)),
    )
    body = element(
        "body",
        element("header", element("h1", title), *overview, _links(sections)),
        element("main", *map(_section, sections)),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def faces(figures: Iterable[Markup]) -> Markup:
    """Returns faces side by side."""
    return element("div", *figures, class_="faces")


def face(pixels: npt.NDArray[np.uint8], *caption: str, alt: str) -> Markup:
    """Returns a face with its caption.

    Args:
      pixels: uint8 [height, width, channels], of 1 or 3 channels.
      *caption: a line each.
      alt: what it shows.
    """
    lines = (element("div", line) for line in caption)
    picture = image(pixels, alt=alt, max_side=MAX_SIDE)
    return element("figure", picture, element("figcaption", *lines), class_="face")


def shaded_cell(content: str, share: float) -> Markup:
    """Returns a cell that is the darker the nearer its share is to one; for `.shaded` tables."""
    return element("td", content, style=f"--share:{share:.3f}")


def legend(names: Iterable[str], classes: Iterable[str]) -> Markup:
    """Returns names, each with the colour of its class."""
    entries = map(lambda name, class_: element("span", name, class_=class_), names, classes)
    return element("div", *entries, class_="legend")


def counted(count: int, noun: str) -> str:
    """Returns "1 image" or "1,234 images"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _links(sections: Sequence[Section]) -> Markup:
    links = (element("a", section.title, href=f"#{section.anchor}") for section in sections)
    return element(
        "nav", element("ul", *(element("li", link) for link in links)), aria_label="Contents"
    )


def _section(section: Section) -> Markup:
    return element("section", element("h2", section.title), *section.body, id=section.anchor)

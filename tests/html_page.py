"""A page, read as a browser would, but strictly."""

import base64
import io
import itertools
import re
from html.parser import HTMLParser

import numpy as np
from PIL import Image

HOSTILE = "<script>alert('\"&amp;')</script> \u202e{x} $y"


class Page(HTMLParser):
    """What stands in a page; reading it fails where tags are not balanced."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}  # of the header and of each section
        self._section = "header"
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))
        if tag == "section":
            self._section = str(dict(attributes)["id"])
        if tag not in ("img", "meta"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            before = self.texts.get(self._section, "")
            self.texts[self._section] = f"{before} {data.strip()}".strip()

    def attributes(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    def images(self) -> list[np.ndarray]:
        prefix = "data:image/png;base64,"
        sources = [str(image["src"]) for image in self.attributes("img")]
        assert all(source.startswith(prefix) for source in sources)
        contents = [base64.b64decode(source.removeprefix(prefix)) for source in sources]
        return [np.asarray(Image.open(io.BytesIO(content))) for content in contents]

    def check(self) -> None:
        """What holds for every page: nothing from outside, no scripts, words for every picture."""
        for tag, attributes in self.tags:
            assert not {"src", "href", "xlink:href", "srcset"} & set(attributes) or tag in (
                "img",
                "a",
            )
            assert not any(name.startswith("on") for name in attributes)
        assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in self.tags}
        assert all(image["alt"] for image in self.attributes("img"))
        levels = [int(tag[1]) for tag, _ in self.tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1
        assert levels.count(1) == 1
        assert all(level <= before + 1 for before, level in itertools.pairwise(levels))
        assert "nan" not in " ".join(self.texts.values())

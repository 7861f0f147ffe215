"""What tests of pages share: hostile words, and a reader that fails on torn HTML."""

from __future__ import annotations

import re
from html.parser import HTMLParser

HOSTILE = '<script>alert("x")</script><img src=x onerror=y>'
PICTURE = "data:image/jpeg;base64,AAAA"
VOID = {"meta", "link", "img", "br", "hr", "input", "line", "rect", "circle"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open; remembers what is loaded and what can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag


def must_stand_alone(page: str) -> None:
    """Well-formed, with all that it loads inside, and every link to a place of its own."""
    parser = Balanced()
    parser.feed(page)
    assert parser.open == []
    assert all(link.startswith(("#", "data:")) for link in parser.loads)
    assert {link[1:] for link in parser.loads if link.startswith("#")} <= set(parser.ids)
    assert not re.search(r"@import|url\(|https?://", page)


def must_keep_as_text(page: str, times: int) -> None:
    """HOSTILE stands there as words, so many times or more, and nowhere as markup."""
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= times

"""What tests of pages share: hostile words, and a reader that fails on torn HTML."""

from __future__ import annotations

from html.parser import HTMLParser

HOSTILE = '<script>alert("x")</script><img src=x onerror=y>'
PICTURE = "data:image/jpeg;base64,AAAA"
VOID = {"meta", "link", "img", "line", "rect", "circle"}


class Balanced(HTMLParser):
    """Fails on a tag that is closed without being open; remembers what is loaded and what can be linked to."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

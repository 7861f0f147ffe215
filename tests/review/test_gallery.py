"""The page of verdicts: complete, in order, self-contained, safe against what models and data say."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from latefuse.data.dataset import Dataset, store_medium, write_dataset
from latefuse.review.audit import Verdict
from latefuse.review.export import choose
from latefuse.review.gallery import build

Made = Callable[..., Verdict]
ODD = '<script>alert("x")</script> 🍜 שלום עולם & co'
VOID = {"meta", "link", "img", "br", "hr", "line", "rect"}


class Page(HTMLParser):
    """Fails on tags that do not match; keeps what a browser would load, and the text between the tags."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.loads: list[str] = []
        self.ids: list[str] = []
        self.said: list[str] = []
        self.tags: set[str] = set()
        self.handlers: list[str] = []
        self.feed(page)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.loads += [value or "" for name, value in attrs if name in ("src", "href", "data", "action", "srcset")]
        self.ids += [value or "" for name, value in attrs if name == "id"]
        self.handlers += [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.said.append(data)


@pytest.fixture
def dataset(tmp_path: Path) -> tuple[Dataset, str]:
    picture = tmp_path / "red.png"
    Image.new("RGB", (640, 320), (200, 10, 10)).save(picture)
    out = tmp_path / "dataset"
    out.mkdir()
    ref = store_medium(out, picture)
    row = {"id": "p", "instruction": "fits?", "label": True, "image": ref}
    return write_dataset(out, {"judgements": [row]}), ref


def test_the_page_is_well_formed_and_asks_for_nothing(verdict: Made, dataset: tuple[Dataset, str]) -> None:
    data, ref = dataset
    text = build([verdict("p", 0.5, verdict="abstain", image=ref), verdict("q", image="")], data.media)
    page = Page(text)
    assert all(link.startswith(("#", "data:")) for link in page.loads)
    assert {link[1:] for link in page.loads if link.startswith("#")} <= set(page.ids)
    assert not re.search(r"@import|url\(|https?://", text)
    assert "prefers-color-scheme:dark" in text


def test_what_models_and_data_say_stays_text(verdict: Made) -> None:
    said = {name: f"{name} {ODD}" for name in ("task", "instruction", "text", "rationale", "model")}
    page = Page(build([verdict(ODD, image="", **said)], title=ODD, facts={ODD: ODD}))
    assert "script" not in page.tags
    assert page.handlers == []
    told = "".join(page.said)
    for name, value in said.items():
        assert value in told, name
    assert told.count(ODD) == len(said) + 5  # the title twice, a fact and its name, the id


def test_every_row_shows_what_was_said_of_it(verdict: Made) -> None:
    row = verdict("p", 0.618, image="", threshold=0.55, rationale="the bowl is red", task="colours")
    told = "".join(Page(build([row])).said)
    for text in ("colours · p", row.instruction, row.text, "relevant 61.8% against 55.0%", "the bowl is red",
                 "tiny · adapter aaaaaaaaaaaa", row.time):  # fmt: skip
        assert text in told


def test_the_bar_lies_where_the_numbers_are(verdict: Made) -> None:
    page = build([verdict("p", 0.25, image="", threshold=0.75)])
    width = re.search(r'class="bar separate" x="1.0%" y="5" width="([\d.]+)%"', page)
    tick = re.search(r'class="oracle" x1="([\d.]+)%"', page)
    assert width is not None
    assert tick is not None
    assert float(width[1]) == pytest.approx(98 * 0.25)
    assert float(tick[1]) == pytest.approx(1 + 98 * 0.75)


def test_doubtful_rows_come_first(verdict: Made) -> None:
    rows = [verdict("sure", 0.99), verdict("torn", 0.51), verdict("silent", 0.9, verdict="abstain")]
    page = build(choose([verdict(r.id, r.probability, verdict=r.verdict, image="") for r in rows], 3))
    places = [page.index(f"claims · {name}") for name in ("silent", "torn", "sure")]
    assert places == sorted(places)
    assert page.index('id="abstained"') < places[0] < page.index('id="decided"') < places[1]


def test_pictures_are_thumbnails_within_the_page(verdict: Made, dataset: tuple[Dataset, str]) -> None:
    data, ref = dataset
    page = build([verdict("p", image=ref)], data.media)
    found = re.search(r'<img src="data:image/jpeg;base64,([^"]+)"', page)
    assert found is not None
    picture = Image.open(io.BytesIO(base64.b64decode(found[1])))
    assert picture.size == (168, 84)
    red, green, _ = picture.convert("RGB").getpixel((80, 40))  # type: ignore[misc]
    assert red > 180 > 40 > green


@pytest.mark.parametrize("ref", ["media/no/such.png", "../red.png", "https://cdn/a.png"])
def test_a_picture_that_is_not_of_the_dataset_is_told(verdict: Made, dataset: tuple[Dataset, str], ref: str) -> None:
    page = build([verdict("p", image=ref)], dataset[0].media)
    assert "picture can't be shown" in page
    assert "<img" not in page


def test_a_broken_picture_and_one_that_is_gone_are_told(verdict: Made, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nrubbish")
    page = build([verdict(name, image=str(tmp_path / f"{name}.png")) for name in ("broken", "gone")])
    assert page.count("picture can't be shown") == 2


def test_no_verdicts_still_make_a_page() -> None:
    assert "No verdict was handed over" in build([])

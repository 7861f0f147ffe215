"""Amazon's reviews of 2014 in their own format, with the broken lines that such files have."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.steps import prepare
from latefuse.tasks.personal_rows import open_rows
from latefuse.tracking import Null

DAY = 86_400
PAIRS = [(u, i) for u in range(6) for i in range(7) if (u + i) % 6]
"""Five or six reviews of each of six users, five of each of seven items."""


def review(user: int, item: int) -> dict[str, Any]:
    return {
        "reviewerID": f"A{user}", "asin": f"B00{item}", "reviewerName": f"Ann &amp; Bo {user}", "helpful": [0, 1],
        "reviewText": f"Item {item} &quot;works&quot;.", "overall": float(1 + (user + item) % 5), "summary": "It works",
        "unixReviewTime": 1_300_000_000 // DAY * DAY + DAY * (item // 3), "reviewTime": "03 13, 2011",
    }  # fmt: skip


LINES = [json.dumps(review(user, item)) for user, item in sorted(PAIRS, key=lambda pair: pair[1])]
BROKEN = [
    '{"reviewerID": "A1", "asin": "B000", "overall": 5.0',
    json.dumps({**review(0, 1), "asin": None}),
    json.dumps({**review(0, 1), "overall": "five"}),
    json.dumps({**review(0, 1), "unixReviewTime": True}),
    json.dumps({**review(0, 1), "asin": "../B001"}),
    "[1, 2]",
]
META = [
    str({"asin": "B000", "title": "Soap &amp; water", "description": "It's clean", "imUrl": "http://x/y.jpg",
         "categories": [["Beauty", "Bath"], ["Beauty", "Soap"]], "brand": "Q"}),
    json.dumps({"asin": "B001", "title": "Brush", "description": ["soft", "small"], "categories": "Beauty"}),
    "{'asin': 'B002', 'title': __import__('os').system('true')}",
    "{'asin': 'B003', 'title': 'torn",
    "{'asin': 'B004', 'title': {'en': 'a mapping'}}",
    "{'asin': 'B005', 'title': b'bytes'}",
    "{'asin': ['B005']}",
    str({"asin": "B999", "title": "of no review"}),
]  # fmt: skip
EXPLAINED = [
    {"user": "A0", "item": "B001", "feature": "smell", "sentence": "the smell is great", "stars": 5},
    {"user": "A9", "item": "B001", "feature": "smell", "sentence": "nobody wrote it"},
    {"user": "A0", "item": "B002", "feature": None, "sentence": "x"},
    {"user": "A0", "item": "B001", "feature": "price", "sentence": "it costs little"},
    {"user": "A0", "item": "B003", "feature": "", "sentence": "x"},
]


@pytest.fixture
def shop(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    with gzip.open(tmp_path / "reviews_5.json.gz", "wt") as packed:
        packed.write("\n".join([*LINES, *BROKEN]))
    (tmp_path / "meta.json").write_text("\n".join(META))
    (tmp_path / "explained.jsonl").write_text("\n".join(map(json.dumps, EXPLAINED)))
    for number in range(5):
        picture(f"pictures/B00{number}.jpg", shade=40 * number)
    picture("pictures/B005.png")
    return tmp_path


ALL = {
    "reviews": "reviews_5.json.gz",
    "metadata": "meta.json",
    "pictures": "pictures",
    "explanations": "explained.jsonl",
}


def test_tables(shop: Path, collect: Callable[..., Any]) -> None:
    found = collect("amazon", **ALL)
    items = {row["id"]: row for row in found["items"]}
    assert sorted(items) == [f"B00{number}" for number in range(7)]
    assert (items["B000"]["title"], items["B000"]["text"]) == ("Soap & water", "It's clean")
    assert json.loads(items["B000"]["attributes"]) == {"categories": ["Beauty", "Bath", "Soap"], "brand": "Q"}
    assert (items["B001"]["text"], items["B001"]["attributes"]) == ("soft small", "{}")
    assert all(items[f"B00{number}"]["title"] == "" for number in range(2, 7)), "metadata that can't be read"
    assert items["B004"]["images"] == ["pictures/B004.jpg"]
    assert items["B005"]["images"] == ["pictures/B005.png"]
    assert items["B006"]["images"] == []
    events = {(row["user"], row["item"]): row for row in found["events"]}
    assert set(events) == {(f"A{user}", f"B00{item}") for user, item in PAIRS}
    assert events["A2", "B001"]["value"] == review(2, 1)["overall"]
    assert events["A2", "B001"]["ts"] == review(2, 1)["unixReviewTime"]
    assert {row["kind"] for row in found["events"]} == {"rating"}
    assert {row["id"]: row["name"] for row in found["users"]} == {f"A{user}": f"Ann & Bo {user}" for user in range(6)}
    reviews = {(row["user"], row["item"]): row for row in reversed(found["reviews"])}
    assert set(reviews) == set(events)
    assert len(found["reviews"]) == len(events) + 1, "a row for each explanation"
    said = {(row["feature"], row["text"]) for row in found["reviews"] if (row["user"], row["item"]) == ("A0", "B001")}
    assert said == {("smell", "the smell is great"), ("price", "it costs little")}
    assert reviews["A2", "B001"]["text"] == 'Item 1 "works".'
    assert (reviews["A2", "B001"]["headline"], reviews["A2", "B001"]["feature"]) == ("It works", "")
    assert (reviews["A0", "B001"]["text"], reviews["A0", "B001"]["feature"]) == ("the smell is great", "smell")
    assert reviews["A0", "B001"]["stars"] == review(0, 1)["overall"], "the review's own stars"


def test_broken_rows_are_told_once(shop: Path, collect: Callable[..., Any]) -> None:
    found = collect("amazon", **ALL)
    first = len(LINES) + 1
    expected = [("events", f"reviews_5.json.gz:{first + k}", reason) for k, reason in enumerate((
        "not-json", "missing-value", "wrong-type", "wrong-type", "wrong-type", "not-json",
    ))]  # fmt: skip
    expected += [("items", f"meta.json:{line}", "not-json") for line in (3, 4, 6)]
    expected += [("items", "meta.json:5", "wrong-type")]
    expected += [("reviews", "explained.jsonl:3", "wrong-type"), ("reviews", "explained.jsonl:2", "dangling-reference")]
    expected += [("reviews", "explained.jsonl:5", "missing-value")]
    assert Counter(found["errors"]) == Counter(expected)


def test_core_limit_and_needs_against_a_plain_loop(shop: Path, collect: Callable[..., Any]) -> None:
    found = collect("amazon", reviews="reviews_5.json.gz", pictures="pictures", needs=["picture"], core=5)
    left = {(user, item) for user, item in PAIRS if item != 6}
    while True:
        users, items = Counter(user for user, _ in left), Counter(item for _, item in left)
        kept = {(user, item) for user, item in left if users[user] >= 5 and items[item] >= 5}
        if kept == left:
            break
        left = kept
    assert {(row["user"], row["item"]) for row in found["events"]} == {(f"A{u}", f"B00{i}") for u, i in left}
    assert {row["id"] for row in found["items"]} == {f"B00{item}" for _, item in left}
    few = collect("amazon", reviews="reviews_5.json.gz", limit=2, core=1)
    assert len({row["user"] for row in few["events"]}) == 2 == len(few["users"])
    with pytest.raises(DataError, match="no review is left"):
        collect("amazon", reviews="reviews_5.json.gz", core=9)
    assert "users" not in collect("amazon", reviews="reviews_5.json.gz", names=False)


def test_events_of_one_day_come_in_no_order_of_asin(tmp_path: Path, collect: Callable[..., Any]) -> None:
    """Leave-one-out breaks ties by order: in the file's own the held-out item would have the highest asin."""
    rows = [{**review(user, item), "unixReviewTime": DAY} for item in range(9) for user in range(200)]
    (tmp_path / "reviews.json").write_text("\n".join(map(json.dumps, rows)))
    last = {row["user"]: row["item"] for row in collect("amazon", reviews="reviews.json", core=1)["events"]}
    counts = Counter(last.values())
    assert len(counts) == 9
    assert max(counts.values()) < 45


def test_files_that_can_not_be_read_are_told(shop: Path, collect: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"nothere\.json: no such file"):
        collect("amazon", reviews="nothere.json")
    (shop / "odd.json").write_text(json.dumps({"reviewer": "A", "asin": "B", "overall": 1, "unixReviewTime": 1}))
    with pytest.raises(DataError, match=r"odd\.json: missing key 'reviewerID'; did you mean 'reviewer'"):
        collect("amazon", reviews="odd.json")
    (shop / "none.json").write_text("nothing\n")
    with pytest.raises(DataError, match="no line of it is a JSON object"):
        collect("amazon", reviews="none.json")
    packed = (shop / "reviews_5.json.gz").read_bytes()
    (shop / "torn.json.gz").write_bytes(packed[: len(packed) // 2])
    with pytest.raises(DataError, match=r"torn\.json\.gz: not a whole gzip file"):
        collect("amazon", reviews="torn.json.gz")
    with pytest.raises(DataError, match=r"data\.options\.pictures names no folder"):
        collect("amazon", reviews="reviews_5.json.gz", needs=["picture"])


def test_a_dataset_of_it_serves_prompts(shop: Path, tmp_path: Path) -> None:
    data = Data.model_validate(
        {"source": "amazon", "path": str(shop), "options": ALL, "splits": {"scheme": "loo"}, "quarantine_budget": 0.5}
    )
    result = prepare.run(data, tmp_path / "dataset", Null())
    assert result["leaks"] == []
    dataset = Dataset(tmp_path / "dataset")
    assert dataset.count("users") == 6
    rows = open_rows(dataset, count=2)
    assert {dataset.rows("users")[0]["name"]} <= {f"Ann & Bo {user}" for user in range(6)}
    assert len(rows.held_out("A-3", "test")) == 6
    assert rows.families == ("sequential", "direct", "explanation")

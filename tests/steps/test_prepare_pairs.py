"""Pairs in a dataset: mined from events by name, split by pair and by item, and from nothing that a test asks."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_source
import pytest

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.sources import SOURCES
from latefuse.steps import prepare
from latefuse.tracking import Null

Row = dict[str, Any]
Tables = dict[str, list[Row]]
LOOSE = {"window_s": 900, "lower": 0, "upper": 1e9, "top": 1_000}


@pytest.fixture
def tables() -> Tables:
    """Eighty items in an order of their own, and 900 events of 40 users, out of the order of time."""
    draw = random.Random(3)
    keys = [f"item-{number}" for number in range(80)]
    draw.shuffle(keys)
    events = [
        {
            "user": f"u{draw.randrange(40)}",
            "item": draw.choice(keys),
            "ts": draw.randrange(20_000),
            "kind": draw.choice(["view", "click"]),
            "value": float(draw.randrange(5)),
        }
        for _ in range(900)
    ]
    return {"items": [{"id": key} for key in keys], "events": events}


@pytest.fixture
def run(tables: Tables, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Dataset]:
    monkeypatch.setitem(SOURCES, "plain", "plain_source:Plain")

    def call(out: str = "out", **changes: Any) -> Dataset:
        changes.setdefault("splits", {"scheme": "pair"})
        plain_source.write(tmp_path / "raw", tables)
        prepare.run(Data(source="plain", path=str(tmp_path / "raw"), **changes), tmp_path / out, Null())
        return Dataset(tmp_path / out)

    return call


def expected(events: list[Row], first: str = "", second: str = "", least: float = 0.0) -> dict[tuple[str, str], float]:
    """(a, b) -> score, with a window of 900 seconds and no bounds."""
    by_user = defaultdict(list)
    for row in events:
        if row["value"] >= least and (row["kind"] in (first, second) or not first or not second):
            by_user[row["user"]].append(row)
    scores: dict[tuple[str, str], float] = defaultdict(float)
    for rows in by_user.values():
        for pair in {
            (one["item"], other["item"])
            for one in rows
            for other in rows
            if one["item"] != other["item"] and 0 <= other["ts"] - one["ts"] <= 900
            if one["kind"] == (first or one["kind"]) and other["kind"] == (second or other["kind"])
        }:
            scores[pair] += 1 / len({row["item"] for row in rows})
    return scores


def weights(dataset: Dataset) -> dict[tuple[str, str], float]:
    return {(row["a"], row["b"]): row["weight"] for row in dataset.rows("pairs")}


@pytest.mark.parametrize(
    ("options", "like"),
    [
        ({}, {}),
        ({"min_value": 2}, {"least": 2}),
        ({"first": ["view"], "second": ["click"]}, {"first": "view", "second": "click"}),
        ({"second": ["click"], "min_value": 1}, {"second": "click", "least": 1}),
    ],
)
def test_mined_pairs_are_those_of_the_events(
    run: Callable[..., Dataset], tables: Tables, options: Row, like: Row
) -> None:
    dataset = run(pairs={**LOOSE, **options})
    wanted = expected(tables["events"], **like)
    assert len(wanted) > 100
    assert weights(dataset) == pytest.approx(wanted, abs=1e-9)
    rows = dataset.rows("pairs")
    assert {row["window"] for row in rows} == {900}
    order = {row["id"]: place for place, row in enumerate(dataset.rows("items"))}
    keys = [(order[row["a"]], -row["weight"], order[row["b"]]) for row in rows]
    assert keys == sorted(keys)


def test_each_keeps_its_best_within_the_bounds(run: Callable[..., Dataset], tables: Tables) -> None:
    dataset = run(pairs={"window_s": 900, "lower": 0.05, "upper": 0.12, "top": 3})
    wanted: dict[str, list[float]] = defaultdict(list)
    for (a, _), score in expected(tables["events"]).items():
        if 0.05 <= score <= 0.12:
            wanted[a].append(score)
    found: dict[str, list[float]] = defaultdict(list)
    for (a, _), score in weights(dataset).items():
        found[a].append(score)
    assert {a: sorted(scores)[::-1] for a, scores in found.items()} == {
        a: pytest.approx(sorted(scores)[::-1][:3], abs=1e-9) for a, scores in wanted.items()
    }


@pytest.mark.parametrize("scheme", ["time", "loo"])
def test_under_a_split_of_events_only_those_of_train_are_mined(
    run: Callable[..., Dataset], tables: Tables, scheme: str
) -> None:
    dataset = run(pairs=LOOSE, splits={"scheme": scheme})
    train = dataset.rows("events", "train", scheme=scheme)
    assert len(train) < len(tables["events"])
    assert weights(dataset) == pytest.approx(expected(train), abs=1e-9)
    assert f"of 900 events ({len(train):,} of them train by {scheme})" in " ".join(dataset.manifest["notes"])


def test_pairs_have_a_split_by_pair_and_one_by_item(run: Callable[..., Dataset]) -> None:
    dataset = run(pairs=LOOSE)
    rows = dataset.rows("pairs")
    of_pair: dict[frozenset[str], set[str]] = defaultdict(set)
    for row in rows:
        of_pair[frozenset((row["a"], row["b"]))].add(row["split_pair"])
    assert all(len(found) == 1 for found in of_pair.values())
    assert {row["split_pair"] for row in rows} == {"train", "valid", "test"}
    assert dataset.manifest["leaks"]["pair"]["passed"]
    item = {row["id"]: row["split_item"] for row in dataset.rows("items")}
    for row in rows:
        assert row["split_item"] == (item[row["a"]] if item[row["a"]] == item[row["b"]] else None)
    for split in ("train", "valid", "test"):
        inside = dataset.rows("pairs", split, scheme="item")
        assert inside == [row for row in rows if row["split_item"] == split]
        assert dataset.rows("pairs", split) == [row for row in rows if row["split_pair"] == split]
    crossing = sum(row["split_item"] is None for row in rows)
    assert crossing
    assert f"{crossing:,} of {len(rows):,} rows link items of different splits" in " ".join(dataset.manifest["notes"])
    assert sum(dataset.manifest["splits"]["pairs"]["item"].values()) == len(rows) - crossing


def test_under_scheme_item_held_out_items_take_no_place_among_the_best_of_those_that_train(
    run: Callable[..., Dataset], tables: Tables
) -> None:
    dataset = run(pairs={**LOOSE, "top": 2}, splits={"scheme": "item"})
    item = {row["id"]: row["split_item"] for row in dataset.rows("items")}
    scores = expected(tables["events"])
    rows = dataset.rows("pairs")
    for row in rows:
        assert row["split_item"] == (item[row["a"]] if item[row["a"]] == item[row["b"]] else None)
    for key in item:
        for split in ("train", "valid", "test"):
            theirs = [score for (a, b), score in scores.items() if a == key and item[b] == split]
            found = [row["weight"] for row in rows if row["a"] == key and item[row["b"]] == split]
            best = sorted(theirs, reverse=True)[:2]
            assert sorted(found, reverse=True) == pytest.approx(best, abs=1e-9)


def test_what_was_mined_is_told_and_the_same_bytes_come_again(
    run: Callable[..., Dataset], capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = run(pairs={**LOOSE, "top": 2})
    (note,) = [note for note in dataset.manifest["notes"] if note.startswith("pairs: mined from")]
    assert "900 of 900 events, 40 users" in note
    assert f"{dataset.manifest['rows']['pairs']:,} among the best 2 of their item" in note
    assert f"prepare: note: {note}" in capsys.readouterr().out
    assert run("again", pairs={**LOOSE, "top": 2}).fingerprint == dataset.fingerprint
    assert run("other", pairs=LOOSE).fingerprint != dataset.fingerprint


def test_without_a_pair_the_step_fails_and_leaves_no_manifest(
    run: Callable[..., Dataset], tables: Tables, tmp_path: Path
) -> None:
    for second, row in enumerate(tables["events"]):
        row["ts"] = second
    with pytest.raises(DataError, match=r"no user of 40 has events on two items within data\.pairs\.window_s=0"):
        run(pairs={"window_s": 0})
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path / "out")
    assert not (tmp_path / "out/.partial").exists()


def test_a_source_with_pairs_of_its_own_or_without_events_is_not_mined(
    run: Callable[..., Dataset], tables: Tables, tmp_path: Path
) -> None:
    tables["pairs"] = [{"a": "item-1", "b": "item-2"}]
    with pytest.raises(
        DataError, match=r"data\.pairs mines the table pairs, and the source 'plain' gives one; leave out"
    ):
        run(pairs=LOOSE)
    (tmp_path / "raw/pairs.jsonl").unlink()
    (tmp_path / "raw/events.jsonl").unlink()
    del tables["pairs"], tables["events"]
    with pytest.raises(DataError, match=r"pairs from events, and the source 'plain' gives none.*\(it gives: items\)"):
        run(pairs=LOOSE)


def test_given_pairs_have_a_split_by_item_too_and_may_not_contradict_it(
    run: Callable[..., Dataset], tables: Tables
) -> None:
    draw = random.Random(0)
    tables["pairs"] = [{"a": f"item-{draw.randrange(80)}", "b": f"item-{draw.randrange(80)}"} for _ in range(300)]
    dataset = run()
    item = {row["id"]: row["split_item"] for row in dataset.rows("items")}
    rows = dataset.rows("pairs")
    assert [row["split_item"] for row in rows] == [
        item[row["a"]] if item[row["a"]] == item[row["b"]] else None for row in rows
    ]
    for row, stored in zip(tables["pairs"], rows, strict=True):
        row["split_item"] = stored["split_item"]
    assert run("again").fingerprint == dataset.fingerprint
    wrong = next(row for row in tables["pairs"] if item[row["a"]] == item[row["b"]] == "train")
    wrong["split_item"] = "test"
    with pytest.raises(DataError, match=f"split_item of 1 rows is not .* '{wrong['a']}' and '{wrong['b']}'"):
        run("wrong")
    assert run("drawn", splits={"official": False}).fingerprint == dataset.fingerprint


def test_pairs_of_items_that_have_no_table_are_split_alike(
    run: Callable[..., Dataset], tables: Tables, tmp_path: Path
) -> None:
    whole = {(row["a"], row["b"]): row["split_item"] for row in run("whole", pairs=LOOSE).rows("pairs")}
    (tmp_path / "raw/items.jsonl").unlink()
    del tables["items"]
    assert {(row["a"], row["b"]): row["split_item"] for row in run("bare", pairs=LOOSE).rows("pairs")} == whole

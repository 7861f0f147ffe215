"""A user's own tables: every format, every table, and each mistake in a mapping told by name."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latefuse.config_data import Data
from latefuse.data import sources
from latefuse.data.errors import DataError
from latefuse.sections import ConfigError

PRODUCTS = [
    {
        "sku": "p1",
        "name": "Mug",
        "about": "A blue mug.",
        "brand": "Ola",
        "colour": "blue",
        "front": "a.png",
        "back": "b.png",
        "cost": 3,
    },
    {"sku": "p2", "name": "Jug", "about": "", "brand": "", "colour": "red", "front": "c.png", "back": "", "cost": 4},
]
ITEMS: dict[str, Any] = {
    "columns": {
        "id": "sku",
        "title": "name",
        "text": "about",
        "attributes": {"brand": "brand", "colour": "colour"},
        "images": ["front", "back"],
    },
    "values": {"language": "en"},
    "ignore": ["cost"],
}


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1)
    elif path.suffix == ".jsonl":
        path.write_text("\n".join(map(json.dumps, rows)))
    else:
        head = list(rows[0])
        path.write_text("\n".join([",".join(head), *(",".join(str(row[key]) for key in head) for row in rows)]))
    return path.name


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_items_from_every_format(tmp_path: Path, collect: Callable[..., Any], ending: str) -> None:
    file = write(tmp_path / f"products.{ending}", PRODUCTS)
    mug, jug = collect("manifest", tables={"items": {"file": file, **ITEMS}})["items"]
    assert (mug["id"], mug["title"], mug["text"], mug["language"]) == ("p1", "Mug", "A blue mug.", "en")
    assert mug["images"] == ["a.png", "b.png"]
    assert json.loads(mug["attributes"]) == {"brand": "Ola", "colour": "blue"}
    assert jug["images"] == ["c.png"]
    assert json.loads(jug["attributes"]) == {"colour": "red"}


def test_columns_named_as_in_the_table_need_no_mapping(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "items.csv").write_text(
        'id,title,images,attributes\n1,Mug,a.png|b.png,"{""k"": 1}"\n2,Jug,"[""c|d.png""]",\n'
    )
    first, second = collect("manifest", tables={"items": {"file": "items.csv"}})["items"]
    assert (first["images"], second["images"]) == (["a.png", "b.png"], ["c|d.png"])
    assert json.loads(first["attributes"]) == {"k": 1}


def test_events_with_times_of_every_kind(tmp_path: Path, collect: Callable[..., Any]) -> None:
    times = {"1700000000": 1700000000, "2023-11-14T22:13:20Z": 1700000000, "2023-11-14 22:13:20": 1700000000,
             "2023-11-15T00:13:20+02:00": 1700000000, "2023-11-14": 1699920000}  # fmt: skip
    (tmp_path / "log.tsv").write_text(
        "who\twhat\twhen\n" + "".join(f"u\ti\t{time}\n" for time in [*times, "yesterday"])
    )
    table = {
        "file": "log.tsv",
        "columns": {"user": "who", "item": "what", "ts": "when"},
        "values": {"kind": "click", "value": 1.0},
    }
    found = collect("manifest", tables={"events": table})
    assert [row["ts"] for row in found["events"]] == list(times.values())
    assert found["events"][0]["kind"] == "click"
    assert found["errors"] == [("events", "log.tsv:7", "wrong-type")]


def test_parquet_timestamps(tmp_path: Path, collect: Callable[..., Any]) -> None:
    column = pa.array([1700000000_000], pa.timestamp("ms"))
    pq.write_table(pa.table({"user": ["u"], "item": ["i"], "ts": column}), tmp_path / "log.parquet")
    assert collect("manifest", tables={"events": {"file": "log.parquet"}})["events"][0]["ts"] == 1700000000


def test_the_other_tables(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "pairs.csv").write_text("a,b,weight,split_pair\n1,2,0.5,training\n2,3,1,held\n")
    (tmp_path / "judgements.csv").write_text("instruction,text,label,item\nmatch?,a mug,yes,1\nmatch?,a jug,0,1\n")
    (tmp_path / "reviews.csv").write_text("user,item,ts,stars,headline,text\nu,1,5,4.5,good,very good\n")
    tables = {name: {"file": f"{name}.csv"} for name in ("pairs", "judgements", "reviews")}
    found = collect("manifest", tables=tables, splits={"held": "test"})
    assert [(row["a"], row["b"], row["split_pair"]) for row in found["pairs"]] == [
        ("1", "2", "train"),
        ("2", "3", "test"),
    ]
    assert [(row["id"], row["label"]) for row in found["judgements"]] == [
        ("judgements:1", True),
        ("judgements:2", False),
    ]
    assert found["reviews"][0]["stars"] == 4.5


def test_conversations_of_questions_and_answers(tmp_path: Path, collect: Callable[..., Any]) -> None:
    lines = [
        "q,a,photo,clip",
        "what?,a mug,a.png,",
        "<video> or <image>?,both,a.png,b.mp4",
        "why?,because,,",
        "<image>?,x,,",
    ]
    (tmp_path / "qa.csv").write_text("\n".join(lines))
    table = {
        "file": "qa.csv",
        "columns": {"question": "q", "answer": "a", "images": "photo", "videos": "clip"},
        "values": {"topic": "class"},
        "truth": "name",
    }
    found = collect("manifest", tables={"conversations": table})
    rows = found["conversations"]
    assert [row["modality"] for row in rows] == ["image", "video", "text"]
    assert rows[0]["turns"][0]["text"] == "<image>\nwhat?"
    assert [medium["path"] for medium in rows[1]["media"]] == ["b.mp4", "a.png"]
    assert json.loads(rows[0]["truth"]) == {"name": "a mug", "names": "class"}
    assert [row["id"] for row in rows] == ["qa:1", "qa:2", "qa:3"]
    assert found["errors"] == [("conversations", "qa.csv:5", "placeholder-mismatch")]


def test_conversations_with_turns_and_recipes(tmp_path: Path, collect: Callable[..., Any]) -> None:
    turns = [
        {"role": "user", "text": "<video> recipe?"},
        {"role": "assistant", "text": "ingredients : 2 cups rice steps : boil"},
    ]
    row = {"id": "c", "turns": turns, "media": [{"modality": "video", "path": "a.mp4"}]}
    (tmp_path / "chat.jsonl").write_text(json.dumps(row))
    (tmp_path / "chat.csv").write_text(f'id,turns\nd,"{json.dumps(turns[1:]).replace(chr(34), chr(34) * 2)}"\n')
    found = collect("manifest", tables={"conversations": {"file": "chat.jsonl", "truth": "recipe"}})
    row = found["conversations"][0]
    assert row["modality"] == "video"
    recipe = json.loads(row["truth"])["recipe"]
    assert recipe == {"ingredients": [{"amount": 2.0, "unit": "cup", "name": "rice"}], "steps": ["boil"]}
    found = collect("manifest", tables={"conversations": {"file": "chat.csv", "truth": "caption"}})
    assert json.loads(found["conversations"][0]["truth"])["caption"].startswith("ingredients")


MISTAKES: dict[str, tuple[dict[str, Any], str]] = {
    "no such table": ({"item": {"file": "products.csv"}}, r"no table 'item'; did you mean 'items'"),
    "table column": (
        {"items": {**ITEMS, "columns": {"id": "sku", "titel": "name"}}},
        r"no column 'titel'; did you mean 'title'",
    ),
    "value column": ({"items": {**ITEMS, "values": {"lang": "en"}}}, r"values: table 'items' has no column 'lang'"),
    "file column": ({"items": {**ITEMS, "columns": {"id": "skuu"}}}, r"missing column 'skuu'; did you mean 'sku'"),
    "unmapped": ({"items": {**ITEMS, "ignore": []}}, r"unknown column 'cost'.*ignore"),
    "ignored is absent": ({"items": {**ITEMS, "ignore": ["price"]}}, r"missing column 'price'.*ignore"),
    "needed": (
        {"events": {"file": "products.csv", "columns": {"user": "sku"}, "ignore": ["*"]}},
        r"'events' needs 'item', 'ts'",
    ),
    "no question": (
        {"conversations": {"file": "products.csv", "columns": {"answer": "sku"}, "ignore": ["*"]}},
        r"needs 'question'",
    ),
    "two for one": ({"items": {**ITEMS, "columns": {"id": ["sku", "name"]}}}, r"'id' holds one value"),
    "mapping for one": ({"items": {**ITEMS, "columns": {"id": {"a": "sku"}}}}, r"only attributes take a mapping"),
    "twice": ({"items": {**ITEMS, "values": {"title": "x"}}}, r"'title' stands in columns and in values"),
    "no such file": ({"items": {**ITEMS, "file": "product.csv"}}, r"no such file; did you mean 'products\.csv'"),
    "outside": ({"items": {**ITEMS, "file": "../products.csv"}}, r"out of the data folder"),
}


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes_are_told_early(tmp_path: Path, case: str) -> None:
    tables, message = MISTAKES[case]
    (tmp_path / "root").mkdir()
    write(tmp_path / "root/products.csv", PRODUCTS)
    write(tmp_path / "products.csv", PRODUCTS)
    whole = {name: {"file": "products.csv", **table} for name, table in tables.items()}
    with pytest.raises(DataError, match=message):
        sources.build(Data(source="manifest", path=str(tmp_path / "root"), options={"tables": whole}), tmp_path)


def test_an_option_that_does_not_exist(tmp_path: Path) -> None:
    tables = {"items": {"file": "a.csv", "colums": {}}}
    with pytest.raises(ConfigError, match=r"tables\.items\.colums: unknown key.*'columns'"):
        sources.build(Data(source="manifest", path=str(tmp_path), options={"tables": tables}), tmp_path)


def test_late_unknown_key_goes_to_quarantine(tmp_path: Path, collect: Callable[..., Any]) -> None:
    rows = [{"id": str(k)} for k in range(150)] + [{"id": "x", "colour": "red"}]
    write(tmp_path / "items.jsonl", rows)
    found = collect("manifest", tables={"items": {"file": "items.jsonl"}})
    assert found["errors"] == [("items", "items.jsonl:151", "unknown-column")]


def test_several_files_and_limit(tmp_path: Path, collect: Callable[..., Any]) -> None:
    files = [write(tmp_path / f"part{k}.csv", [{"id": f"{k}-{n}"} for n in range(50)]) for k in range(3)]
    assert len(collect("manifest", tables={"items": {"file": files}})["items"]) == 150
    assert len(collect("manifest", tables={"items": {"file": files, "limit": 20}})["items"]) == 20


def test_memory_stays_flat(tmp_path: Path) -> None:
    rows = 6_000
    table = pa.table({"id": [str(k) for k in range(rows)], "title": ["x" * 4_000] * rows, "rest": ["y" * 9_000] * rows})
    pq.write_table(table, tmp_path / "items.parquet", row_group_size=500)
    options = {"tables": {"items": {"file": "items.parquet", "ignore": ["rest"]}}}
    source = sources.build(Data(source="manifest", path=str(tmp_path), options=options), tmp_path)
    del table
    tracemalloc.start()
    assert sum(1 for _ in source.tables()["items"]()) == rows
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 6e6, "of 78 MB"

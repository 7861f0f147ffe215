"""Rows become clean or are refused with a reason; unknown columns are errors."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pyarrow as pa
import pytest

from latefuse.data.errors import DataError, Refusal
from latefuse.data.schema import TABLES, clean, media_of, missing_columns, placeholders, schemes, with_media

CHAT: dict[str, Any] = {
    "id": "c",
    "modality": "image",
    "media": [{"modality": "image", "path": "a.png"}, {"modality": "video", "path": "b.mp4"}],
    "turns": [{"role": "user", "text": "<image> or <video>?"}, {"role": "assistant", "text": "both"}],
}
ROWS: dict[str, dict[str, Any]] = {
    "items": {"id": "i"},
    "users": {"id": "u"},
    "events": {"user": "u", "item": "i", "ts": 1},
    "reviews": {"user": "u", "item": "i", "ts": "1"},
    "pairs": {"a": 1, "b": 2.0},
    "judgements": {"id": "j", "instruction": "fits?", "label": "no"},
    "conversations": CHAT,
    "readings": {"of": "item", "id": "i", "text": "good"},
}


@pytest.mark.parametrize("table", TABLES)
def test_a_row_of_the_required_columns_becomes_a_whole_row(table: str) -> None:
    row = clean(table, ROWS[table])
    assert list(row) == TABLES[table].names
    assert pa.Table.from_pylist([row], schema=TABLES[table]).num_rows == 1
    assert not missing_columns(table, ROWS[table])


@pytest.mark.parametrize("table", TABLES)
def test_each_required_column_is_missed(table: str) -> None:
    for name in ROWS[table]:
        rest = {key: value for key, value in ROWS[table].items() if key != name}
        if missing_columns(table, rest):
            with pytest.raises(Refusal, match="missing-value"):
                clean(table, rest)


def test_values_are_converted_or_refused() -> None:
    event = clean("events", {"user": 7, "item": "i", "ts": "12", "value": "3.5", "split_loo": "test"})
    assert (event["user"], event["ts"], event["value"], event["split_loo"], event["split_time"]) == (
        "7",
        12,
        3.5,
        "test",
        None,
    )
    assert clean("items", {"id": "i", "attributes": {"b": 1, "a": "é"}})["attributes"] == '{"a": "é", "b": 1}'
    for wrong in (
        {"ts": "noon"}, {"ts": 1.5}, {"ts": True}, {"ts": 2**63}, {"value": "nan"}, {"value": "inf"},
        {"split_loo": "dev"}, {"user": " u"}, {"user": ["u"]}, {"kind": 1.5},
    ):  # fmt: skip
        with pytest.raises(Refusal, match="wrong-type"):
            clean("events", {**ROWS["events"], **wrong})


@pytest.mark.parametrize("text", [b"caf\xe9", "caf\udce9"])
def test_text_that_is_not_utf8_is_refused(text: object) -> None:
    with pytest.raises(Refusal, match="not-utf8"):
        clean("items", {"id": "i", "title": text})


def test_an_unknown_column_is_an_error_that_names_row_and_column() -> None:
    with pytest.raises(DataError, match=r"no column 'titel' \(items\.csv:3\)") as caught:
        clean("items", {"id": "i", "titel": "x", "_line": "items.csv:3"})
    assert not isinstance(caught.value, Refusal)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"media": CHAT["media"][:1]}, "placeholder-mismatch"),
        ({"media": CHAT["media"][::-1]}, "placeholder-mismatch"),
        ({"media": []}, "placeholder-mismatch"),
        ({"turns": CHAT["turns"][:1]}, "no-answer"),
        ({"turns": [*CHAT["turns"][:1], {"role": "assistant", "text": " "}]}, "no-answer"),
        ({"turns": [{"role": "system", "text": "x"}, *CHAT["turns"]]}, "wrong-type"),
        ({"turns": [{"text": "x"}]}, "wrong-type"),
        ({"turns": []}, "missing-value"),
        ({"modality": "sound"}, "wrong-type"),
        ({"truth": "[1]"}, "wrong-type"),
        ({"truth": "{"}, "wrong-type"),
    ],
)
def test_conversations_that_can_not_be_used(change: dict[str, Any], why: str) -> None:
    with pytest.raises(Refusal) as caught:
        clean("conversations", {**CHAT, **change})
    assert caught.value.reason == why


def test_placeholders_in_order() -> None:
    assert placeholders("a <video> b <image><image>") == ["video", "image", "image"]


def test_an_absent_medium_keeps_its_slot_in_a_conversation_and_leaves_a_list() -> None:
    row = clean("conversations", CHAT)
    assert list(media_of("conversations", row)) == [("image", "a.png"), ("video", "b.mp4")]
    kept = with_media("conversations", row, {("image", "a.png"): "media/aa/x.png"})
    assert [medium["path"] for medium in kept["media"]] == ["media/aa/x.png", ""]
    item = clean("items", {"id": "i", "images": ["a.png", "b.png"], "videos": ["c.mp4"]})
    kept = with_media("items", item, {("image", "b.png"): "media/bb/y.png"})
    assert (kept["images"], kept["videos"]) == (["media/bb/y.png"], [])


def test_schemes() -> None:
    assert {table: schemes(table) for table in TABLES} == {
        "items": ("item",), "users": (), "events": ("time", "loo"), "reviews": ("time", "loo"),
        "pairs": ("pair", "item"), "judgements": ("item",), "conversations": ("item",), "readings": (),
    }  # fmt: skip


def test_the_schema_is_light() -> None:
    heavy = "torch transformers mlflow kfp datasets scipy polars av PIL"
    code = f"import sys, latefuse.data.schema; print([m for m in '{heavy}'.split() if m in sys.modules])"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"

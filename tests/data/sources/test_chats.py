"""Conversations in LLaVA's and ShareGPT's JSON, with the mistakes that such files hold."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError

LLAVA = [
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.jpg",
        "conversations": [
            {"from": "human", "value": "<image>\nWhat are the colors of the bus in the image?"},
            {"from": "gpt", "value": "The bus in the image is white and red."},
            {"from": "human", "value": "What feature can be seen on the back of the bus?"},
            {"from": "gpt", "value": "The back of the bus features an advertisement."},
        ],
    },
    {
        "id": "000000033471",
        "image": "coco/train2017/000000033471.jpg",
        "conversations": [{"from": "human", "value": "Describe it.\n<image>"}, {"from": "gpt", "value": "A bus."}],
    },
    {
        "id": "v",
        "video": "v.mp4",
        "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "Rain."}],
    },
    {"id": "t", "conversations": [{"from": "human", "value": "Hello."}, {"from": "gpt", "value": "Hi."}]},
]

SHAREGPT = [
    {
        "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "<image>Is <video> the same as <image>?"},
            {"role": "assistant", "content": "No."},
        ],
        "images": ["a.jpg", "b.jpg"],
        "videos": ["c.mp4"],
    },
    {
        "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Ho"}],
        "system": "Rhyme.",
        "tools": "[]",
    },
]


def test_llava(tmp_path: Path, collect: Callable[..., Any]) -> None:
    (tmp_path / "llava.json").write_text(json.dumps(LLAVA))
    found = collect("chats", files=["llava.json"], media="images")
    rows = found["conversations"]
    assert [row["id"] for row in rows] == [f"llava:{k}" for k in (1, 2, 3, 4)]
    assert [row["modality"] for row in rows] == ["image", "image", "video", "text"]
    assert [turn["role"] for turn in rows[0]["turns"]] == ["user", "assistant"] * 2
    assert json.loads(rows[0]["truth"]) == {"answer": "The back of the bus features an advertisement."}
    assert rows[0]["media"] == [{"modality": "image", "path": "images/coco/train2017/000000033471.jpg"}]
    assert [row["id"] for row in found["items"]] == ["images/coco/train2017/000000033471.jpg", "images/v.mp4"]
    assert [row["item"] for row in rows] == [found["items"][0]["id"]] * 2 + [found["items"][1]["id"], ""]
    assert found["items"][1]["videos"] == ["images/v.mp4"]


@pytest.mark.parametrize("ending", ["json", "jsonl"])
def test_sharegpt(tmp_path: Path, collect: Callable[..., Any], ending: str) -> None:
    text = json.dumps(SHAREGPT) if ending == "json" else "\n".join(map(json.dumps, SHAREGPT))
    (tmp_path / f"chat.{ending}").write_text(text)
    (tmp_path / "held.json").write_text(json.dumps(SHAREGPT[1:]))
    found = collect("chats", files=[f"chat.{ending}"], split_files={"test": "held.json"})
    first, second, third = found["conversations"]
    assert [medium["path"] for medium in first["media"]] == ["a.jpg", "c.mp4", "b.jpg"], "the order of the placeholders"
    assert first["modality"] == "video"
    assert first["turns"][0]["text"] == "Be brief.\n<image>Is <video> the same as <image>?"
    assert second["turns"][0]["text"] == "Rhyme.\nHi"
    assert [row["split_item"] for row in (first, second, third)] == [None, None, "test"]


def turns(*texts: str) -> list[dict[str, str]]:
    return [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]


BROKEN: dict[str, tuple[dict[str, Any], str]] = {
    "fewer media": ({"image": "a.jpg", "conversations": turns("<image><image>", "x")}, "placeholder-mismatch"),
    "no placeholder": ({"image": "a.jpg", "conversations": turns("what?", "x")}, "placeholder-mismatch"),
    "no medium": ({"conversations": turns("<video> what?", "x")}, "placeholder-mismatch"),
    "in the answer": ({"image": "a.jpg", "conversations": turns("<image>", "<image>")}, "placeholder-mismatch"),
    "no answer": ({"conversations": turns("what?")}, "no-answer"),
    "no turns": ({"conversations": []}, "missing-value"),
    "two questions": ({"conversations": [*turns("what?"), *turns("why?", "x")]}, "turn-order"),
    "starts with an answer": ({"conversations": turns("a", "b")[1:]}, "turn-order"),
    "tool call": ({"conversations": [*turns("a"), {"from": "function_call", "value": "{}"}]}, "unknown-role"),
    "no text": ({"conversations": [{"from": "human"}, *turns("a", "b")[1:]]}, "wrong-type"),
    "medium no path": ({"image": 7, "conversations": turns("<image>", "x")}, "wrong-type"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_rows_are_named(tmp_path: Path, collect: Callable[..., Any], case: str) -> None:
    row, reason = BROKEN[case]
    (tmp_path / "chat.json").write_text(json.dumps([LLAVA[3], row]))
    found = collect("chats", files=["chat.json"])
    assert found["errors"] == [("conversations", "chat.json#2", reason)]
    assert len(found["conversations"]) == 1


def test_files_are_checked_early(tmp_path: Path, collect: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match="name at least one file"):
        collect("chats")
    (tmp_path / "chat.json").write_text("[]")
    with pytest.raises(DataError, match="no conversations"):
        collect("chats", files=["chat.json"])
    (tmp_path / "chat.json").write_text('[{"question": "a"}]')
    with pytest.raises(DataError, match=r"missing column 'conversations'.*question"):
        collect("chats", files=["chat.json"])
    with pytest.raises(DataError, match="a split is train, valid or test"):
        collect("chats", split_files={"holdout": "chat.json"})

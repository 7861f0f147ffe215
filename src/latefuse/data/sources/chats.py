"""Conversations in the JSON of LLaVA and of ShareGPT (as LLaMA-Factory and others write it), arrays or lines.

LLaVA: {"id", "image" or "video": path or list, "conversations": [{"from": "human" | "gpt", "value": ...}]}.
ShareGPT: {"conversations": [...] or "messages": [{"role", "content"}], "images": [...], "videos": [...], "system"}.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from latefuse.data.errors import DataError, Refusal
from latefuse.data.schema import PLACEHOLDERS, placeholders
from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, limited, read
from latefuse.data.sources.rows import broken, check_splits, item, ordered_media, split_name
from latefuse.sections import Section

ROLES = {"human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "system": "system"}
TURN_LISTS = ("conversations", "messages")


class ChatsOptions(Section):
    """Which files, and where their media lie.

    files: their splits are drawn; split_files: {split: file}. media: a folder put before every media path.
    limit: that many conversations of each file (a uniform choice, the same in every run).
    """

    files: tuple[str, ...] = ()
    split_files: dict[str, str] = {}
    media: str = ""
    topic: str = "chat"
    limit: int | None = None


class Chats:
    """Conversations, and an item per distinct first medium, so that chats about one picture share a split."""

    name = "chats"
    Options = ChatsOptions

    def __init__(self, root: Path, options: ChatsOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits({split: split_name(split, {}) or split for split in options.split_files})
        named = [(None, name) for name in options.files]
        official = [(split_name(split, {}), name) for split, name in options.split_files.items()]
        self.files = [(split, below(root, name)) for split, name in [*named, *official]]
        if not self.files:
            raise DataError("data.options.files: name at least one file, for instance files: [chats.json]")
        for _, path in self.files:
            first = next(iter(read(path)), None)
            if first is None:
                raise DataError(f"{path}: no conversations")
            if "_error" not in first and not any(key in first for key in TURN_LISTS):
                found = ", ".join(sorted(first))
                raise DataError(f"{path}: missing column 'conversations' (or 'messages'); found: {found}")

    def tables(self) -> Tables:
        """items and conversations."""
        return {"items": self._items, "conversations": self._conversations}

    def _items(self) -> Iterator[Row]:
        seen: set[str] = set()
        for row in self._conversations():
            key = row.get("item", "")
            if not key or key in seen:
                continue
            seen.add(key)
            first = row["media"][0]
            media = {f"{first['modality']}s": [first["path"]]}
            yield item(key, "", row["_line"], row.get("split_item"), **media)

    def _conversations(self) -> Iterator[Row]:
        for split, path in self.files:
            for raw in limited(partial(read, path), "_line", self.options.limit)():
                if "_error" in raw:
                    yield raw
                    continue
                try:
                    yield self._row(raw, path, split)
                except Refusal as refusal:
                    yield broken(raw["_line"], refusal.reason, refusal.detail)

    def _row(self, raw: Row, path: Path, split: str | None) -> Row:
        turns = chat_turns(raw)
        media = self._media(raw, turns)
        key = f"{path.stem}:{raw['_line'].rsplit('#', 1)[-1].rsplit(':', 1)[-1]}"
        kinds = {medium["modality"] for medium in media}
        row: Row = {
            "id": key,
            "modality": "video" if "video" in kinds else "image" if kinds else "text",
            "topic": self.options.topic,
            "item": media[0]["path"] if media else "",
            "media": media,
            "turns": turns,
            "truth": {"answer": turns[-1]["text"]},
            "_line": raw["_line"],
        }
        if split:
            row["split_item"] = split
        return row

    def _media(self, raw: Row, turns: list[dict[str, str]]) -> list[dict[str, str]]:
        prefix = f"{self.options.media}/" if self.options.media else ""
        paths = {kind: [prefix + path for path in _paths(raw, kind)] for kind in PLACEHOLDERS}
        slots = [slot for turn in turns if turn["role"] == "user" for slot in placeholders(turn["text"])]
        return ordered_media(paths, slots)


def _paths(raw: Row, kind: str) -> list[str]:
    value = raw.get(kind) or raw.get(f"{kind}s") or []
    paths = [value] if isinstance(value, str) else value
    if not isinstance(paths, list) or not all(isinstance(path, str) and path for path in paths):
        raise Refusal("wrong-type", f"{kind!r} must be a path or a list of paths")
    return list(paths)


def chat_turns(raw: Row) -> list[dict[str, str]]:
    """User and assistant turns, in order; a system text goes before the first question. Raises Refusal."""
    listed = raw.get("conversations") or raw.get("messages")
    if not isinstance(listed, list):
        raise Refusal("missing-value", "no list 'conversations' or 'messages'")
    system = str(raw.get("system") or "")
    turns: list[dict[str, str]] = []
    for number, turn in enumerate(listed):
        role, text = _role_and_text(turn, number)
        if role == "system" and not turns:
            system = f"{system}\n{text}".strip()
            continue
        if role != ("assistant" if len(turns) % 2 else "user"):
            raise Refusal("turn-order", f"turn {number} is {role!r}; user and assistant alternate, the user first")
        if role == "assistant" and placeholders(text):
            raise Refusal("placeholder-mismatch", f"turn {number}: a placeholder in an answer")
        turns.append({"role": role, "text": text})
    if not turns or turns[-1]["role"] != "assistant":
        raise Refusal("no-answer", "the last turn must be an answer of the assistant")
    if system:
        turns[0] = {"role": "user", "text": f"{system}\n{turns[0]['text']}"}
    return turns


def _role_and_text(turn: Any, number: int) -> tuple[str, str]:
    if not isinstance(turn, dict):
        raise Refusal("wrong-type", f"turn {number} is no object")
    said = turn.get("from", turn.get("role"))
    text = turn.get("value", turn.get("content"))
    role = ROLES.get(str(said))
    if role is None:
        raise Refusal("unknown-role", f"turn {number} is from {said!r}; known: {', '.join(ROLES)}")
    if not isinstance(text, str):
        raise Refusal("wrong-type", f"turn {number} has no text")
    return role, text

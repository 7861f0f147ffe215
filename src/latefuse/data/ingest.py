"""From the row streams of a source to staged tables: typed, referentially whole, media stored, nothing dropped in
silence.

Rows stream through to Parquet. What stays in memory is small and per row: the id, and some integers from which splits
and leaks are computed afterwards.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from latefuse.config_data import Data
from latefuse.data.dataset import TableWriter
from latefuse.data.errors import DataError, MediaError, Refusal
from latefuse.data.near import Texts
from latefuse.data.quarantine import Quarantine
from latefuse.data.schema import REFERENCES, SPLITS, TABLES, media_of, schemes, with_media
from latefuse.data.store import Intake, Stored
from latefuse.data.typed import Row, Rows, Typed

CHUNK = 512
GROUPS = 64
LONER = "\x1f"
CODES = {name: code for code, name in enumerate(SPLITS)} | {None: -1}


@dataclass
class Staged:
    """What ingestion leaves for splits and leak checks.

    names: the key of each unit, items first; a row of its own has a key that begins with a control character.
    rows: per table the integer columns, one entry per staged row: unit, user, item, a, b, ts, given_<scheme>.
    text_unit: the unit of each text. media_content, media_unit: each use of a medium. contents: a number and a raw path
    per content. refs: the stored media.
    """

    folder: Path
    names: dict[str, int] = field(default_factory=dict)
    items: int = 0
    users: dict[str, int] = field(default_factory=dict)
    rows: dict[str, dict[str, array[int]]] = field(default_factory=dict)
    text_unit: array[int] = field(default_factory=lambda: array("i"))
    media_content: array[int] = field(default_factory=lambda: array("i"))
    media_unit: array[int] = field(default_factory=lambda: array("i"))
    contents: dict[bytes, tuple[int, str]] = field(default_factory=dict)
    refs: set[str] = field(default_factory=set)

    def column(self, table: str, name: str) -> np.ndarray[Any, Any]:
        """One integer column of a table."""
        return np.array(self.rows[table][name])

    def path(self, table: str) -> Path:
        """The staged rows of a table."""
        return self.folder / f"{table}.parquet"


class Ingest:
    """Takes one table after the other, items first, because the others refer to them."""

    def __init__(self, data: Data, folder: Path, store: Intake, texts: Texts, quarantine: Quarantine) -> None:
        self.staged = Staged(folder)
        self._official = data.splits.official
        self._licence = data.licence
        self._store = store
        self._texts = texts
        self._quarantine = quarantine
        self._topics: dict[tuple[str, str], int] = {}
        self._has_items = False

    def table(self, name: str, rows: Callable[[], Iterator[Typed]]) -> None:
        """Stage one table. Raises DataError where it is empty, unreadable, or has missing or unknown columns."""
        self.staged.rows[name] = {column: array(kind) for column, kind in _integer_columns(name).items()}
        self._has_items |= name == "items"
        waiting: list[tuple[Row, str]] = []
        with TableWriter(self.staged.path(name), TABLES[name]) as writer:
            for row, line in self._accepted(name, rows):
                waiting.append((row, line))
                if len(waiting) == CHUNK:
                    self._write(name, waiting, writer)
                    waiting = []
            self._write(name, waiting, writer)
        if not writer.rows:
            raise DataError(
                f"table {name!r} is empty: the source gave no row that could be used; see {self._quarantine.path}"
            )
        if name == "items":
            self.staged.items = writer.rows

    def _accepted(self, name: str, rows: Callable[[], Iterator[Typed]]) -> Iterator[tuple[Row, str]]:
        """The clean rows with the place they come from; the others go to quarantine."""
        ids: set[str] = set()
        for line, told, row in rows():
            self._quarantine.seen(name)
            try:
                if isinstance(row, Refusal):
                    raise row
                self._check_references(name, row)
                if (key := row.get("id")) is not None:
                    if key in ids:
                        raise Refusal("duplicate-id", f"{key!r} stands there before; the first one is kept")
                    ids.add(key)
            except Refusal as refusal:
                self._quarantine.refuse(refusal, name, told, line)
                continue
            yield row, line

    def _check_references(self, name: str, row: Row) -> None:
        for column in REFERENCES[name]:
            key = row[column]
            if key and self._has_items and self.staged.names.get(key, self.staged.items) >= self.staged.items:
                raise Refusal("dangling-reference", f"{column} {key!r} is not among the items")

    def _write(self, name: str, rows: list[tuple[Row, str]], writer: TableWriter) -> None:
        """Store the media of some clean rows, note their integers and text, write them."""
        used = [list(media_of(name, row)) for row, _ in rows]
        fresh = set(self._store.take(key for keys in used for key in keys))
        self._quarantine.seen("media", len(fresh))
        for (row, line), keys in zip(rows, used, strict=True):
            stored = {}
            for key in keys:
                outcome = self._store.known[key]
                if isinstance(outcome, Stored):
                    stored[key] = outcome.ref
                    self.staged.refs.add(outcome.ref)
                elif key in fresh:
                    fresh.discard(key)
                    self._quarantine.refuse(outcome, name, row.get("id", ""), line, medium=key[1])
            self._note(name, row, keys)
            writer.write(with_media(name, row, stored) if keys else row)

    def _note(self, name: str, row: Row, keys: list[tuple[str, str]]) -> None:
        """Remember of a row what splits and leak checks need."""
        numbers, names = self.staged.rows[name], self.staged.names
        for scheme in schemes(name):
            given = CODES[row[f"split_{scheme}"]] if self._official else -1
            numbers[f"given_{scheme}"].append(given)
            row[f"split_{scheme}"] = None
        for column in REFERENCES[name] if "unit" not in numbers else ():
            numbers[column].append(names.setdefault(row[column], len(names)))
        if "user" in numbers:
            numbers["user"].append(self.staged.users.setdefault(row["user"], len(self.staged.users)))
            numbers["ts"].append(row["ts"])
        if "unit" not in numbers:
            return
        key = row["id"] if name == "items" else row["item"] or f"{LONER}{name}:{row['id']}"
        unit = names.setdefault(key, len(names))
        numbers["unit"].append(unit)
        self._note_content(name, row, keys, unit)
        if name == "items":
            numbers["number"].append(-1 if row["number"] is None else row["number"])
            row["licence"] = row["licence"] or self._licence

    def _note_content(self, name: str, row: Row, keys: list[tuple[str, str]], unit: int) -> None:
        text = free_text(name, row)
        if text:
            topic = (name, row.get("topic", ""))
            if topic not in self._topics and len(self._topics) >= GROUPS:
                topic = (name, "")
            self._texts.add(text, self._topics.setdefault(topic, len(self._topics)))
            self.staged.text_unit.append(unit)
        for key in keys:
            outcome = self._store.known[key]
            if not isinstance(outcome, MediaError):
                content, _ = self.staged.contents.setdefault(outcome.content, (len(self.staged.contents), key[1]))
                self.staged.media_content.append(content)
                self.staged.media_unit.append(unit)


def ingest(tables: Rows, worker: Ingest) -> Staged:
    """Stage all tables, in the order that `typed.offered` gives. Raises DataError for one that can't be used."""
    for name, rows in tables.items():
        worker.table(name, rows)
    return worker.staged


def _integer_columns(name: str) -> dict[str, str]:
    given = {f"given_{scheme}": "b" for scheme in schemes(name)}
    if name == "pairs":
        return {"a": "i", "b": "i", **given}
    if name == "users":
        return {}
    if "item" in schemes(name):
        return {"unit": "i", **({"number": "q"} if name == "items" else {}), **given}
    return {"user": "i", "item": "i", "ts": "q", **given}


def free_text(name: str, row: Row) -> str:
    """The text by which two rows could be the same thing.

    The claim of a judgement is none where it is about a picture or an item: the same claim may be made of many.
    An answer out of a closed list of names is none either: train and test share the list.
    """
    if name == "items":
        return f"{row['title']} {row['text']}".strip()
    if name == "judgements":
        return "" if row["image"] or row["item"] else str(row["text"])
    closed = '"names"' in row["truth"]
    return " ".join(turn["text"] for turn in row["turns"] if not closed or turn["role"] == "user")

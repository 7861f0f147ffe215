"""Your own tables: CSV, TSV, JSON, JSON lines or Parquet, with a mapping of columns in the recipe.

docs/data.md shows every table with its columns. A column of the mapping that the file or the table does not have,
and a column of the file that the mapping does not mention, are errors: nothing is left out in silence.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latefuse.data.errors import DataError, Refusal
from latefuse.data.schema import MADE, PLACEHOLDERS, REQUIRED, TABLES, placeholders
from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, header, limited, read
from latefuse.data.sources.rows import broken, check_splits, ordered_media, recipe_truth, split_name
from latefuse.sections import Section, nearest

LISTS = {field.name for schema in TABLES.values() for field in schema if str(field.type).startswith("list<")}
EXTRA = {"conversations": ("question", "answer", "images", "videos")}
"""Columns that a table understands beside its own: a conversation of one question and one answer."""
NUMBERED = ("conversations", "judgements")
"""Tables whose rows get an id by their place in the file where none is mapped."""


class Table(Section):
    """One table: its files, and for each of its columns the column of the file.

    columns: {table column: file column}; `attributes` and list columns also take several: attributes:
    {brand: brand_name}, images: [front, back]. Without it every column of the file must be named as in the table.
    values: {table column: one value for all rows}. separator splits list columns that are one text.
    ignore: columns of the file that are left out on purpose; ["*"] for all that are not mapped.
    truth: what the answer of a conversation is: an exact `answer`, a `name` out of the closed list of its topic,
    a `recipe` or a `caption`.
    """

    file: str | tuple[str, ...]
    columns: dict[str, str | tuple[str, ...] | dict[str, str]] = {}
    values: dict[str, str | float | bool] = {}
    separator: str = "|"
    delimiter: str | None = None
    ignore: tuple[str, ...] = ()
    truth: Literal["answer", "name", "recipe", "caption"] = "answer"
    limit: int | None = None


class ManifestOptions(Section):
    """The tables, by their names in the dataset. splits maps your own split words to train, valid, test."""

    tables: dict[str, Table] = Field(min_length=1)
    splits: dict[str, str] = {}


class Manifest:
    """Rows of any table out of the user's own files."""

    name = "manifest"
    Options = ManifestOptions

    def __init__(self, root: Path, options: ManifestOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits(options.splits)
        self._readers = {name: _Reader(root, name, table, options.splits) for name, table in options.tables.items()}

    def tables(self) -> Tables:
        """The tables that the recipe names."""
        return {name: self._stream(name) for name in self._readers}

    def _stream(self, name: str) -> Callable[[], Iterator[Row]]:
        return limited(self._readers[name].rows, "_line", self.options.tables[name].limit)


class _Reader:
    """The rows of one table, read through its mapping."""

    def __init__(self, root: Path, name: str, table: Table, splits: dict[str, str]) -> None:
        self.name, self.table, self.splits = name, table, splits
        self.where = f"data.options.tables.{name}"
        known = [table for table in TABLES if table not in MADE]
        if name not in known:
            raise DataError(f"data.options.tables: no table {name!r}{nearest(name, known)}")
        files = (table.file,) if isinstance(table.file, str) else table.file
        self.files = [below(root, file) for file in files]
        if not self.files:
            raise DataError(f"{self.where}.file: no file")
        self.known = [column for column in TABLES[name].names if column != "number"] + list(EXTRA.get(name, ()))
        self.columns = self._mapping()
        self.used = {source for sources in self.columns.values() for source in _sources(sources)}
        for path in self.files:
            self._check_file(path)
        self._check_required()

    def rows(self) -> Iterator[Row]:
        """The rows of all files; one that does not fit the mapping is yielded broken."""
        for path in self.files:
            for number, raw in enumerate(read(path, self.used, self.table.delimiter), start=1):
                if "_error" in raw:
                    yield raw
                    continue
                try:
                    yield self._row(raw, f"{path.stem}:{number}")
                except Refusal as refusal:
                    yield broken(raw["_line"], refusal.reason, refusal.detail)

    def _mapping(self) -> dict[str, Any]:
        columns: dict[str, Any] = dict(self.table.columns)
        if not columns:
            columns = {name: name for name in header(self.files[0], self.table.delimiter) if name in self.known}
        for part, names in (("columns", columns), ("values", self.table.values)):
            for name in names:
                if name not in self.known:
                    hint = nearest(name, self.known)
                    raise DataError(f"{self.where}.{part}: table {self.name!r} has no column {name!r}{hint}")
        twice = sorted(set(columns) & set(self.table.values))
        if twice:
            raise DataError(f"{self.where}: {twice[0]!r} stands in columns and in values; keep one")
        for name, sources in columns.items():
            if isinstance(sources, dict) and name != "attributes":
                raise DataError(f"{self.where}.columns.{name}: only attributes take a mapping; name one column")
            if isinstance(sources, tuple) and name not in LISTS:
                raise DataError(f"{self.where}.columns.{name}: {name!r} holds one value; name one column")
        return columns

    def _check_file(self, path: Path) -> None:
        found = header(path, self.table.delimiter)
        missing = [f"{name!r}{nearest(name, found)}" for name in sorted(self.used) if name not in found]
        if missing:
            listed = "; missing column ".join(missing)
            raise DataError(f"{path}: missing column {listed} (mapped in {self.where}.columns)")
        absent = [name for name in self.table.ignore if name != "*" and name not in found]
        if absent:
            hint = nearest(absent[0], found)
            raise DataError(f"{path}: missing column {absent[0]!r}{hint} (named in {self.where}.ignore)")
        extra = self._unknown(found)
        if extra:
            hint = nearest(extra[0], [name for name in self.known if name not in self.columns])
            raise DataError(
                f"{path}: unknown column {', '.join(map(repr, extra))}{hint}; map it in {self.where}.columns, "
                f"or list it in {self.where}.ignore"
            )

    def _unknown(self, names: Any) -> list[str]:
        if "*" in self.table.ignore:
            return []
        return [name for name in names if name not in self.used and name not in self.table.ignore and name[:1] != "_"]

    def _check_required(self) -> None:
        given = set(self.columns) | set(self.table.values)
        needed = set(REQUIRED[self.name])
        if self.name in NUMBERED:
            needed -= {"id"}
        if self.name == "conversations":
            needed = needed - {"modality", "turns"} | (set() if "turns" in given else {"question", "answer"})
        missing = [name for name in self.known if name in needed - given]
        if missing:
            listed = ", ".join(map(repr, missing))
            raise DataError(f"{self.where}.columns: table {self.name!r} needs {listed}; map each to a column")

    def _row(self, raw: Row, key: str) -> Row:
        extra = self._unknown(raw)
        if extra:
            raise Refusal("unknown-column", f"{', '.join(map(repr, extra))}; map it or list it in {self.where}.ignore")
        row: Row = {name: self._value(name, sources, raw) for name, sources in self.columns.items()}
        row = {name: value for name, value in row.items() if value is not None} | self.table.values
        for name in [name for name in row if name.startswith("split_")]:
            split = split_name(str(row[name]), self.splits)
            if split is None:
                raise Refusal("unknown-split", f"{row[name]!r}; name it in data.options.splits")
            row[name] = split
        if self.name in NUMBERED and "id" not in self.columns:
            row["id"] = key
        if self.name == "conversations":
            row = _conversation(row, self.table.truth)
        row["_line"] = raw["_line"]
        return row

    def _value(self, name: str, sources: Any, raw: Row) -> Any:
        if isinstance(sources, dict):
            return {key: raw[source] for key, source in sources.items() if raw.get(source) not in (None, "")}
        if isinstance(sources, tuple):
            return [str(raw[source]).strip() for source in sources if raw.get(source) not in (None, "")]
        value = raw.get(sources)
        if name in LISTS and isinstance(value, str):
            return _listed(name, value, self.table.separator)
        if value == "" or value is None:
            return None
        return _seconds(value) if name == "ts" else value


def _sources(sources: str | tuple[str, ...] | dict[str, str]) -> list[str]:
    if isinstance(sources, str):
        return [sources]
    return list(sources.values() if isinstance(sources, dict) else sources)


def _listed(name: str, value: str, separator: str) -> list[Any]:
    """A list out of one text: JSON where it begins with '[', else split at the separator."""
    if value.lstrip().startswith("["):
        try:
            return list(json.loads(value))
        except ValueError as error:
            raise Refusal("wrong-type", f"column {name!r}: not JSON: {error}") from None
    if name in ("turns", "media"):
        raise Refusal("wrong-type", f"column {name!r}: expected a JSON list (got {value!r:.60})")
    return [part.strip() for part in value.split(separator) if part.strip()]


def _seconds(value: Any) -> Any:
    """Unix seconds of a date or an ISO 8601 text (UTC where it names no zone); a number stays."""
    if isinstance(value, str) and not value.strip().lstrip("-").isdigit():
        try:
            value = datetime.datetime.fromisoformat(value.strip())
        except ValueError:
            raise Refusal("wrong-type", f"column 'ts': {value!r} is no unix seconds and no ISO 8601 time") from None
    if isinstance(value, datetime.datetime):
        zoned = value if value.tzinfo else value.replace(tzinfo=datetime.UTC)
        return int(zoned.timestamp())
    return value


def _conversation(row: Row, truth: str) -> Row:
    """A conversation row; turns, media, modality and truth are made of a question and an answer where it has them."""
    if "question" in row or "answer" in row:
        asked, answer = str(row.pop("question", "")), str(row.pop("answer", ""))
        paths = {kind: row.pop(f"{kind}s", []) for kind in PLACEHOLDERS}
        if not placeholders(asked):
            asked = "".join(f"{PLACEHOLDERS[kind]}\n" for kind, listed in paths.items() for _ in listed) + asked
        row["media"] = ordered_media(paths, placeholders(asked))
        row["turns"] = [{"role": "user", "text": asked}, {"role": "assistant", "text": answer}]
    if "turns" not in row:
        raise Refusal("missing-value", "neither a question and an answer nor turns")
    kinds = {medium.get("modality") for medium in row.get("media", [])}
    row.setdefault("modality", "video" if "video" in kinds else "image" if kinds else "text")
    row.setdefault("truth", _truth(truth, str(row["turns"][-1].get("text", "")), str(row.get("topic", ""))))
    return row


def _truth(kind: str, answer: str, topic: str) -> Row:
    if kind == "name":
        return {"name": answer, "names": topic}
    if kind == "recipe":
        return {"recipe": recipe_truth(answer)}
    return {kind: answer}

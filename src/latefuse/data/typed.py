"""The rows of a source one by one, each typed or refused by what stands in it alone: what any shard can decide."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

from latefuse.data.errors import DataError, Refusal
from latefuse.data.schema import MADE, TABLES, clean, missing_columns

Row = dict[str, Any]
Raw = Callable[[], Iterator[Row]]
Typed = tuple[str, str, Row | Refusal]
"""Where the row stands, its id as it came, and the clean row or why it is refused."""
Rows = Mapping[str, Callable[[], Iterator[Typed]]]
SLUG = re.compile(r"([a-z][a-z0-9-]*)(?:: |$)")


def offered(tables: Mapping[str, Any]) -> list[str]:
    """The names of the tables in the order in which they are taken in: items first, because others refer to them.

    Raises DataError for one that no schema describes, or that prepare itself makes.
    """
    known = [name for name in TABLES if name not in MADE]
    for name in tables:
        if name not in known:
            raise DataError(f"the source offers a table {name!r}; known: {', '.join(known)}")
    return [name for name in known if name in tables]


def of_source(tables: Mapping[str, Raw]) -> Rows:
    """Every row of every table. Raises DataError for an unknown table; while reading, for what `row` raises it for."""
    return {name: partial(_all, name, tables[name]) for name in offered(tables)}


def stream(name: str, rows: Raw) -> Iterator[Row]:
    """The raw rows of a table; what its file does wrong comes out as a DataError that names the table."""
    try:
        yield from rows()
    except UnicodeDecodeError as error:
        raise DataError(f"table {name!r}: the raw file is not UTF-8 at byte {error.start}; save it as UTF-8") from None


def typed(name: str, raw: Row, number: int) -> Typed:
    """One row; number: its place in the table, from 1. Raises DataError for an unknown column anywhere, and in the
    first row for a missing one.
    """
    line, told = str(raw.get("_line") or f"{name}#{number}"), str(raw.get("id") or "")
    try:
        return line, told, _checked(name, raw, number == 1, line)
    except Refusal as refusal:
        return line, told, refusal


def _all(name: str, rows: Raw) -> Iterator[Typed]:
    for number, raw in enumerate(stream(name, rows), start=1):
        yield typed(name, raw, number)


def _checked(name: str, raw: Row, leading: bool, line: str) -> Row:
    if "_error" in raw:
        told = str(raw["_error"])
        slug = SLUG.match(told)
        raise Refusal(slug.group(1) if slug else "unreadable", told[slug.end() :] if slug else told)
    if missing := missing_columns(name, raw):
        if leading:
            raise DataError(f"{line}: table {name!r} needs the column {missing[0]!r}, the source gives {sorted(raw)}")
        raise Refusal("missing-value", f"column {missing[0]!r} is absent")
    return clean(name, raw)

"""A source for tests: `<root>/<table>.jsonl`, one row of the table per line, media beside them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from latefuse.data.schema import TABLES
from latefuse.data.sources.files import read_jsonl
from latefuse.sections import Section


class Options(Section):
    """None."""


class Plain:
    """Rows as they are."""

    name = "plain"
    Options = Options

    def __init__(self, root: Path, options: Options) -> None:
        self.root = root

    def tables(self) -> dict[str, Any]:
        """Every table that has a file."""
        return {path.stem: partial(read_jsonl, path) for path in sorted(self.root.glob("*.jsonl"))}


def write(root: Path, tables: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Write the tables as raw files."""
    assert set(tables) <= set(TABLES)
    root.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")

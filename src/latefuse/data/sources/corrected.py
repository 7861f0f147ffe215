"""A source whose judgements people have corrected: `data.corrections`.

What people say of a judgement takes its place, so that it stays in its split; what they say of a pair that the source
does not have joins as a judgement of its own.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from latefuse.data.errors import DataError
from latefuse.data.sources import Source, Tables, files
from latefuse.data.sources.files import Row

FILE, PERSON = "judgements.jsonl", "person"
ABOUT = re.compile(rf"(?P<id>.+)-{PERSON}-[0-9a-f]{{8}}")
TAKEN = ("label", "source", "negative")
"""What a judgement takes over from its correction."""


class Corrected:
    """A source and the folders that `latefuse review import` wrote, the last of which has the last word."""

    def __init__(self, source: Source, folders: Sequence[Path]) -> None:
        self.source = source
        self.roots = {f"corrections/{number}/": folder for number, folder in enumerate(folders)}
        """Where a medium lies whose path begins so; any other lies below the root of the source."""
        self.counts = {"replaced": 0, "added": 0}
        for folder in folders:
            if not (folder / FILE).is_file():
                raise DataError(f"data.corrections: {folder} has no {FILE}; name what `latefuse review import` wrote")

    @property
    def root(self) -> Path:
        """Of the source itself."""
        return self.source.root

    def tables(self) -> Tables:
        """Those of the source, with judgements as people left them."""
        tables = dict(self.source.tables())
        return {**tables, "judgements": lambda: self._judgements(tables.get("judgements", lambda: iter(())))}

    def told(self) -> str:
        """What the corrections came to, after the judgements were read."""
        return "corrections: {replaced:,} judgement(s) replaced, {added:,} added".format(**self.counts)

    def _judgements(self, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
        said = list(self._said())
        about: dict[str, list[Row]] = defaultdict(list)
        for row in said:
            if found := ABOUT.fullmatch(str(row.get("id") or "")):
                about[found["id"]].append(row)
        used: set[str] = set()
        self.counts = {"replaced": 0, "added": 0}
        for row in rows():
            last = _last(row, about, used)
            self.counts["replaced"] += last is not row
            yield last
        for row in said:
            if row.get("id") not in used:
                self.counts["added"] += 1
                yield _last(row, about, used)

    def _said(self) -> Iterator[Row]:
        """The rows of all folders, pictures by their root, without the split that an earlier dataset had."""
        for prefix, folder in self.roots.items():
            for row in files.read(folder / FILE):
                kept = {name: value for name, value in row.items() if not name.startswith("split_")}
                yield {**kept, "image": prefix + str(row["image"])} if row.get("image") else kept


def _last(row: Row, about: Mapping[str, Sequence[Row]], used: set[str]) -> Row:
    """The row with what was said of it last; who corrects a correction is heard as well."""
    asked, name = _asked(row), str(row.get("id") or "")
    while found := [one for one in about.get(name, ()) if one["id"] not in used and _asked(one) == asked]:
        used.update(one["id"] for one in found)
        row = {**row, **{column: found[-1].get(column) for column in TAKEN}}
        name = found[-1]["id"]
    return row


def _asked(row: Row) -> tuple[str, ...]:
    """What a label is about, but for the picture, whose path is another in every folder."""
    return tuple(" ".join(str(row.get(column) or "").split()) for column in ("task", "instruction", "text"))

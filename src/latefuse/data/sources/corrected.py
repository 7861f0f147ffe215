"""A source whose judgements people have corrected: `data.corrections`.

What people say of a judgement takes its place, so that it stays in its split; what they say of a pair that the source
does not have joins as a judgement of its own.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from latefuse.data.errors import DataError, MediaError, Refusal
from latefuse.data.schema import clean
from latefuse.data.sources import Source, Tables, files
from latefuse.data.sources.files import Row
from latefuse.data.store import inside

FILE, PERSON = "judgements.jsonl", "person"
SAID = re.compile(rf"-{PERSON}-[0-9a-f]{{8}}$")
TAKEN = ("label", "source", "negative")
"""What a judgement takes over from its correction."""
Asked = tuple[str, ...]


class Corrected:
    """A source and the folders that `latefuse review import` wrote, none or some; the last one has the last word.

    A judgement and its correction are the same where id, task, rule, words and the bytes of the picture are.
    """

    def __init__(self, source: Source, folders: Sequence[Path] = ()) -> None:
        self.source = source
        self.roots = {f"data.corrections[{number}]/": folder for number, folder in enumerate(folders)}
        """Where a medium lies whose path begins so; any other lies below the root of the source."""
        self.replaced = self.added = 0
        for folder in folders:
            if not (folder / FILE).is_file():
                raise DataError(f"data.corrections: {folder} has no {FILE}; name what `latefuse review import` wrote")

    def tables(self) -> Tables:
        """Those of the source, with judgements as people left them."""
        tables = dict(self.source.tables())
        if not self.roots:
            return tables
        return {**tables, "judgements": lambda: self._judgements(tables.get("judgements", lambda: iter(())))}

    def notes(self) -> list[str]:
        """What the corrections came to, after the judgements were read, and which they were."""
        if not self.roots:
            return []
        digests = (hashlib.sha256((folder / FILE).read_bytes()).hexdigest()[:12] for folder in self.roots.values())
        named = ", ".join(
            f"{folder.name} ({digest})" for folder, digest in zip(self.roots.values(), digests, strict=True)
        )
        return [f"corrections of {named}: {self.replaced:,} judgement(s) replaced, {self.added:,} added"]

    def _judgements(self, rows: Callable[[], Iterator[Row]]) -> Iterator[Row]:
        said, broken = self._said()
        roots = {asked[0] for asked in said}
        used: set[Asked] = set()
        self.replaced = 0
        for row in rows():
            asked = self._asked(row, roots)
            if asked in said:
                used.add(asked)
                self.replaced += 1
                yield {**row, **{column: said[asked].get(column) for column in TAKEN}}
            else:
                yield row
        self.added = len(said) - len(used)
        for asked, row in said.items():
            if asked not in used:
                yield {**row, "id": f"{asked[0]}-{PERSON}-{hashlib.sha256(repr(asked).encode()).hexdigest()[:8]}"}
        yield from broken

    def _said(self) -> tuple[dict[Asked, Row], list[Row]]:
        """What is asked -> the last correction of it, pictures by their root and without an earlier split; and the rows
        that can't be understood."""
        said: dict[Asked, Row] = {}
        broken = []
        for prefix, folder in self.roots.items():
            for raw in files.read(folder / FILE):
                row = {name: value for name, value in raw.items() if not name.startswith("split_")}
                if row.get("image"):
                    row["image"] = f"{prefix}{row['image']}"
                asked = self._asked(row)
                if asked is None:
                    broken.append(row)
                else:
                    said.pop(asked, None)
                    said[asked] = row
        return said, broken

    def _asked(self, raw: Row, roots: set[str] | None = None) -> Asked | None:
        """The id before people came to it, task, rule, words, and a digest of the picture; None for a broken row.

        roots: the only ids that matter, so that no other picture is read.
        """
        if "_error" in raw:
            return None
        try:
            row = clean("judgements", raw)
        except Refusal:
            return None
        root = _root(row["id"])
        if roots is not None and root not in roots:
            return None
        words = (" ".join(row[column].split()) for column in ("task", "instruction", "text"))
        return (root, *words, self._digest(row["image"]))

    def _digest(self, image: str) -> str:
        if not image:
            return ""
        prefix = next((prefix for prefix in self.roots if image.startswith(prefix)), "")
        root = self.roots[prefix] if prefix else self.source.root
        try:
            with inside(Path(os.path.realpath(root)), image.removeprefix(prefix)).open("rb") as stream:
                return hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, MediaError):
            return image  # prepare refuses it with a reason


def _root(id: str) -> str:
    """An id without what `review import` put behind it, once for each time that people came to it."""
    while (short := SAID.sub("", id)) != id:
        id = short
    return id

"""Answers are asked for once: every one is on disk as soon as it is there, by maker, version and what was asked."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path

from latefuse.data.errors import DataError
from latefuse.data.readings.request import Maker, Request

FILE = "readings.sqlite"
BATCH = 256
TABLE = (
    "CREATE TABLE IF NOT EXISTS answers (maker TEXT, version TEXT, key TEXT, text TEXT NOT NULL, "
    "PRIMARY KEY (maker, version, key)) WITHOUT ROWID"
)


class Answers:
    """A store that is only ever added to. folder: where its file lies; None for memory alone."""

    def __init__(self, folder: Path | None) -> None:
        self.path = Path(":memory:") if folder is None else folder / FILE
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)
        with self._told():
            self._base = sqlite3.connect(self.path, timeout=60)
            self._base.execute(TABLE)

    def close(self) -> None:
        """Let go of the file."""
        self._base.close()

    def find(self, maker: Maker, keys: Iterable[str]) -> dict[str, str]:
        """The answers that are there, by key."""
        asked = "SELECT text FROM answers WHERE maker = ? AND version = ? AND key = ?"
        with self._told():
            rows = {key: self._base.execute(asked, (maker.name, maker.version, key)).fetchone() for key in keys}
        return {key: row[0] for key, row in rows.items() if row is not None}

    def keep(self, maker: Maker, key: str, text: str) -> None:
        """Put one answer on disk now; one that is there already stays."""
        with self._told(), self._base:
            self._base.execute(
                "INSERT OR IGNORE INTO answers VALUES (?, ?, ?, ?)", (maker.name, maker.version, key, text)
            )

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DataError(f"{self.path}: {error}; it holds answers that can be asked for again: delete it") from None


def answered(maker: Maker, requests: Iterable[Request], answers: Answers | None) -> Iterator[tuple[Request, str]]:
    """Every request with its answer, in order; what `answers` knows is not asked, and equal requests are asked once.

    Raises what `maker` raises; the answers until then are kept.
    """
    stream = iter(requests)
    while batch := list(islice(stream, BATCH)):
        keys = [maker.key(request) for request in batch]
        distinct = dict(zip(keys, batch, strict=True))
        known = answers.find(maker, distinct) if answers else {}
        missing: Sequence[str] = [key for key in distinct if key not in known]
        for place, text in maker.make([distinct[key] for key in missing]) if missing else ():
            known[missing[place]] = text
            if answers:
                answers.keep(maker, missing[place], text)
        yield from ((request, known[key]) for request, key in zip(batch, keys, strict=True))

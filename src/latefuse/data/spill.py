"""Rows on disk in parts, for work that goes part by part because all of it does not fit in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


class Spill:
    """Rows of one type, a file per part; each part keeps the order in which its rows came."""

    def __init__(self, folder: Path, kind: Any, parts: int) -> None:
        folder.mkdir(parents=True)
        self.parts = parts
        self._folder, self._kind = folder, np.dtype(kind)

    def add(self, rows: Array, part: Array) -> None:
        """rows: (n,) of the type; part: (n,) the number of the file of each."""
        # Numbers of 16 bits or fewer are sorted by radix, which is several times as fast.
        order = np.argsort(part.astype(np.min_scalar_type(self.parts)), kind="stable")
        rows, part = rows[order], part[order]
        starts = np.flatnonzero(np.diff(part, prepend=-1))
        for start, stop in zip(starts.tolist(), [*starts[1:].tolist(), len(part)], strict=False):
            with self._path(int(part[start])).open("ab") as file:
                rows[start:stop].tofile(file)

    def size(self, part: int) -> int:
        """How many rows a part has."""
        path = self._path(part)
        return path.stat().st_size // self._kind.itemsize if path.exists() else 0

    def take(self, part: int) -> Array:
        """The rows of a part, which leave the disk."""
        (rows,) = self.pieces(part, max(1, self.size(part)))
        return rows

    def pieces(self, part: int, rows: int) -> Iterator[Array]:
        """The rows of a part, so many at a time, and at least once; after the last ones they leave the disk."""
        if not self.size(part):
            yield np.zeros(0, self._kind)
            return
        with self._path(part).open("rb") as file:
            for _ in range(0, self.size(part), rows):
                yield np.fromfile(file, self._kind, rows)
        self._path(part).unlink()

    def _path(self, part: int) -> Path:
        return self._folder / str(part)

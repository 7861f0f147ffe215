"""The reading that a row may know: the newest one whose cut is not behind it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.readings.request import Of

Array = np.ndarray[Any, Any]


class Readings:
    """All readings of items, of users, or of pictures. texts: (n,) in stored order, to which `at` points."""

    def __init__(self, table: pa.Table) -> None:
        """table: rows of the table `readings`, all of one kind."""
        self.texts: list[str] = table["text"].to_pylist()
        self._ids = pc.unique(table["id"])
        code = _codes(table["id"], self._ids)
        self._cuts, rank = np.unique(table["cut"].to_numpy(), return_inverse=True)
        keys = code * (len(self._cuts) + 1) + rank
        self._order = np.argsort(keys, kind="stable")
        self._keys, self._code = keys[self._order], code[self._order]

    @classmethod
    def read(cls, dataset: Dataset, of: Of) -> Readings:
        """Those of a dataset. Raises DataError where prepare made no such readings."""
        table = dataset.table("readings") if "readings" in dataset.tables else None
        found = table.filter(pc.equal(table["of"], of)) if table is not None else None
        if found is None or not found.num_rows:
            key = "pictures" if of == "picture" else "reviews"
            raise DataError(f"{dataset.path}: no readings of {of}s; set data.readings.{key} and run prepare again")
        return cls(found)

    def __len__(self) -> int:
        return len(self.texts)

    def at(self, ids: Any, ts: Array | None = None) -> Array:
        """(rows,) int64 places in `texts`; -1 where nothing was written before the row.

        ids: (rows,) text, an Arrow column or a sequence: of items, of users, or stored media paths. ts: (rows,) seconds
        of the rows; None for pictures, which are always readable.
        """
        code = _codes(ids, self._ids)
        seen = np.full(len(code), len(self._cuts)) if ts is None else np.searchsorted(self._cuts, ts, side="right")
        place = np.searchsorted(self._keys, code * (len(self._cuts) + 1) + seen - 1, side="right") - 1
        found = (code >= 0) & (place >= 0)
        found[found] = self._code[place[found]] == code[found]
        return np.where(found, self._order[place], -1)


def _codes(ids: Any, known: pa.Array) -> Array:
    """(rows,) the place of each id among the known ones, -1 for a stranger."""
    column = ids if isinstance(ids, (pa.Array, pa.ChunkedArray)) else pa.array(list(ids), pa.string())
    return np.asarray(pc.fill_null(pc.index_in(column, value_set=known), -1).to_numpy(), np.int64)

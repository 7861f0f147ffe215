"""Does a reading know a review that it must not know? Found again from the ids, apart from how it was made."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latefuse.data.leaks import EXAMPLES, Finding
from latefuse.data.readings.request import Request
from latefuse.data.readings.written import BATCH, Words

Array = np.ndarray[Any, Any]


def findings(out: Path, folder: Path, scheme: str, method: str) -> Finding:
    """Every reading of an item or a user against the reviews that it may know: those of its owner that are strictly
    before its cut and not of the test by `scheme`.

    A reading passes where its digest is that of the newest of them, as many as it says it has. method: its maker's.
    folder: for temporary files. A reading of somebody without reviews is found too.
    """
    table = pq.read_table(out / "reviews.parquet", columns=["user", "item", "ts", f"split_{scheme}"])
    ts = table["ts"].to_numpy()
    trained = np.array([split != "test" for split in table[f"split_{scheme}"].to_pylist()])
    of_owner = {of: _rows_of(table[of]) for of in ("item", "user")}
    checked, wrong = 0, []
    with closing(Words(out / "reviews.parquet", folder)) as words, pq.ParquetFile(out / "readings.parquet") as file:
        allowed = trained & (words.sizes > 0)
        for batch in file.iter_batches(BATCH):
            for row in batch.to_pylist():
                if row["of"] == "picture":
                    continue
                checked += 1
                rows = of_owner[row["of"]].get(row["id"], np.zeros(0, np.int64))
                rows = rows[allowed[rows] & (ts[rows] < row["cut"])]
                newest = rows[np.argsort(ts[rows], kind="stable")][-row["documents"] :].tolist()
                told = Request(row["of"], row["id"], row["cut"], tuple(words[one] for one in newest))
                if row["documents"] != len(newest) or row["digest"] != told.digest(method):
                    wrong.append(f"{told} at {row['cut']}")
    detail = f"{len(wrong)} readings are not made of reviews that are strictly before their cut and not of the test"
    return Finding(not wrong, checked, len(wrong), detail, examples=tuple(wrong[:EXAMPLES]))


def _rows_of(owners: pa.ChunkedArray) -> dict[str, Array]:
    """The rows of each owner, in stored order."""
    encoded = owners.combine_chunks().dictionary_encode()
    codes = encoded.indices.to_numpy()
    ends = np.cumsum(np.bincount(codes, minlength=len(encoded.dictionary)))
    rows = np.split(np.argsort(codes, kind="stable"), ends[:-1])
    return dict(zip(encoded.dictionary.to_pylist(), rows, strict=True))

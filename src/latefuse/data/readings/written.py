"""The reviews of a dataset as `prepare` wrote them: ids and times in memory, words on disk."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

Array = np.ndarray[Any, Any]
BATCH = 8_192


class Words:
    """What each review says, headline first, by row. In memory are 8 bytes a row; the words lie in one file."""

    def __init__(self, reviews: Path, folder: Path) -> None:
        """reviews: the table; folder: for the file."""
        sizes: list[int] = []
        path = folder / "reviews.txt"
        with path.open("wb") as out, pq.ParquetFile(reviews) as file:
            for batch in file.iter_batches(BATCH, columns=["headline", "text"]):
                texts = [said(row).encode() for row in batch.to_pylist()]
                out.write(b"".join(texts))
                sizes += map(len, texts)
        self.sizes = np.array(sizes, np.int64)
        self._starts = np.cumsum(self.sizes) - self.sizes
        self._file = path.open("rb")

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __getitem__(self, row: int) -> str:
        return os.pread(self._file.fileno(), int(self.sizes[row]), int(self._starts[row])).decode()


def said(review: Mapping[str, str]) -> str:
    """Headline and text as one, "" where there are no words."""
    parts = (" ".join(review[name].split()) for name in ("headline", "text"))
    return ". ".join(part.rstrip(".") if at == 0 else part for at, part in enumerate(parts) if part)


def coded(table: pa.Table, column: str) -> tuple[Array, pa.Array]:
    """((rows,) int codes, the value of each code) of a text column, in the order of first appearance."""
    encoded = table[column].combine_chunks().dictionary_encode()
    return encoded.indices.to_numpy(), encoded.dictionary

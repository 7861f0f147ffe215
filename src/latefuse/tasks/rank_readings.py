"""Vectors of what was written before a row, and of pictures in words: by readings, or by the mean of reviews."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from latefuse.config_rank import Rank
from latefuse.data.dataset import Dataset
from latefuse.data.readings.request import Of
from latefuse.data.readings.table import Readings
from latefuse.data.readings.written import said
from latefuse.tasks.rank_columns import CHUNK, Columns, column

Array = NDArray[Any]
Encode = Callable[[Sequence[str]], Tensor]
"""Texts -> their vectors (n, dt)."""
REVIEWS: dict[Of, str] = {"item": "item reviews", "user": "user reviews"}


def reviewed(dataset: Dataset, settings: Rank) -> list[Of]:
    """Of whom there are readings of reviews; without any `averaged` asks for them. Raises DataError."""
    if "readings" not in dataset.tables:
        if settings.text == "averaged":
            Readings.read(dataset, "item")
        return []
    there = set(dataset.table("readings", columns=["of"])["of"].to_pylist())
    return [of for of in REVIEWS if of in there]


def of_reviews(dataset: Dataset, of: Of, settings: Rank, encode: Encode) -> Tensor:
    """(m, dt) one vector for each reading of `of`: of its text or, for `averaged`, the mean of what it was made from.

    That is as MMREC's control has it: the same reviews, each encoded, in place of one text about them all.
    """
    if settings.text == "summary":
        return encode(Readings.read(dataset, of).texts)
    reviews = dataset.table("reviews", columns=["item", "user", "ts", "headline", "text", f"split_{settings.scheme}"])
    texts = [said(row) for row in reviews.select(["headline", "text"]).to_pylist()]
    usable = np.array([bool(text) for text in texts]) & np.array([s != "test" for s in reviews[-1].to_pylist()])
    vectors, ts = encode(texts), reviews["ts"].to_numpy()
    owners = np.array(reviews[of].to_pylist(), dtype=object)
    order = np.lexsort((np.arange(len(ts)), ts))
    rows: dict[str, list[int]] = {}
    for row in order[usable[order]].tolist():
        rows.setdefault(owners[row], []).append(row)
    made = []
    for reading in dataset.table("readings", columns=["of", "id", "cut", "documents"]).to_pylist():
        if reading["of"] == of:
            known = [row for row in rows[reading["id"]] if ts[row] < reading["cut"]]
            made.append(vectors[known[-reading["documents"] :]].mean(0))
    return torch.stack(made)


def places_of(dataset: Dataset, of: Of, columns: Columns, donors: Array) -> Array:
    """(n,) int64 the reading that each row may know, -1 for none. donors: (i,) whose readings each item has."""
    readings = Readings.read(dataset, of)
    names = pa.array(columns.items).take(pa.array(donors)) if of == "item" else pa.array(columns.users)
    found = column(len(columns.ts), np.int64)
    for start in range(0, len(found), CHUNK):
        part = slice(start, start + CHUNK)
        codes = np.asarray((columns.item if of == "item" else columns.user)[part])
        found[part] = readings.at(names.take(pa.array(codes)), np.asarray(columns.ts[part]))
    return found


def of_pictures(dataset: Dataset, pictures: Sequence[Sequence[str]], encode: Encode) -> tuple[Tensor, Array]:
    """Of each item the mean vector (m, dt) of what its pictures say in words, and its place there, -1 for none.

    pictures: of each item. Raises DataError where prepare made no readings of pictures.
    """
    readings = Readings.read(dataset, "picture")
    owner = np.repeat(np.arange(len(pictures)), [len(paths) for paths in pictures])
    place = readings.at([path for paths in pictures for path in paths])
    owner, place = owner[place >= 0], place[place >= 0]
    has, sizes = np.unique(owner, return_counts=True)
    vectors = encode(readings.texts)[torch.from_numpy(place)]
    made = [part.mean(0) for part in vectors.split(sizes.tolist())] if len(has) else []
    places = np.full(len(pictures), -1, np.int64)
    places[has] = np.arange(len(has))
    return torch.stack(made) if made else torch.zeros(0, vectors.shape[1]), places

"""The table `readings`: from the tables that `prepare` has just written to what each item, user and picture says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latefuse import progress
from latefuse.config_data import Data
from latefuse.config_rank import Reader
from latefuse.data.dataset import BATCH, TableWriter
from latefuse.data.errors import DataError
from latefuse.data.leaks import Finding
from latefuse.data.readings.cache import Answers, answered
from latefuse.data.readings.check import findings
from latefuse.data.readings.cuts import ALWAYS, cut_times, windows
from latefuse.data.readings.makers import build
from latefuse.data.readings.request import Maker, Of, Request
from latefuse.data.readings.written import Words, coded
from latefuse.data.schema import SPLITS, TABLES

Array = np.ndarray[Any, Any]
BEHAVIOUR = ("events", "reviews")


@dataclass
class Made:
    """What came of it. notes: for the manifest, the same for the same input. spent: for people. calls: to makers."""

    notes: list[str] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    calls: int = 0
    finding: Finding | None = None


def into(out: Path, folder: Path, data: Data, cache: Path | None) -> Made:
    """Write `out/readings.parquet` as `data.readings` says, and check it against the reviews.

    out: where the other tables lie. folder: for temporary files. cache: the folder of answers. Raises DataError where
    there is nothing to read, and what makers raise; answers until then are in the cache.
    """
    wanted = data.readings
    assert wanted is not None
    made, method = Made(), None
    with closing(Answers(cache)) as answers, TableWriter(out / "readings.parquet", TABLES["readings"]) as writer:
        if wanted.reviews is not None:
            reviews, where = _table(out, "reviews"), "data.readings.reviews"
            maker = build(wanted.reviews, wanted.words, where, data.limits, False, partial(_users, out))
            method = maker.method
            with closing(Words(reviews, folder)) as words:
                requests = _Reviews(out, words, data, maker)
                _write(requests, maker, wanted.reviews, answers, writer, made)
                made.notes += requests.notes()
        if wanted.pictures is not None:
            maker = build(wanted.pictures, wanted.picture_words, "data.readings.pictures", data.limits, True, list)
            _write(_pictures(out), maker, wanted.pictures, answers, writer, made)
    if method is not None:
        made.finding = findings(out, folder, scheme_of(data), method)
    return made


def scheme_of(data: Data) -> str:
    """The scheme whose test reviews are never read: the recipe's, by time where that does not split reviews."""
    return data.splits.scheme if data.splits.scheme in ("time", "loo") else "time"


class _Reviews:
    """Requests for items and users, and what was left out of them."""

    def __init__(self, out: Path, words: Words, data: Data, maker: Maker) -> None:
        assert data.readings is not None
        self._words, self._maker, self._newest = words, maker, data.readings.max_reviews
        scheme = scheme_of(data)
        self._table = pq.read_table(out / "reviews.parquet", columns=["user", "item", "ts", f"split_{scheme}"])
        held = self._table[f"split_{scheme}"].to_numpy() == "test"
        self._usable = (words.sizes > 0) & ~held
        self._ts = self._table["ts"].to_numpy()
        self._cuts = _cuts(out, data.readings.cuts)
        self._older = self._long = 0

    def __iter__(self) -> Iterator[Request]:
        for of in ("item", "user"):
            owner, names = coded(self._table, of)
            for window in windows(owner, self._ts, self._usable, self._cuts, self._newest):
                self._older += window.older > 0
                documents = tuple(self._words[row] for row in window.rows.tolist())
                request = Request(of, names[window.owner].as_py(), window.cut, documents)
                count = self._maker.reads(request)
                self._long += count < len(documents)
                yield Request(of, request.id, request.cut, documents[-count:])

    def notes(self) -> list[str]:
        """What was left out, once all requests were made."""
        told = []
        if self._older:
            told.append(f"readings: {self._older:,} are made of the newest {self._newest} reviews, older ones are out")
        if self._long:
            told.append(f"readings: {self._long:,} prompts were too long, their oldest reviews are out")
        return told


def _pictures(out: Path) -> Iterator[Request]:
    """Every picture of an item once, in the order in which they first stand there. Raises DataError for none."""
    seen: set[str] = set()
    with pq.ParquetFile(_table(out, "items", "pictures")) as file:
        for batch in file.iter_batches(BATCH, columns=["images"]):
            for ref in pc.list_flatten(batch["images"]).to_pylist():
                if ref not in seen:
                    seen.add(ref)
                    yield Request("picture", ref, ALWAYS, picture=out / ref)
    if not seen:
        raise DataError("data.readings.pictures: no item has a picture; set data.readings.pictures=null")


def _write(
    requests: Iterable[Request], maker: Maker, reader: Reader, answers: Answers, writer: TableWriter, made: Made
) -> None:
    """Rows of all requests with a bar; an empty answer is no row."""
    kept = answers if reader.by != "extractive" else None  # quicker made than looked up
    counts: Counter[Of] = Counter()
    empty = 0
    for request, text in progress.bar(answered(maker, requests, kept), desc="readings", unit=" texts"):
        if not text:
            empty += 1
            continue
        counts[request.of] += 1
        writer.write({
            "of": request.of, "id": request.id, "cut": request.cut, "text": text, "documents": len(request.documents),
            "maker": maker.name, "prompt": maker.version, "digest": request.digest(maker.method),
        })  # fmt: skip
    told = ", ".join(f"{counts[of]:,} of {of}s" for of in ("item", "user", "picture") if counts[of]) or "none"
    told = f"readings: {told} by {maker.name} ({maker.version})"
    made.notes += [told, *(f"readings: {note}" for note in maker.notes())]
    if empty:
        made.notes.append(f"readings: {empty:,} answers were empty and are no readings")
    made.spent.append(f"{told}, {maker.spent()}")
    made.calls += maker.calls


def _cuts(out: Path, parts: int) -> Array:
    """The cuts of all behaviour, by time."""
    times, codes = [], []
    for table in BEHAVIOUR:
        if (path := out / f"{table}.parquet").exists():
            rows = pq.read_table(path, columns=["ts", "split_time"])
            times.append(rows["ts"].to_numpy())
            codes.append(pc.index_in(rows["split_time"], pa.array(SPLITS)).to_numpy())
    return cut_times(np.concatenate(times), np.concatenate(codes), parts)


def _users(out: Path) -> Iterator[str]:
    """Every user of the behaviour."""
    for table in BEHAVIOUR:
        if (path := out / f"{table}.parquet").exists():
            yield from pc.unique(pq.read_table(path, columns=["user"])["user"]).to_pylist()


def _table(out: Path, name: str, section: str = "reviews") -> Path:
    """The path of a table. Raises DataError where the source has none."""
    path = out / f"{name}.parquet"
    if not path.exists():
        raise DataError(
            f"data.readings.{section}: the source gives no table {name!r}, so there is nothing to read; set "
            f"data.readings.{section}=null"
        )
    return path

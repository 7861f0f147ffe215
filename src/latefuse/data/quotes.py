"""Does a text that is known before the test quote a test row? Summaries of reviews, demonstrations in a prompt.

Two texts need not be alike for that: what counts is the share of the test row's own shingles that the other one holds.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from latefuse.config_data import Data
from latefuse.data.ingest import Staged, free_text
from latefuse.data.leaks import EXAMPLES, Finding
from latefuse.data.shingles import BATCH, HASH_BITS, MASK, shingle_keys, word_hashes
from latefuse.data.splits import TEST

Array = np.ndarray[Any, Any]

HELD = 0.8
OWN = 3  # of more units than this a shingle is a phrase of a template
FEWEST = 3  # own shingles below which a row says too little to be recognised
PROMPTED = {"conversations": ["id", "item", "turns", "truth"], "judgements": ["id", "item", "image", "text"]}


class Said(NamedTuple):
    """A text, the unit (item) that it is about, -1 for none, and what a message calls it."""

    text: str
    unit: int
    name: str


def findings(staged: Staged, codes: Mapping[str, Mapping[str, Array]], data: Data) -> dict[str, Finding]:
    """`summaries`: items whose text quotes a test review, where reviews are split by time or left out. `demos`: earlier
    turns of a conversation, or the instruction of a judgement, that are not of the test and quote a row that is.

    codes: per table and scheme the split code of each staged row.
    """
    found, scheme, shingle, ignore = {}, data.splits.scheme, data.leaks.shingle, data.leaks.ignore_words
    if scheme in ("time", "loo") and {"items", "reviews"} <= set(staged.rows):
        reviews = _reviews(staged, codes["reviews"][scheme] == TEST)
        found["summaries"] = quoted(reviews, _items(staged), shingle, "reviews stand in the text of an item", ignore)
    tables = [table for table in PROMPTED if table in staged.rows]
    if tables:
        held_out = {table: codes[table]["item"] == TEST for table in tables}
        tests = chain.from_iterable(_asked(staged, table, held_out[table]) for table in tables)
        known = chain.from_iterable(_shown(staged, table, ~held_out[table]) for table in tables)
        found["demos"] = quoted(tests, known, shingle, "rows stand in the prompt of a row outside the test", ignore)
    return found


def quoted(
    tests: Iterable[Said], known: Iterable[Said], shingle: int, what: str, ignore: Iterable[str] = ()
) -> Finding:
    """Test rows of which a known text holds 80% or more of the shingles that are their own.

    shingle: words in a row. what: of the message. ignore: words that are left out. A shingle is a row's own where few
    units have it. Memory grows with the shingles of the test rows; the known texts stream by.
    """
    ignored = word_hashes(sorted({word.lower() for word in ignore}))[0]
    units: list[int] = []
    names: list[str] = []
    keys, owner = [np.zeros(0, np.uint64)], [np.zeros(0, np.int64)]
    for batch in _batches(_distinct(tests)):
        found, at = _shingles(batch, shingle, ignored)
        keys.append(found)
        owner.append(at + len(names))
        names += [said.name for said in batch]
        units += [said.unit if said.unit >= 0 else -1 - len(units) - place for place, said in enumerate(batch)]
    index = _Index.of(np.concatenate(keys), np.concatenate(owner), np.array(units, np.int64))
    holders: dict[int, str] = {}
    for batch in _batches(known):
        for holder, row in index.held(*_shingles(batch, shingle, ignored)):
            holders.setdefault(row, batch[holder].name)
    checked = int((index.sizes >= FEWEST).sum())
    detail = f"{len(holders)} test {what}"
    if checked < len(names):
        detail += f"; {len(names) - checked} say too little of their own to be recognised"
    examples = tuple(f"{holders[row]} quotes {names[row]} (test)" for row in sorted(holders)[:EXAMPLES])
    return Finding(not holders, checked, len(holders), detail, examples=examples)


class _Index(NamedTuple):
    """The own shingles of the test rows, sorted. sizes: how many each row has."""

    keys: Array
    owner: Array
    sizes: Array

    @classmethod
    def of(cls, keys: Array, owner: Array, units: Array) -> _Index:
        order = np.argsort(keys, kind="stable")
        keys, owner = keys[order], owner[order]
        _, place = np.unique(keys, return_inverse=True)
        _, unit = np.unique(units, return_inverse=True)
        pairs = np.unique(np.stack([place, unit[owner]]), axis=1)
        own = np.bincount(pairs[0])[place] <= OWN if len(place) else np.zeros(0, bool)
        return cls(keys[own], owner[own], np.bincount(owner[own], minlength=len(units)))

    def held(self, shingles: Array, text: Array) -> Iterator[tuple[int, int]]:
        """(text, test row) wherever the text holds enough of the row."""
        left = np.searchsorted(self.keys, shingles, "left")
        hits = np.searchsorted(self.keys, shingles, "right") - left
        within = np.arange(int(hits.sum())) - np.repeat(np.cumsum(hits) - hits, hits)
        pairs = np.stack([np.repeat(text, hits), self.owner[np.repeat(left, hits) + within]], axis=1)
        pairs, shared = np.unique(pairs, axis=0, return_counts=True)
        sizes = self.sizes[pairs[:, 1]]
        yield from pairs[(sizes >= FEWEST) & (shared >= HELD * sizes - 1e-9)].tolist()


def _batches(texts: Iterable[Said]) -> Iterator[Sequence[Said]]:
    stream = iter(texts)
    while batch := list(islice(stream, BATCH)):
        yield batch


def _distinct(texts: Iterable[Said]) -> Iterator[Said]:
    """The first of every text."""
    seen: set[int] = set()
    for said in texts:
        if (key := hash(said.text)) not in seen:
            seen.add(key)
            yield said


def _shingles(batch: Sequence[Said], size: int, ignored: Array) -> tuple[Array, Array]:
    """(hash of each distinct shingle, place of its text in the batch)."""
    words, lengths = word_hashes([said.text for said in batch])
    text, kept = np.repeat(np.arange(len(batch)), lengths), ~np.isin(words, ignored)
    keys = shingle_keys(words[kept], text[kept], size)
    return keys & MASK, (keys >> np.uint64(HASH_BITS)).astype(np.int64)


def _reviews(staged: Staged, wanted: Array) -> Iterator[Said]:
    for row in _read(staged, "reviews", ["user", "item", "headline", "text"], wanted):
        yield Said(f"{row['headline']} {row['text']}", -1, f"the review of {row['item']!r} by {row['user']!r}")


def _items(staged: Staged) -> Iterator[Said]:
    for row in _read(staged, "items", ["id", "title", "text"]):
        yield Said(free_text("items", row), -1, f"item {row['id']!r}")


def _asked(staged: Staged, table: str, wanted: Array) -> Iterator[Said]:
    """What a row asks and answers, without the turns before."""
    units = staged.column(table, "unit")[wanted]
    for row, unit in zip(_read(staged, table, PROMPTED[table], wanted), units.tolist(), strict=True):
        yield Said(free_text(table, row | {"turns": row.get("turns", [])[-2:]}), unit, f"row {row['id']!r}")


def _shown(staged: Staged, table: str, wanted: Array) -> Iterator[Said]:
    """What stands in the prompt of a row before its own question; an instruction of many rows once."""
    if table == "judgements":
        rows = _read(staged, table, ["id", "instruction"], wanted)
        yield from _distinct(Said(row["instruction"], -1, f"row {row['id']!r}") for row in rows)
        return
    for row in _read(staged, table, ["id", "turns"], wanted):
        if len(row["turns"]) > 2:
            yield Said(" ".join(turn["text"] for turn in row["turns"][:-2]), -1, f"row {row['id']!r}")


def _read(staged: Staged, table: str, columns: list[str], wanted: Array | None = None) -> Iterator[dict[str, Any]]:
    """The wanted rows of a staged table, all by default."""
    start = 0
    with pq.ParquetFile(staged.path(table)) as file:
        for batch in file.iter_batches(BATCH, columns=columns):
            here = slice(start, start := start + batch.num_rows)
            yield from (batch if wanted is None else batch.filter(pa.array(wanted[here]))).to_pylist()

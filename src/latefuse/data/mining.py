"""Pairs out of behaviour: items that users use one after the other (NoteLLM-2, arXiv 2405.16789).

Events are laid on disk by user, and what they give by the item A, in parts that are small whatever their number; so
memory grows with the items alone. What must fit at once is what one user did, and all that followed one item.
"""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from latefuse import progress
from latefuse.config_data import Data
from latefuse.config_vectors import Mining
from latefuse.data.errors import DataError
from latefuse.data.ingest import Staged
from latefuse.data.schema import TABLES
from latefuse.data.spill import Array, Spill
from latefuse.data.splits import TRAIN
from latefuse.data.windows import Histories, distinct_pairs, histories, spans
from latefuse.sections import nearest

SLICE = 1 << 20
PART = 1 << 21
DIGITS = 9

_FIRST, _SECOND = 1, 2
_EVENT = np.dtype([("user", np.int32), ("item", np.int32), ("ts", np.int64), ("role", np.uint8)])
_PAIR = {"a": pl.Int64, "b": pl.Int64, "score": pl.Float64}


@dataclass
class Mined:
    """pairs: a, b (items) and score, by a, then the best first. The rest counts what was on the way.

    events, users: that count. candidates: distinct (A, B), with their `lowest` and `highest` score. bounded: those of
    them within the bounds.
    """

    pairs: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=_PAIR))
    events: int = 0
    users: int = 0
    candidates: int = 0
    bounded: int = 0
    lowest: float = float("inf")
    highest: float = 0.0


def mine(events: Iterable[pl.DataFrame], rows: int, mining: Mining, folder: Path, split: Array | None = None) -> Mined:
    """The pairs of a stream of events, as `Mining` describes; the same events in the same order give the same pairs.

    events: frames with user, item (int32 from 0) and ts (int64 seconds), and with kind and value where `mining` asks
    for them. rows: about how many events there are. folder: for temporary files, 17 bytes an event and 8 bytes a (user,
    A, B). split: (items,) codes; an item has its best partners of each, so that held-out ones take no place among those
    that train. A score is rounded to 9 digits, so that sums of other terms can be equal; of equal scores the lower b is
    kept. Raises DataError for a kind that no event has and where no pair is left.
    """
    parts, mined = -(-rows // PART) or 1, Mined()
    with TemporaryDirectory(dir=folder) as work:
        by_user = Spill(Path(work) / "users", _EVENT, parts)
        items = _scatter(events, rows, mining, by_user)
        most = min(items, mining.max_items)
        # A key is (A // parts * items + B) * (most + 1) + size, and has to fit 63 bits.
        by_item = Spill(Path(work) / "items", np.int64, max(4 * parts, items * items * (most + 1) >> 62))
        for found in _histories(by_user, mining):
            mined.events += len(found.place)
            mined.users += int((found.begin == np.arange(len(found.begin))).sum())
            for a, b, size in distinct_pairs(found, spans(found), PART):
                by_item.add((a // by_item.parts * items + b) * (most + 1) + size, a % by_item.parts)
        best = [mined.pairs]
        for part, keys in _small_parts(by_item, items * (most + 1), Path(work)):
            pair, score = _scores(keys, most + 1)
            a, b = np.divmod(pair, items)
            best.append(_best(a * by_item.parts + part, b, score, mining, mined, split))
    mined.pairs = pl.concat(best).sort("a", maintain_order=True)
    if not mined.pairs.height:
        raise _nothing(mined, mining)
    return mined


def _scatter(events: Iterable[pl.DataFrame], rows: int, mining: Mining, by_user: Spill) -> int:
    """Write the events that count by user; return the number above the highest item."""
    items, kinds = 0, set[str]()
    with progress.bar(total=rows, desc="reading events", unit="event", unit_scale=True, delay=1) as bar:
        for frame in events:
            bar.update(frame.height)
            if mining.first or mining.second:
                kinds.update(frame["kind"].unique().to_list())
            role = _FIRST * _is_of(frame, mining.first) | _SECOND * _is_of(frame, mining.second)
            if mining.min_value is not None:
                role[(frame["value"] < mining.min_value).to_numpy()] = 0
            counts = np.flatnonzero(role)
            kept = np.empty(len(counts), _EVENT)
            kept["role"] = role[counts]
            for name in ("user", "item", "ts"):
                kept[name] = frame[name].to_numpy()[counts]
            by_user.add(kept, kept["user"] % by_user.parts)
            items = max(items, int(kept["item"].max(initial=-1)) + 1)
    for option in ("first", "second"):
        for kind in getattr(mining, option):
            if kind not in kinds:
                raise DataError(f"data.pairs.{option}: no event is of kind {kind!r}{nearest(kind, kinds)}")
    return items


def _is_of(frame: pl.DataFrame, kinds: Collection[str]) -> Array:
    """(rows,) uint8: 1 where the event is of one of the kinds; where there are none, everywhere."""
    return frame["kind"].is_in(list(kinds)).to_numpy().astype(np.uint8) if kinds else np.ones(frame.height, np.uint8)


def _histories(by_user: Spill, mining: Mining) -> Iterator[Histories]:
    """The users, part by part."""
    for part in progress.bar(range(by_user.parts), desc="pairing events", unit="part", delay=1):
        rows = by_user.take(part)
        columns = [np.ascontiguousarray(rows[name]) for name in ("user", "item", "ts", "role")]
        order = np.lexsort((columns[2], columns[0]))
        user, item, ts, role = (column[order] for column in columns)
        first, second = role & _FIRST > 0, role & _SECOND > 0
        yield histories(user, item, ts, first, second, mining.window_s, mining.max_items)


def _small_parts(by_item: Spill, divisor: int, work: Path) -> Iterator[tuple[int, Array]]:
    """(part, keys), all keys of an item A together; a part that has grown too large is split once more.

    divisor: key // divisor is the A // parts of a key.
    """
    for part in progress.bar(range(by_item.parts), desc="ranking partners", unit="part", delay=1):
        if by_item.size(part) <= 4 * PART:
            yield part, by_item.take(part)
            continue
        finer = Spill(work / f"part-{part}", np.int64, -(-by_item.size(part) // PART))
        for keys in by_item.pieces(part, PART):
            finer.add(keys, keys // divisor % finer.parts)
        yield from ((part, finer.take(number)) for number in range(finer.parts))


def _scores(keys: Array, sizes: int) -> tuple[Array, Array]:
    """The distinct key // sizes, and for each the sum of 1 / (key % sizes) over its keys. keys: (n,), sorted in place.

    Users of one size are counted before they are added up, so that the order of the users does not matter.
    """
    keys.sort()
    ends = np.flatnonzero(np.append(keys[1:] != keys[:-1], True)) if len(keys) else keys
    pair, size = np.divmod(keys[ends], sizes)
    heads = np.flatnonzero(np.diff(pair, prepend=-1))
    terms = np.diff(ends, prepend=-1) / size
    score = np.add.reduceat(terms, heads) if len(heads) else terms
    return pair[heads], score.round(DIGITS)


def _best(a: Array, b: Array, score: Array, mining: Mining, mined: Mined, split: Array | None) -> pl.DataFrame:
    """The best partners of each A in every split: a, b, score. a: (n,), ascending. Counts go into `mined`."""
    mined.candidates += len(score)
    mined.lowest = min(mined.lowest, float(score.min(initial=np.inf)))
    mined.highest = max(mined.highest, float(score.max(initial=0)))
    inside = (score >= mining.lower) & (score <= mining.upper)
    a, b, score = a[inside], b[inside], score[inside]
    mined.bounded += len(score)
    lots = [slice(None)] if split is None else [split[b] == code for code in np.unique(split)]
    ranked = pl.concat([_ranked(a[lot], b[lot], score[lot], mining.top) for lot in lots])
    return ranked.sort(["a", "score", "b"], descending=[False, True, False])


def _ranked(a: Array, b: Array, score: Array, top: int) -> pl.DataFrame:
    """The `top` partners of each A. a: (n,), ascending."""
    hopeful = _hopeful(a, score, top)
    frame = pl.DataFrame({"a": a[hopeful], "b": b[hopeful], "score": score[hopeful]}, schema=_PAIR)
    ranked = frame.sort(["a", "score", "b"], descending=[False, True, False])
    return ranked.group_by("a", maintain_order=True).head(top)


def _hopeful(a: Array, score: Array, top: int) -> Array:
    """(n,) bool: all but rows that surely are not among the `top` scores of their a. a: (n,), ascending.

    Scores rounded to 31 bits stand in one number with their a, and one sort of numbers ranks them all.
    """
    if not len(a):
        return np.zeros(0, bool)
    starts = np.flatnonzero(np.diff(a, prepend=-1))
    group = np.repeat(np.arange(len(starts)), np.diff(starts, append=len(a)))
    keys = group << 31 | ((1 - score / score.max()) * (2**31 - 1)).astype(np.int64)
    last = np.minimum(starts + top, np.append(starts[1:], len(a))) - 1
    return np.asarray(keys <= np.sort(keys)[last][group])


def _nothing(mined: Mined, mining: Mining) -> DataError:
    """What to loosen where no pair is left."""
    if not mined.events:
        told = f"no event has a value of data.pairs.min_value={mining.min_value} or more; lower it"
    elif not mined.candidates:
        told = (
            f"no user of {mined.users:,} has events on two items within data.pairs.window_s={mining.window_s}, the "
            "first of a kind in data.pairs.first, the other of one in data.pairs.second; widen the window, or name "
            "more kinds"
        )
    else:
        told = (
            f"{mined.candidates:,} candidates have scores from {mined.lowest:g} to {mined.highest:g}, none within "
            f"data.pairs.lower={mining.lower:g} and data.pairs.upper={mining.upper:g}; move these bounds"
        )
    return DataError(f"mining gave no pair: {told}")


def check(tables: Collection[str], data: Data) -> None:
    """Raises DataError where a source cannot be mined as `data.pairs` asks: it needs events and no pairs of its own."""
    if data.pairs is None:
        return
    if "events" not in tables:
        raise DataError(
            f"data.pairs mines pairs from events, and the source {data.source!r} gives none; leave out data.pairs, or "
            f"give it the table events (it gives: {', '.join(tables)})"
        )
    if "pairs" in tables:
        raise DataError(
            f"data.pairs mines the table pairs, and the source {data.source!r} gives one; leave out data.pairs, or "
            "that table of the source"
        )


def into(staged: Staged, codes: Mapping[str, Mapping[str, Array]], units: Array, data: Data) -> str:
    """Mine the staged events into a staged table pairs and return a note that tells how many.

    codes: per table and scheme the split code of each staged row; units: the item split of each name. Where the recipe
    (data.splits.scheme) splits by item, an item has its best partners of each split, and a pair that links two of them
    is in none: only what a held-out item would ask of the known ones is measured by it; where it splits by time or
    leaves one out, only the train events of that scheme are mined: else a pair could tell what a test asks.
    """
    assert data.pairs is not None
    scheme, mining = data.splits.scheme, data.pairs
    train = codes["events"][scheme] == TRAIN if scheme in ("time", "loo") else None
    rows = len(staged.rows["events"]["ts"])
    split = units if scheme == "item" else None
    mined = mine(_staged_events(staged, mining, train), rows, mining, staged.folder, split)
    _stage(staged, mined.pairs, mining.window_s)
    of = f"{rows:,} events" if train is None else f"{rows:,} events ({int(train.sum()):,} of them train by {scheme})"
    return (
        f"pairs: mined from {mined.events:,} of {of}, {mined.users:,} users; {mined.candidates:,} candidates within "
        f"{mining.window_s:,} s, {mined.bounded:,} with a score from {mining.lower:g} to {mining.upper:g}, "
        f"{mined.pairs.height:,} among the best {mining.top} of their item{' in a split' if split is not None else ''}"
    )


def _staged_events(staged: Staged, mining: Mining, train: Array | None) -> Iterator[pl.DataFrame]:
    """The staged events slice by slice, with the columns that `mining` needs. train: (rows,) bool, None for all."""
    whole = {name: np.asarray(staged.rows["events"][name]) for name in ("user", "item", "ts")}
    needed = [
        *(["kind"] if mining.first or mining.second else []),
        *(["value"] if mining.min_value is not None else []),
    ]
    with pq.ParquetFile(staged.path("events")) as file:
        start = 0
        for batch in file.iter_batches(SLICE, columns=needed or ["ts"]):
            part = slice(start, start + batch.num_rows)
            frame = pl.DataFrame({name: column[part] for name, column in whole.items()})
            frame = frame.with_columns(pl.Series(name, pl.from_arrow(batch[name])) for name in needed)
            yield frame if train is None else frame.filter(pl.Series(train[part]))
            start = part.stop


def _stage(staged: Staged, pairs: pl.DataFrame, window: int) -> None:
    """Write the pairs as a source's own would be, without a split."""
    schema, names = TABLES["pairs"], pa.array(list(staged.names))
    with pq.ParquetWriter(staged.path("pairs"), schema, compression="zstd") as writer:
        for frame in pairs.iter_slices(SLICE):
            filled = {
                "a": names.take(frame["a"].to_arrow()), "b": names.take(frame["b"].to_arrow()),
                "weight": frame["score"].to_arrow(), "window": pa.repeat(window, frame.height),
            }  # fmt: skip
            empty = pa.nulls(frame.height, pa.string())
            writer.write_table(pa.table([filled.get(name, empty) for name in schema.names], schema=schema))
    none = (-np.ones(pairs.height, np.int8)).tobytes()
    staged.rows["pairs"] = {
        **{name: array("i", pairs[name].to_numpy().astype(np.intc).tobytes()) for name in ("a", "b")},
        **{name: array("b", none) for name in ("given_pair", "given_item")},
    }

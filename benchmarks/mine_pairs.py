"""Pair mining over streamed events: time and peak memory, beside one self-join of all events in memory.

    python benchmarks/mine_pairs.py [--events 1000000 10000000] [--items 100000] [--plain 1000000]

Users have 50 events each within 60 days, in the order of time, on items of which few are much used; a pair is two items
within a week. Each size runs in a process of its own, and the plain way on the first size that it can hold (--plain).
Prints the ratios; fails where the pairs of both differ, or where ours needs 2 GiB or more at any size.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latefuse import usage
from latefuse.config_vectors import Mining
from latefuse.data.mining import DIGITS, SLICE, mine

EVENTS_A_USER = 50
DAYS = 60
LIMIT_GIB = 2
MINING = Mining()


def generated(events: int, items: int) -> Iterator[pl.DataFrame]:
    """The events, a slice at a time."""
    for start in range(0, events, SLICE):
        n, draw = min(SLICE, events - start), np.random.default_rng([0, start])
        yield pl.DataFrame(
            {
                "user": draw.integers(0, max(1, events // EVENTS_A_USER), n, dtype=np.int32),
                "item": (items * draw.random(n) ** 2).astype(np.int32),
                "ts": (start + np.arange(n)) * DAYS * 86_400 // events,
            }
        )


def ours(events: int, items: int, folder: Path) -> pl.DataFrame:
    """The stream through `mine`."""
    return mine(generated(events, items), events, MINING, folder).pairs


def plain(events: int, items: int, folder: Path) -> pl.DataFrame:
    """What one would write: everything joined with itself, then grouped."""
    rows = pl.concat(generated(events, items)).lazy()
    sizes = rows.group_by("user").agg(size=pl.col("item").n_unique())
    gap = pl.col("ts_right") - pl.col("ts")
    best = (
        rows.join(rows, on="user")
        .filter(gap.is_between(0, MINING.window_s), pl.col("item") != pl.col("item_right"))
        .select("user", a="item", b="item_right")
        .unique()
        .join(sizes, on="user")
        .group_by("a", "b")
        .agg(score=(1 / pl.col("size")).sum().round(DIGITS))
        .filter(pl.col("score").is_between(MINING.lower, MINING.upper))
        .sort(["a", "score", "b"], descending=[False, True, False])
        .group_by("a", maintain_order=True)
        .head(MINING.top)
    )
    return best.cast({"a": pl.Int64, "b": pl.Int64}).collect()


def one(way: str, events: int, items: int, folder: Path) -> dict[str, Any]:
    """Run one way in this process and measure; the pairs go to a file."""
    before = peak()
    start, cpu = time.perf_counter(), time.process_time()
    pairs = {"ours": ours, "plain": plain}[way](events, items, folder)
    seconds, cpu = time.perf_counter() - start, time.process_time() - cpu
    pairs.write_parquet(folder / f"{way}-{events}.parquet")
    return {"seconds": seconds, "cpu": cpu, "before": before, "peak": peak(), "pairs": pairs.height}


def peak() -> float:
    """Peak resident memory so far, GiB."""
    return usage.own_peak() / usage.GIB


def apart(way: str, events: int, items: int, folder: Path) -> dict[str, Any]:
    """`one` in a process of its own; prints a line."""
    command = [sys.executable, __file__, "--items", str(items), "--one", way, str(events), str(folder)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    speed = f"{found['seconds']:>8.1f} {found['cpu']:>8.1f} {events / found['seconds']:>10,.0f}"
    memory = f"{found['peak']:>9.2f} {found['peak'] - found['before']:>9.2f}"
    print(f"{way:>6} {events:>12,} {speed} {memory} {found['pairs']:>10,}", flush=True)
    return found


def same(folder: Path, events: int) -> bool:
    """Whether both ways found the same partners in the same order, with scores equal in the last digit but one."""
    mine_, other = (pl.read_parquet(folder / f"{way}-{events}.parquet") for way in ("ours", "plain"))
    if mine_.height != other.height or not mine_.select("a", "b").equals(other.select("a", "b")):
        return False
    return float((mine_["score"] - other["score"]).abs().max() or 0) < 2 * 10**-DIGITS


def main() -> int:
    """Measure all sizes and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", nargs="+", type=int, default=[1_000_000, 10_000_000])
    parser.add_argument("--items", type=int, default=100_000)
    parser.add_argument("--plain", type=int, default=1_000_000)
    parser.add_argument("--one", nargs=3, help=argparse.SUPPRESS)
    chosen = parser.parse_args()
    if chosen.one:
        way, events, folder = chosen.one
        print(json.dumps(one(way, int(events), chosen.items, Path(folder))))
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        titles = f"{'wall s':>8} {'cpu s':>8} {'events/s':>10} {'peak GiB':>9} {'of it own':>9} {'pairs':>10}"
        print(f"{'':>6} {'events':>12} {titles}")
        found = {
            events: apart("ours", events, chosen.items, folder) for events in sorted({chosen.plain, *chosen.events})
        }
        peer, mine_ = apart("plain", chosen.plain, chosen.items, folder), found[chosen.plain]
        equal = same(folder, chosen.plain)
    own = [ran["peak"] - ran["before"] for ran in (peer, mine_)]
    print(
        f"plain / ours at {chosen.plain:,} events: time {peer['seconds'] / mine_['seconds']:.2f}, cpu time "
        f"{peer['cpu'] / mine_['cpu']:.2f}, peak memory {peer['peak'] / mine_['peak']:.2f}, "
        f"of it own {own[0] / own[1]:.2f}; the same pairs: {equal}"
    )
    smallest, largest = found[min(found)], found[max(found)]
    print(f"peak memory, {max(found):,} events against {min(found):,}: {largest['peak'] / smallest['peak']:.2f}")
    return int(not equal or any(ran["peak"] >= LIMIT_GIB for ran in found.values()))


if __name__ == "__main__":
    sys.exit(main())

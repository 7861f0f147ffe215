"""Exact nearest neighbours beside faiss's IndexFlatIP: the same unit vectors, the same threads, one run.

    OMP_NUM_THREADS=1 python benchmarks/top_k.py [--items 200000] [--dim 768] [--queries 256] [--k 10] [--threads 1]

How much of the pool can be passed over unseen is a matter of the vectors, so there are three sets: `items`, sentence
vectors of width 384 projected to the width asked for, as a light backbone's are; `spread`, the same fall of the
spectrum over all components; `noise`, no structure at all, the worst there is. Both sides search a pool that was made
ready before, faiss's index and our Screen; what that takes is told. Beside them our search without a Screen, and the
ranks of one target a query. Ratios are of CPU time, medians of runs that take turns. Fails where a neighbour differs
that is no tie in float32, or where faiss takes less than twice our time on `items`.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from latefuse.evaluation.retrieval import dot, ranks, top_k
from latefuse.evaluation.screen import Screen, usable

TARGET = 2.0
TIE = 1e-6
SENTENCE = 384
LEADING = (0, 1, 8, 16, 32, 48, 64, 96, 128, 192, 256, 384)
ENERGY = (0, 0.15, 0.291, 0.384, 0.506, 0.596, 0.667, 0.773, 0.846, 0.936, 0.98, 1)
"""Share of the energy in so many leading directions, of all-MiniLM-L6-v2's vectors of 3,000 film plots. Measured."""

Times = dict[str, tuple[float, float]]


def vectors(kind: str, rows: int, dim: int, draw: torch.Generator, turn: Tensor) -> Tensor:
    """(rows, dim) unit vectors. turn: (dim, dim) orthonormal, so that no direction is an axis."""
    if kind == "noise":
        return torch.nn.functional.normalize(torch.randn(rows, dim, generator=draw), dim=1)
    width = min(SENTENCE, dim) if kind == "items" else dim
    energy = np.diff(np.interp(np.linspace(0, SENTENCE, width + 1), LEADING, ENERGY))
    size = torch.from_numpy(energy).float().sqrt()
    drawn = torch.randn(rows, width, generator=draw) * size
    drawn[:, 0] = size[0]  # the leading direction is the mean, which all of them share
    return torch.nn.functional.normalize(drawn @ turn[:width], dim=1)


def measured(kind: str, options: argparse.Namespace) -> bool:
    """One set of vectors: prints what each way takes and finds; whether all is as promised."""
    draw = torch.Generator().manual_seed(0)
    turn = torch.linalg.qr(torch.randn(options.dim, options.dim, generator=draw)).Q
    pool, queries = (vectors(kind, rows, options.dim, draw, turn) for rows in (options.items, options.queries))
    flat = faiss.IndexFlatIP(options.dim)
    made, ready = timed({"faiss": lambda: flat.add(pool.numpy()), "screen": lambda: Screen(pool)}, 1)
    screen, asked = ready["screen"], torch.arange(options.queries)
    targets = top_k(queries, screen, 1)[1].squeeze(1)
    ways: dict[str, Callable[[], Any]] = {
        "faiss": lambda: flat.search(queries.numpy(), options.k),
        "top_k, screened": lambda: top_k(queries, screen, options.k),
        "top_k, every product": lambda: top_k(queries, pool, options.k),
        "ranks of a target each": lambda: ranks(dot(queries, pool), targets, asked),
    }
    times, found = timed(ways, options.repeats)
    print(
        f"\n{kind}: made ready in {made['faiss'][1]:.1f} CPU-s (faiss), {made['screen'][1]:.1f} CPU-s (Screen of",
        end=" ",
    )
    print(f"{screen.codes.shape[1]} 8-bit components)\n{'':26}{'wall s':>8}{'CPU s':>8}{'faiss / it':>12}")
    for name, (wall, cpu) in times.items():
        print(f"{name:26}{wall:8.3f}{cpu:8.3f}{times['faiss'][1] / cpu:12.2f}")
    right = [agrees(name, found[name], found["faiss"]) for name in list(ways)[1:3]]
    first = bool((found["ranks of a target each"] == 0).all())
    print(f"the nearest item's rank is 0 for every query: {first}")
    fast = kind != "items" or times["faiss"][1] >= TARGET * times["top_k, screened"][1]
    if not fast:
        print(f"faiss takes less than {TARGET:g} times our time")
    return all(right) and first and fast


def agrees(name: str, mine: tuple[Tensor, Tensor], theirs: tuple[Any, Any]) -> bool:
    """Whether both found the same items, but for ties at the last place."""
    scores, places = (torch.from_numpy(part) for part in theirs)
    apart = float((mine[0] - scores).abs().max())
    strange = ~(mine[1][:, :, None] == places[:, None, :]).any(2)
    ties = mine[0] - mine[0][:, -1:] < TIE
    print(f"{name}: {int(strange.sum())} of {strange.numel():,} neighbours are not faiss's, ", end="")
    print(f"{int((strange & ties).sum())} of them ties; scores differ by at most {apart:.0e}")
    return apart < TIE and not bool((strange & ~ties).any())


def timed(ways: Mapping[str, Callable[[], Any]], repeats: int) -> tuple[Times, dict[str, Any]]:
    """Medians of (wall, CPU) seconds, the ways taking turns, and what each found in its first run."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found: dict[str, Any] = {}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            result = way()
            taken[name].append((time.perf_counter() - wall, time.process_time() - cpu))
            found.setdefault(name, result)
    return {name: tuple(map(statistics.median, zip(*runs, strict=True))) for name, runs in taken.items()}, found


def main() -> int:
    """All sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"items": 200_000, "dim": 768, "queries": 256, "k": 10, "threads": 1, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--sets", nargs="*", default=["items", "spread", "noise"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    print(f"{options.items:,} x {options.dim} float32, {options.queries} queries, k={options.k}, ", end="")
    print(
        f"{options.threads} thread(s) on both sides of {os.cpu_count()}, {torch.backends.cpu.get_cpu_capability()}, ",
        end="",
    )
    print(f"8-bit products {'used' if usable() else 'not at hand: nothing is screened'}", flush=True)
    outcomes = [measured(kind, options) for kind in options.sets]
    return 0 if all(outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())

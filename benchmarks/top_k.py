"""Exact nearest neighbours beside faiss: the same unit vectors, the same threads, one run.

python benchmarks/top_k.py [--items 200000] [--dim 768] [--queries 256] [--k 10] [--threads 1]
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import faiss
import torch

from latefuse.evaluation.retrieval import dot, ranks, top_k


def main() -> None:
    """Print seconds of both ways, their ratio, and whether the neighbours are the same."""
    options = _options()
    torch.set_num_threads(options.threads)
    faiss.omp_set_num_threads(options.threads)
    draw = torch.Generator().manual_seed(0)
    pool, queries = (
        torch.nn.functional.normalize(torch.randn(rows, options.dim, generator=draw), dim=-1)
        for rows in (options.items, options.queries)
    )
    flat = faiss.IndexFlatIP(options.dim)
    flat.add(pool.numpy())
    ways: dict[str, Callable[[], Any]] = {
        "faiss IndexFlatIP": lambda: flat.search(queries.numpy(), options.k),
        "top_k": lambda: top_k(queries, pool, options.k),
        "ranks of one target each": lambda: ranks(
            dot(queries, pool),
            torch.arange(options.queries),
            torch.arange(options.queries),
            [[]] * options.queries,
            torch.ones(options.items, dtype=torch.bool),
        ),
    }
    times, found = _timed(ways, options.repeats)
    print(f"{options.items:,} x {options.dim}, {options.queries} queries, k={options.k}, {options.threads} thread(s)")
    for name, (wall, cpu) in times.items():
        print(f"{name:26} {wall:7.3f} s, {cpu:7.3f} CPU-s")
    (faiss_wall, faiss_cpu), (wall, cpu) = times["faiss IndexFlatIP"], times["top_k"]
    print(f"faiss / top_k: {faiss_wall / wall:.2f} in time, {faiss_cpu / cpu:.2f} in CPU time")
    scores, places = found["faiss IndexFlatIP"]
    same = torch.from_numpy(places) == found["top_k"][1]
    apart = (torch.from_numpy(scores) - found["top_k"][0]).abs().max()
    print(f"the same neighbours in the same order: {same.float().mean():.2%}; scores differ by at most {apart:.1e}")


def _timed(ways: dict[str, Callable[[], Any]], repeats: int) -> tuple[dict[str, tuple[float, float]], dict[str, Any]]:
    """Medians of (wall, CPU) seconds, the ways taking turns, and what each found."""
    walls: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
    found = {name: way() for name, way in ways.items()}
    for _ in range(repeats):
        for name, way in ways.items():
            wall, cpu = time.perf_counter(), time.process_time()
            way()
            walls[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    medians = {name: tuple(map(statistics.median, zip(*all_of, strict=True))) for name, all_of in walls.items()}
    return medians, found  # type: ignore[return-value]  # a tuple of two


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in {"items": 200_000, "dim": 768, "queries": 256, "k": 10, "threads": 1, "repeats": 5}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    return parser.parse_args()


if __name__ == "__main__":
    main()

"""What each arm cost: trained share, time, memory and speed, from what the finetune and fuse steps measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from latefuse.evaluation.arms import LATE, MIXED, ROUTE, SAME, WIDE, ZERO, merge_name


@dataclass(frozen=True)
class Cost:
    """One line of the cost table, a mean over seeds; None where nothing was measured or nothing applies.

    trainable: parameters. share: of all parameters. wall_s: seconds of the whole jobs, loading included; train_s: of
    their training loops alone, which samples_per_s and tokens_per_s refer to. peak_gib: memory of the greatest process.
    jobs: how many finetune jobs it takes; fused: whether the fuse step comes on top.
    """

    name: str
    trainable: float | None = None
    share: float | None = None
    tokens: float | None = None
    wall_s: float | None = None
    train_s: float | None = None
    peak_gib: float | None = None
    samples_per_s: float | None = None
    tokens_per_s: float | None = None
    jobs: int = 1
    fused: bool = False


def costs(results: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """One line per finetune job, and `separate+route` as their sum: it trains all of them and keeps all of them.

    results: result.json of every finetune step of every seed.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_name.setdefault(str(result["name"]), []).append(result)
    single = [_job(name, group) for name, group in by_name.items()]
    alone = [cost for cost in single if cost.name not in (MIXED, WIDE)]
    controls = [Cost(ZERO, 0.0, 0.0, jobs=0), *(cost for cost in single if cost.name in (MIXED, WIDE))]
    return [*controls, *([_together(alone)] if alone else []), *alone]


def with_fusion(lines: Sequence[Cost], results: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """The lines of `costs`, and behind `separate+route` one per fused arm: all adapters and the fuse step.

    results: result.json of the fuse step of every seed. One step makes all merges and mixtures, so each of them bears
    the whole of it.
    """
    place = next((k for k, line in enumerate(lines) if line.name == ROUTE), None)
    if place is None or not results:
        return list(lines)
    route, wall_s, peak_gib = lines[place], _mean(results, "wall_s"), _mean(results, "peak_rss_gib")
    total = None if route.wall_s is None or wall_s is None else route.wall_s + wall_s
    fused = replace(route, wall_s=total, peak_gib=_greatest([route.peak_gib, peak_gib]), fused=True)
    methods = dict.fromkeys(method for result in results for method in result.get("merges", ()))
    late = {LATE: "fused", SAME: "same_input"}
    mixed = [arm for arm, key in late.items() if any("weights" in one.get("late", {}).get(key, {}) for one in results)]
    arms = [*(merge_name(method) for method in methods), *mixed]
    return [*lines[: place + 1], *(replace(fused, name=arm) for arm in arms), *lines[place + 1 :]]


def _job(name: str, results: Sequence[Mapping[str, Any]]) -> Cost:
    train_s, wall_s = _mean(results, "train_s"), _mean(results, "wall_s")
    return Cost(
        name,
        _mean(results, "trainable"),
        _mean(results, "trainable_share"),
        _mean(results, "train_tokens"),
        wall_s,
        wall_s if train_s is None else train_s,
        _mean(results, "peak_rss_gib"),
        _mean(results, "samples_per_s"),
        _mean(results, "tokens_per_s"),
    )


def _together(jobs: Sequence[Cost]) -> Cost:
    """Several jobs as one arm: sums, the greatest peak, and rates over all their training."""
    train_s = _sum(job.train_s for job in jobs)
    return Cost(
        ROUTE,
        _sum(job.trainable for job in jobs),
        _sum(job.share for job in jobs),
        _sum(job.tokens for job in jobs),
        _sum(job.wall_s for job in jobs),
        train_s,
        _greatest([job.peak_gib for job in jobs]),
        _rate([(job.samples_per_s, job.train_s) for job in jobs], train_s),
        _rate([(job.tokens_per_s, job.train_s) for job in jobs], train_s),
        len(jobs),
    )


def _mean(results: Sequence[Mapping[str, Any]], key: str) -> float | None:
    found = [float(result[key]) for result in results if result.get(key) is not None]
    return sum(found) / len(found) if found else None


def _sum(values: Iterable[float | None]) -> float | None:
    """None where a part is not known."""
    found = list(values)
    return None if None in found else sum(value for value in found if value is not None)


def _greatest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _rate(parts: Iterable[tuple[float | None, float | None]], seconds: float | None) -> float | None:
    """One rate of several, each held for its own seconds."""
    total = _sum(None if rate is None or held is None else rate * held for rate, held in parts)
    return total / seconds if total is not None and seconds else None

"""What each arm cost: trained share, time, memory and speed, from what the finetune steps measured."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from latefuse.evaluation.arms import MIXED, ROUTE, WIDE, ZERO


@dataclass(frozen=True)
class Cost:
    """One line of the cost table, a mean over seeds. Times in seconds, memory in GiB, `trainable` in parameters."""

    name: str
    trainable: float
    share: float
    tokens: float
    wall_s: float
    peak_gib: float
    samples_per_s: float
    tokens_per_s: float
    jobs: int = 1


def costs(results: Sequence[Mapping[str, Any]]) -> list[Cost]:
    """One line per finetune job, and `separate+route` as their sum: it trains all of them and keeps all of them.

    results: result.json of every finetune step of every seed.
    """
    by_name: dict[str, list[Mapping[str, Any]]] = {}
    for result in results:
        by_name.setdefault(str(result["name"]), []).append(result)
    single = [_mean(name, group) for name, group in by_name.items()]
    alone = [cost for cost in single if cost.name not in (MIXED, WIDE)]
    lines = [Cost(ZERO, 0, 0, 0, 0, 0, 0, 0, 0), *(cost for cost in single if cost.name in (MIXED, WIDE))]
    if alone:
        wall = sum(cost.wall_s for cost in alone)
        lines.append(
            Cost(
                ROUTE,
                sum(cost.trainable for cost in alone),
                sum(cost.share for cost in alone),
                sum(cost.tokens for cost in alone),
                wall,
                max(cost.peak_gib for cost in alone),
                sum(cost.samples_per_s * cost.wall_s for cost in alone) / wall if wall else 0.0,
                sum(cost.tokens_per_s * cost.wall_s for cost in alone) / wall if wall else 0.0,
                len(alone),
            )
        )
    return [*lines, *alone]


def _mean(name: str, results: Sequence[Mapping[str, Any]]) -> Cost:
    def mean(*keys: str) -> float:
        found = [float(next((result[key] for key in keys if result.get(key) is not None), 0.0)) for result in results]
        return sum(found) / len(found)

    return Cost(
        name,
        mean("trainable"),
        mean("trainable_share"),
        mean("train_tokens"),
        mean("train_s", "wall_s"),
        mean("peak_rss_gib"),
        mean("samples_per_s"),
        mean("tokens_per_s"),
    )

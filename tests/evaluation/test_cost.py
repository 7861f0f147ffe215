"""Cost lines against sums worked out by hand."""

from __future__ import annotations

from typing import Any

import pytest

from latefuse.evaluation.cost import costs, with_fusion


def _job(name: str, seed: int, wall_s: float, train_s: float, samples_per_s: float, peak: float) -> dict[str, Any]:
    return {
        "name": name, "seed": seed, "wall_s": wall_s, "train_s": train_s, "trainable": 100, "trainable_share": 0.1,
        "train_tokens": 50, "peak_rss_gib": peak, "samples_per_s": samples_per_s,
    }  # fmt: skip


JOBS = [
    _job("a", 0, 10.0, 5.0, 4.0, 1.0),
    _job("a", 1, 12.0, 7.0, 4.0, 1.0),
    _job("b", 0, 9.0, 2.0, 8.0, 2.0),
    _job("mixed", 0, 30.0, 20.0, 3.0, 1.5),
]
WEIGHTS = {"weights": {"a": 0.5, "b": 0.5}}


def _fuse(seed: int, wall_s: float, peak: float, late: dict[str, Any]) -> dict[str, Any]:
    return {"seed": seed, "wall_s": wall_s, "peak_rss_gib": peak, "merges": {"concat": {}, "ties": {}}, "late": late}


def test_wall_time_is_that_of_the_whole_job() -> None:
    found = {cost.name: cost for cost in costs(JOBS)}
    assert (found["a"].wall_s, found["a"].train_s) == (11.0, 6.0)  # means over two seeds
    assert found["mixed"].wall_s == 30.0
    assert found["mixed"].samples_per_s == 3.0


def test_routing_costs_all_its_adapters() -> None:
    route = {cost.name: cost for cost in costs(JOBS)}["separate+route"]
    assert (route.trainable, route.tokens, route.wall_s, route.peak_gib, route.jobs) == (200, 100, 20.0, 2.0, 2)
    assert route.share == pytest.approx(0.2)
    assert route.samples_per_s == pytest.approx((4 * 6 + 8 * 2) / (6 + 2))  # samples over seconds of training
    assert route.tokens_per_s is None


def test_nothing_is_trained_for_zero_shot() -> None:
    zero = costs(JOBS)[0]
    assert (zero.name, zero.trainable, zero.share, zero.jobs) == ("zero-shot", 0, 0, 0)
    assert (zero.tokens, zero.wall_s, zero.peak_gib, zero.samples_per_s) == (None,) * 4


def test_fused_arms_cost_their_adapters_and_the_fuse_step() -> None:
    late = {"fused": WEIGHTS, "same_input": {"skipped": "no rows"}}
    lines = with_fusion(costs(JOBS), [_fuse(0, 4.0, 2.5, late), _fuse(1, 6.0, 3.5, late)])
    assert [line.name for line in lines] == [
        "zero-shot", "mixed", "separate+route", "separate+merge-concat", "separate+merge-ties", "separate+late-fused",
        "a", "b",
    ]  # fmt: skip
    for line in lines[3:6]:
        assert (line.wall_s, line.peak_gib, line.jobs, line.fused) == (25.0, 3.0, 2, True)
        assert line.trainable == 200
        assert line.samples_per_s == lines[2].samples_per_s


def test_without_adapters_or_fusing_there_is_nothing_to_add() -> None:
    assert with_fusion(costs(JOBS), []) == costs(JOBS)
    assert [line.name for line in with_fusion(costs(JOBS[3:]), [_fuse(0, 4.0, 2.5, {})])] == ["zero-shot", "mixed"]

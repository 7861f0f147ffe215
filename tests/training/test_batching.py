from __future__ import annotations

from collections import Counter
from itertools import chain

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.training.batching import apportion, by_length, interleave, micro_batches, pad, plan

LENGTHS = [10 + (7 * k) % 90 for k in range(100)]
ONE = ["image"] * 100


def test_every_row_comes_equally_often() -> None:
    counts = Counter(chain.from_iterable(plan(LENGTHS, ONE, 25, 8, seed=1)))
    assert set(counts.values()) == {2}
    assert len(counts) == 100


def test_rows_of_a_step_are_of_similar_length() -> None:
    steps = plan(LENGTHS, ONE, 48, 8, seed=1)
    spread = sum(max(LENGTHS[row] for row in step) * len(step) for step in steps) / sum(
        LENGTHS[row] for step in steps for row in step
    )
    assert spread < 1.1
    assert [LENGTHS[row] for row in steps[0]] == sorted(LENGTHS[row] for row in steps[0])


def test_the_seed_decides() -> None:
    assert plan(LENGTHS, ONE, 20, 8, seed=1) == plan(LENGTHS, ONE, 20, 8, seed=1) != plan(LENGTHS, ONE, 20, 8, seed=2)


def test_a_step_has_one_modality_and_each_gets_its_share() -> None:
    groups = ["image"] * 60 + ["text"] * 30 + ["video"] * 10
    steps = plan(LENGTHS, groups, 20, 4, seed=0)
    kinds = [{groups[row] for row in step} for step in steps]
    assert all(len(kind) == 1 for kind in kinds)
    assert Counter(kind.pop() for kind in kinds) == {"image": 12, "text": 6, "video": 2}


def test_processes_read_the_same_steps_as_one() -> None:
    steps = plan(LENGTHS, ONE, 10, 12, seed=0, parts=6)
    cut = [micro_batches(step, 6) for step in steps]
    ranks = [[batch for step in cut for batch in step[rank::2]] for rank in (0, 1)]
    assert [len(rank) for rank in ranks] == [30, 30]
    for number, step in enumerate(steps):
        mine = [batch for rank in ranks for batch in rank[3 * number : 3 * number + 3]]
        assert sorted(chain.from_iterable(mine)) == sorted(step)
    with pytest.raises(ValueError, match="10 rows can't be cut into 4"):
        micro_batches(list(range(10)), 4)


def test_a_token_budget_makes_smaller_steps_and_drops_no_row() -> None:
    steps = plan(LENGTHS, ONE, 400, 16, seed=0, parts=2, part_tokens=200)
    for step in steps:
        assert len(step) % 2 == 0
        for part in micro_batches(step, 2):
            assert len(part) == 1 or len(part) * max(LENGTHS[row] for row in part) <= 200
    counts = Counter(chain.from_iterable(steps))
    assert len(counts) == 100
    assert max(counts.values()) - min(counts.values()) <= 4


def test_interleaving_keeps_every_plan_whole_and_in_order() -> None:
    plans = {"a": [[1], [2], [3]], "b": [[4]], "c": []}
    mixed = interleave(plans, 5)
    assert [rows for name, rows in mixed if name == "a"] == plans["a"]
    assert len(mixed) == 4


@settings(deadline=None)
@given(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(1, 50), min_size=1, max_size=6), st.integers(0, 200))
def test_apportioning_gives_out_everything_and_is_fair(sizes: dict[str, int], total: int) -> None:
    share = apportion(sizes, total)
    assert sum(share.values()) == total
    assert all(abs(share[k] - total * size / sum(sizes.values())) < 1 for k, size in sizes.items())


def test_inference_batches_hold_each_row_once() -> None:
    groups = ["a", "b"] * 50
    batches = by_length(LENGTHS, groups, 16)
    assert sorted(chain.from_iterable(batches)) == list(range(100))
    assert all(len({groups[row] for row in batch}) == 1 for batch in batches)


def test_padding() -> None:
    assert torch.equal(pad([[1, 2], [3]], 0), torch.tensor([[1, 2], [3, 0]]))
    assert torch.equal(pad([[1, 2], [3]], 9, left=True), torch.tensor([[1, 2], [9, 3]]))

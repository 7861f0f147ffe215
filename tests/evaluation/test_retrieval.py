"""Neighbours, ranks and metrics against brute force, scikit-learn and faiss."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from latefuse.evaluation import floors, retrieval
from latefuse.evaluation.arms_summary import metric_names
from latefuse.evaluation.retrieval import dot, lower_third, one_pair_each, own_rows, ranks, retrieval_scores, top_k
from latefuse.evaluation.screen import Screen, usable


def units(rows: int, dim: int, seed: int) -> torch.Tensor:
    drawn = torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=-1)


def test_neighbours_are_those_of_a_full_sort() -> None:
    queries, pool = units(13, 6, 0), units(301, 6, 1)
    banned = [[k, 300 - k] for k in range(13)]
    pairs = torch.tensor([(row, place) for row, places in enumerate(banned) for place in places]).T
    scores, places = top_k(queries, pool, 9, pairs)
    for row in range(13):
        every = [(float(queries[row] @ pool[k]), k) for k in range(301) if k not in banned[row]]
        wanted = sorted(every, reverse=True)[:9]
        assert places[row].tolist() == [k for _, k in wanted]
        torch.testing.assert_close(scores[row], torch.tensor([s for s, _ in wanted]))


def test_the_screened_search_is_exact() -> None:
    queries, pool = units(40, 96, 5), units(3_000, 96, 6)
    plain = (queries @ pool.T).topk(10)
    scores, places = top_k(queries, Screen(pool), 10)
    torch.testing.assert_close(scores, plain.values, rtol=1e-5, atol=1e-6)
    assert places.tolist() == plain.indices.tolist()


def test_neighbours_are_those_of_faiss() -> None:
    import faiss

    queries, pool = units(20, 32, 2), units(5_000, 32, 3)
    exact = faiss.IndexFlatIP(32)
    exact.add(pool.numpy())
    scores, places = exact.search(queries.numpy(), 10)
    mine = top_k(queries, pool, 10)
    assert mine[1].tolist() == places.tolist()
    np.testing.assert_allclose(mine[0].numpy(), scores, atol=1e-6)


def test_more_neighbours_than_there_are_give_all_of_them_and_none_is_an_error() -> None:
    scores, places = top_k(units(2, 3, 0), units(4, 3, 1), 9, own_rows([0, -1]))
    assert scores.shape == places.shape == (2, 4)
    assert places[0, 3] == -1
    assert sorted(places[1].tolist()) == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="k=0"):
        top_k(units(1, 3, 0), units(4, 3, 1), 0)


def test_an_empty_pool_and_a_target_outside_of_it_are_errors() -> None:
    with pytest.raises(ValueError, match="the pool is empty"):
        top_k(units(1, 3, 0), torch.empty(0, 3), 1)
    with pytest.raises(ValueError, match="the pool is empty"):
        dot(units(1, 3, 0), torch.empty(0, 3))
    score, zero = dot(units(1, 3, 0), units(4, 3, 1)), torch.tensor([0])
    with pytest.raises(ValueError, match="target 0 is not allowed in the pool"):
        ranks(score, zero, zero, None, torch.tensor([False, True, True, True]))


def by_hand(scores: np.ndarray, target: int, excluded: list[int], allowed: np.ndarray) -> int:
    others = [k for k in range(len(scores)) if k != target and k not in excluded and allowed[k]]
    return sum(scores[k] >= scores[target] for k in others)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_ranks_count_ties_against_us_and_pass_over_what_is_not_in_the_pool(data: st.DataObject) -> None:
    n, q = data.draw(st.integers(3, 12)), data.draw(st.integers(1, 5))
    values = data.draw(st.lists(st.lists(st.integers(0, 4), min_size=n, max_size=n), min_size=q, max_size=q))
    scores = torch.tensor(values, dtype=torch.float32)
    allowed = torch.tensor(data.draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    allowed[0] = True
    own = [data.draw(st.integers(0, n - 1)) for _ in range(q)]
    free = [[k for k in range(n) if allowed[k] and k != own[row]] for row in range(q)]
    pairs = [(row, k) for row in range(q) for k in free[row][:3]]
    if not pairs:
        return
    query_of, targets = (torch.tensor(part) for part in zip(*pairs, strict=True))
    score = floors.by_rows(lambda numbers: scores[numbers], q, n)
    found = ranks(score, targets, query_of, own_rows(own), allowed)
    wanted = [by_hand(scores[row].numpy(), k, [own[row]], allowed.numpy()) for row, k in pairs]
    assert found.tolist() == wanted


def test_a_model_that_gives_all_items_one_vector_finds_nothing() -> None:
    same = torch.ones(50, 4)
    found = ranks(dot(same[:5], same), torch.arange(10, 15), torch.arange(5), own_rows(range(5)))
    assert found.tolist() == [48] * 5


def test_memory_is_that_of_a_block_and_not_of_all_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    queries, pool = units(100, 4, 0), units(300, 4, 1)
    targets = torch.randint(0, 300, (100,), generator=torch.Generator().manual_seed(4))
    whole = ranks(dot(queries, pool), targets, torch.arange(100))
    monkeypatch.setattr(retrieval, "QUERIES", 8)
    monkeypatch.setattr(retrieval, "CELLS", 8 * 20)
    plain, largest = dot(queries, pool), []

    def watched(rows: torch.Tensor, columns: slice) -> torch.Tensor:
        block = plain.block(rows, columns)
        largest.append(block.numel())
        return block

    small = ranks(replace(plain, block=watched), targets, torch.arange(100))
    assert max(largest) == 8 * 20
    assert torch.equal(small, whole)


def test_metrics_are_those_of_scikit_learn_and_of_counting() -> None:
    rng = np.random.default_rng(0)
    scores, relevant = rng.random((7, 40)), rng.random((7, 40)) < 0.12
    relevant[:, 0] = True
    query_of, targets = (torch.tensor(part) for part in relevant.nonzero())
    score = floors.by_rows(lambda n: torch.tensor(scores)[n], 7, 40)
    found = retrieval_scores(ranks(score, targets, query_of), query_of, 7, (1, 5, 20, 100))
    for row in range(7):
        order = np.argsort(-scores[row])
        hits = relevant[row][order]
        for k in (1, 5, 20, 100):
            assert found[f"recall_at_{k}"][row] == pytest.approx(hits[:k].sum() / relevant[row].sum())
            wanted = ndcg_score(relevant[row][None].astype(float), scores[row][None], k=k)
            assert found[f"ndcg_at_{k}"][row] == pytest.approx(wanted)
        assert found["mrr"][row] == pytest.approx(1 / (1 + int(np.flatnonzero(hits)[0])))
    assert list(found) == metric_names((1, 5, 20, 100))


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(1, 3)), max_size=30))
def test_no_item_stands_in_two_test_pairs_and_none_that_fits_is_left_out(pairs: list[tuple[int, int, int]]) -> None:
    a, b, weight = (
        (np.array(part, np.int64) for part in zip(*pairs, strict=True)) if pairs else (np.zeros(0, np.int64),) * 3
    )
    kept = one_pair_each(a, b, weight.astype(float))
    ends = list(itertools.chain.from_iterable((int(a[k]), int(b[k])) for k in kept))
    assert len(ends) == len(set(ends))
    assert kept.tolist() == sorted(kept.tolist())
    for k in range(len(a)):
        assert a[k] == b[k] or k in kept or {int(a[k]), int(b[k])} & set(ends)
    real = [k for k in range(len(a)) if a[k] != b[k]]
    if real:
        assert max(weight[k] for k in real) == max(weight[k] for k in kept)


def test_the_lower_third_is_by_the_first_tercile() -> None:
    short, edge = lower_third(np.arange(1, 31))
    assert short.sum() == 10
    assert edge == 10


@pytest.mark.parametrize("dim", [3, 768, 4_096])
def test_equal_vectors_tie_wherever_they_stand_in_the_pool(dim: int) -> None:
    """Rounding of a matrix product depends on the place, so ties are meant up to it; a target never counts itself."""
    pool = units(700, dim, 8)
    copies = torch.tensor([0, 5, 63, 64, 300, 511, 512, 699])
    pool[copies] = pool[0].clone()
    queries = units(9, dim, 9)
    found = ranks(dot(queries, pool), copies.repeat(9), torch.arange(9).repeat_interleave(8)).view(9, 8)
    before = (queries.double() @ pool.double().T > (queries.double() @ pool[0].double())[:, None] + 1e-6).sum(1)
    assert torch.equal(found, (before + 7)[:, None].expand(9, 8))


def test_a_score_that_is_no_number_stands_before_the_target_and_is_no_target() -> None:
    scores = torch.tensor([[0.5, torch.nan, 0.1, torch.inf, -torch.inf]])
    score, zero = floors.by_rows(lambda numbers: scores[numbers], 1, 5), torch.tensor([0])
    assert ranks(score, zero, zero).tolist() == [2]
    for bad in (1, 3, 4):
        with pytest.raises(ValueError, match=f"target {bad} is not finite"):
            ranks(score, torch.tensor([bad]), zero)


def test_what_does_not_fit_is_named() -> None:
    score, zero = dot(units(2, 3, 0), units(4, 3, 1)), torch.tensor([0])
    with pytest.raises(ValueError, match="excluded for its own query"):
        ranks(score, torch.tensor([2]), zero, own_rows([2, -1]))
    assert len(ranks(score, torch.tensor([2]), zero, own_rows([-1, 2]))) == 1
    with pytest.raises(ValueError, match="target out of range: 2 queries, 4 pool rows"):
        ranks(score, torch.tensor([4]), zero)
    with pytest.raises(ValueError, match=r"shape \(2, 3\) do not fit a pool of shape \(4, 5\)"):
        top_k(units(2, 3, 0), units(4, 5, 1), 1)
    with pytest.raises(ValueError, match="exclusion out of range"):
        top_k(units(2, 3, 0), units(4, 3, 1), 1, torch.tensor([[2], [0]]))
    with pytest.raises(ValueError, match="query 1 is not finite"):
        top_k(torch.tensor([[1.0, 0.0], [torch.nan, 1.0]]), units(4, 2, 1), 1)


def test_a_query_without_relevant_items_has_no_scores() -> None:
    found = retrieval_scores(torch.tensor([0, 4]), torch.tensor([0, 2]), 4, (1, 5))
    assert np.isnan(found["mrr"]).tolist() == [False, True, False, True]
    assert found["recall_at_5"][[0, 2]].tolist() == [1, 1]
    assert found["ndcg_at_5"][2] == pytest.approx(1 / np.log2(6))
    assert all(np.isnan(column[[1, 3]]).all() for column in found.values())


def test_many_queries_are_screened_on_the_way_and_find_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SCREENED_POOL": 1_000, "SCREENED_WIDTH": 32}.items():
        monkeypatch.setattr(retrieval, name, value)
    made = []
    monkeypatch.setattr(retrieval, "Screen", type("Seen", (Screen,), {"__init__": _noting(made)}))
    queries, pool = units(256, 64, 3), units(2_000, 64, 4)
    few, many = top_k(queries[:255], pool, 5), top_k(queries, pool, 5)
    assert made == ([1] if usable() else [])
    assert torch.equal(many[1][:255], few[1])


def _noting(made: list[int]) -> Callable[..., None]:
    def init(self: Screen, pool: torch.Tensor) -> None:
        made.append(1)
        Screen.__init__(self, pool)

    return init


def test_short_ones_of_nothing_are_none() -> None:
    mask, edge = lower_third([])
    assert (mask.tolist(), edge) == ([], 0)


def test_a_million_pairs_are_thinned_in_seconds() -> None:
    draw = np.random.default_rng(0)
    a, b = draw.integers(0, 300_000, (2, 1_000_000))
    start = time.process_time()
    kept = one_pair_each(a, b, draw.random(1_000_000))
    assert time.process_time() - start < 20
    ends = np.concatenate([a[kept], b[kept]])
    assert len(np.unique(ends)) == len(ends) > 200_000

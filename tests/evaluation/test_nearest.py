"""Exact neighbours by blocks, against a full sort."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.evaluation import nearest
from latefuse.evaluation.nearest import Best, Excluded, hide, pair_scores, scan, where


def drawn(rows: int, dim: int, seed: int) -> torch.Tensor:
    return torch.randn(rows, dim, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_any_blocks_any_exclusions_give_the_best_of_a_full_sort(data: st.DataObject) -> None:
    """Small whole numbers, so that there are many ties: the scores are then the same whoever wins a tie."""
    q, n, k = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 12))
    draw = torch.Generator().manual_seed(data.draw(st.integers(0, 99)))
    queries, pool = (torch.randint(-2, 3, (rows, 3), generator=draw).double() for rows in (q, n))
    k = min(k, n)
    count = data.draw(st.integers(0, 12))
    banned = torch.stack([torch.randint(0, high, (count,), generator=draw) for high in (q, n)])
    full = queries @ pool.T
    full[banned[0], banned[1]] = -torch.inf
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "QUERIES", data.draw(st.integers(1, 4)))
        patch.setattr(nearest, "CELLS", data.draw(st.integers(8, 60)))
        scores, places = scan(queries, pool, k, banned)
    assert torch.equal(scores, full.topk(k).values)
    there = places >= 0
    assert torch.equal(there, scores > -torch.inf)
    assert torch.equal(full.gather(1, places.clamp_min(0))[there], scores[there])
    for row in range(q):
        assert len(set(places[row][there[row]].tolist())) == int(there[row].sum())


def test_no_block_of_scores_is_larger_than_promised(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many queries and pool rows there are."""
    monkeypatch.setattr(nearest, "CELLS", 4_096)
    monkeypatch.setattr(nearest, "QUERIES", 16)
    sizes, plain = [], torch.mm

    def watched(a: torch.Tensor, b: torch.Tensor, out: torch.Tensor) -> torch.Tensor:
        sizes.append(out.numel())
        return plain(a, b, out=out)

    monkeypatch.setattr(torch, "mm", watched)
    for rows in (50, 500):
        scan(drawn(rows, 4, 0), drawn(10 * rows, 4, 1), 3)
    assert max(sizes) <= 4_096
    assert len(sizes) > 100


@pytest.mark.parametrize("shape", [(1, 1), (3, 8), (5, 7), (2, 64), (1, 9)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_where_finds_what_nonzero_finds(shape: tuple[int, int], share: float) -> None:
    mask = torch.rand(shape, generator=torch.Generator().manual_seed(3)) < share
    assert torch.stack(where(mask), 1).tolist() == mask.nonzero().tolist()
    levels = mask.to(torch.uint8) * 200
    assert torch.stack(where(levels), 1).tolist() == mask.nonzero().tolist()


def test_single_pairs_have_the_scores_of_the_product(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "PAIRS", 7)
    queries, pool = drawn(5, 6, 0), drawn(30, 6, 1)
    query, index = torch.arange(100) % 5, torch.arange(100) % 30
    torch.testing.assert_close(pair_scores(queries, pool, query, index), (queries @ pool.T)[query, index])
    assert len(pair_scores(queries, pool, query[:0], index[:0])) == 0


def test_what_was_offered_in_turns_is_as_if_offered_at_once() -> None:
    scores = drawn(4, 50, 5)
    query, index = (part.flatten() for part in torch.meshgrid(torch.arange(4), torch.arange(50), indexing="ij"))
    best = Best(4, 6, scores)
    for part in torch.randperm(200, generator=torch.Generator().manual_seed(0)).split(13):
        best.offer(query[part], index[part], scores[query[part], index[part]])
    assert torch.equal(best.scores, scores.topk(6).values)
    assert torch.equal(best.indices, scores.topk(6).indices)


def test_exclusions_of_a_few_queries_land_in_their_rows() -> None:
    pairs = torch.tensor([[4, 0, 4, 7, 2], [1, 2, 9, 3, 5]])
    scores = torch.zeros(3, 4)
    hide(scores, Excluded(pairs, pairs.device).of(torch.tensor([2, 4, 8])), 1)
    assert (scores == -torch.inf).nonzero().tolist() == [[1, 0]]
    hide(scores, Excluded(None, pairs.device).of(torch.tensor([2, 4, 8])), 1)
    assert int((scores == -torch.inf).sum()) == 1


def test_a_row_that_is_not_finite_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "ROWS", 4)
    rows = drawn(10, 3, 0)
    nearest.check_finite(rows, "query")
    for bad in (torch.nan, torch.inf, -torch.inf):
        rows[6, 1] = bad
        with pytest.raises(ValueError, match="query 6 is not finite"):
            nearest.check_finite(rows, "query")
    rows[6, 2] = torch.inf
    with pytest.raises(ValueError, match="query 6"):
        nearest.check_finite(rows, "query")

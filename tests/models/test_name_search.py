"""The search for a name's rank against scoring the whole list."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from latefuse.fusion.scores import mix
from latefuse.models.closed_list import Prompts, build_trie, node_hidden
from latefuse.models.name_search import TOP, Walk, ladder, search

ROWS = 12


@pytest.fixture
def names() -> list[list[int]]:
    """150 names of one to four words, some the beginning of others, each with its end token."""
    draw = random.Random(0)
    found = {tuple(draw.choices(range(40, 46), k=draw.randint(1, 4))) for _ in range(400)}
    return [[*name, 2] for name in sorted(found)[:150]]


@pytest.fixture
def prompts() -> Prompts:
    """Left-padded prompts of different lengths."""
    draw = torch.Generator().manual_seed(0)
    ids = torch.randint(30, 60, (ROWS, 7), generator=draw)
    mask = torch.ones_like(ids)
    for row in range(ROWS):
        mask[row, : row % 4] = 0
    return Prompts(ids, mask, None)


def _sharp(backbone: Any, factor: float) -> None:
    """A bare random model is flat: scaled up, names differ by many nats and the beam drops some for good."""
    head = backbone.model.get_output_embeddings()
    head.weight.data = head.weight.data * factor


def _all_scores(backbone: Any, prompts: Prompts, names: list[list[int]]) -> torch.Tensor:
    tree = build_trie(names)
    states = torch.cat([hidden for _, hidden in node_hidden(backbone, prompts, tree)], dim=1)
    return torch.log_softmax(backbone.logits(states).float(), dim=-1)


@pytest.mark.parametrize("factor", [1.0, 40.0])
@pytest.mark.parametrize("beam", [1, 4, 1_000])
def test_ranks_are_those_of_the_whole_list(
    fresh_backbone: Callable[..., Any], prompts: Prompts, names: list[list[int]], factor: float, beam: int
) -> None:
    backbone = fresh_backbone()
    _sharp(backbone, factor)
    tree = build_trie(names)
    scores = tree.sum(_all_scores(backbone, prompts, names))
    truths = torch.randint(0, len(names), (ROWS,), generator=torch.Generator().manual_seed(1))
    truths[:4] = scores.argmax(dim=1)[:4]
    truths[4:7] = scores.topk(5, dim=1).indices[4:7, 4]
    found = search([Walk(backbone, prompts, nullcontext)], ladder(tree), truths, beam=beam)
    expected = (scores > scores.gather(1, truths[:, None]) + 1e-4).sum(dim=1)
    assert (found.rank.clamp(max=TOP) == expected.clamp(max=TOP)).all()
    assert found.rank[:4].tolist() == [0] * 4
    if beam == 1_000:
        assert (found.top == scores.topk(TOP, dim=1).indices).all()


def test_a_mixture_with_absent_members(
    fresh_backbone: Callable[..., Any], prompts: Prompts, names: list[list[int]]
) -> None:
    one, other = fresh_backbone(seed=0), fresh_backbone(seed=1)
    for backbone in (one, other):
        _sharp(backbone, 30.0)
    tree, weights = build_trie(names), torch.tensor([0.8, 0.3])
    present = torch.tensor([[k % 3 != 1 for k in range(ROWS)], [k % 3 != 2 for k in range(ROWS)]])
    members = [_all_scores(backbone, prompts, names) for backbone in (one, other)]
    stacked = torch.stack(members)
    mixed = mix(stacked, weights, present.unsqueeze(-1).expand(stacked.shape[:-1]))
    scores = tree.sum(mixed)
    truths = scores.topk(4, dim=1).indices[:, 3]
    walks = [Walk(backbone, prompts, nullcontext) for backbone in (one, other)]
    places = torch.where(present, torch.arange(ROWS), -1)
    found = search(walks, ladder(tree), truths, weights, places, beam=2)
    assert found.rank.tolist() == [3] * ROWS


def test_rows_may_be_asked_again_in_any_order(
    fresh_backbone: Callable[..., Any], prompts: Prompts, names: list[list[int]]
) -> None:
    backbone = fresh_backbone()
    _sharp(backbone, 40.0)
    tree, order = ladder(build_trie(names)), torch.tensor([5, 5, 0, 11])
    truths = torch.arange(ROWS)
    walk = Walk(backbone, prompts, nullcontext)
    straight = search([walk], tree, truths, beam=1_000)
    again = search([walk.at(order)], tree, truths[order], beam=1_000)
    assert (again.rank == straight.rank[order]).all()
    assert (again.top == straight.top[order]).all()


def test_weights_that_are_no_numbers_are_refused(
    fresh_backbone: Callable[..., Any], prompts: Prompts, names: list[list[int]]
) -> None:
    backbone = fresh_backbone()
    _sharp(backbone, float("nan"))
    with pytest.raises(ValueError, match="not a number"):
        search([Walk(backbone, prompts, nullcontext)], ladder(build_trie(names)), torch.zeros(ROWS, dtype=torch.long))

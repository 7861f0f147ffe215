"""VBPR against its formula, and on users who choose by what they see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latefuse.evaluation import vbpr
from latefuse.evaluation.next_item import among, row_values
from latefuse.evaluation.sequences import NextItems, Sequences
from latefuse.evaluation.vbpr import How, VisualFactors

RNG = np.random.default_rng(0)
USERS, ITEMS, SMALL = 120, 80, How(width=16, visual=8, rate=2e-2, most=20, patience=5)
LOOKS = torch.from_numpy(RNG.normal(size=(ITEMS, 6))).float()
TASTE = RNG.normal(size=(USERS, 6))
CHOICES = [np.argsort(-(LOOKS.numpy() @ taste) + 0.5 * RNG.gumbel(size=ITEMS))[:9] for taste in TASTE]
COLD = np.arange(ITEMS) % 8 == 0
"""Items that no training history holds."""
EVERY = torch.ones(ITEMS, dtype=torch.bool)


def _rows() -> tuple[Sequences, NextItems, NextItems]:
    """Training, validation, and the cold items that were chosen."""
    warm = [row[~COLD[row]] for row in CHOICES]
    train = Sequences.of([row[:-1] for row in warm])
    valid = NextItems(np.arange(USERS), train, np.array([row[-1] for row in warm]))
    users = np.array([user for user, row in enumerate(CHOICES) for item in row if COLD[item]])
    target = np.array([item for row in CHOICES for item in row if COLD[item]])
    return train, valid, NextItems(users, train.take(users), target)


def test_scores_are_the_formula() -> None:
    torch.manual_seed(0)
    seen = torch.arange(ITEMS) % 5 > 0
    model = VisualFactors(USERS, LOOKS, seen, SMALL)
    torch.nn.init.normal_(model.bias.weight)
    torch.nn.init.normal_(model.absent)
    asked = NextItems(np.array([3, 7]), Sequences.of([[], []]), np.array([0, 0]))
    found = model.scorer(asked).block(torch.arange(2), slice(0, ITEMS))
    known = LOOKS[seen]
    for row, user in enumerate((3, 7)):
        p, v = model.user.weight[user].split([8, 8])
        for item in range(ITEMS):
            look = (LOOKS[item] - known.mean(0)) / known.std() if seen[item] else model.absent
            told: torch.Tensor = model.bias.weight[item, 0] + p @ model.item.weight[item]
            told = told + v @ (model.visual.weight[:8] @ look) + model.visual.weight[8] @ look
            assert float(found[row, item]) == pytest.approx(told.item(), abs=1e-4)


def test_the_loss_is_one_term_a_row() -> None:
    user, a, b = torch.randn(3, 40, 5, generator=torch.Generator().manual_seed(0)).double()
    apart = [(user[row] @ a[row] - user[row] @ b[row]).item() for row in range(40)]
    assert float(vbpr.pairwise(user, a, b)) == pytest.approx(np.mean([np.log1p(np.exp(-one)) for one in apart]))


def test_pictures_find_what_nobody_chose_before() -> None:
    """Among the ten that no history holds: beside others they are last, for training has seen them as wrong alone."""
    train, valid, cold = _rows()
    assert len(cold) > 60
    found, candidates = {}, np.tile(np.flatnonzero(COLD), (len(cold), 1))
    another = torch.randperm(ITEMS, generator=torch.Generator().manual_seed(0))
    for name, looks in (("true", LOOKS), ("shuffled", LOOKS[another])):
        model, chosen = vbpr.train(train, valid, looks, EVERY, SMALL)
        assert chosen.best > 0
        found[name] = row_values(among(model.scorer(cold), candidates, cold.target), (3,))["hr_at_3"].mean()
    assert found["true"] > 0.6
    assert found["shuffled"] < 0.45


def test_the_same_seed_gives_the_same_model() -> None:
    train, valid, _ = _rows()
    short = replace(SMALL, most=2)
    state = torch.get_rng_state()
    one, two = (vbpr.train(train, valid, LOOKS, EVERY, short)[0].user.weight for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(torch.get_rng_state(), state)


def test_others_are_not_what_the_user_has() -> None:
    had = np.unique(np.repeat(np.arange(USERS), 9) * ITEMS + np.concatenate(CHOICES))
    user = np.repeat(np.arange(USERS), 50)
    other = vbpr._others(user, had, ITEMS, np.random.default_rng(0))
    assert not np.isin(user * ITEMS + other, had).any()
    assert np.bincount(other, minlength=ITEMS).min() > 0


def test_without_any_picture_factors_remain() -> None:
    train, valid, _ = _rows()
    model, _ = vbpr.train(train, valid, LOOKS, ~EVERY, SMALL)
    assert torch.isfinite(model.scorer(valid).block(torch.arange(3), slice(0, ITEMS))).all()
    with pytest.raises(ValueError, match="no training history has an item"):
        vbpr.train(Sequences.of([[]] * 3), valid, LOOKS, EVERY)

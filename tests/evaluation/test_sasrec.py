"""The sequential control: it learns an order, sees no future, and reads what it should of windows."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latefuse.evaluation import sasrec
from latefuse.evaluation.next_item import full, row_values
from latefuse.evaluation.sasrec import How, SASRec
from latefuse.evaluation.sequences import NextItems, Sequences

ITEMS = 30
SMALL = How(width=16, length=8, rate=1e-2, batch=32, most=25, patience=6, dropout=0.0)
STARTS = np.random.default_rng(0).integers(0, ITEMS, 80)
ROUND = Sequences.of([(start + 7 * np.arange(12)) % ITEMS for start in STARTS])
"""Every item is followed by the one seven further on."""


def _asked(count: int = 40, length: int = 5) -> NextItems:
    starts = np.arange(count) % ITEMS
    rows = [(start + 7 * np.arange(length)) % ITEMS for start in starts]
    return NextItems(np.arange(count), Sequences.of(rows), (starts + 7 * length) % ITEMS)


@pytest.fixture(scope="module")
def trained() -> tuple[SASRec, list[float]]:
    model, chosen = sasrec.train(ROUND, _asked(), ITEMS, SMALL)
    return model, chosen.curve


def test_an_order_is_learned(trained: tuple[SASRec, list[float]]) -> None:
    model, curve = trained
    for asked in (_asked(), _asked(30, 3)):
        assert row_values(full(model.scorer(asked), asked))["hr_at_1"].mean() > 0.9
    assert curve[0] < 0.4 < 0.9 < max(curve)


def test_what_is_asked_for_before_anything_was_chosen(trained: tuple[SASRec, list[float]]) -> None:
    empty = NextItems(np.zeros(1, int), Sequences.of([[]]), np.array([3]))
    assert 0 <= full(trained[0].scorer(empty), empty)[0] < ITEMS


def test_the_same_seed_gives_the_same_model_and_draws_nothing_from_others() -> None:
    short = replace(SMALL, most=2, dropout=0.2)
    before = torch.get_rng_state()
    one, two, three = (
        sasrec.train(ROUND, _asked(), ITEMS, how)[0].item.weight for how in (short, short, replace(short, seed=1))
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(one, two)
    assert not torch.equal(one, three)


def test_no_state_sees_what_comes_later(trained: tuple[SASRec, list[float]]) -> None:
    codes = torch.arange(8)[None]
    later = codes.clone()
    later[0, 5:] = 20
    a, b = trained[0](codes), trained[0](later)
    assert torch.allclose(a[:, :6], b[:, :6], atol=1e-6)
    assert not torch.allclose(a[:, 6:], b[:, 6:], atol=1e-3)


def test_only_the_newest_items_are_read(trained: tuple[SASRec, list[float]]) -> None:
    newest = list(range(8))
    asked = NextItems(np.arange(2), Sequences.of([newest, [25, 26, *newest]]), np.array([9, 9]))
    scores = trained[0].scorer(asked).block(torch.arange(2), slice(0, ITEMS))
    assert torch.allclose(scores[0], scores[1], atol=1e-5)


def test_windows_hold_every_item_once() -> None:
    lengths = np.random.default_rng(1).integers(0, 30, 30).tolist()
    rows = [list(range(30 * row, 30 * row + length)) for row, length in enumerate(lengths)]
    codes, found_lengths = sasrec._windows(sasrec._cut(Sequences.of(rows), 8))
    found = [row[:length].tolist() for row, length in zip(codes, found_lengths, strict=True)]
    assert sorted(item for row in found for item in row) == sorted(item for row in rows for item in row)
    assert all(row == list(range(row[0], row[0] + len(row))) for row in found)
    assert max(map(len, found)) == 8


def test_nothing_to_learn_from_is_refused() -> None:
    with pytest.raises(ValueError, match="no training history has an item"):
        sasrec.train(Sequences.of([[], []]), _asked(), ITEMS, SMALL)

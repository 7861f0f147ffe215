"""BPR by the library, beside VBPR without pictures; without the library, the reason."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from latefuse.evaluation import bpr, vbpr
from latefuse.evaluation.bpr import How
from latefuse.evaluation.next_item import full, row_values
from latefuse.evaluation.retrieval import Scorer
from latefuse.evaluation.sequences import NextItems, Sequences

USERS, ITEMS = 150, 90
SMALL = How(width=16, rounds=(5, 60))


def _rows() -> tuple[Sequences, NextItems, NextItems]:
    """Users of three kinds, each of which chooses among thirty items."""
    rng = np.random.default_rng(0)
    lists = [30 * (user % 3) + rng.choice(30, 12, replace=False) for user in range(USERS)]
    train = Sequences.of([row[:-2] for row in lists])
    valid, test = (NextItems(np.arange(USERS), train, np.array([row[end] for row in lists])) for end in (-2, -1))
    return train, valid, test


def _found(score: Scorer, asked: NextItems) -> float:
    return float(row_values(full(score, asked))["hr_at_10"].mean())


def test_kinds_of_users_are_found_as_by_our_own_factors() -> None:
    pytest.importorskip("implicit")
    train, valid, test = _rows()
    score = bpr.train(train, valid, ITEMS, test, SMALL)
    theirs = _found(score, test)
    model, _ = vbpr.train(
        train, valid, torch.zeros(ITEMS, 2), torch.zeros(ITEMS, dtype=torch.bool), vbpr.How(16, 1, 2e-2, most=25)
    )
    ours = _found(model.scorer(test), test)
    assert theirs > 0.3  # 10 of 80 by lot, 10 of 20 where the kind is known
    assert ours == pytest.approx(theirs, abs=0.12)
    again = bpr.train(train, valid, ITEMS, test, SMALL)
    assert torch.equal(*(one.block(torch.arange(5), slice(0, ITEMS)) for one in (score, again)))


def test_no_rounds_are_refused() -> None:
    pytest.importorskip("implicit")
    train, valid, test = _rows()
    with pytest.raises(ValueError, match="set `rounds`"):
        bpr.train(train, valid, ITEMS, test, replace(SMALL, rounds=()))


def test_without_the_library_the_reason_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bpr, "find_spec", lambda name: None)
    assert "pip install 'latefuse[controls]'" in bpr.missing()
    with pytest.raises(RuntimeError, match="implicit is not installed"):
        bpr.train(*_rows()[:2], ITEMS, _rows()[2])


def test_a_library_that_can_not_be_loaded_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> None:
        raise ImportError("libgomp.so.1: cannot open shared object file")

    monkeypatch.setattr(bpr, "import_module", fail)
    assert (
        bpr.missing() == "BPR is not measured: implicit can't be loaded: libgomp.so.1: cannot open shared object file"
    )
    train, valid, test = _rows()
    with pytest.raises(RuntimeError, match="libgomp"):
        bpr.train(train, valid, ITEMS, test, SMALL)

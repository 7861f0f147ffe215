"""Candidates: never had, each once, uniform, the same for a seed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from small_shop import shop

from latefuse.data import candidates as drawing
from latefuse.data.candidates import candidates, negatives, shuffled
from latefuse.data.errors import DataError
from latefuse.data.histories import Histories, histories, targets


@pytest.fixture
def found(tmp_path: Path) -> Histories:
    return histories(shop(tmp_path, [9, 3, 20, 40, 5] * 20, items=60))


def had(found: Histories, user: int, splits: int = 3) -> set[int]:
    return set(found.item[(found.user == user) & (found.split < splits)].tolist())


@pytest.mark.parametrize("chunk", [7, 16_384])
def test_a_row_holds_the_item_and_others_never_had(
    found: Histories, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "CHUNK", chunk)
    for split in ("valid", "test"):
        asked = targets(found, split)
        lists = candidates(found, asked, split, 20, seed=5)
        assert lists.shape == (len(asked), 20)
        for row, user, item in zip(lists.tolist(), asked.user, asked.item, strict=True):
            assert len(set(row)) == 20
            assert set(row) & had(found, user) == {item}
        places = (lists == asked.item[:, None]).argmax(1)
        assert len(set(places.tolist())) > 16, "the item stands anywhere"


def test_candidates_hang_on_the_seed_and_the_split(found: Histories) -> None:
    asked = targets(found, "test")
    first = candidates(found, asked, "test", 20, 1)
    np.testing.assert_array_equal(candidates(found, asked, "test", 20, 1), first)
    assert not np.array_equal(candidates(found, asked, "test", 20, 2), first)
    assert not np.array_equal(candidates(found, asked, "valid", 20, 1), first)


def test_training_negatives_may_be_held_out_items_and_those_of_tests_never(found: Histories) -> None:
    """Else what never comes as a negative would tell the test item."""
    asked = targets(found, "train")
    drawn = negatives(found, asked.user, asked.item, "train", 15, 0)
    held = {int(user): had(found, user) - had(found, user, 1) for user in set(asked.user)}
    assert all(set(row) & had(found, user, 1) == set() for row, user in zip(drawn.tolist(), asked.user, strict=True))
    assert any(set(row) & held[user] for row, user in zip(drawn.tolist(), asked.user.tolist(), strict=True))


def test_negatives_are_uniform(found: Histories) -> None:
    user = np.full(4000, found.users.index("u1"))
    free = sorted(set(range(60)) - had(found, user[0]))
    drawn = negatives(found, user, np.full(4000, 0), "test", 10, 0)
    counts = np.bincount(drawn.ravel(), minlength=60)[[one for one in free if one]]
    expected = 4000 * 10 / len(counts)
    assert np.abs(counts - expected).max() < 5 * np.sqrt(expected)


def test_users_who_had_nearly_everything(found: Histories) -> None:
    user = found.users.index("u3")
    one = np.array([user])
    item = np.array(sorted(had(found, user))[:1])
    drawn = negatives(found, one, item, "test", 20, 0)[0]
    assert set(drawn.tolist()) == set(range(60)) - had(found, user)
    with pytest.raises(DataError, match=r"21 negatives for user 'u3', who had 40 of 60 items: ask for fewer"):
        negatives(found, one, item, "test", 21, 0)


def test_shuffled_rows_keep_what_they_hold() -> None:
    rows = shuffled(np.arange(5), np.arange(5, 25).reshape(5, 4), 0)
    assert [sorted(row) for row in rows.tolist()] == [[k, *range(5 + 4 * k, 9 + 4 * k)] for k in range(5)]

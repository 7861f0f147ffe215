"""Prompts as tensors: every token and every picture lands where the row has it."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from small_prompts import ITEMS, batch, rows

from latefuse import config_personal
from latefuse.models.prompted import IGNORED, collate
from latefuse.prompts import personal
from latefuse.prompts.personal.template import Family


@pytest.mark.parametrize("k", [0, 1, 2, 3])
def test_a_batch_holds_its_rows_place_by_place(k: int):
    made = rows(7, k)
    vectors, seen = torch.randn(ITEMS, 3), torch.arange(ITEMS) < ITEMS - 1
    found = collate(made, 9, k, vectors, seen)
    length, answer = max(len(row.ids) for row in made), max(len(row.target) for row in made)
    assert found.ids.shape == found.mask.shape == found.words.shape == found.visual.shape == (7, length)
    assert found.labels.shape == (7, answer)
    for number, row in enumerate(made):
        for place in range(length):
            there = place < len(row.ids)
            assert bool(found.mask[number, place]) is there
            assert found.ids[number, place] == (row.ids[place] if there else 9)
            assert found.words[number, place] == (row.words[place] if there else 0)
            visual = int(found.visual[number, place])
            assert (visual >= 0) is (there and row.items[place] >= 0)
            if visual >= 0:
                assert visual % k == row.slot[place]
                assert torch.equal(found.pictures[visual // k], vectors[row.items[place]])
                assert found.seen[visual // k] == seen[row.items[place]]
        target = found.labels[number].tolist()
        assert target == [*row.target, *[IGNORED] * (answer - len(row.target))]
        assert config_personal.PROMPT_FAMILIES[found.family[number]] == row.family


def test_a_picture_stands_in_a_batch_once():
    found = batch(rows(30))
    assert len(found.pictures) == ITEMS == len({tuple(one.tolist()) for one in found.pictures})


def test_families_have_one_order():
    assert config_personal.PROMPT_FAMILIES == personal.FAMILIES == get_args(Family)

"""Ids of items: a permutation that can be drawn anew, and codes that begin alike where items are alike."""

from __future__ import annotations

import numpy as np

from latefuse.data import splits
from latefuse.prompts.personal import ids

KEYS = [f"item-{number}" for number in range(90)]


def blobs(seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """90 vectors in three far groups of three near groups of ten; (vectors, group of nine)."""
    rng = np.random.default_rng(seed)
    group = rng.permutation(np.repeat(np.arange(9), 10))
    centres = np.stack([100 * (np.arange(9) // 3), 10 * (np.arange(9) % 3)], axis=1)
    return centres[group] + rng.normal(0, 0.1, (90, 2)), group


def test_numbers_are_the_stored_ones_and_permutations_hang_on_the_seed_alone() -> None:
    assert ids.numbers(np.array([3, 0, 12])) == ["3", "0", "12"]
    first, again, other = (ids.permuted(KEYS, seed) for seed in (1, 1, 2))
    assert first == again != other
    for found in (first, other):
        assert sorted(map(int, found)) == list(range(90))
    stored = splits.numbers(splits.uniform(KEYS, "number:1"))
    assert first == ids.numbers(stored), "as prepare draws them"
    moved = ids.permuted(KEYS[::-1], 1)
    assert moved[::-1] == first, "the order of the table plays no part"


def test_items_that_are_alike_begin_alike_and_all_ids_differ() -> None:
    vectors, group = blobs()
    found = ids.semantic(vectors, np.ones(90, bool), KEYS, seed=0, levels=2, branches=3)
    assert len(set(found)) == 90
    codes = np.array([[int(word[1:]) for word in one.split()] for one in found])
    assert [word[0] for word in found[0].split()] == ["a", "b", "c"]
    for level, part in ((1, group // 3), (2, group)):
        same = (codes[:, None, :level] == codes[None, :, :level]).all(-1)
        assert np.array_equal(same, part[:, None] == part[None, :])
    for one in range(9):
        assert sorted(codes[group == one, 2]) == list(range(10)), "the last code counts within a leaf"


def test_semantic_ids_are_repeatable_and_three_levels_by_default() -> None:
    vectors, _ = blobs()
    seen = np.ones(90, bool)
    first = ids.semantic(vectors, seen, KEYS, 3)
    assert ids.semantic(vectors, seen, KEYS, 3) == first
    assert {len(one.split()) for one in first} == {4}
    last = [one.split()[-1] for one in ids.semantic(np.zeros((90, 2)), seen, KEYS, 3)]
    assert last != [one.split()[-1] for one in ids.semantic(np.zeros((90, 2)), seen, KEYS, 4)]
    assert sorted(int(code[1:]) for code in last) == list(range(90))
    assert last != [f"d{number}" for number in range(90)], "not in the order of the table"


def test_items_without_a_vector_share_a_branch_of_their_own() -> None:
    vectors, _ = blobs()
    seen = np.arange(90) % 4 > 0
    found = ids.semantic(np.where(seen[:, None], vectors, np.nan), seen, KEYS, 0)
    absent = {" ".join(one.split()[:-1]) for one, here in zip(found, seen, strict=True) if not here}
    present = {" ".join(one.split()[:-1]) for one, here in zip(found, seen, strict=True) if here}
    assert len(absent) == 1
    assert not absent & present
    assert len(set(found)) == 90
    assert len(set(ids.semantic(np.zeros((5, 2)), np.zeros(5, bool), KEYS[:5], 0))) == 5

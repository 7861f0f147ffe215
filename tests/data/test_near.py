"""The join finds exactly what a comparison of all pairs finds."""

from __future__ import annotations

import itertools
import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pytest

from latefuse.data import near as module
from latefuse.data.near import Near, Texts
from latefuse.data.shingles import words

TEMPLATE = ["please", "tell", "me", "how", "to", "cook"]


def joined(
    folder: Path, texts: Iterable[str], jaccard: float = 0.8, groups: Sequence[int] | None = None, **options: object
) -> Near:
    index = Texts(folder, **options)  # type: ignore[arg-type]  # shingle and ignore
    for number, text in enumerate(texts):
        index.add(text, groups[number] if groups else 0)
    return index.near(jaccard)


def all_pairs(found: Near) -> set[tuple[int, int]]:
    members = defaultdict(list)
    for text, first in enumerate(found.first):
        members[int(first)].append(text)
    pairs = {pair for group in members.values() for pair in itertools.combinations(group, 2)}
    for a, b in found.pairs.tolist():
        pairs |= {(min(pair), max(pair)) for pair in itertools.product(members[a], members[b])}
    return pairs


def brute_force(texts: Sequence[Sequence[str]], jaccard: float, size: int = 5) -> set[tuple[int, int]]:
    sets = [set(zip(*(text[k:] for k in range(size)), strict=False)) for text in texts]
    return {
        (a, b)
        for a, b in itertools.combinations(range(len(sets)), 2)
        if sets[a] and sets[b] and len(sets[a] & sets[b]) >= jaccard * len(sets[a] | sets[b])
    }


@pytest.fixture(scope="module")
def corpus() -> list[list[str]]:
    """Random texts, and copies of some with up to three words changed."""
    draw = random.Random(3)
    vocabulary = [f"w{number}" for number in range(400)]
    texts = [draw.choices(vocabulary, k=draw.randint(0, 40)) for _ in range(300)]
    for _ in range(200):
        copy = list(draw.choice(texts))
        for _ in range(draw.randint(0, 3)):
            if copy:
                copy[draw.randrange(len(copy))] = draw.choice(vocabulary)
        texts.append(copy)
    return texts


@pytest.mark.parametrize("jaccard", [0.5, 0.8, 1.0])
@pytest.mark.parametrize("batch", [7, 4_096])
def test_the_same_pairs_as_brute_force(
    tmp_path: Path, corpus: list[list[str]], jaccard: float, batch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BATCH", batch)
    monkeypatch.setattr(module, "PASS", 500)
    found = joined(tmp_path, (" ".join([*TEMPLATE, *text]) for text in corpus), jaccard)
    wanted = brute_force(corpus, jaccard)
    assert len(wanted) > 20
    assert all_pairs(found) == wanted
    assert found.crowded == 0


def test_frequent_shingles_stand_last_and_nothing_is_lost(
    tmp_path: Path, corpus: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SKETCH", 4)
    texts = [["a", "b", "c", "d", "e", "f", *text] if number % 3 == 0 else text for number, text in enumerate(corpus)]
    assert all_pairs(joined(tmp_path, map(" ".join, texts))) == brute_force(texts, 0.8)


def test_words_of_a_template_are_found_per_group(tmp_path: Path) -> None:
    question = "can you tell us which dish was put before our guests when they arrived "
    other = "what should one know about how this card describes its origin and who cooked it "
    names = [f"dish{number}" for number in range(12)]
    texts = [question + name for name in names] + [other + name for name in names]
    assert not all_pairs(joined(tmp_path / "two", texts, groups=[0] * 12 + [1] * 12))
    assert all_pairs(joined(tmp_path / "one", texts, groups=[0] * 24))


def test_words_to_ignore(tmp_path: Path) -> None:
    texts = [
        "Alpha beta gamma delta epsilon zeta eta theta one",
        "alpha beta gamma delta epsilon zeta eta theta two",
    ] + ["x"] * 3
    assert all_pairs(joined(tmp_path / "a", texts, 0.6)) == {(0, 1)}
    assert not all_pairs(joined(tmp_path / "b", texts, 0.6, ignore=["ALPHA", "beta", "gamma", "delta", "epsilon"]))


def test_a_copy_in_a_small_table_is_no_template(tmp_path: Path) -> None:
    text = "the cat that lives next door sleeps in our garden every day"
    assert all_pairs(joined(tmp_path, [text, text, "something else entirely"])) == {(0, 1)}


def test_upper_case_marks_and_media_do_not_count(tmp_path: Path) -> None:
    texts = ["<image> The cat, that lives next door!", "the CAT that lives -- next door <video>"]
    assert all_pairs(joined(tmp_path, texts)) == {(0, 1)}


def test_scripts_without_blanks_are_split_into_characters(tmp_path: Path) -> None:
    assert words("Rice 米饭と tea") == ["rice", "米", "饭", "と", "tea"]
    assert all_pairs(
        joined(tmp_path, ["这是一道很好吃的菜来自四川", "这是一道很好吃的菜来自四川", "完全不同的另外一句话"])
    ) == {(0, 1)}


def test_short_and_empty_texts_match_nothing(tmp_path: Path) -> None:
    assert not all_pairs(joined(tmp_path / "a", ["yes", "yes", "", ""]))
    assert len(joined(tmp_path / "b", []).first) == 0


def test_a_crowd_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "NEIGHBOURS", 5)
    draw = random.Random(0)
    texts = [" ".join(["a", "b", "c", "d", "e", str(draw.random()), str(draw.random())]) for _ in range(30)]
    texts += [" ".join(map(str, (draw.random() for _ in range(9)))) for _ in range(40)]
    assert joined(tmp_path, texts, 0.1).crowded > 0


def test_edges_connect_all_that_is_alike() -> None:
    found = Near(np.array([0, 0, 2, 0]), np.array([[0, 2]]), 0)
    assert {tuple(edge) for edge in found.edges().tolist()} == {(0, 1), (0, 3), (0, 2)}

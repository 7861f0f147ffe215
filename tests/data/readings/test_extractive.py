"""The extractive summary says what most reviews say, once, and in their words."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.data.readings.extractive import BALANCE, Extractive, sentences, summary

OPINIONS = (
    "The crust was thin and crisp. We came by bus.",
    "A thin, crisp crust! My brother has a boat.",
    "Thin crust, very crisp. The waiter was rude.",
    "Waiters were rude to us. It rained outside.",
    "Rude waiter. The chairs are green.",
)


def test_what_many_say_goes_first_and_is_said_once() -> None:
    told = summary(OPINIONS, 10)
    assert "crisp" in told
    assert "rude" in told.lower()
    assert told.lower().count("crisp") == 1
    assert not any(word in told for word in ("bus", "boat", "rained", "chairs"))


def test_short_reviews_are_kept_whole_and_in_order() -> None:
    assert summary(["funny", "Pixar", "FUNNY ", "good  one!"], 60) == "funny. Pixar. good one!"
    assert sentences(["funny", "Pixar\nfunny", "FUNNY"]) == {"funny": 3, "Pixar": 1}
    assert summary(["旨い。安い！また来る"], 60) == "旨い。 安い！ また来る."


def test_a_sentence_that_is_longer_than_all_room_is_cut_at_a_word() -> None:
    long = " ".join(f"w{number}" for number in range(100))
    assert summary([long], 7) == "w0 w1 w2 w3 w4 w5 w6"


@pytest.mark.parametrize("documents", [[""], ["!!! ??? ..."], ["\U0001f600", "\U0001f600 \U0001f600"], []])
def test_reviews_without_words(documents: list[str]) -> None:
    assert len(summary(documents, 4).split()) <= 4


@settings(max_examples=60, deadline=None)
@given(st.lists(st.text(max_size=80), max_size=8), st.integers(1, 30))
def test_never_more_words_than_asked_and_no_word_of_its_own(documents: list[str], words: int) -> None:
    told = summary(documents, words)
    assert len(told.split()) <= words
    own = "".join("".join(documents).split())
    assert all(part.rstrip(".") in own for part in told.split())
    assert told == summary(documents, words)


def naive(documents: list[str], words: int) -> str:
    """The same choice by hand: counts, idf as scikit-learn defines it, cosines, one loop."""
    import math
    import re

    said = sentences(documents)
    texts = list(said)
    bags = [re.findall(r"\w+", text.lower()) for text in texts]
    idf = {w: math.log((1 + len(bags)) / (1 + sum(w in bag for bag in bags))) + 1 for bag in bags for w in bag}
    vectors = [{w: bag.count(w) * idf[w] for w in bag} for bag in bags]
    norms = [math.sqrt(sum(v * v for v in vector.values())) or 1.0 for vector in vectors]

    def cosine(a: int, b: int) -> float:
        return sum(v * vectors[b].get(w, 0) for w, v in vectors[a].items()) / norms[a] / norms[b]

    chosen: list[int] = []
    while True:
        room = words - sum(len(texts[one].split()) for one in chosen)
        free = [n for n in range(len(texts)) if n not in chosen and len(texts[n].split()) <= room]
        if not free:
            break
        total = sum(said.values())
        worth = {
            n: round(
                BALANCE * sum(cosine(n, m) * said[texts[m]] for m in range(len(texts))) / total
                - (1 - BALANCE) * max((cosine(n, c) for c in chosen), default=0.0),
                9,
            )
            for n in free
        }
        chosen.append(max(free, key=lambda n: (worth[n], -n)))
    return " ".join(t if t[-1] in ".!?" else f"{t}." for t in (texts[n] for n in sorted(chosen)))


@pytest.mark.parametrize("seed", range(8))
def test_it_chooses_what_a_plain_loop_chooses(seed: int) -> None:
    draw = random.Random(seed)
    vocabulary = [f"w{number}" for number in range(12)]
    documents = [
        " ".join(" ".join(draw.choices(vocabulary, k=draw.randint(1, 6))) + "." for _ in range(3)) for _ in range(6)
    ]
    assert summary(documents, 14) == naive(documents, 14)


def test_the_maker(reviews: Callable[..., Any]) -> None:
    maker = Extractive(5)
    requests = reviews("one. two", ("three", "four"))
    assert list(maker.make(requests)) == [(0, "one. two."), (1, "three. four.")]
    assert (maker.name, maker.calls, maker.reads(requests[1])) == ("extractive", 0, 2)
    assert maker.key(requests[0]) != Extractive(6).key(requests[0]) != maker.key(requests[1])
    assert np.unique([maker.key(one) for one in requests]).size == 2

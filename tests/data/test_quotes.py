"""A test row that a known text quotes is found, however much stands around it."""

from __future__ import annotations

import random

import pytest

from latefuse.data import quotes
from latefuse.data.leaks import Finding
from latefuse.data.quotes import Said


def quoted(tests: list[str], known: list[str], shingle: int = 5) -> Finding:
    named = [[Said(text, f"{kind} {place}") for place, text in enumerate(texts)] for kind, texts in
             (("test", tests), ("text", known))]  # fmt: skip
    return quotes.quoted(*named, shingle, "rows")


def brute_force(tests: list[str], known: list[str], size: int = 5) -> set[int]:
    sets = [
        [set(zip(*(text.split()[k:] for k in range(size)), strict=False)) for text in part] for part in (tests, known)
    ]
    own = [{one for one in row if sum(one in other for other in sets[0]) <= quotes.OWN} for row in sets[0]]
    return {
        place
        for place, row in enumerate(own)
        if len(row) >= quotes.FEWEST and any(len(row & text) >= quotes.HELD * len(row) for text in sets[1])
    }


@pytest.mark.parametrize("batch", [3, 4_096])
def test_it_finds_what_a_comparison_of_all_finds(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quotes, "BATCH", batch)
    draw, vocabulary = random.Random(1), [f"w{number}" for number in range(300)]
    tests = [draw.choices(vocabulary, k=draw.randint(0, 60)) for _ in range(80)]
    known = [draw.choices(vocabulary, k=draw.randint(0, 60)) for _ in range(60)]
    for text in known[:40]:
        part = list(draw.choice(tests))
        for _ in range(draw.randint(0, 2)):
            if part:
                part[draw.randrange(len(part))] = draw.choice(vocabulary)
        text[len(text) // 2 : len(text) // 2] = part
    rows, texts = [" ".join(words) for words in tests], [" ".join(words) for words in known]
    found, expected = quoted(rows, texts), brute_force(rows, texts)
    assert (found.checked, found.found, found.passed) == (80, len(expected), False)
    assert 10 < len(expected) < 40
    assert int(found.examples[0].split()[-2]) == min(expected)


def test_a_phrase_of_a_template_is_no_quote() -> None:
    asked = [f"please tell me where this one dish here comes from: {name}" for name in ("a", "b", "c", "d")]
    assert quoted(asked, ["please tell me where this one dish here comes from: e"]).passed
    assert not quoted(asked[:1], asked[:1]).passed


def test_too_short_a_row_and_nothing_at_all_pass() -> None:
    assert quoted(["one two three four five six"], ["one two three four five six"]).passed
    assert quoted([], ["one"]).passed
    assert quoted(["one two three four five six seven eight"], []).passed

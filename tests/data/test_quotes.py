"""A test row that a known text quotes is found, however much stands around it."""

from __future__ import annotations

import random

import pytest

from latefuse.data import quotes
from latefuse.data.leaks import Finding
from latefuse.data.quotes import Said


def quoted(tests: list[str], known: list[str], shingle: int = 5) -> Finding:
    named = [[Said(text, place, f"{kind} {place}") for place, text in enumerate(texts)] for kind, texts in
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
    assert (found.found, found.passed) == (len(expected), False)
    assert found.checked == sum(len(words) >= 5 + quotes.FEWEST - 1 for words in tests)
    assert 10 < len(expected) < 40
    assert int(found.examples[0].split()[-2]) == min(expected)


def test_a_phrase_of_a_template_is_no_quote() -> None:
    asked = [f"please tell me where this one dish here comes from: {name}" for name in ("a", "b", "c", "d")]
    assert quoted(asked, ["please tell me where this one dish here comes from: e"]).passed
    assert not quoted(asked[:1], asked[:1]).passed


def test_what_several_rows_of_one_item_say_is_its_own() -> None:
    said = "the crust is filled with spinach and then baked for an hour"
    asked = [Said(f"{ask} {said}", 7, f"row {ask}") for ask in ("what now", "how so", "go on", "tell me", "and then")]
    finding = quotes.quoted(asked, [Said(said, -1, "text")], 5, "rows")
    assert (finding.found, finding.checked) == (5, 5)
    same = [Said(said, place, f"row {place}") for place in range(6)]
    assert quotes.quoted(same, [Said(said, -1, "text")], 5, "rows").found == 1
    assert quotes.quoted(same, [Said(said, -1, "text")], 5, "rows", ignore=said.split()).checked == 0


def test_too_short_a_row_and_nothing_at_all_pass() -> None:
    short = quoted(["one two three four five six"], ["one two three four five six"])
    assert (short.passed, short.checked) == (True, 0)
    assert "1 say too little" in short.detail
    assert quoted([], ["one"]).passed
    assert quoted(["one two three four five six seven eight"], []).passed

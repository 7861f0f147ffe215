"""The templates as data: three families, the slots of the paper, what trains and what never does."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from latefuse.prompts.personal import FAMILIES, PersonalTemplate, family, family_of, names, template
from latefuse.prompts.personal.template import PersonalFamily, vocabulary


def test_there_are_29_in_three_families_and_the_last_of_each_never_trains() -> None:
    counts = {"sequential": ("A", 9), "direct": ("B", 8), "explanation": ("C", 12)}
    assert len(names()) == 29
    for name in FAMILIES:
        letter, count = counts[name]
        part = family(name)
        assert list(part.templates) == [f"{letter}-{number}" for number in range(1, count + 1)]
        assert part.trained == tuple(part.templates)[:-1]
        assert part.unseen == tuple(part.templates)[-1]
        assert {part.seen, *part.also} <= set(part.trained)
        assert part.evaluated == (part.seen, *part.also, part.unseen)
        assert all(family_of(one) == name for one in part.templates)
    assert [family(name).seen for name in FAMILIES] == ["A-3", "B-5", "C-3"]


def test_slots_are_those_of_the_paper() -> None:
    slots = {name: set(template(name).slots) for name in names()}
    by_user = {f"A-{n}" for n in (1, 2, 3, 7)} | {name for name in slots if "user" in slots[name]}
    for number in range(1, 10):
        who = {"user"} if f"A-{number}" in by_user else {"name"}
        more = {"candidate"} if number in (7, 8) else set()
        assert slots[f"A-{number}"] == who | {"history"} | more
        assert template(f"A-{number}").answer == ("{verdict}" if more else "{number}")
    assert all("name" in slots[f"A-{n}"] for n in (4, 5, 6, 9))
    for number in range(1, 9):
        shown = "candidate" if number <= 4 else "candidates"
        assert slots[f"B-{number}"] - {"user", "name"} == {shown}
        assert template(f"B-{number}").answer == ("{verdict}" if number <= 4 else "{number}")
    for number in range(1, 13):
        assert slots[f"C-{number}"] - {"user", "name", "headline", "stars", "feature"} == {"item"}
        assert template(f"C-{number}").answer == ("{stars} , {text}" if number in (7, 8) else "{text}")
    assert slots["C-3"] == {"user", "item"}, "evaluated without a hint"
    assert "feature" in slots["C-12"]
    assert {template(name).join for name in names()} == {",", "->"}


def test_what_a_review_must_have() -> None:
    assert template("A-1").needs == ()
    assert template("C-3").needs == ("text",)
    assert template("C-7").needs == ("stars", "text")
    assert template("C-11").needs == ("headline", "feature", "text")


def test_questions_are_all_different_and_their_words_are_known() -> None:
    assert len({template(name).ask for name in names()}) == 29
    assert {"yes", "no", "unknown", "->", ",", "which"} <= set(vocabulary())
    assert not any("{" in word for word in vocabulary())


@pytest.mark.parametrize(
    ("ask", "told"),
    [
        ("will {usr} like {candidate} ?", r"no slot \{usr\}; did you mean 'user'"),
        ("will {user} like {candidate}?", "a slot has blanks around it"),
        ("will {user} or {name} like {candidate} ?", r"of \{user\} and \{name\} one"),
        ("what does {user} like ?", "none shows an item"),
    ],
)
def test_a_template_that_can_not_be_filled_is_an_error(ask: str, told: str) -> None:
    with pytest.raises(ValidationError, match=told):
        PersonalTemplate(ask=ask, answer="{verdict}")


def test_unknown_names_tell_the_nearest() -> None:
    with pytest.raises(ValueError, match="no template 'A-10'; did you mean"):
        template("A-10")
    with pytest.raises(ValidationError, match="no template 'B-9'"):
        PersonalFamily(
            family="direct",
            seen="B-1",
            unseen="B-9",
            templates={"B-1": PersonalTemplate(ask="{user} {item}", answer="{text}")},
        )

"""Questions about drawings: their answers are those that the drawing's own caption gives, read word by word."""

from __future__ import annotations

from collections import Counter

import pytest

from latefuse.data.demo import checks
from latefuse.data.demo.checks import NO, YES, Check, Checks
from latefuse.data.demo.lessons import Lessons

KEYS = ("on top", "food", "bits", "plate")


def spoken(caption: str) -> dict[str, str]:
    """'red food , star bits , round plate , green diamond on top' -> what is said of each."""
    return {key: part.removesuffix(key).strip() for part in caption.split(" , ") for key in KEYS if part.endswith(key)}


def claimed(text: str) -> dict[str, str]:
    """The claims of a sentence, of bullets or of a spec sheet."""
    if " : " in text:
        return dict(part.split(" : ") for part in text.split(" ; "))  # type: ignore[misc]
    parts = text.removeprefix("a dish with ").replace("\n- ", " and ").removeprefix("- ").split(" and ")
    return {key: said for part in parts for key, said in spoken(part).items()}


def answer(question: str, shown: dict[str, str]) -> tuple[str, str]:
    """The kind of a question about a plate, and the answer by its caption."""
    text = question.removesuffix(" ?")
    if text in KEYS:
        return "look", shown[text]
    head, _, key = text.rpartition(" : ")
    if head and key in KEYS:
        return "part", YES if claimed(head)[key] == shown[key] else NO
    said = claimed(text)
    kind = "claim" if len(said) == 1 and not text.startswith(("a dish", "- ")) else "list"
    return kind, YES if all(shown[key] == value for key, value in said.items()) else NO


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    return Lessons(seed=1, frames=8, scenes=60)


@pytest.mark.parametrize("shares", [checks.FIRST, checks.THEN])
def test_every_answer_is_that_of_the_caption(lessons: Lessons, shares: dict[str, float]) -> None:
    captions = {number: spoken(caption) for caption, number in lessons.scenes}
    draws, kinds, right = Checks(lessons), Counter[str](), Counter[tuple[str, str]]()
    for check in (draws.draw(shares) for _ in range(1200)):
        assert len(check.asked) == checks.ASKED
        for question, told in check.asked if check.shown in captions else ():
            kind, wanted = answer(question, captions[check.shown])
            assert told == wanted, question
            kinds[kind] += 1
            right[kind, told] += 1
    total = sum(kinds.values())
    assert {kind: count / total for kind, count in kinds.items()} == pytest.approx(shares, abs=0.04)
    for kind in set(shares) - {"look"}:
        assert right[kind, YES] / kinds[kind] == pytest.approx(0.5, abs=0.05)


def test_drops_are_asked_by_count_colour_and_shape(lessons: Lessons) -> None:
    captions = {number: caption for caption, levels in lessons.steps for numbers in levels for number in numbers}
    plates = {number for _, number in lessons.scenes}
    told = Counter[str]()
    for check in (Checks(lessons).draw(checks.FIRST) for _ in range(600)):
        for question, said in check.asked if check.shown not in plates else ():
            caption = captions[check.shown]
            text = question.removesuffix(" ?")
            place = {"count": 0, "colour": 1, "shape": 2}.get(text)
            wanted = caption.split()[place] if place is not None else (YES if text == caption else NO)
            assert said == wanted
            told[said if place is None else text] += 1
    assert set(told) == {YES, NO, "count", "colour", "shape"}
    assert told[YES] / (told[YES] + told[NO]) == pytest.approx(0.5, abs=0.06)


def test_conversations_hold_several_drawings_and_some_are_about_one_kind_of_claim(lessons: Lessons) -> None:
    captions = {number: spoken(caption) for caption, number in lessons.scenes}
    draws, about, sizes = Checks(lessons), Counter[str](), Counter[int]()
    for _ in range(30):
        several = draws.then(32)
        assert sum(map(len, several)) == 32
        assert len({len(one) for one in several[:-1]}) == 1
        for checks_ in several:
            sizes[len(checks_)] += 1
            if not (opening := checks_[0].before).startswith("about the "):
                continue
            key = opening.removeprefix("about the ").removesuffix(" :")
            about[key] += 1
            for check in checks_:
                assert check is checks_[0] or not check.before
                for question, told in check.asked:
                    said = claimed(question.removesuffix(" ?"))
                    assert told == (YES if said[key] == captions[check.shown][key] else NO)
    assert set(about) == set(KEYS)
    assert sum(about.values()) / sum(sizes.values()) == pytest.approx(checks.TOPICS, abs=0.05)
    assert set(sizes) == {1, 2, 3}
    assert all(len(one) == 1 for one in draws.first(5))


def test_the_same_seed_asks_the_same() -> None:
    def some() -> list[Check]:
        draws = Checks(Lessons(seed=4, frames=8, scenes=4, more=checks.WORDS))
        return [draws.draw(checks.THEN) for _ in range(20)]

    found = some()
    assert found == some()
    assert any(check.before for check in found)
    assert any(not check.before for check in found)

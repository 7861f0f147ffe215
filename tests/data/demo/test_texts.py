"""General texts of the demo T5: answers by hand, and nothing of what is held out."""

from __future__ import annotations

import re

import pytest

from latefuse.data.demo import texts, world
from latefuse.data.demo.texts import Texts


def solved(question: str) -> str:
    """The answer, worked out from the question's words alone."""
    if found := re.fullmatch(r"which is the (last|first) of (.+) \?", question):
        return items(found[2])[-1 if found[1] == "last" else 0]
    if found := re.fullmatch(r"what comes after (\S+) in (.+) \?", question):
        listed = items(found[2])
        return listed[listed.index(found[1]) + 1]
    if found := re.fullmatch(r"is (\S+) one of (.+) \? say yes or no \.", question):
        return "yes" if found[1] in items(found[2]) else "no"
    if found := re.fullmatch(r"(.+) : which number is (\S+) \?", question):
        return {name: number for number, name in map(str.split, items(found[1]))}[found[2]]
    if found := re.fullmatch(r"(.+) : which one is (\S+) \?", question):
        return dict(map(str.split, items(found[1])))[found[2]]
    found = re.fullmatch(r"say (.+) again \.", question)
    assert found, question
    return found[1]


def items(told: str) -> list[str]:
    join = next((join for join in (" , ", " -> ", " and ") if join in told), None)
    return told.split(join) if join else [told]


def test_answers_follow_from_their_questions():
    made, kinds = Texts(3), set()
    for _ in range(600):
        question, answer = made.question()
        assert answer == solved(question)
        kinds.add(question.split()[0] if question.split()[0] in ("which", "what", "is", "say") else question[-14:])
    assert len(kinds) >= 6
    verdicts = [a for q, a in (made.question() for _ in range(900)) if q.startswith("is ")]
    assert 0.35 < verdicts.count("yes") / len(verdicts) < 0.65


def test_no_sentence_has_a_held_out_dish():
    made = Texts(0)
    assert all(dish.split == "train" for dish in made.dishes)
    known = {dish.name for dish in made.dishes}
    parts = [world.ATTRIBUTES[part] for part in world.NAME_PARTS]
    name = re.compile(" ".join(f"(?:{'|'.join(values)})" for values in parts))
    told = [found for _ in range(800) for text in made.sentences() for found in name.findall(text)]
    assert len(told) > 100
    assert set(told) <= known
    assert not known & {dish.name for dish in world.dishes(720, 7) if dish.split != "train"}


def test_the_same_seed_says_the_same():
    def said(seed: int) -> list[object]:
        made = Texts(seed)
        return [(made.question(), made.sentences()) for _ in range(20)]

    assert said(1) == said(1) != said(2)


@pytest.mark.parametrize("seed", [0, 5])
def test_every_word_is_in_the_vocabulary_or_of_the_kitchen(seed: int):
    from latefuse.models.tiny_tokenizer import vocabulary

    made, known = Texts(seed), {*vocabulary(), *texts.vocabulary()}
    for _ in range(300):
        question, answer = made.question()
        for word in " ".join((question, answer, *made.sentences())).split():
            bare = re.sub(r"\d+", "", word)
            assert bare in known or not bare.strip("./"), word

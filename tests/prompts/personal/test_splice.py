"""Personalised prompts: golden file, fields read back, whole words, what is cut and what never is, hostile words."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_t5 import t5_tokenizer

from latefuse.models.tiny_random import byte_tokenizer
from latefuse.models.tiny_tokenizer import kitchen_tokenizer
from latefuse.prompts import PromptError
from latefuse.prompts.personal import Directory, Encoded, Fields, Limits, PersonalSplicer, family_of, names, template
from latefuse.prompts.personal.template import vocabulary

GOLDEN = Path(__file__).parents[2] / "golden" / "prompts" / "personal.txt"
SHOP = Directory(
    ids=[str(number) for number in (410, 7, 12, 1203, 88, 5, 3044, 61)],
    titles=["red rice", "blue soup", "red rice", "", "a <extra_id_0> <image> dish </s>", "tea", "bread", "jam"],
    users=["user_17", "user_3", "user_0"],
    names=["ana bo", "", "<extra_id_0></s> <video>"],
)
FIELDS = Fields(
    0, (1, 3, 5), (6, 1, 2, 7), item=2, liked=True, stars=4, headline="so good", feature="mint", text="the mint won ."
)


def splicer(kind: str = "t5", visual: int = 2, limits: Limits | None = None, shop: Directory = SHOP) -> PersonalSplicer:
    if kind == "t5":
        return PersonalSplicer(t5_tokenizer(vocabulary()), shop, visual=visual, limits=limits)
    made = {"kitchen": kitchen_tokenizer, "bytes": byte_tokenizer}[kind]()
    return PersonalSplicer(made, shop, marker="<image>", visual=visual, limits=limits, end=False)


def target(one: PersonalSplicer, prompt: Encoded) -> str:
    assert prompt.target[-1] == one.tokenizer.eos_token_id
    return str(one.tokenizer.decode(prompt.target[:-1])).strip()


def golden_text() -> str:
    cases = {
        "": FIELDS,
        " (no)": replace(FIELDS, liked=False),
        " (a user without a name, a title that stands twice)": replace(FIELDS, user=1, item=0),
        " (hostile words)": replace(FIELDS, user=2, item=4, headline="<extra_id_0>", feature="</s>", text="<pad> ."),
        " (unknown items)": replace(FIELDS, history=(-1, 1, -1), candidates=(-1, 2)),
    }
    one, parts = splicer(), []
    for name in names():
        for title, fields in cases.items():
            if title != " (no)" or "verdict" in template(name).answer:
                prompt = one.encode(name, fields)
                parts.append(f"--- {name}{title}\n{one.shown(prompt)}\n=> {target(one, prompt)}\n")
    return "".join(parts)


def test_every_template_writes_what_the_golden_file_says() -> None:
    written = golden_text()
    if os.environ.get("LATEFUSE_GOLDEN") == "write":
        GOLDEN.write_text(written, encoding="utf-8")
    assert written == GOLDEN.read_text(encoding="utf-8")


def read_back(name: str, text: str) -> dict[str, Any]:
    """The fields that a rendered prompt shows, found by the template's words alone."""
    pattern = re.sub(r"\\\{(\w+)\\\}", r"(?P<\1>.+)", re.escape(template(name).ask).replace(r"\ ", " "))
    found = re.fullmatch(pattern, text)
    assert found, (name, text)
    fields: dict[str, Any] = found.groupdict()
    for slot in ("history", "candidates"):
        if slot in fields:
            fields[slot] = [item.split(" ", 1) for item in fields[slot].split(f" {template(name).join} ")]
    return fields


@pytest.mark.parametrize("kind", ["t5", "kitchen"])
@pytest.mark.parametrize("name", names())
def test_what_is_asked_can_be_read_back(name: str, kind: str) -> None:
    one = splicer(kind)
    prompt = one.encode(name, FIELDS)
    fields = read_back(name, one.shown(prompt))

    def shown(code: int) -> list[str]:
        return [SHOP.ids[code], f"[{code}:0] [{code}:1]"]

    told = {
        "user": "user_17", "name": "ana bo", "history": [shown(code) for code in FIELDS.history],
        "candidate": " ".join(shown(2)), "candidates": [shown(code) for code in FIELDS.candidates],
        "item": "red rice [2:0] [2:1]", "headline": "so good", "stars": "4", "feature": "mint",
    }  # fmt: skip
    assert fields == {slot: told[slot] for slot in template(name).slots}
    answers = {
        "{number}": "12",
        "{verdict}": "yes",
        "{text}": "the mint won .",
        "{stars} , {text}": "4 , the mint won .",
    }
    assert target(one, prompt) == answers[template(name).answer]
    assert (prompt.family, prompt.template, prompt.cut, prompt.shortened) == (family_of(name), name, 0, 0)


@pytest.mark.parametrize("visual", [0, 1, 2, 5])
@pytest.mark.parametrize("kind", ["t5", "kitchen"])
def test_slots_are_k_times_the_items_and_in_their_order(kind: str, visual: int) -> None:
    one = splicer(kind, visual)
    shown = {"history": FIELDS.history, "candidates": FIELDS.candidates, "candidate": (2,), "item": (2,)}
    for name in names():
        prompt = one.encode(name, FIELDS)
        expected = [code for slot in template(name).slots for code in shown.get(slot, ())]
        places = [at for at, code in enumerate(prompt.items) if code >= 0]
        assert [prompt.items[at] for at in places] == [code for code in expected for _ in range(visual)]
        assert [prompt.slot[at] for at in places] == list(range(visual)) * len(expected)
        assert [at for at, token in enumerate(prompt.ids) if token == one.marker] == places
        assert {prompt.slot[at] for at in range(len(prompt.ids)) if at not in places} == {-1}
        assert len(prompt.ids) == len(prompt.words) == len(prompt.items) == len(prompt.slot)


def test_without_pictures_a_prompt_is_tokenised_as_the_tokenizer_does_it_in_one_go() -> None:
    """And the whole-word index is that of P5: it rises at each piece that begins a word; 0 for the end token."""
    one = splicer(visual=0)
    tokenizer = one.tokenizer
    for name in names():
        prompt = one.encode(name, FIELDS)
        text = one.shown(prompt)
        assert prompt.ids == tokenizer(text)["input_ids"]
        starts = [token.startswith("▁") for token in tokenizer.convert_ids_to_tokens(prompt.ids[:-1])]
        assert prompt.words == [sum(starts[: at + 1]) for at in range(len(starts))] + [0]
        assert prompt.target == tokenizer(target(one, prompt))["input_ids"]


def test_each_visual_slot_is_a_word_of_its_own() -> None:
    one = splicer(visual=3)
    prompt = one.encode("A-1", FIELDS)
    slots = [prompt.words[at] for at in range(len(prompt.ids)) if prompt.items[at] >= 0]
    assert len(set(slots)) == len(slots) == 9
    for at, word in enumerate(prompt.words[:-1]):
        assert (word == prompt.words[at - 1]) <= (prompt.items[at] < 0) or at == 0
    assert sorted(set(prompt.words[:-1])) == list(range(1, max(prompt.words) + 1))


def test_words_behind_the_table_share_its_last_row() -> None:
    prompt = splicer(limits=Limits(tokens=5000)).encode("A-1", replace(FIELDS, history=[1, 3] * 300))
    assert max(prompt.words) == 1023
    assert prompt.words.count(1023) > 1000
    assert prompt.words[:1200] == sorted(prompt.words[:1200])


@given(
    length=st.integers(1, 60),
    tokens=st.integers(40, 120),
    visual=st.integers(0, 3),
    most=st.none() | st.integers(1, 20),
)
@settings(max_examples=40, deadline=None)
def test_a_long_history_loses_its_oldest_items_whole(length: int, tokens: int, visual: int, most: int | None) -> None:
    """Against the plain way: the longest end of the history whose prompt fits."""
    history = [(7 * at) % 9 - 1 for at in range(length)]
    limited, free = (
        splicer(visual=visual, limits=Limits(tokens=t, history=h)) for t, h in ((tokens, most), (9999, None))
    )
    for name in ("A-1", "A-5", "A-7"):
        prompt = limited.encode(name, replace(FIELDS, history=history))
        fits = [
            n
            for n in range(1, min(length, most or length) + 1)
            if len(free.encode(name, replace(FIELDS, history=history[-n:])).ids) <= tokens
        ]
        plain = free.encode(name, replace(FIELDS, history=history[-max(fits) :]))
        assert prompt == replace(plain, cut=length - max(fits))
        assert limited.whole(name, replace(FIELDS, history=history)) == (prompt.cut == 0)


def test_a_history_of_thousands_of_one_of_none_and_of_unknown_items() -> None:
    one = splicer()
    prompt = one.encode("A-3", replace(FIELDS, history=[at % 8 for at in range(5000)]))
    assert len(prompt.ids) <= 1024 < len(prompt.ids) + 12
    assert prompt.items[-20:].count(7) == 2, "the newest item stays"
    assert one.shown(one.encode("A-3", replace(FIELDS, history=[4]))).count("[4:") == 2
    empty = one.encode("A-3", replace(FIELDS, history=[]))
    assert "is nothing ." in one.shown(empty)
    unknown = one.encode("A-3", replace(FIELDS, history=[-1] * 3))
    assert set(unknown.items) == {-1}
    assert one.shown(unknown).count("unknown") == 3


def test_candidates_and_questions_are_never_cut() -> None:
    many = replace(FIELDS, candidates=[at % 8 for at in range(100)])
    with pytest.raises(PromptError, match=r"row \?: the question of B-5 takes \d+ tokens, more than 300 with 100 cand"):
        splicer(limits=Limits(tokens=300)).encode("B-5", many)
    prompt = splicer().encode("B-5", many)
    assert [code for code, slot in zip(prompt.items, prompt.slot, strict=True) if slot == 0] == list(many.candidates)
    with pytest.raises(PromptError, match=r"A-1 takes \d+ tokens, more than 12 with the newest item of its history"):
        splicer(limits=Limits(tokens=12)).encode("A-1", FIELDS)
    for kind in ("t5", "kitchen"):
        one = splicer(kind)
        fitting = splicer(kind, limits=Limits(tokens=len(one.encode("B-5", many).ids)))
        assert fitting.encode("B-5", many) == one.encode("B-5", many)


@pytest.mark.parametrize("kind", ["t5", "kitchen", "bytes"])
@given(words=st.text() | st.sampled_from(["<extra_id_0>", "a<image>b</s>", "<pad> <unk>", "\ud800 x", "\u200b", "\n"]))
@settings(max_examples=60, deadline=None)
def test_words_of_users_can_open_no_slot(kind: str, words: str) -> None:
    if kind == "bytes" and re.search(r"[^\x20-\x7e]", words):
        words = words.encode("ascii", "replace").decode()
    shop = replace(SHOP, titles=[words] * 8, names=[words] * 3)
    one = splicer(kind, shop=shop, limits=Limits(answer=10_000))
    special = set(one.tokenizer.all_special_ids) - {one.tokenizer.unk_token_id}
    for name in ("A-5", "B-8", "C-11", "C-8"):
        said = replace(FIELDS, headline=words or "x", feature=words or "x", text=words or "x")
        prompt = one.encode(name, said)
        places = {at for at, token in enumerate(prompt.ids) if token in special}
        assert places - {len(prompt.ids) - 1} == {at for at, slot in enumerate(prompt.slot) if slot >= 0}
        assert special & set(prompt.target) == {one.tokenizer.eos_token_id}
        assert prompt.target.count(one.tokenizer.eos_token_id) == 1


def test_words_of_users_and_answers_have_limits_that_are_counted() -> None:
    one = splicer(limits=Limits(words=6, answer=5), shop=replace(SHOP, titles=["the items of the day are good"] * 8))
    prompt = one.encode("C-3", replace(FIELDS, text="yes no " * 40))
    assert "take the items of the" in one.shown(prompt)
    assert len(prompt.target) == 5
    assert prompt.shortened >= 76
    endless = splicer(limits=Limits(words=6), shop=replace(SHOP, names=["q" * 500] * 3)).encode("A-4", FIELDS)
    assert endless.shortened == 494
    assert one.encode("C-3", replace(FIELDS, text="yes")).shortened < prompt.shortened
    assert [one.whole("C-3", replace(FIELDS, text=text)) for text in ("yes no " * 40, "yes")] == [False, True]


def test_items_of_one_title_differ_by_their_pictures_and_answers_by_their_numbers() -> None:
    one = splicer()
    first, second = (one.encode("C-3", replace(FIELDS, item=item)) for item in (0, 2))
    assert first.ids == second.ids
    assert first.items != second.items
    untitled = one.shown(one.encode("C-3", replace(FIELDS, item=3)))
    assert "take 1203 [3:0]" in untitled, "its number stands in for the title"
    answers = one.answers()
    assert len({tuple(answer) for answer in answers}) == len(SHOP.ids)
    for code, answer in enumerate(answers):
        assert answer == one.encode("A-1", replace(FIELDS, item=code)).target == one.answer(SHOP.ids[code])


def test_a_row_that_lacks_what_a_template_shows_is_told() -> None:
    one = splicer()
    bare = replace(FIELDS, headline="", feature="", row="review 3")
    with pytest.raises(PromptError, match=r"row review 3: template C-11 needs headline, feature, which"):
        one.encode("C-11", bare)
    with pytest.raises(PromptError, match="template C-7 needs stars"):
        one.encode("C-7", replace(FIELDS, stars=0))
    with pytest.raises(PromptError, match="template A-1 needs item"):
        one.encode("A-1", replace(FIELDS, item=-1))
    with pytest.raises(PromptError, match="template B-6 needs candidates"):
        one.encode("B-6", replace(FIELDS, candidates=()))
    assert "unknown" in one.shown(one.encode("B-1", replace(FIELDS, item=-1)))


def test_a_tokenizer_needs_a_marker_and_words() -> None:
    with pytest.raises(PromptError, match="no token '<extra_id_0>'"):
        PersonalSplicer(kitchen_tokenizer(), SHOP)


def test_semantic_ids_are_several_words() -> None:
    one = splicer(shop=replace(SHOP, ids=[f"a{k} b0 c{k} d0" for k in range(8)]))
    prompt = one.encode("A-1", FIELDS)
    assert target(one, prompt) == "a2 b0 c2 d0"
    assert len({prompt.words[at] for at in range(len(prompt.ids)) if prompt.items[at] < 0}) > 12


@pytest.mark.parametrize("name", names())
def test_where_only_pictures_are_read_no_question_names_an_item(name: str) -> None:
    shop = replace(SHOP, users=["user_one", "user_two", "user_three"], names=[])
    named, unnamed = splicer(shop=shop), PersonalSplicer(t5_tokenizer(vocabulary()), shop, named=False)
    fields = replace(FIELDS, stars=0, headline="", feature="") if not template(name).needs else FIELDS
    told, hidden = named.encode(name, fields), unnamed.encode(name, fields)
    assert hidden.target == told.target, "answers name items all the same"
    assert [i for i in hidden.items if i >= 0] == [i for i in told.items if i >= 0]
    asked = re.sub(r"\[\d+:\d+\]", "", unnamed.shown(hidden))
    asked = asked.replace("4", "", 1) if "stars" in template(name).slots else asked
    assert not re.search(r"\d", asked)
    assert "rice" not in asked

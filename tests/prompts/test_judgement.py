"""A judgement as turns: the rule once, demonstrations, what is asked; and why, behind a verdict."""

from __future__ import annotations

import pytest

from latefuse.config_judge import Judge
from latefuse.prompts import MediaRef
from latefuse.prompts.judgement import Shot, judge_template, reason_turns, turns_of

RULE = "relevant   when it\nfits"


def test_the_rule_stands_once_and_labels_behind_each_demonstration() -> None:
    shots = [Shot("a.png", "one", True), Shot("b.png", "two", False), Shot("c.png", "three")]
    turns, media = turns_of(shots, RULE, Judge(), ("image", "text"), judge_template("chatml"))
    assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
    assert [turn["text"] for turn in turns[1::2]] == ["Relevant", "Not Relevant"]
    assert media == [MediaRef("image", name) for name in ("a.png", "b.png", "c.png")]
    assert ["relevant when it fits" in turn["text"] for turn in turns] == [True] + [False] * 4
    assert [turn["text"].count("<image>") for turn in turns[::2]] == [1, 1, 1]


def test_why_is_asked_behind_the_verdict() -> None:
    asked, media = reason_turns(Shot("a.png", "one", False), RULE, Judge(), ("image", "text"), judge_template("chatml"))
    assert [turn["role"] for turn in asked] == ["user", "assistant"] * 2
    assert asked[1]["text"] == "Not Relevant"
    assert "because" in asked[2]["text"]
    assert "<image>" not in asked[2]["text"]
    assert media == [MediaRef("image", "a.png")]


@pytest.mark.parametrize("inputs", [("image", "text"), ("image",), ("text",)])
def test_a_base_of_plain_words_is_asked_anew_of_the_picture_alone(inputs: tuple[str, ...]) -> None:
    shot, template = Shot("a.png", "<image> one", True), judge_template("v1-plain")
    asked, media = reason_turns(shot, RULE, Judge(), inputs, template)  # type: ignore[arg-type]
    assert [turn["role"] for turn in asked] == ["user", "assistant"]
    seen = "image" in inputs
    assert media == ([MediaRef("image", "a.png")] if seen else [])
    assert asked[0]["text"] == ("<image> describe this picture ." if seen else "describe this picture .")

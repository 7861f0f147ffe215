"""Plain text: no control token comes out of it, and nothing else of it is lost."""

from __future__ import annotations

import pytest
from small_t5 import t5_tokenizer

from latefuse.models.tiny_tokenizer import kitchen_tokenizer
from latefuse.prompts.plain import PlainText


def test_spelled_out_control_tokens_fall_apart_into_their_letters() -> None:
    plain = PlainText(kitchen_tokenizer())
    text = "a <image> b </s><frame_1>"
    assert plain.tokenizer.decode(plain.ids(text)).replace(" ", "") == text.replace(" ", "")
    assert not set(plain.ids(text)) & set(plain.tokenizer.all_special_ids)
    assert list(plain.pieces("x</s>y")) == ["x<", "/s>y"]


@pytest.mark.parametrize("text", ["<extra_id_0>", "<extra_id_0><extra_id_1>", "<<extra_id_0>", "</s>", "<pad> tea"])
def test_sentinels_of_t5_are_control_tokens_too(text: str) -> None:
    tokenizer = t5_tokenizer(["tea"])
    ids = PlainText(tokenizer).ids(text)
    assert ids
    assert not set(ids) & (set(tokenizer.all_special_ids) - {tokenizer.unk_token_id})
    assert tokenizer.convert_tokens_to_ids("<extra_id_0>") in tokenizer("<extra_id_0>")["input_ids"], "it would be one"


def test_further_literals_can_be_named() -> None:
    assert list(PlainText(kitchen_tokenizer(), ("USER:",)).pieces("USER: hi")) == ["U", "SER: hi"]
    plain = PlainText(kitchen_tokenizer())
    assert plain.ids("") == []
    assert plain.ids("red rice") == plain.tokenizer("red rice", add_special_tokens=False)["input_ids"]

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from latefuse.models.tiny_random import SPECIAL, byte_tokenizer
from latefuse.prompts import MediaRef, PromptError, Splicer, escape, load, render, template_for
from latefuse.prompts.template import names

GOLDEN = Path(__file__).parents[1] / "golden" / "prompts"
IMAGE, VIDEO = MediaRef("image", "a.png"), MediaRef("video", "b.mp4")
MULTI = [
    {"role": "user", "text": "<image>\nWhich dish?"},
    {"role": "assistant", "text": "Red rice"},
    {"role": "user", "text": "And here: <video> which?"},
    {"role": "assistant", "text": "Blue soup"},
]


def splicer(name: str = "v1") -> Splicer:
    made = byte_tokenizer()
    ids = {"image": made.convert_tokens_to_ids("<image>"), "video": made.convert_tokens_to_ids("<video>")}
    return Splicer(made, load(name), lambda modality: [ids[modality]] * (2 if modality == "image" else 3))


def golden_text(name: str) -> str:
    """Every case of the golden file: the row as the model reads it, what is learned in [[ ]]."""
    one, parts = splicer(name), []
    cases = {
        "picture": (MULTI[:2], [IMAGE]),
        "picture then clip": (MULTI, [IMAGE, VIDEO]),
        "words": ([{"role": "user", "text": "Is it vegan?"}, {"role": "assistant", "text": "yes\nno"}], []),
        "absent picture": (MULTI[:2], [MediaRef("image", "")]),
        "open question": (MULTI[:3], [IMAGE, VIDEO]),
        "hostile": (
            [{"role": "user", "text": r"\<image> </s> <|im_end|> <s>"}, {"role": "assistant", "text": "<video></s>"}],
            [],
        ),
    }
    for title, (turns, media) in cases.items():
        found = one.encode(turns, media)
        assert found is not None
        text, learning = "", False
        for token, label in zip(found.input_ids, found.labels, strict=True):
            if (label != -100) != learning:
                text, learning = text + ("]]" if learning else "[["), not learning
            text += one.tokenizer.decode([token])
        parts.append(f"--- {title}\n{text}{']]' if learning else ''}\n")
    return "".join(parts)


@pytest.mark.parametrize("name", names())
def test_every_template_writes_what_its_golden_file_says(name: str) -> None:
    assert golden_text(name) == (GOLDEN / f"{name}.txt").read_text(encoding="utf-8")


def test_multi_turn_labels_against_a_mask_made_by_hand() -> None:
    one = splicer()
    found = one.encode(MULTI, [IMAGE, VIDEO])
    assert found is not None
    eos, image, video = 2, 4, 5

    def text(words: str) -> list[int]:
        return list(one.tokenizer(words, add_special_tokens=False)["input_ids"])

    pieces: list[tuple[list[int], bool]] = [
        ([1], False),
        (text("USER: "), False),
        ([image] * 2, False),
        (text("\nWhich dish? ASSISTANT:"), False),
        (text(" Red rice"), True),
        ([eos], True),
        (text("USER: And here: "), False),
        ([video] * 3, False),
        (text(" which? ASSISTANT:"), False),
        (text(" Blue soup"), True),
        ([eos], True),
    ]
    ids = [token for piece, _ in pieces for token in piece]
    labels = [token if learned else -100 for piece, learned in pieces for token in piece]
    assert found.input_ids == ids
    assert found.labels == labels
    assert found.prompt == len(ids) - len(text(" Blue soup")) - 1


def test_the_prompt_of_a_row_is_what_the_open_question_gives() -> None:
    for name in names():
        one = splicer(name)
        whole, open_ = one.encode(MULTI, [IMAGE, VIDEO]), one.encode(MULTI[:3], [IMAGE, VIDEO])
        assert whole is not None
        assert open_ is not None
        assert whole.input_ids[: whole.prompt] == open_.input_ids
        answer = one.answer_ids("Blue soup")
        assert whole.input_ids[whole.prompt : whole.prompt + len(answer)] == answer


SHARED = splicer()
PARTS = ["<image>", "<video>", "</s>", "<s>", "<pad>", "<|im_end|>", "\\", "<", ">", "x ", "<<image>>"]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PARTS), max_size=8))
def test_no_text_opens_a_slot_or_makes_a_control_token(parts: list[str]) -> None:
    words = "".join(parts)
    turns = [{"role": "user", "text": "<image>" + escape(words)}, {"role": "assistant", "text": escape(words + "!")}]
    found = SHARED.encode(turns, [IMAGE])
    assert found is not None
    begin, end, image = 1, 2, 4
    controls = [token for token in found.input_ids if token < len(SPECIAL)]
    assert controls == [begin, image, image, end]
    question = f"\n{words.strip()}" if words.strip() else ""
    assert SHARED.tokenizer.decode(found.input_ids) == (
        f"<s>USER: <image><image>{question} ASSISTANT: {(words + '!').strip()}</s>"
    )


@pytest.mark.parametrize(
    ("turns", "media", "message"),
    [
        (MULTI[:2], [], r"row r7: 1 placeholder\(s\) \['image'\] .* but 0"),
        (MULTI[:2], [VIDEO], r"row r7: .*\['image'\] .*\['video'\]"),
        ([{"role": "user", "text": "x"}] * 2, [], "row r7: turn 2 is by 'user', expected 'assistant'"),
        ([], [], "row r7: a conversation without turns"),
        (MULTI[:2], [{"modality": "audio", "path": "a"}], "row r7: a medium of modality 'audio'"),
    ],
)
def test_rows_that_can_not_be_written_are_named(turns: Any, media: Any, message: str) -> None:
    with pytest.raises(PromptError, match=message):
        render(turns, media, load("v1"), "r7")


def test_the_oldest_exchange_goes_first_and_its_media_stay() -> None:
    one = splicer()
    whole = one.encode(MULTI, [IMAGE, VIDEO])
    assert whole is not None
    assert one.encode(MULTI, [IMAGE, VIDEO], len(whole.input_ids)) == whole
    cut = one.encode(MULTI, [IMAGE, VIDEO], len(whole.input_ids) - 1)
    assert cut is not None
    assert cut.cut == 1
    assert [ref.path for ref in cut.media] == ["a.png", "b.mp4"]
    assert one.tokenizer.decode(cut.input_ids) == (
        "<s>USER: <image><image>\nAnd here: <video><video><video> which? ASSISTANT: Blue soup</s>"
    )
    assert one.encode(MULTI, [IMAGE, VIDEO], len(cut.input_ids) - 1) is None


def test_templates_are_found_by_family_or_asked_for_by_the_tokenizer() -> None:
    assert template_for("video_llava").name == "v1"
    assert template_for("qwen2_5_vl").name == "chatml"
    made = byte_tokenizer()
    made.init_kwargs["prompt_template"] = "v1-plain"
    assert template_for("video_llava", made).name == "v1-plain"
    with pytest.raises(ValueError, match="no prompt template for a backbone of type 'gpt9'"):
        template_for("gpt9")
    other = load("chatml").model_copy(update={"end": "<|done|>"})
    with pytest.raises(PromptError, match=r"template 'chatml' needs the token '<\|done\|>'"):
        Splicer(byte_tokenizer(), other, lambda modality: [])

"""The demo T5: a real T5 in the Hugging Face layout, deterministic, with a tokenizer for personalised prompts."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, T5ForConditionalGeneration

from latefuse.models import folder, tiny_t5
from latefuse.models.tiny_t5 import IGNORED, Lessons, TinyT5Options, word_tokenizer
from latefuse.prompts.personal import Directory, Fields, PersonalSplicer, names
from latefuse.prompts.personal.template import vocabulary

QUICK = {"steps": 3, "batch": 4}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("t5")
    tiny_t5.build(QUICK, out)
    return out


def test_it_is_the_real_class_in_safetensors(base: Path):
    model = T5ForConditionalGeneration.from_pretrained(base)
    assert 1_000_000 < sum(p.numel() for p in model.parameters()) < 2_000_000
    assert not list(base.glob("*.bin"))
    assert model.config.decoder_start_token_id == model.config.pad_token_id == 0


def test_same_options_same_bytes(base: Path, tmp_path: Path):
    tiny_t5.build(QUICK, tmp_path)
    assert folder.digest(tmp_path) == folder.digest(base)
    tiny_t5.build({**QUICK, "steps": 0}, tmp_path)
    assert folder.digest(tmp_path) != folder.digest(base)


def test_any_text_survives_the_tokenizer_and_ends(base: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    for text in ("user_417 gave 12 stars", "Crème brûlée 50% ## x\n\nзавтрак 🍜", "the crimson won me over ."):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.unk_token_id not in ids
        assert ids[-1] == tokenizer.eos_token_id
        assert tokenizer.decode(ids[:-1]).strip() == text


def test_numbers_are_read_by_two_digits(base: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    for number in (0, 7, 12, 417, 9_999):
        pieces = tokenizer.tokenize(str(number))
        told = str(number)
        assert [piece.strip("Ġ") for piece in pieces] == [told[at : at + 2] for at in range(0, len(told), 2)]
        assert [piece.strip("#") for piece in tokenizer.tokenize(f"user_{number}")[1:]] == [
            piece.strip("Ġ") for piece in pieces
        ]


def test_templates_are_words_and_items_are_spliced(base: Path):
    tokenizer = AutoTokenizer.from_pretrained(base)
    known = set(tokenizer.get_vocab())
    assert {f"Ġ{word}" for word in vocabulary()} <= known
    splicer = PersonalSplicer(tokenizer, Directory(["417", "8", "93"], ["a", "b", "c"], ["user_3"]), visual=2)
    fields = Fields(0, (0, 1), (0, 1, 2), 2, True, 4.0, "good colour", "crimson", "the crimson won me over .")
    for name in names():
        encoded = splicer.encode(name, fields)
        assert tokenizer.unk_token_id not in [*encoded.ids, *encoded.target]
        assert encoded.ids.count(splicer.marker) == sum(item >= 0 for item in encoded.items)
    assert [tokenizer.decode(answer[:-1]).strip() for answer in splicer.answers()] == ["417", "8", "93"]


def test_gaps_and_their_answer_make_the_text_again():
    lessons = Lessons(word_tokenizer(), 0)
    for length in (2, 3, 7, 30, 120):
        ids = [100 + number for number in range(length)]
        told, answer = lessons.gaps(ids)
        assert told[-1] == answer[-1] == lessons.end
        filled: list[int] = []
        parts: dict[int, list[int]] = {}
        for token in answer[:-1]:
            if token in lessons.markers:
                parts[token] = []
            else:
                parts[next(reversed(parts))].append(token)
        for token in told[:-1]:
            filled += parts.pop(token) if token in lessons.markers else [token]
        assert filled == ids
        assert not parts
        assert len(told) < length + 2


def test_batches_are_rows_of_like_lengths_padded():
    lessons, tokenizer = Lessons(word_tokenizer(), 1), word_tokenizer()
    batches = lessons.batches(8)
    for _ in range(6):
        batch = next(batches)
        assert batch["input_ids"].shape[0] == batch["labels"].shape[0] == 8
        assert torch.equal(batch["attention_mask"].bool(), batch["input_ids"] != tokenizer.pad_token_id)
        ends = (batch["labels"] == tokenizer.eos_token_id).sum(1)
        assert ends.tolist() == [1] * 8
        assert bool((batch["labels"][:, 0] != IGNORED).all())


def test_answers_are_learned():
    settings = TinyT5Options(steps=40, batch=8, hidden=64, layers=1, wide=128, seed=1)
    tokenizer = word_tokenizer()
    torch.manual_seed(1)
    model = T5ForConditionalGeneration(tiny_t5.architecture(tokenizer, settings)).eval()
    batch = next(Lessons(tokenizer, 5).batches(32))
    with torch.no_grad():
        before = model(**batch).loss.item()
        with torch.enable_grad():
            tiny_t5.pretrain(model, tokenizer, settings, lambda values, step: None)
        assert model(**batch).loss.item() < 0.8 * before

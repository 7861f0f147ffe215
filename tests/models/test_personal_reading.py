"""Answers token by token: equal to reading all at once, in whatever order rows go on."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from small_prompts import CAUSAL, KINDS, batch, made, rows, stirred

from latefuse.models import beams, item_trie, personal
from latefuse.models.personal_reading import Beams, Reading, encode, explain

FORMS = [*KINDS, ("glued_mlp", {**CAUSAL, "per_family": True})]


def log_probability(base, row, answer: list[int]) -> float:
    """Of an answer to one prompt, by the teacher-forced loss."""
    return -personal.nll(base, batch([type(row)(**{**vars(row), "target": answer})])).item()


@pytest.mark.parametrize(("family", "settings"), FORMS)
def test_a_token_at_a_time_is_all_at_once(family, settings, fresh):
    base, lines = fresh(family), rows(4)
    stirred(base, **settings)
    reading = Reading(base, batch(lines))
    answers, total = torch.tensor([[21, 40, 2], [33, 90, 2], [25, 25, 2], [150, 60, 2]]), torch.zeros(4)
    for step in range(3):
        total += reading.logits.log_softmax(-1)[torch.arange(4), answers[:, step]]
        if step < 2:
            reading.write(answers[:, step])
    expected = [log_probability(base, line, answer) for line, answer in zip(lines, answers.tolist(), strict=True)]
    assert total.tolist() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(("family", "settings"), FORMS)
def test_rows_may_be_chosen_and_doubled(family, settings, fresh):
    base, lines = fresh(family), rows(4)
    stirred(base, **settings)
    reading = Reading(base, batch(lines))
    reading.write(torch.tensor([21, 33, 25, 150]))
    reading.select(torch.tensor([2, 0, 2]))
    reading.write(torch.tensor([30, 31, 32]))
    found = reading.logits.log_softmax(-1)[:, 2]
    answers = [[25, 30, 2], [21, 31, 2], [25, 32, 2]]
    for place, (line, answer) in enumerate(zip((2, 0, 2), answers, strict=True)):
        before = log_probability(base, lines[line], answer[:2])
        assert found[place].item() == pytest.approx(log_probability(base, lines[line], answer) - before, abs=1e-3)


@pytest.mark.parametrize(("family", "settings"), FORMS)
def test_the_greedy_answer_is_the_likeliest_token_each_time(family, settings, fresh):
    base, lines = fresh(family), rows(5)
    stirred(base, **settings)
    found = explain(base, batch(lines), 6)
    end = base.tokenizer.eos_token_id
    for line, answer in zip(lines, found, strict=True):
        alone: list[int] = []
        while len(alone) < 6:
            reading = Reading(base, batch([line]))
            for token in alone:
                reading.write(torch.tensor([token]))
            token = int(reading.logits[0].argmax())
            if token == end:
                break
            alone.append(token)
        assert answer == alone


@pytest.mark.parametrize(("family", "settings"), [("sighted", {}), ("glued_mlp", CAUSAL)])
def test_answers_learned_by_heart_are_said_and_end(family, settings, fresh):
    base, lines = fresh(family), rows(6)
    made(base, reduction=1, **settings)
    optimiser = torch.optim.AdamW(base.trained(), lr=1e-2)
    for _ in range(150):
        optimiser.zero_grad()
        total, count = personal.loss(base, batch(lines))
        (total / count).backward()
        optimiser.step()
    assert explain(base, batch(lines), 8) == [line.target[:-1] for line in lines]
    assert explain(base, batch(lines), 3) == [line.target[:-1][:3] for line in lines]


def test_the_librarys_generation_takes_what_is_encoded(fresh):
    """As any search over a plain T5 does: encoder states, mask, and a decoder with the bottlenecks in it."""
    base, prompted = fresh("sighted"), batch(rows(5))
    stirred(base)
    out = base.seq2seq.generate(
        encoder_outputs=encode(base, prompted),
        attention_mask=prompted.mask.long(),
        max_new_tokens=6,
        num_beams=1,
        do_sample=False,
    )
    for row, answer in zip(out[:, 1:].tolist(), explain(base, prompted, 6), strict=True):
        end = row.index(2) if 2 in row else len(row)
        assert row[:end] == answer


def test_a_causal_model_has_no_encoder(fresh):
    base = fresh("glued_mlp")
    stirred(base, **CAUSAL)
    with pytest.raises(ValueError, match="has no encoder"):
        encode(base, batch(rows(2)))


@pytest.mark.parametrize("among_items", [False, True])
@pytest.mark.parametrize(("family", "settings"), FORMS)
def test_beams_find_the_likeliest_items_of_the_catalogue(family, settings, among_items, fresh):
    base, lines = fresh(family), rows(3)
    stirred(base, **settings)
    catalogue = [[30, 2], [30, 31, 2], [30, 31, 40, 2], [77, 2], [90, 31, 2], [90, 32, 2], [90, 33, 5, 2]]
    trie, never = item_trie.build(catalogue), [[3], [], [0, 6]]
    may = item_trie.allowed(trie, 3, never=never)
    found = beams.search(Beams(base, batch(lines)), may, 5, 7, among_items)
    for place, line in enumerate(lines):
        asked = batch([type(line)(**{**vars(line), "target": answer}) for answer in catalogue])
        if among_items:
            asked = dataclasses.replace(asked, may=trie.alternatives(asked.labels))
        chances = -personal.nll(base, asked)
        chances[never[place]] = -torch.inf
        expected = chances.topk(5)
        assert found.items[place].tolist() == expected.indices.tolist()
        torch.testing.assert_close(found.scores[place], expected.values, atol=1e-3, rtol=1e-4)

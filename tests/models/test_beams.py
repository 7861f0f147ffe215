"""Beam search over items against scoring every item, and against the library's search under the same constraint."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import T5Config, T5ForConditionalGeneration
from transformers.modeling_outputs import BaseModelOutput

from latefuse.models.beams import EncoderDecoder, free_beams, item_beams, search, shared_states
from latefuse.models.item_trie import ItemTrie, allowed, build

ROWS, ITEMS, VOCABULARY, LENGTH = 5, 120, 90, 11
TIE = 1e-3
Sequences = list[list[int]]


@pytest.fixture(scope="module")
def model() -> Any:
    """A tiny T5 whose scores are many nats apart."""
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=VOCABULARY, d_model=64, d_kv=16, d_ff=128, num_layers=2, num_heads=4, decoder_start_token_id=0
    )
    made = T5ForConditionalGeneration(config).eval().requires_grad_(False)
    made.lm_head.weight.data *= 3
    return made


@pytest.fixture(scope="module")
def read(model: Any) -> tuple[Tensor, Tensor]:
    """Encoder states of prompts of different lengths, padded on the right, and their mask."""
    ids = torch.randint(2, VOCABULARY, (ROWS, LENGTH), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(LENGTH) < torch.tensor([11, 7, 11, 3, 9])[:, None]
    return model.encoder(input_ids=ids, attention_mask=mask).last_hidden_state, mask


@pytest.fixture(scope="module")
def sequences() -> Sequences:
    """Items of one to four tokens and an end token, many beginning alike."""
    draw = random.Random(0)
    found = sorted({tuple(draw.choices(range(5, 12), k=draw.randint(1, 4))) for _ in range(600)})
    draw.shuffle(found)
    return [[*one, 1] for one in found[:ITEMS]]


@pytest.fixture(scope="module")
def trie(sequences: Sequences) -> ItemTrie:
    return build(sequences)


@pytest.fixture(scope="module")
def scores(model: Any, read: tuple[Tensor, Tensor], sequences: Sequences) -> Tensor:
    """(B, items) log-likelihood of every item by teacher forcing."""
    states, mask = read
    labels = torch.full((ITEMS, max(map(len, sequences))), -100)
    for row, sequence in zip(labels, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    rows = []
    for row in range(ROWS):
        every = (states[row].expand(ITEMS, -1, -1),)
        logits = model(encoder_outputs=every, attention_mask=mask[row].expand(ITEMS, -1), labels=labels).logits
        own = logits.log_softmax(-1).gather(2, labels.clamp(min=0).unsqueeze(-1)).squeeze(-1)
        rows.append(own.masked_fill(labels < 0, 0).sum(1))
    return torch.stack(rows)


NEVER = [[], [0, 1, 2, 2], list(range(60)), list(range(100)), list(range(0, ITEMS, 2))]
ONLY = [list(range(30)), [5], list(range(90, 120)), [7, 8, 9], list(range(0, ITEMS, 3))]
LIMITS = {"all": {}, "never": {"never": NEVER}, "only": {"only": ONLY}, "both": {"never": NEVER, "only": ONLY}}


def _named(row: int, limit: dict[str, Any]) -> set[int]:
    items = set(limit["only"][row]) if "only" in limit else set(range(ITEMS))
    return items - set(limit["never"][row]) if "never" in limit else items


@pytest.mark.parametrize("limit", LIMITS.values(), ids=LIMITS)
def test_as_many_beams_as_items_rank_all_items(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, scores: Tensor, limit: dict[str, Any]
) -> None:
    found = item_beams(model, *read, allowed(trie, ROWS, **limit), ITEMS, ITEMS)
    for row in range(ROWS):
        named = sorted(_named(row, limit), key=lambda item: -float(scores[row, item]))
        assert found.items[row].tolist() == named + [-1] * (ITEMS - len(named))
        torch.testing.assert_close(found.scores[row, : len(named)], scores[row, named], atol=TIE, rtol=0)
        assert (found.scores[row, len(named) :] == -torch.inf).all()


def _library(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, sequences: Sequences, beams: int, limit: dict[str, Any]
) -> tuple[Tensor, Tensor]:
    """`generate` with a callback that looks through the list of what a row may name."""

    def following(row: int, ids: Tensor) -> list[int]:
        written = ids.tolist()[1:]
        named = (sequences[item] for item in _named(row, limit))
        return sorted({s[len(written)] for s in named if len(s) > len(written) and s[: len(written)] == written}) or [1]

    out = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=read[0]), attention_mask=read[1], num_beams=beams,
        num_return_sequences=beams, length_penalty=0.0, early_stopping="never", max_new_tokens=trie.longest,
        prefix_allowed_tokens_fn=following, return_dict_in_generate=True, output_scores=True,
    )  # fmt: skip
    return trie.find(out.sequences[:, 1:]).view(ROWS, beams), out.sequences_scores.view(ROWS, beams)


@pytest.mark.parametrize("limit", ["all", "never"])
@pytest.mark.parametrize("beams", [2, 5, 20])
def test_the_items_and_scores_of_the_library(
    model: Any,
    read: tuple[Tensor, Tensor],
    trie: ItemTrie,
    sequences: Sequences,
    scores: Tensor,
    beams: int,
    limit: str,
) -> None:
    items, theirs = _library(model, read, trie, sequences, beams, LIMITS[limit])
    may = allowed(trie, ROWS, **LIMITS[limit])
    found = item_beams(model, *read, may, beams, beams)
    assert found.items.tolist() == items.tolist()
    torch.testing.assert_close(found.scores, theirs, atol=TIE, rtol=0)
    fewer = item_beams(model, *read, may, 2, beams)
    assert fewer.items.tolist() == items[:, :2].tolist()
    if limit == "all" and beams == 2:  # else the comparison above would not see beams that are dropped
        assert items.tolist() != scores.topk(2, dim=1).indices.tolist()


@pytest.mark.parametrize("beams", [1, 3, 7])
def test_few_beams_still_name_as_many_distinct_items_as_there_are(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, scores: Tensor, beams: int
) -> None:
    for limit in LIMITS.values():
        found = item_beams(model, *read, allowed(trie, ROWS, **limit), beams, beams)
        for row in range(ROWS):
            named, items = _named(row, limit), [item for item in found.items[row].tolist() if item >= 0]
            assert len(items) == len(set(items)) == min(beams, len(named))
            assert set(items) <= named
            torch.testing.assert_close(found.scores[row, : len(items)], scores[row, items], atol=TIE, rtol=0)


def test_a_beginning_whose_items_are_all_forbidden_is_not_entered(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, sequences: Sequences, scores: Tensor
) -> None:
    best = [sequences[int(item)][0] for item in item_beams(model, *read, allowed(trie, ROWS), 1, 1).items[:, 0]]
    never = [[item for item, one in enumerate(sequences) if one[0] == first] for first in best]
    found = item_beams(model, *read, allowed(trie, ROWS, never=never), 1, 1)
    assert (found.items >= 0).all()
    assert all(sequences[int(item)][0] != first for item, first in zip(found.items[:, 0], best, strict=True))


def test_rows_that_may_name_nothing(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    none = item_beams(model, *read, allowed(trie, ROWS, only=[[]] * ROWS), 3, 4)
    assert (none.items == -1).all()
    some = item_beams(model, *read, allowed(trie, ROWS, only=[[], [], [4], [], []]), 3, 4)
    assert some.items.tolist() == [[-1] * 3, [-1] * 3, [4, -1, -1], [-1] * 3, [-1] * 3]


def test_a_row_does_not_depend_on_its_batch(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    states, mask = read
    together = item_beams(model, states, mask, allowed(trie, ROWS), 4, 6)
    for row in range(ROWS):
        own = states[row : row + 1, mask[row]]
        alone = item_beams(model, own, mask[row : row + 1, mask[row]], allowed(trie, 1), 4, 6)
        assert alone.items[0].tolist() == together.items[row].tolist()


def test_prompts_are_kept_once_for_all_beams(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    reader = EncoderDecoder(model, *read)
    with shared_states(model):
        search(reader, allowed(trie, ROWS), 8, 8)
    assert {len(layer.keys) for layer in reader.cache.cross_attention_cache.layers} == {ROWS}
    assert {len(layer.keys) for layer in reader.cache.self_attention_cache.layers} == {ROWS * reader.width}
    assert reader.width > 1


def test_attention_is_put_back_even_after_an_error(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    before = model.config._attn_implementation
    item_beams(model, *read, allowed(trie, ROWS), 1, 1)
    assert model.config._attn_implementation == model.decoder.config._attn_implementation == before
    with pytest.raises(ValueError, match="3 items out of 2 beams"):
        item_beams(model, *read, allowed(trie, ROWS), 3, 2)
    assert model.config._attn_implementation == model.decoder.config._attn_implementation == before


def test_a_model_with_an_attention_of_its_own_is_refused(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model, "set_attn_implementation", lambda _: None)
    with pytest.raises(ValueError, match="T5ForConditionalGeneration has an attention of its own"):
        item_beams(model, *read, allowed(trie, ROWS), 1, 1)


def test_half_precision_names_what_may_be_named(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    half = copy.deepcopy(model).bfloat16()
    found = item_beams(half, read[0].bfloat16(), read[1], allowed(trie, ROWS, only=ONLY), 3, 6)
    assert found.scores.dtype == torch.float32
    assert all(set(items) - {-1} <= set(own) for items, own in zip(found.items.tolist(), ONLY, strict=True))


def test_what_may_be_named_belongs_to_the_prompts(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    with pytest.raises(ValueError, match="5 prompts, and what 4 rows may name"):
        item_beams(model, *read, allowed(trie, 4), 1, 1)


def test_scores_that_are_no_numbers_are_refused(model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie) -> None:
    with pytest.raises(ValueError, match="not a number"):
        item_beams(model, read[0] * float("nan"), read[1], allowed(trie, ROWS), 1, 1)


class Impossible(EncoderDecoder):
    """Holds one token for impossible."""

    def start(self) -> Tensor:
        return super().start().index_fill(2, torch.tensor([7]), -torch.inf)


def test_impossible_items_come_last(
    model: Any, read: tuple[Tensor, Tensor], trie: ItemTrie, sequences: Sequences
) -> None:
    with shared_states(model):
        found = search(Impossible(model, *read), allowed(trie, ROWS), ITEMS, ITEMS)
    assert (found.items.sort(dim=1).values == torch.arange(ITEMS)).all()
    count = sum(one[0] == 7 for one in sequences)
    assert count > 1
    assert all(sequences[item][0] == 7 for item in found.items[:, -count:].flatten().tolist())


def test_free_beams_tell_what_is_no_item(model: Any, read: tuple[Tensor, Tensor]) -> None:
    states, mask = read
    out = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states), attention_mask=mask, num_beams=6,
        num_return_sequences=6, length_penalty=0.0, early_stopping="never", max_new_tokens=4,
    )  # fmt: skip
    written = [tuple(row) for row in out[:, 1:].tolist()]
    known = sorted(set(written[::2]))
    trie = build([*map(list, known), [88, 88, 88, 88]])
    never = [[known.index(written[6 * row])] for row in range(ROWS)]
    found = free_beams(model, states, mask, allowed(trie, ROWS, never=never), 6, 6, trie.find)
    expected = [[known.index(one) for one in written[at : at + 6] if one in known] for at in range(0, 30, 6)]
    assert found.items.tolist() == [row + [-1] * (6 - len(row)) for row in expected]
    assert found.valid == found.distinct == pytest.approx(sum(map(len, expected)) / 30)
    assert found.allowed == pytest.approx((sum(map(len, expected)) - ROWS) / 30)
    same = free_beams(model, states, mask, allowed(trie, ROWS), 6, 6, lambda ids: torch.full((len(ids),), 3))
    assert same.items.tolist() == [[3] + [-1] * 5] * ROWS
    assert (same.valid, same.distinct) == (1.0, pytest.approx(1 / 6))

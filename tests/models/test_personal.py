"""The personalised network: the paper's counts, what lands in which slot, losses by hand, what learns and what not."""

from __future__ import annotations

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from small_prompts import CAUSAL, KINDS, batch, made, rows, stirred
from transformers import T5Config, T5ForConditionalGeneration

from latefuse.config_personal import Personalise
from latefuse.models import item_trie, personal
from latefuse.models.adapter_files import AdapterError
from latefuse.models.adapters import gradient_norms, module_digest
from latefuse.models.backbone import BackboneError
from latefuse.models.bottleneck import norm_scales, spots
from latefuse.models.families import FAMILIES
from latefuse.models.personal import Personal


@pytest.mark.parametrize(
    ("k", "places", "trained", "total", "share"),
    [
        (1, ("self", "ffn"), 1_866_496, 62_874_880, "2.97%"),
        (1, ("self", "cross", "ffn"), 2_263_168, 63_271_552, "3.58%"),
        (2, ("self", "cross", "ffn"), 2_788_736, 63_797_120, "4.37%"),
    ],
)
def test_the_parameters_are_those_of_the_paper(k, places, trained, total, share):
    """T5-small with the vocabulary of 32,100 and pictures of 512 numbers (VIP5, tables 5 and 6)."""
    settings = Personalise(k=k, places=places)
    with torch.device("meta"):
        t5 = T5ForConditionalGeneration(T5Config(vocab_size=32_100, num_heads=8)).requires_grad_(False)
        language = FAMILIES["t5"].language
        network = Personal(settings, 512, 512, spots(t5, language, places))
    for name in norm_scales(t5, language):
        t5.get_parameter(name).requires_grad_(True)
    found = personal.account(network, t5)
    assert (found.trained, found.total) == (trained, total)
    assert f"{found.share:.2%}" == share
    assert found.absent == k * 512
    assert found.own == (trained + k * 512, total + k * 512)


def test_the_tower_is_counted_apart(fresh):
    base = fresh("sighted")
    made(base)
    found = personal.account_of(base)
    tower = sum(p.numel() for p in base.inner["vision_tower"].parameters())
    assert found.tower == tower
    assert found.own == (
        sum(p.numel() for p in base.trained()),
        sum(p.numel() for part in (base.model, base.head) for p in part.parameters()),
    )


@pytest.mark.parametrize("k", [1, 2, 3])
def test_every_visual_token_lands_in_its_slot(k, fresh):
    base = fresh("sighted")
    network, prompted = stirred(base, k=k), batch(rows(6, k), k)
    network.learn_vectors(torch.randn(50, 24) * 3 + 1)
    found = personal.inputs(base, prompted)
    table, width = base.model.get_input_embeddings().weight, base.width
    for row, line in enumerate(rows(6, k)):
        for place in range(found.shape[1]):
            there = place < len(line.ids)
            word = line.words[place] if there else 0
            shown = there and line.items[place] >= 0
            expected = table[line.ids[place] if there else 0]
            if shown:
                picture = prompted.pictures[prompted.visual[row, place] // k]
                scaled = (picture - network.centre) / network.spread
                out = network.second(torch.tanh(network.first(scaled)))
                out = out / out.square().mean().sqrt() * network.norm.weight
                out = out if line.items[place] != 5 else network.absent
                expected = out[line.slot[place] * width : (line.slot[place] + 1) * width]
            expected = expected + network.words.weight[word] + network.categories.weight[int(shown)]
            torch.testing.assert_close(found[row, place], expected, rtol=1e-4, atol=1e-4)


def test_an_item_without_picture_has_a_token_that_learns(fresh):
    base = fresh("sighted")
    network = made(base)
    total, _ = personal.loss(base, batch(rows(4)))
    total.backward()
    assert network.absent.grad.abs().sum() > 0
    network.zero_grad()
    lacking = batch(rows(4))
    seen_by_all = dataclasses.replace(lacking, seen=torch.ones_like(lacking.seen))
    personal.loss(base, seen_by_all)[0].backward()
    assert not network.absent.grad.any()
    broken = dataclasses.replace(lacking, pictures=lacking.pictures.masked_fill(~lacking.seen[:, None], float("nan")))
    network.zero_grad()
    personal.loss(base, broken)[0].backward()
    assert all(p.grad.isfinite().all() for p in network.parameters() if p.grad is not None)


def test_text_only_has_no_visual_part(fresh):
    base = fresh("t5")
    network = made(base, k=0)
    assert not [name for name, _ in network.named_parameters() if name.split(".")[0] in ("first", "norm", "absent")]
    assert personal.nll(base, batch(rows(3, 0), 0)).shape == (3,)
    with pytest.raises(ValueError, match=r"visual slots, but personalise\.k is 0"):
        personal.inputs(base, batch(rows(3)))
    with pytest.raises(BackboneError, match="reads text, not 'image'"):
        made(base, k=2)


def test_words_and_categories_can_be_left_out_or_learned(fresh):
    base, prompted = fresh("sighted"), batch(rows(3))
    network = made(base, whole_words="none", categories="none", k=2)
    plain = prompted.visual < 0
    found = personal.inputs(base, prompted)
    assert torch.equal(found[plain], base.model.get_input_embeddings()(prompted.ids)[plain])
    assert network.words is network.categories is None
    network = made(base, whole_words="learned")
    assert network.words.weight.requires_grad
    assert not network.categories.weight.requires_grad


@pytest.mark.parametrize(("family", "settings"), KINDS)
def test_at_the_first_step_adapters_change_nothing(family, settings, fresh):
    base, prompted = fresh(family), batch(rows(5))
    network = made(base, **settings)
    on = personal.nll(base, prompted)
    with network.off(), torch.no_grad():
        assert torch.equal(personal.nll(base, prompted), on)
    embeds = personal.inputs(base, prompted).detach()
    told = {"inputs_embeds": embeds, "attention_mask": prompted.mask.long()}
    if base.seq2seq is not None:
        ours = base.seq2seq(**told, labels=prompted.labels).logits
        theirs = fresh(family).seq2seq(**told, labels=prompted.labels).logits
    else:
        ours = base.inner(**told).last_hidden_state
        theirs = fresh(family).inner(**told).last_hidden_state
    assert torch.equal(ours, theirs)


@pytest.mark.parametrize("scaled", [True, False])
def test_the_loss_is_the_librarys_and_that_of_each_row_alone(scaled, fresh):
    base, prompted = fresh("sighted"), batch(rows(5))
    stirred(base)
    base.seq2seq.config.scale_decoder_outputs = scaled
    total, count = personal.loss(base, prompted)
    out = base.seq2seq(
        inputs_embeds=personal.inputs(base, prompted), attention_mask=prompted.mask, labels=prompted.labels
    )
    torch.testing.assert_close(total / count, out.loss)
    assert count == int((prompted.labels != -100).sum())
    alone = torch.stack([personal.nll(base, batch([row]))[0] for row in rows(5)])
    torch.testing.assert_close(personal.nll(base, prompted), alone)
    torch.testing.assert_close(alone.sum(), total)


def test_a_causal_model_reads_prompt_and_answer_as_one(fresh):
    """Each row without padding, as one text of embeddings, by the library."""
    base, prompted = fresh("glued_mlp"), batch(rows(5))
    stirred(base, **CAUSAL)
    expected = []
    for number, row in enumerate(rows(5)):
        alone = batch([row])
        answer = torch.tensor(row.target)
        embeds = torch.cat([personal.inputs(base, alone)[0], base.model.get_input_embeddings()(answer)])
        logits = base.model(inputs_embeds=embeds[None]).logits[0]
        expected.append(F.cross_entropy(logits[len(row.ids) - 1 : -1], answer, reduction="sum"))
        assert personal.nll(base, alone).item() == pytest.approx(expected[number].item(), rel=1e-4)
    torch.testing.assert_close(personal.nll(base, prompted), torch.stack(expected).detach())
    left = dataclasses.replace(
        prompted, **{name: _to_the_left(getattr(prompted, name), prompted.mask) for name in ("ids", "words", "visual")},
        mask=prompted.mask.flip(1),
    )  # fmt: skip
    torch.testing.assert_close(personal.nll(base, left), torch.stack(expected).detach())


def _to_the_left(rows, mask):
    return torch.stack([torch.cat([row[~own], row[own]]) for row, own in zip(rows, mask, strict=True)])


def test_long_answers_can_weigh_little(fresh):
    base, prompted = fresh("sighted"), batch(rows(5))
    made(base, by_length=True)
    lengths = torch.tensor([len(row.target) for row in rows(5)])
    total, count = personal.loss(base, prompted)
    torch.testing.assert_close(total, (personal.nll(base, prompted) / lengths / lengths).sum())
    assert count == int(lengths.sum())


@pytest.mark.parametrize(("family", "settings"), [("sighted", {}), ("glued_mlp", CAUSAL)])
def test_held_against_items_alone_the_chances_of_all_of_them_add_up_to_one(family, settings, fresh):
    base, catalogue = fresh(family), item_trie.build([[7, 1], [7, 8, 1], [7, 8, 9, 1], [12, 1], [30, 8, 1]])
    made(base, **settings)
    one = rows(1)[0]
    answers = [[7, 1], [7, 8, 1], [7, 8, 9, 1], [12, 1], [30, 8, 1]]
    prompted = batch([dataclasses.replace(one, target=answer) for answer in answers])
    free = personal.nll(base, prompted)
    held = personal.nll(base, dataclasses.replace(prompted, may=catalogue.alternatives(prompted.labels)))
    assert float((-held).exp().sum()) == pytest.approx(1, abs=1e-5)
    assert float((-free).exp().sum()) < 0.9
    some = catalogue.alternatives(prompted.labels)
    mixed = personal.nll(base, dataclasses.replace(prompted, may=some[some[:, 0] != 3]))
    torch.testing.assert_close(mixed, torch.where(torch.arange(5) == 3, free, held))


@pytest.mark.parametrize(("family", "settings"), KINDS)
def test_what_should_learn_learns_and_nothing_else_moves(family, settings, fresh):
    base, prompted = fresh(family), batch(rows(6))
    network = made(base, **settings)
    frozen = module_digest(base.model, base.whole)
    tables = [network.words.weight.clone(), network.categories.weight.clone()]
    before = [parameter.detach().clone() for parameter in base.trained()]
    first = personal.loss(base, prompted)[0].item()
    optimiser = torch.optim.AdamW(base.trained(), lr=1e-2)
    for _ in range(4):
        optimiser.zero_grad()
        personal.loss(base, prompted)[0].backward()
        optimiser.step()
    unused = [n for p, n in ((p, n) for n, p in base.model.named_parameters() if p.requires_grad) if p.grad is None]
    assert not unused
    assert all(p.grad.any() for p in base.trained())
    assert all(norm > 0 for norm in gradient_norms(base).values())
    assert all(not torch.equal(p, old) for p, old in zip(base.trained(), before, strict=True))
    assert personal.loss(base, prompted)[0].item() < first
    assert module_digest(base.model, base.whole) == frozen
    assert torch.equal(network.words.weight, tables[0])
    assert torch.equal(network.categories.weight, tables[1])


def test_families_learn_apart_in_a_mixed_batch(fresh):
    base = fresh("sighted")
    network = made(base, per_family=True)
    mixed = batch(rows(6, families=("sequential", "explanation")))
    personal.loss(base, mixed)[0].backward()
    for one in network.bottlenecks.each:
        assert one.up.grad[0].any()
        assert one.up.grad[2].any()
        assert not one.up.grad[1].any()
    own = network.bottlenecks.each[0].up.grad.clone()
    network.zero_grad()
    some = [row for row in rows(6, families=("sequential", "explanation")) if row.family == "sequential"]
    personal.loss(base, batch(some))[0].backward()
    torch.testing.assert_close(network.bottlenecks.each[0].up.grad[0], own[0], rtol=1e-4, atol=1e-6)


def test_each_row_of_a_mixed_batch_goes_through_its_own(fresh):
    base = fresh("sighted")
    stirred(base, per_family=True)
    lines = rows(6)
    alone = torch.cat([personal.nll(base, batch([row])) for row in lines])
    torch.testing.assert_close(personal.nll(base, batch(lines)), alone)
    others = [dataclasses.replace(row, family="direct") for row in lines]
    assert not torch.allclose(personal.nll(base, batch(others)), alone)


def test_gradients_are_the_same_with_checkpointing(fresh):
    found = []
    for checkpointing in (False, True):
        base = fresh("sighted")
        network = made(base, per_family=True)
        base.model.train()
        for module in base.model.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = 0.0
        base.seq2seq.config.dropout_rate = 0.0
        for module in base.model.modules():
            if type(module).__name__ == "T5Attention":
                module.dropout = 0.0
        if checkpointing:
            base.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        personal.loss(base, batch(rows(6)))[0].backward()
        found.append([p.grad.clone() for p in network.parameters() if p.grad is not None])
        assert len(found[-1]) == len(found[0])
    for plain, again in zip(*found, strict=True):
        torch.testing.assert_close(plain, again, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("family", "settings"), KINDS)
def test_the_first_weights_come_from_the_seed_and_go_again(family, settings, fresh):
    base = fresh(family)
    digest = module_digest(base.model)
    first = made(base, seed=1, **settings).state_dict()
    again = made(base, seed=1, **settings).state_dict()
    other = made(base, seed=2, **settings).state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["second.weight"], other["second.weight"])
    stirred(base, **settings)
    personal.unload(base)
    assert module_digest(base.model) == digest
    assert not base.trained()
    assert base.head is None
    assert not [module for module in base.model.modules() if module._forward_hooks]


def test_what_can_not_read_embeddings_is_refused(fresh):
    with pytest.raises(BackboneError, match="has no language model"):
        made(fresh("light_clip"))
    with pytest.raises(AdapterError, match="no prompts of embeddings"):
        made(fresh("qwen2_5_vl"), **CAUSAL)
    with pytest.raises(AdapterError, match="no personalised network"):
        personal.nll(fresh("t5"), batch(rows(2)))

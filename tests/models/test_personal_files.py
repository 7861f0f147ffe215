"""A personalised adapter on disk: comes back as it was, and what does not fit is refused and leaves no trace."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_prompts import CAUSAL, KINDS, batch, made, rows, stirred
from transformers import T5ForConditionalGeneration

from latefuse.models import personal, personal_files
from latefuse.models.adapter_files import AdapterCard, AdapterError
from latefuse.models.adapters import module_digest
from latefuse.models.backbone import Backbone
from latefuse.models.personal_files import PERSONAL
from latefuse.models.whole import WHOLE


def card(backbone: Backbone, **other: object) -> AdapterCard:
    told = {"task": "next", "kind": "personalise", "modality": ("image", "text"), "arm": "next", "seed": 0}
    return AdapterCard.model_validate(
        {**told, "config_digest": "c", "backbone_digest": backbone.digest, "data_fingerprint": "d", **other}
    )


@pytest.mark.parametrize(("family", "settings"), [*KINDS, ("sighted", {"norms": False, "whole_words": "none"})])
def test_a_network_comes_back_as_it_was_saved(family, settings, fresh, tmp_path: Path):
    base = fresh(family)
    network = stirred(base, **settings)
    network.learn_vectors(torch.randn(9, 24))
    prompted, digest = batch(rows(5)), module_digest(fresh(family).model)
    before = personal.nll(base, prompted)
    kept = personal_files.save(base, tmp_path, card(base))
    assert kept.parameters == sum(p.numel() for p in base.trained())
    other = fresh(family)
    personal_files.load(other, tmp_path)
    torch.testing.assert_close(personal.nll(other, prompted), before, rtol=0, atol=0)
    assert not other.trained()
    assert not other.head.training
    personal.unload(other)
    assert module_digest(other.model) == digest
    personal_files.load(base, tmp_path)
    torch.testing.assert_close(personal.nll(base, prompted), before, rtol=0, atol=0)


def test_what_does_not_fit_is_refused(fresh, tmp_path: Path):
    base = fresh("sighted")
    stirred(base)
    digest = module_digest(fresh("sighted").model)

    def refused(message: str) -> None:
        fresh_one = fresh("sighted")
        with pytest.raises(AdapterError, match=message):
            personal_files.load(fresh_one, tmp_path)
        assert fresh_one.head is None
        assert not fresh_one.whole
        assert module_digest(fresh_one.model) == digest
        assert not [module for module in fresh_one.model.modules() if module._forward_hooks]

    personal_files.save(base, tmp_path, card(base, backbone_digest="another"))
    refused("made on a backbone of digest another")
    personal_files.save(base, tmp_path, card(base, kind="rank"))
    refused("prompts need one of kind personalise")
    personal_files.save(base, tmp_path, card(base))
    state, scales = load_file(tmp_path / PERSONAL), load_file(tmp_path / WHOLE)
    save_file({name: value for name, value in state.items() if name != "absent"}, tmp_path / PERSONAL)
    refused(r"1 tensor\(s\) do not fit this personalise network: absent")
    (tmp_path / PERSONAL).unlink()
    refused("no such file")
    save_file(state, tmp_path / PERSONAL)
    save_file(dict(list(scales.items())[1:]), tmp_path / WHOLE)
    refused("11 norm scales, this backbone has 12")
    (tmp_path / WHOLE).unlink()
    refused("0 norm scales, this backbone has 12")


def test_what_has_learned_nothing_or_is_broken_is_not_saved(fresh, tmp_path: Path):
    base = fresh("sighted")
    made(base)
    with pytest.raises(AdapterError, match="nothing was learned"):
        personal_files.save(base, tmp_path, card(base))
    network = stirred(base)
    with torch.no_grad():
        network.second.weight[0, 0] = float("inf")
    with pytest.raises(AdapterError, match=r"not finite: second\.weight"):
        personal_files.save(base, tmp_path, card(base))


def test_a_base_that_has_read_nothing_is_drawn_and_given_back(fresh, tmp_path):
    base, prompted = fresh("sighted"), batch(rows(5))
    digest = module_digest(base.model)
    network, first = made(base, random_base=True), module_digest(base.model)
    assert first != digest
    assert network.before.keys() == base.seq2seq.state_dict().keys()
    reference = T5ForConditionalGeneration(base.seq2seq.config)
    spread = base.seq2seq.encoder.block[0].layer[1].DenseReluDense.wi.weight.detach().std()
    assert spread == pytest.approx(
        float(reference.encoder.block[0].layer[1].DenseReluDense.wi.weight.detach().std()), rel=0.1
    )
    assert not base.seq2seq.shared.weight.requires_grad
    stirred(base, random_base=True)
    said = personal.nll(base, prompted)
    personal_files.save(base, tmp_path, card(base))
    personal.unload(base)
    assert module_digest(base.model) == digest
    personal_files.load(base, tmp_path)
    torch.testing.assert_close(personal.nll(base, prompted), said)
    personal.unload(base)
    assert module_digest(base.model) == digest
    with pytest.raises(AdapterError, match="random_base is a control of encoder-decoders"):
        made(fresh("glued_mlp"), **CAUSAL, random_base=True)

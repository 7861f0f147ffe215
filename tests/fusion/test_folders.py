"""Adapter folders: every kind that PEFT writes is read as PEFT itself would merge it, or refused by name."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from latefuse.fusion.changes import FusionError, base_weights
from latefuse.fusion.folders import apply_dense, delta, read, save_merged

KINDS = {
    "plain": {},
    "rslora": {"use_rslora": True, "r": 4},
    "patterns": {"rank_pattern": {"block.up": 2}, "alpha_pattern": {"block.down": 9}},
    "rslora-patterns": {"use_rslora": True, "rank_pattern": {"down": 2}, "alpha_pattern": {"^block.up": 7}},
    "dora": {"use_dora": True},
    "dora-rslora": {"use_dora": True, "use_rslora": True},
    "bias": {"bias": "lora_only"},
    "whole": {"modules_to_save": ["head"]},
    "whole-only-linears": {"modules_to_save": ["head", "block.down"], "target_modules": ["block.up"]},
    "suffix": {"target_modules": ["up"]},
}


@pytest.mark.parametrize("kind", KINDS)
def test_delta_is_what_peft_merges(kind, net, make_adapter):
    folder, merged = make_adapter(kind, 3, **KINDS[kind])
    changes = delta(folder, base_weights(net))
    after = dict(merged.named_parameters())
    moved = {name for name, weight in net.named_parameters() if not torch.equal(weight, after[name])}
    assert set(changes) == moved
    assert moved
    for name, change in changes.items():
        assert change.dtype == torch.float32
        torch.testing.assert_close(change, after[name] - dict(net.named_parameters())[name], atol=1e-6, rtol=1e-5)


def test_low_rank_needs_no_base_and_the_others_say_that_they_do(make_adapter):
    plain, _ = make_adapter("plain")
    assert set(delta(plain)) == {"block.up.weight", "block.down.weight"}
    for kind in ("dora", "bias", "whole"):
        folder, _ = make_adapter(kind, **KINDS[kind])
        with pytest.raises(FusionError, match="base_weights"):
            delta(folder)


@pytest.mark.parametrize("kind", ["plain", "patterns", "whole", "suffix", "rslora"])
def test_a_saved_lora_folder_loads_in_plain_peft(kind, net, make_adapter, tmp_path):
    folder, merged = make_adapter(kind, 5, **KINDS[kind])
    out = tmp_path / "out"
    assert save_merged(out, read(folder, base_weights(net)), base_weights(net), {"task": "x"})
    assert json.loads((out / "adapter.json").read_text()) == {"task": "x", "dense": False}
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(net), out).eval()
    saved = set(load_file(out / "adapter_model.safetensors"))
    assert saved == set(peft.get_peft_model_state_dict(loaded))
    x = torch.randn(9, 6)
    torch.testing.assert_close(loaded(x), merged(x), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", ["dora", "bias"])
def test_what_lora_can_not_hold_is_saved_dense(kind, net, make_adapter, tmp_path):
    folder, merged = make_adapter(kind, 5, **KINDS[kind])
    assert not save_merged(tmp_path / "out", read(folder, base_weights(net)), base_weights(net), {})
    assert json.loads((tmp_path / "out" / "adapter.json").read_text())["dense"] is True
    x = torch.randn(9, 6)
    with apply_dense(net, tmp_path / "out"):
        torch.testing.assert_close(net(x), merged(x), atol=1e-5, rtol=1e-5)


def test_nothing_of_an_earlier_merge_is_left(net, make_adapter, tmp_path):
    base = base_weights(net)
    lora, dense = read(make_adapter("plain")[0], base), read(make_adapter("dora", **KINDS["dora"])[0], base)
    for first, second in ((lora, dense), (dense, lora)):
        save_merged(tmp_path / "out", first, base, {})
        save_merged(tmp_path / "out", second, base, {})
        found = delta(tmp_path / "out", base)
        assert all(torch.equal(found[name], second[name]) for name in second.parameters)
        assert len(list((tmp_path / "out").glob("*.safetensors"))) == 1


def test_apply_dense_scales_and_restores_every_bit(net, make_adapter, tmp_path):
    folder, merged = make_adapter("dora", **KINDS["dora"])
    save_merged(tmp_path / "out", read(folder, base_weights(net)), base_weights(net), {})
    before = {name: weight.detach().clone() for name, weight in net.named_parameters()}
    after = dict(merged.named_parameters())["block.up.weight"]
    with apply_dense(net, tmp_path / "out", weight=0.5):
        torch.testing.assert_close(net.block["up"].weight, (before["block.up.weight"] + after) / 2)
        assert net.block["up"].weight.changed
    assert not hasattr(net.block["up"].weight, "changed")
    with pytest.raises(RuntimeError, match="inside"), apply_dense(net, tmp_path / "out"):
        raise RuntimeError("inside")
    assert all(torch.equal(weight, before[name]) for name, weight in net.named_parameters())


def test_a_half_precision_base_is_rounded_once(net, make_adapter, tmp_path):
    folder, _ = make_adapter("plain")
    change = delta(folder)["block.up.weight"]
    low = copy.deepcopy(net).to(torch.bfloat16)
    expected = (low.block["up"].weight.float() + change).to(torch.bfloat16)
    with apply_dense(low, folder):
        assert torch.equal(low.block["up"].weight, expected)


def test_the_weights_of_a_model_that_peft_has_wrapped(net, make_adapter, tmp_path):
    folder, _ = make_adapter("whole", **KINDS["whole"])
    names = set(base_weights(net))
    wrapped = peft.PeftModel.from_pretrained(copy.deepcopy(net), folder)
    found = base_weights(wrapped)
    assert set(found) == names
    assert all(torch.equal(found[name], weight) for name, weight in net.named_parameters())


def test_a_folder_for_another_backbone_is_refused(net, make_adapter, tmp_path):
    class Backbone:
        model, digest = net, "b" * 64

    folder, _ = make_adapter("plain")
    save_merged(tmp_path / "out", read(folder), base_weights(net), {"backbone_digest": "a" * 64})
    with pytest.raises(FusionError, match="merged for backbone aaaa"), apply_dense(Backbone(), tmp_path / "out"):
        pass


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("peft_type", "IA3", "only LORA"),
        ("fan_in_fan_out", True, "transposed"),
        ("lora_bias", True, "bias on lora_B"),
        ("trainable_token_indices", [1, 2], "token rows"),
        ("init_lora_weights", "pissa", "changes the backbone itself"),
        ("r", 5, "its configuration says 5"),
    ],
)
def test_refusals_name_the_folder_and_the_reason(key, value, reason, make_adapter):
    folder, _ = make_adapter("plain")
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, key: value}))
    with pytest.raises(FusionError, match=reason) as error:
        read(folder)
    assert str(folder) in str(error.value)


def test_an_embedding_lora_is_refused(make_adapter):
    folder, _ = make_adapter("plain")
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file(
        {**tensors, "base_model.model.words.lora_embedding_A": torch.ones(3, 4)}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(FusionError, match="only linears"):
        read(folder)


@pytest.mark.parametrize("damage", ["truncated", "missing", "half", "nan", "not-json"])
def test_a_damaged_folder_is_refused(damage, make_adapter):
    folder, _ = make_adapter("plain")
    weights: Path = folder / "adapter_model.safetensors"
    tensors = load_file(weights)
    first = next(key for key in tensors if "lora_A" in key)
    if damage == "truncated":
        weights.write_bytes(weights.read_bytes()[:-40])
    elif damage == "missing":
        weights.unlink()
    elif damage == "half":
        save_file({key: tensor for key, tensor in tensors.items() if key != first}, weights)
    elif damage == "nan":
        save_file({**tensors, first: torch.full_like(tensors[first], float("nan"))}, weights)
    else:
        (folder / "adapter_config.json").write_text("{")
    with pytest.raises(FusionError):
        read(folder)


def test_a_quantised_base_is_refused(net):
    net.block["up"].weight = torch.nn.Parameter(torch.zeros(12, 10, dtype=torch.int8), requires_grad=False)
    with pytest.raises(FusionError, match=r"block\.up\.weight is quantised"):
        base_weights(net)


def test_a_change_of_an_unknown_weight_is_refused(net, make_adapter):
    folder, _ = make_adapter("plain")
    del net.block["down"]
    with pytest.raises(FusionError, match="not in this backbone"), apply_dense(net, folder):
        pass

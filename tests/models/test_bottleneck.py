"""Bottlenecks behind the parts of a block: the formula, where they stand, which row goes through which."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from latefuse.models.adapter_files import AdapterError
from latefuse.models.bottleneck import Bottleneck, Bottlenecks, norm_scales, spots
from latefuse.models.families import FAMILIES


def filled(width: int = 6, inner: int = 3, kinds: int = 1, seed: int = 0) -> Bottleneck:
    torch.manual_seed(seed)
    made = Bottleneck(width, inner, kinds).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


def by_hand(made: Bottleneck, h: torch.Tensor, kind: int) -> torch.Tensor:
    """One state through one bottleneck, number by number."""
    inner = made.down[kind] @ h + made.down_bias[kind]
    gelu = torch.tensor([x * 0.5 * (1 + math.erf(x / math.sqrt(2))) for x in inner.tolist()], dtype=h.dtype)
    return h + made.up[kind] @ gelu + made.up_bias[kind]


@pytest.mark.parametrize("kinds", [1, 3])
def test_a_bottleneck_is_its_formula_for_every_row(kinds: int):
    made, h = filled(kinds=kinds), torch.randn(4, 5, 6, dtype=torch.float64)
    kind = torch.tensor([2, 0, 0, 1]) % kinds
    found = made(h, kind if kinds > 1 else None)
    for row in range(4):
        for place in range(5):
            torch.testing.assert_close(found[row, place], by_hand(made, h[row, place], int(kind[row])))


def test_a_new_bottleneck_changes_nothing():
    h = torch.randn(2, 3, 8)
    assert torch.equal(Bottleneck(8, 2)(h), h)
    assert torch.equal(Bottleneck(8, 2, 3)(h, torch.tensor([0, 2])), h)


def test_the_gradient_of_a_family_is_that_of_its_rows():
    made, h = filled(kinds=3), torch.randn(4, 2, 6, dtype=torch.float64)
    kind = torch.tensor([0, 2, 2, 0])
    made(h, kind).square().sum().backward()
    assert all(not p.grad[1].any() for p in made.parameters())
    for one in (0, 2):
        alone = filled(kinds=3)
        rows = kind == one
        alone(h[rows], kind[rows]).square().sum().backward()
        for mixed, own in zip(made.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(mixed.grad[one], own.grad[one])
            assert own.grad[one].any()


@pytest.mark.parametrize(
    ("family", "places", "count"),
    [
        ("t5", ("self", "cross", "ffn"), 2 * 2 + 2 * 3),
        ("t5", ("self", "ffn"), 2 * 2 + 2 * 2),
        ("t5", ("cross",), 2),
        ("sighted", ("self", "cross", "ffn"), 2 * 2 + 2 * 3),
        ("llama", ("self", "ffn"), 2 * 2),
        ("glued_mlp", ("ffn",), 2),
    ],
)
def test_they_stand_where_they_are_asked_for(family, places, count, fresh):
    base = fresh(family)
    found = spots(base.model, base.family.language, places)
    assert len(found) == count == len(set(found))
    assert not [name for name in found if "vision" in name]


def test_a_place_that_is_not_there_is_refused(fresh):
    base = fresh("llama")
    with pytest.raises(AdapterError, match=r"place 'cross' \(a causal language model has no cross-attention\)"):
        spots(base.model, base.family.language, ("self", "cross"))


def test_norms_of_the_language_model_alone(fresh):
    base = fresh("sighted")
    found = norm_scales(base.model, base.family.language)
    assert len(found) == len(set(found)) == (2 * 2 + 1) + (2 * 3 + 1)
    assert {tuple(base.model.get_parameter(name).shape) for name in found} == {(32,)}
    assert len(norm_scales(fresh("llama").model, FAMILIES["llama"].language)) == 2 * 2 + 1


def test_they_act_before_the_residual_is_added_and_leave_no_trace(fresh):
    base = fresh("t5")
    t5, ids = base.model, torch.tensor([[20, 30, 40]])
    before = t5.encoder(input_ids=ids).last_hidden_state
    made = Bottlenecks(["encoder.block.0.layer.1.DenseReluDense"], 32, 8)
    nn.init.normal_(made.each[0].up)
    seen: dict[str, torch.Tensor] = {}
    layer = t5.encoder.block[0].layer[1]
    layer.register_forward_hook(lambda module, given, out: seen.update(given=given[0], out=out))
    made.attach(t5)
    after = t5.encoder(input_ids=ids).last_hidden_state
    with torch.no_grad():
        plain = layer.DenseReluDense.wo(torch.relu(layer.DenseReluDense.wi(layer.layer_norm(seen["given"]))))
        torch.testing.assert_close(seen["out"], seen["given"] + made.each[0](plain))
    assert not torch.allclose(before, after)
    with made.off():
        assert torch.equal(t5.encoder(input_ids=ids).last_hidden_state, before)
    made.attach(t5)
    torch.testing.assert_close(t5.encoder(input_ids=ids).last_hidden_state, after, rtol=0, atol=0)
    made.detach()
    assert torch.equal(t5.encoder(input_ids=ids).last_hidden_state, before)


def test_rows_of_unknown_family_are_refused(fresh):
    base = fresh("t5")
    made = Bottlenecks(["encoder.block.0.layer.1.DenseReluDense"], 32, 8, kinds=3)
    made.attach(base.model)
    ids = torch.tensor([[20, 30], [40, 50]])
    with pytest.raises(ValueError, match="2 rows, but the family of none is told"):
        base.model.encoder(input_ids=ids)
    made.kind = torch.tensor([0, 1, 1])
    with pytest.raises(ValueError, match="2 rows, but the family of 3 are told"):
        base.model.encoder(input_ids=ids)

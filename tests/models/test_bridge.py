"""The bridges against formulas by hand, and how they start."""

import math

import pytest
import torch
from pydantic import ValidationError

from latefuse.models.bridge import BridgeOptions, MlpBridge, QFormerBridge, build_bridge

SMALL = {"kind": "qformer", "layers": 2, "hidden": 24, "heads": 2}


def qformer(seed=0, **options):
    torch.manual_seed(seed)
    return build_bridge(BridgeOptions(**{**SMALL, **options}), 12, 32)


def test_the_mlp_works_token_by_token():
    torch.manual_seed(0)
    bridge, features = MlpBridge(12, 32), torch.randn(3, 5, 12)
    first = features @ bridge.linear_1.weight.T + bridge.linear_1.bias
    gelu = first * 0.5 * (1 + torch.erf(first / math.sqrt(2)))
    expected = gelu @ bridge.linear_2.weight.T + bridge.linear_2.bias
    torch.testing.assert_close(bridge(features), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(bridge(features[:, 2:3]), expected[:, 2:3], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("tokens", [1, 8, 16, 32])
def test_a_q_former_makes_t_tokens_of_any_number(tokens):
    bridge = qformer(tokens=tokens)
    assert isinstance(bridge, QFormerBridge)
    assert bridge(torch.randn(2, 5, 12)).shape == (2, tokens, 32)
    assert bridge(torch.randn(2, 50, 12)).shape == (2, tokens, 32)


def test_queries_start_at_zero_and_learn_to_differ_by_what_follows_them():
    bridge = qformer(tokens=4)
    assert not bridge.query_tokens.any()
    features = torch.randn(2, 5, 12)
    out = bridge(features)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))
    (out * torch.randn(4, 32)).sum().backward()
    bridge.query_tokens.data -= bridge.query_tokens.grad
    assert (bridge(features)[:, 0] - bridge(features)[:, 1]).abs().max() > 1e-4


def test_the_first_layers_by_hand():
    """Self-attention and cross-attention of a Q-Former of one layer and one head, written out."""
    bridge = qformer(tokens=3, layers=1, heads=1).eval()
    bridge.query_tokens.data.normal_()
    features = torch.randn(2, 5, 12)
    layer, norm = bridge.qformer.encoder.layer[0], torch.nn.functional.layer_norm

    def linear(module, x):
        return x @ module.weight.T + module.bias

    def normed(module, x):
        return norm(x, x.shape[-1:], module.weight, module.bias, module.eps)

    def attention(block, queries, context):
        own = block.attention
        q, k, v = linear(own.query, queries), linear(own.key, context), linear(own.value, context)
        mixed = torch.softmax(q @ k.transpose(1, 2) / math.sqrt(q.shape[-1]), -1) @ v
        return normed(block.output.LayerNorm, linear(block.output.dense, mixed) + queries)

    with torch.no_grad():
        x = normed(bridge.qformer.layernorm, bridge.query_tokens.expand(2, -1, -1))
        x = attention(layer.attention, x, x)
        x = attention(layer.crossattention, x, features)
        wide = torch.nn.functional.gelu(linear(layer.intermediate_query.dense, x))
        x = normed(layer.output_query.LayerNorm, linear(layer.output_query.dense, wide) + x)
        torch.testing.assert_close(bridge(features), bridge.mlp(x), rtol=1e-5, atol=1e-5)


def test_it_reads_the_picture_and_nothing_is_drawn_at_random():
    bridge = qformer(tokens=2).train()
    features = torch.randn(2, 5, 12)
    assert torch.equal(bridge(features), bridge(features))
    assert (bridge(features) - bridge(features.flip(0))).abs().max() > 1e-3


def test_the_seed_alone_decides():
    one, two, three = (dict(qformer(seed).named_parameters()) for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert any(not torch.equal(one[name], three[name]) for name in one)


def test_lower_precision_stays_what_it_is():
    bridge = qformer(tokens=2).to(torch.bfloat16)
    assert bridge(torch.randn(2, 5, 12, dtype=torch.bfloat16)).dtype == torch.bfloat16


def test_options():
    assert (BridgeOptions().kind, BridgeOptions().tokens, BridgeOptions().layers) == ("qformer", 16, 6)
    assert BridgeOptions(tokens=8).length(50) == 8
    assert BridgeOptions(kind="mlp").length(50) == 50
    with pytest.raises(ValidationError, match="multiple of heads=5"):
        BridgeOptions(hidden=24, heads=5)

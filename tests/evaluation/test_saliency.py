"""Saliency flow against loops, against each model's own backward, and against finite differences."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from latefuse.config_vectors import Embed
from latefuse.evaluation import saliency
from latefuse.evaluation.saliency import SaliencyError, Spans, flow, flow_of_pairs, measure, spans
from latefuse.models import heads
from latefuse.models.backbone import MediaBatch, load
from latefuse.models.tiny_random import CONFIGS
from latefuse.prompts import Item, MediaRef
from latefuse.tasks import embed
from latefuse.tasks.views import Chunk, viewer
from latefuse.training.features import Features


def by_loops(attentions: Any, gradients: Any, image: Tensor, final: Tensor, mask: Tensor) -> Tensor:
    """The definition, pair by pair."""
    layers = []
    for attention, gradient in zip(attentions, gradients, strict=True):
        rows: list[dict[str, list[float]]] = []
        for b in range(len(mask)):
            kinds: dict[str, list[float]] = {"v": [], "t": [], "o": []}
            real = [k for k in range(mask.shape[1]) if mask[b, k]]
            for query in real:
                for key in real:
                    if key < query:
                        kind = "o" if query != int(final[b]) else "v" if image[b, key] else "t"
                        products = attention[b, :, query, key] * gradient[b, :, query, key]
                        kinds[kind].append(sum(abs(float(one)) for one in products))
            rows.append(kinds)
        means = []
        for kind in "vto":
            found = [np.mean(row[kind]) for row in rows if row[kind]]
            means.append(np.mean(found) if found else 0.0)
        layers.append([mean / sum(means) if sum(means) else 0.0 for mean in means])
    return torch.tensor(layers, dtype=torch.float32)


@pytest.mark.parametrize("seed", range(4))
def test_flow_equals_the_definition_pair_by_pair(seed: int) -> None:
    """Rows padded on either side, one without a picture, one that ends before its padding."""
    draw = torch.Generator().manual_seed(seed)
    layers, rows, count, length = 3, 4, 2, 9
    attentions = torch.rand(layers, rows, count, length, length, generator=draw)
    gradients = torch.randn(layers, rows, count, length, length, generator=draw)
    image, mask = torch.zeros(rows, length, dtype=torch.bool), torch.zeros(rows, length, dtype=torch.bool)
    final = torch.tensor([8, 5, 8, 6])
    mask[0], mask[1, :6], mask[2, 3:], mask[3] = True, True, True, True
    image[0, 1:4], image[1, 0:5], image[2, 4:6] = True, True, True
    found = flow(list(attentions), list(gradients), image, final, mask)
    torch.testing.assert_close(found, by_loops(attentions, gradients, image, final, mask), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.sum(1), torch.ones(layers))


def test_padding_the_diagonal_and_the_future_count_nothing() -> None:
    attention, mask = torch.ones(1, 1, 4, 4), torch.tensor([[True, True, True, False]])
    image, final = torch.tensor([[True, False, False, False]]), torch.tensor([2])
    gradient = torch.tensor([[[[7.0, 7, 7, 7], [2, 7, 7, 7], [6, 3, 7, 7], [7, 7, 7, 7]]]])
    found = flow([attention], [gradient], image, final, mask)
    torch.testing.assert_close(found, torch.tensor([[6.0, 3.0, 2.0]]) / 11)
    assert flow([attention], [0 * gradient], image, final, mask).tolist() == [[0, 0, 0]]


def _batch(backbone: Any, words: tuple[str, ...] = ("a dish", "!")) -> tuple[Tensor, Tensor, Any, Spans]:
    """Two prompts with a picture each, padded on the right, and where things stand in them."""
    media, slot = None, [70, 71]
    if "image" in backbone.modalities:
        draw = np.random.default_rng(0)
        pictures = [Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in words]
        media, slot = MediaBatch(image=backbone.pixels(pictures, "image")), backbone.placeholder_ids("image")
    rows = [[1, *slot, *backbone.tokenizer.encode(text, add_special_tokens=False)] for text in words]
    longest = max(map(len, rows))
    ids = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows])
    image = torch.zeros_like(mask, dtype=torch.bool)
    image[:, 1 : 1 + len(slot)] = True
    return ids, mask, media, Spans(image, mask.sum(1) - 1, mask.bool())


def _loss(hidden: Tensor, final: Tensor) -> Tensor:
    vectors = hidden[torch.arange(len(final)), final]
    return (vectors[0] * vectors[1]).sum() + vectors.pow(3).sum()


def _forward(backbone: Any, batch: Any) -> Callable[[], tuple[Tensor, Spans]]:
    ids, mask, media, where = batch
    return lambda: (_loss(backbone.hidden(ids, mask, media), where.final), where)


@pytest.mark.parametrize("family", list(CONFIGS))
def test_flow_of_every_family_equals_its_own_backward(family: str, fresh_backbone: Callable[..., Any]) -> None:
    """The library's own way to the weights, gradients kept by backward; towers stay as they are."""
    backbone = fresh_backbone(family)
    batch = _batch(backbone)
    ids, mask, media, where = batch
    before = backbone.hidden(ids, mask, media).detach()
    found = measure(backbone, [_forward(backbone, batch)])

    own = fresh_backbone(family)
    own.model.set_attn_implementation("eager")
    own.model.requires_grad_(True)
    kept: list[Tensor] = []
    for name, module in own.model.named_modules():
        if name.startswith(own.family.language[0]) and name.endswith("self_attn"):
            module.register_forward_hook(lambda module, given, out: kept.append(out[1]))
    hidden = own.hidden(ids, mask, media)
    for weights in kept:
        weights.retain_grad()
    _loss(hidden, where.final).backward()
    expected = flow([w.detach() for w in kept], [w.grad for w in kept], where.image, where.final, where.mask)
    assert found.shape == (2, 3)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)
    torch.testing.assert_close(found.sum(1), torch.ones(2))
    assert (found[:, 0] > 0.01).all(), "the picture never reached the vector"
    assert torch.equal(backbone.hidden(ids, mask, media), before), "the backbone is not what it was"


def test_flow_to_the_final_token_by_finite_differences(
    backbone_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """S_v : S_t with dL/dA of every weight taken by moving that weight a little (RMSNorm works in float32)."""
    from transformers.models.llama import modeling_llama

    eager = modeling_llama.eager_attention_forward
    backbone = load(backbone_folder("llama"), dtype="float64")
    ids, where = torch.tensor([[1, 70, 71, 72, 73]]), torch.ones(1, 5, dtype=torch.bool)
    image, final, moved = torch.tensor([[False, True, True, False, False]]), torch.tensor([4]), SimpleNamespace()

    def probe(module: Any, query: Any, key: Any, value: Any, attention_mask: Any, scaling: float, **more: Any) -> Any:
        _, weights = eager(module, query, key, value, attention_mask, scaling)
        if module.layer_idx == moved.layer:
            weights = weights.clone()
            moved.old = weights[0, moved.head, 4, moved.key].item()
            weights[0, moved.head, 4, moved.key] += moved.by
        values = value.repeat_interleave(module.num_key_value_groups, dim=1)
        return (weights @ values).transpose(1, 2).contiguous(), weights

    def loss() -> Tensor:
        return backbone.hidden(ids, where.long())[0, 4].pow(3).sum()

    found = measure(backbone, [lambda: (loss(), Spans(image, final, where))])
    monkeypatch.setattr(modeling_llama, "eager_attention_forward", probe)
    backbone.model.set_attn_implementation("eager")
    for moved.layer in range(2):
        importance = torch.zeros(4, dtype=torch.float64)
        for moved.key in range(4):
            for moved.head in range(2):
                values = []
                for moved.by in (1e-3, -1e-3):
                    with torch.no_grad():
                        values.append(float(loss()))
                moved.by = 0.0
                loss()
                importance[moved.key] += abs(moved.old * (values[0] - values[1]) / 2e-3)
        expected = importance[1:3].mean() / (importance[1:3].mean() + importance[[0, 3]].mean())
        ours = found[moved.layer, 0] / (found[moved.layer, 0] + found[moved.layer, 1])
        assert float(ours) == pytest.approx(float(expected), abs=2e-4)


def test_everything_is_put_back_even_after_an_error(fresh_backbone: Callable[..., Any]) -> None:
    backbone = fresh_backbone("video_llava")
    batch = _batch(backbone)
    backbone.model.train()
    language = backbone.model.model.language_model

    def state() -> tuple[Any, ...]:
        hooked = (language, backbone.model.get_input_embeddings())
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in hooked]
        modes = [m.training for m in backbone.model.modules()]
        asking = [p.requires_grad for p in backbone.model.parameters()]
        attention = language.config._attn_implementation, backbone.inner.image_tower.config._attn_implementation
        return hooks, modes, asking, attention, [p.grad for p in backbone.model.parameters()]

    before = state()
    measure(backbone, [_forward(backbone, batch)])
    assert state() == before
    with torch.no_grad():
        measure(backbone, [_forward(backbone, batch)])

    def twice() -> tuple[Tensor, Spans]:
        _forward(backbone, batch)()
        return _forward(backbone, batch)()

    with pytest.raises(SaliencyError, match="ran 2 times in a forward pass, not once"):
        measure(backbone, [twice])
    assert state() == before


def test_weights_that_are_not_handed_out_are_told(
    fresh_backbone: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    backbone = fresh_backbone("llama")
    monkeypatch.setattr(backbone.inner, "set_attn_implementation", lambda kind: None)
    with pytest.raises(SaliencyError, match=r"LlamaForCausalLM.* does not hand out the attention weights"):
        measure(backbone, [_forward(backbone, _batch(backbone))])
    backbone.family = SimpleNamespace(language=(), model_class="LightModel")
    with pytest.raises(SaliencyError, match=r"LightModel.* has no language model"):
        measure(backbone, [])


@pytest.fixture
def dishes_with_heads(fresh_backbone: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """`make(prompt)` -> a backbone with a head, pairs of items, one of them without a picture, and their features."""
    colours = ("red", "blue", "green", "black", "gold", "pink")
    for number, colour in enumerate(colours):
        Image.new("RGB", (40, 40), colour).save(tmp_path / f"{number}.png")
    items = [
        Item(f"i{k}", f"dish {'x' * k}", media=(MediaRef("image", f"{k}.png"),) if k != 4 else ()) for k in range(6)
    ]

    def make(prompt: str, inputs: tuple[str, ...] = ("image", "text")) -> tuple[Any, list[embed.Pair], Features]:
        backbone = fresh_backbone("video_llava")
        heads.build(backbone, Embed(prompt=prompt, dim=8, gate=False), inputs, 0).eval()
        pairs = [embed.pair(items[2 * k], items[2 * k + 1]) for k in range(3)]
        return backbone, pairs, Features(backbone, lambda path: tmp_path / path)

    return make


@pytest.mark.parametrize("prompt", ["basic", "micl"])
def test_flow_of_pairs_is_that_of_all_items_at_once(
    prompt: str, dishes_with_heads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A few items at a time, or all in one pass under the very loss of the batch."""
    backbone, pairs, features = dishes_with_heads(prompt)
    found = flow_of_pairs(backbone, pairs, features)
    show, slots = viewer(backbone), {backbone.token_id("image"), backbone.token_id("video")}

    def whole() -> tuple[Tensor, Spans]:
        chunk = show.prepare([item for pair in pairs for item in (pair.a, pair.b)], features)
        vectors = torch.nn.functional.normalize(show.encode(chunk)["multimodal"], dim=-1)
        rows = torch.cat([vectors[0::2], vectors[1::2]])
        logits = rows @ rows.T * backbone.head.scale.exp()
        logits = logits.masked_fill(torch.eye(6, dtype=torch.bool), float("-inf"))
        partner = torch.tensor([3, 4, 5, 0, 1, 2])
        return torch.nn.functional.cross_entropy(logits, partner), spans(chunk, slots)

    torch.testing.assert_close(found, measure(backbone, [whole]), rtol=1e-3, atol=1e-5)
    monkeypatch.setattr(saliency, "ITEMS_AT_ONCE", 1)
    torch.testing.assert_close(found, flow_of_pairs(backbone, pairs, features), rtol=1e-3, atol=1e-5)
    assert (found[:, 0] > 0).all()


def test_an_arm_without_a_picture_in_its_prompt_has_no_flow_from_one(dishes_with_heads: Callable[..., Any]) -> None:
    found = flow_of_pairs(*dishes_with_heads("none"))
    assert found[:, 0].tolist() == [0, 0]
    torch.testing.assert_close(found.sum(1), torch.ones(2))


def test_no_flow_without_two_pairs_or_attention(
    dishes_with_heads: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    backbone, pairs, features = dishes_with_heads("micl")
    assert flow_of_pairs(backbone, pairs[:1], features) is None
    monkeypatch.setattr(backbone.model.model.language_model, "set_attn_implementation", lambda kind: None)
    with caplog.at_level(logging.WARNING):
        assert flow_of_pairs(backbone, pairs, features) is None
    assert "does not hand out the attention weights" in caplog.text


def test_the_span_of_a_picture_takes_in_its_compression() -> None:
    """Two rows: slots 4, with a marker; and no slot at all, so nothing of the picture."""
    chunk = Chunk(
        items=3,
        raw={},
        owner={},
        there={},
        input_ids=torch.tensor([[1, 9, 4, 4, 9, 9, 0, 9, 9], [1, 9, 0, 9, 0, 9, 9, 0, 0], [1, 4, 9, 4, 9, 9, 0, 0, 0]]),
        attention_mask=torch.tensor([[1] * 9, [1] * 7 + [0] * 2, [1] * 6 + [0] * 3]),
        learned=((0, 6, "marker.image"), (1, 2, "absent.image"), (1, 4, "marker.image")),
        pools={"multimodal": torch.tensor([8, 6, 5])},
    )
    found = spans(chunk, {4})
    assert [row.nonzero()[:, 0].tolist() for row in found.image] == [[2, 3, 4, 5], [], [1, 3]]
    assert found.final.tolist() == [8, 6, 5]
    assert found.mask.sum(1).tolist() == [9, 7, 6]

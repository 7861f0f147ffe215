"""Saliency flow: through which layers a picture reaches the token that is pooled (NoteLLM-2, arXiv 2405.16789).

The importance of a key for a query is |A * dL/dA| of its attention weight A, summed over heads (arXiv 2305.14160, after
arXiv 1905.10650). Averages of it tell, layer by layer, how much reaches the pooled token from the picture, how much
from everything else, and what goes on between other tokens.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import PreTrainedModel

from latefuse.errors import UserError
from latefuse.evaluation.saliency_picture import FLOWS, picture
from latefuse.models.backbone import Backbone
from latefuse.models.heads import MULTIMODAL
from latefuse.prompts.items import Item
from latefuse.tasks import embed, item_vectors
from latefuse.tasks.views import Chunk, viewer
from latefuse.training.contrast import view_loss
from latefuse.training.features import Features

__all__ = ["FLOWS", "SaliencyError", "Spans", "flow", "flow_of_pairs", "measure", "picture", "row_flows", "spans"]

log = logging.getLogger(__name__)

ITEMS_AT_ONCE = 4


class SaliencyError(UserError, ValueError):
    """A backbone whose attention weights can't be had; the message says why."""


@dataclass(frozen=True)
class Spans:
    """Where things stand in a batch. image, mask: (B, L) bool, tokens of the picture, tokens that are no padding.

    final: (B,) the position that is pooled.
    """

    image: Tensor
    final: Tensor
    mask: Tensor


def spans(chunk: Chunk, slots: Collection[int]) -> Spans:
    """Where picture and pooled token of items stand. slots: the ids of placeholders of media.

    With mICL the span of the picture goes on to the last marker: the compression speaks for it.
    """
    assert chunk.input_ids is not None
    assert chunk.attention_mask is not None
    image = torch.isin(chunk.input_ids, torch.tensor(sorted(slots), dtype=torch.long))
    for row, marker, name in chunk.learned:
        places = image[row].nonzero()
        if name.startswith("marker.") and len(places):
            image[row, int(places[0]) : marker] = True
    return Spans(image, chunk.pools[MULTIMODAL], chunk.attention_mask.bool())


def flow(
    attentions: Sequence[Tensor], gradients: Sequence[Tensor], image: Tensor, final: Tensor, mask: Tensor
) -> Tensor:
    """S_v, S_t, S_o of each layer, (layers, 3), that sum to 1 (0 where nothing flows): see `row_flows`."""
    return _shares(row_flows(attentions, gradients, Spans(image, final, mask)))


def row_flows(attentions: Sequence[Tensor], gradients: Sequence[Tensor], where: Spans) -> Tensor:
    """S_v, S_t, S_o of each layer and row, (layers, B, 3); NaN where a row has no such pair of tokens.

    attentions, gradients: a layer each, (B, H, L, L), query before key, and the loss's derivative by them. Of all pairs
    of a query and an earlier key S_v averages those from the picture to the final token, S_t those from other tokens to
    it, S_o the rest.
    """
    length = where.mask.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=where.mask.device).tril(-1)
    pairs = where.mask[:, :, None] & where.mask[:, None, :] & earlier
    to_final = pairs & torch.zeros_like(where.mask).scatter(1, where.final[:, None], True)[:, :, None]
    from_image = where.image[:, None, :]
    kinds = torch.stack([to_final & from_image, to_final & ~from_image, pairs & ~to_final], dim=1)
    importances = (
        (attention.float() * gradient.float()).abs().sum(1, keepdim=True)
        for attention, gradient in zip(attentions, gradients, strict=True)
    )
    return torch.stack([(importance * kinds).sum((-2, -1)) / kinds.sum((-2, -1)) for importance in importances])


def _shares(rows: Tensor) -> Tensor:
    """(layers, B, 3) -> (layers, 3): means over the rows that have such pairs, scaled so that each layer sums to 1."""
    means = rows.nanmean(1).nan_to_num(0.0)
    whole = means.sum(1, keepdim=True)
    return torch.where(whole > 0, means / whole, 0.0)


def measure(backbone: Backbone, forwards: Iterable[Callable[[], tuple[Tensor, Spans]]]) -> Tensor:
    """The flow (layers, 3) of a backbone's language model, on the CPU, over all rows of some forward passes.

    Each of `forwards` runs the language model once and returns the loss, a scalar, and where things stand in its batch;
    the losses of several add up to the one that is measured. Weights and settings are left as they were. Raises
    SaliencyError when there is no language model, and when it does not hand out its attention weights.
    """
    found: list[Tensor] = []
    with _kept_attention(backbone) as runs, torch.enable_grad():
        for forward in forwards:
            runs.clear()
            loss, where = forward()
            if len(runs) != 1:
                raise SaliencyError(f"saliency: the language model ran {len(runs)} times in a forward pass, not once")
            gradients = torch.autograd.grad(loss, runs[0])
            there = [value.to(gradients[0].device) for value in (where.image, where.final, where.mask)]
            found.append(row_flows([weights.detach() for weights in runs[0]], gradients, Spans(*there)).cpu())
    return _shares(torch.cat(found, dim=1))


def flow_of_pairs(backbone: Backbone, pairs: Sequence[embed.Pair], features: Features) -> Tensor | None:
    """The flow (layers, 3) to the served vector under its contrastive loss over the pairs.

    The loss's gradient by the vectors is worked out first, so that attention weights are kept for a few items at a
    time. None, with the reason in the log, where a backbone can't show them or there are fewer than two pairs.
    """
    items = {item.id: item for pair in pairs for item in (pair.a, pair.b)}
    if len(pairs) < 2 or not backbone.family.language:
        log.info("saliency: not measured, it needs a language model and two pairs of items")
        return None
    listed = list(items.values())
    gradient = dict(zip(items, _gradient(backbone, pairs, listed, features), strict=True))
    parts = (listed[start : start + ITEMS_AT_ONCE] for start in range(0, len(listed), ITEMS_AT_ONCE))
    try:
        return measure(backbone, (partial(_forward, backbone, part, gradient, features) for part in parts))
    except SaliencyError as error:
        log.warning("%s", error)
        return None


def _gradient(backbone: Backbone, pairs: Sequence[embed.Pair], items: Sequence[Item], features: Features) -> Tensor:
    """dL/de of the multimodal view's loss for the unit vectors of the items, (n, dim)."""
    place = {item.id: number for number, item in enumerate(items)}
    vectors = item_vectors.vectors(backbone, items, features=features, batch_size=ITEMS_AT_ONCE).requires_grad_()
    content = torch.tensor([pair.content[side] for side in (0, 1) for pair in pairs])
    a, b = ([place[getattr(pair, side).id] for pair in pairs] for side in ("a", "b"))
    scale = backbone.head.scale.detach().exp().cpu()
    with torch.enable_grad():
        rows = torch.cat([vectors[a], vectors[b]])
        loss = view_loss(rows, content, torch.ones(len(rows), dtype=torch.bool), scale, [rows.shape[1]])
    return torch.autograd.grad(loss, vectors)[0]


def _forward(
    backbone: Backbone, items: Sequence[Item], gradient: dict[str, Tensor], features: Features
) -> tuple[Tensor, Spans]:
    """What a few items add to the loss, to first order, and where things stand in their prompts."""
    show = viewer(backbone)
    chunk = show.prepare(items, features)
    vectors = F.normalize(show.encode(chunk)[MULTIMODAL].float(), dim=-1)
    slots = {backbone.token_id(modality) for modality in backbone.family.tower}
    wanted = torch.stack([gradient[item.id] for item in items]).to(vectors.device)
    return (vectors * wanted).sum(), spans(chunk, slots)


@contextmanager
def _kept_attention(backbone: Backbone) -> Iterator[list[list[Tensor]]]:
    """Inside, each run of the language model adds its attention weights, layer by layer, with their graph.

    The model is in evaluation mode, without dropout, and attention is computed the plain way, the only one that has
    weights to show. Word embeddings ask for a gradient, so that a frozen model has a graph too.
    """
    language, runs = _language(backbone), list[list[Tensor]]()

    def ask(module: Any, args: Any, given: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        return args, {**given, "output_attentions": True}

    def keep(module: Any, args: Any, out: Any) -> None:
        runs.append(_weights(backbone, getattr(out, "attentions", None)))

    def differentiable(module: Any, args: Any, out: Tensor) -> None:
        out.requires_grad_(True)

    before, training = language.config._attn_implementation, [m for m in backbone.model.modules() if m.training]
    hooks = [
        language.register_forward_pre_hook(ask, with_kwargs=True),
        language.register_forward_hook(keep),
        backbone.model.get_input_embeddings().register_forward_hook(differentiable, prepend=True),
    ]
    try:
        language.set_attn_implementation("eager")
        backbone.model.eval()
        yield runs
    finally:
        for hook in hooks:
            hook.remove()
        language.set_attn_implementation(before)
        for module in training:
            module.training = True


def _language(backbone: Backbone) -> Any:
    """The module that is the language model. Raises SaliencyError."""
    named = backbone.family.language
    language = backbone.model.get_submodule(named[0]) if named else None
    if not isinstance(language, PreTrainedModel):
        raise SaliencyError(
            f"saliency: backbone {backbone.name!r} ({backbone.family.model_class}) has no language model"
        )
    return language


def _weights(backbone: Backbone, attentions: Any) -> list[Tensor]:
    """The layers' weights. Raises SaliencyError where a layer has none or they don't carry a gradient."""
    weights = list(attentions or ())
    if not weights or not all(isinstance(layer, Tensor) and layer.requires_grad for layer in weights):
        raise SaliencyError(
            f"saliency: the language model of backbone {backbone.name!r} ({backbone.family.model_class}) does not hand "
            "out the attention weights of all its layers"
        )
    return weights

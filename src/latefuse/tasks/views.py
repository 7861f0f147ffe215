"""How items become views: a prompt through a language model, or frozen vectors through projections (light).

Both show the same two functions: `prepare` makes a chunk of items ready (tokens, stored features), `encode` turns it
into one vector a view, with gradient.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latefuse.config import Modality
from latefuse.models.backbone import Backbone, MediaBatch
from latefuse.models.heads import MULTIMODAL, EmbedHead
from latefuse.prompts.items import Item, ItemPrompt, ItemSplicer
from latefuse.tasks.catalogue import readable
from latefuse.training.batching import pad
from latefuse.training.features import Features

Views = dict[str, Tensor]
KEPT = 65_536
"""Prompts kept: a catalogue that streams through must not stay in memory."""


@dataclass(frozen=True)
class Chunk:
    """Some items, ready to be encoded.

    raw: modality -> (media, dv) what the frozen tower made of them, pooled; owner: modality -> (media,) whose they are.
    there: view -> (items,) bool. Of a language model: input_ids, attention_mask (items, L), padded on the right;
    learned: (row, column, name) of learned tokens; pools: view -> (items,) positions. Of a light backbone: words
    (items, dt), zero where `there["text"]` says that there are none.
    """

    items: int
    raw: Mapping[str, Tensor]
    owner: Mapping[str, Tensor]
    there: Mapping[str, Tensor]
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    learned: tuple[tuple[int, int, str], ...] = ()
    pools: Mapping[str, Tensor] = field(default_factory=dict)
    media: MediaBatch | None = None
    words: Tensor | None = None


class Viewer(Protocol):
    """What both kinds of backbones offer."""

    def length(self, item: Item) -> int:
        """By what items of like cost are put together."""
        ...

    def prepare(self, items: Sequence[Item], features: Features) -> Chunk:
        """Items as one chunk."""
        ...

    def encode(self, chunk: Chunk) -> Views:
        """View -> (items, dim), not yet of unit length."""
        ...


def viewer(backbone: Backbone) -> Viewer:
    """The viewer of a backbone with a head."""
    head = backbone.head
    assert head is not None
    if head.viewer is None:
        head.viewer = VectorViews(backbone, head) if backbone.family.kind == "light" else PromptViews(backbone, head)
    found: Viewer = head.viewer
    return found


class PromptViews:
    """Views out of a language model: the states before each marker and at the end of the prompt."""

    def __init__(self, backbone: Backbone, head: EmbedHead) -> None:
        self.backbone, self.head = backbone, head
        self.splicer = ItemSplicer.of(backbone, head.settings.prompt, head.settings.budget)
        self.written: dict[Item, ItemPrompt] = {}

    def prompt(self, item: Item) -> ItemPrompt:
        """The item's prompt, written once for as long as it is among the latest."""
        if item not in self.written:
            if len(self.written) >= KEPT:
                self.written.clear()
            self.written[item] = self.splicer.encode(item, self.head.inputs, bare=True)
        return self.written[item]

    def length(self, item: Item) -> int:
        """Tokens of the prompt."""
        return len(self.prompt(item).input_ids)

    def prepare(self, items: Sequence[Item], features: Features) -> Chunk:
        """See `Viewer`."""
        prompts = [self.prompt(item) for item in items]
        raw, owner = _raw(items, self.head, features)
        return Chunk(
            items=len(items),
            raw=raw,
            owner=owner,
            there=_there(items, self.head),
            input_ids=pad([prompt.input_ids for prompt in prompts], self.backbone.pad_id),
            attention_mask=pad([[1] * len(prompt.input_ids) for prompt in prompts], 0),
            learned=tuple((row, at, name) for row, prompt in enumerate(prompts) for at, name in prompt.learned),
            pools={view: torch.tensor([prompt.pools.get(view, 0) for prompt in prompts]) for view in self.head.views},
            media=features.batch([ref for prompt in prompts for ref in prompt.media]),
        )

    def encode(self, chunk: Chunk) -> Views:
        """See `Viewer`."""
        backbone, head = self.backbone, self.head
        assert chunk.input_ids is not None
        assert chunk.attention_mask is not None
        ids, mask = chunk.input_ids.to(backbone.device), chunk.attention_mask.to(backbone.device)
        media = chunk.media.to(backbone.device) if chunk.media else None
        with _written_over(backbone.model.get_input_embeddings(), chunk.learned, head):
            hidden = backbone.hidden(ids, mask, media)
        rows = torch.arange(chunk.items, device=ids.device)
        dtype = head.reduce.weight.dtype
        states = {view: hidden[rows, at.to(ids.device)].to(dtype) for view, at in chunk.pools.items()}
        chunk = _ready(chunk, head)
        return {view: head.fuse(h, seen(chunk, head, view)) for view, h in states.items()}


class VectorViews:
    """Views out of frozen vectors: sentence and picture, each projected, early fusion a sum of the projections."""

    def __init__(self, backbone: Backbone, head: EmbedHead) -> None:
        self.backbone, self.head = backbone, head

    def length(self, item: Item) -> int:
        """Characters."""
        return len(item.title) + len(item.text)

    def prepare(self, items: Sequence[Item], features: Features) -> Chunk:
        """See `Viewer`."""
        there = {**_there(items, self.head), "text": _has(items, "text")}
        words = None
        if self.head.words is not None:
            words = torch.zeros(len(items), self.head.words.in_features)
            shown = there["text"].nonzero()[:, 0].tolist()
            if shown:
                words[shown] = features.text([words_of(items[number]) for number in shown]).float()
        raw, owner = _raw(items, self.head, features)
        return Chunk(items=len(items), raw=raw, owner=owner, there=there, words=words)

    def encode(self, chunk: Chunk) -> Views:
        """See `Viewer`. Frozen vectors are brought to mean 0 and variance 1 each: their towers' scales differ much."""
        head = self.head
        chunk = _ready(chunk, head, norm=True)
        early = {m: _mean_over_media(chunk, {m: layer}, head.token(f"absent.{m}")) for m, layer in head.early.items()}
        device = head.reduce.weight.device
        h = torch.zeros(chunk.items, head.reduce.in_features, device=device)
        if head.words is not None and chunk.words is not None:
            words = head.words(head.drop(F.layer_norm(chunk.words.to(device), chunk.words.shape[-1:])))
            h = torch.where(chunk.there["text"].to(device)[:, None], words, head.token("absent.text"))
        states = {MULTIMODAL: h + sum(early.values()), **{m: early[m] for m in head.views if m != MULTIMODAL}}
        return {view: head.fuse(states[view], seen(chunk, head, view)) for view in head.views}


def words_of(item: Item) -> str:
    """Title, topics and text of an item as the sentence encoder reads them."""
    parts = (item.title, ", ".join(item.topics), item.text)
    return ". ".join(part.strip() for part in parts if part.strip())


def seen(chunk: Chunk, head: EmbedHead, view: str) -> Tensor | None:
    """c (items, d): the mean over an item's media of W_c V, the learned absent vector where it has none.

    view: the multimodal one has all media, that of a medium its own. None without a gate.
    """
    if head.gate is None or head.absent is None:
        return None
    read = {m: layer for m, layer in head.see.items() if view in (MULTIMODAL, m)}
    return _mean_over_media(chunk, read, head.absent)


def _mean_over_media(chunk: Chunk, layers: Mapping[str, nn.Module], absent: Tensor) -> Tensor:
    """(items, d) the mean of an item's media, each through its modality's layer; `absent` (d,) where it has none."""
    there = [modality for modality in layers if modality in chunk.raw]
    if not there:
        return absent.expand(chunk.items, -1)
    owner = torch.cat([chunk.owner[modality] for modality in there]).to(absent.device)
    parts = [layers[modality](chunk.raw[modality]) for modality in there]
    values = torch.cat(parts).float()  # under autocast a layer answers in half precision
    total = values.new_zeros(chunk.items, values.shape[1]).index_add(0, owner, values)
    count = values.new_zeros(chunk.items, 1).index_add(0, owner, torch.ones_like(values[:, :1]))
    return torch.where(count > 0, total / count.clamp(min=1), absent.float()).to(absent.dtype)


def _ready(chunk: Chunk, head: EmbedHead, norm: bool = False) -> Chunk:
    """The chunk with raw features as the head reads them: normalised if asked, a part dropped in training."""
    weight = head.reduce.weight
    raw = {modality: values.to(weight.device, weight.dtype) for modality, values in chunk.raw.items()}
    if norm:
        raw = {modality: F.layer_norm(values, values.shape[-1:]) for modality, values in raw.items()}
    return replace(chunk, raw={modality: head.drop(values) for modality, values in raw.items()})


def _raw(items: Sequence[Item], head: EmbedHead, features: Features) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What gate and projections need of the items' media: (raw, owner) of a chunk."""
    raw, owner = {}, {}
    for modality in {**head.see, **head.early}:
        media = [(row, ref) for row, item in enumerate(items) for ref in item.media if ref.path]
        mine = [(row, ref) for row, ref in media if ref.modality == modality]
        if mine:
            raw[modality] = features.pooled([ref for _, ref in mine])
            owner[modality] = torch.tensor([row for row, _ in mine])
    return raw, owner


def _there(items: Sequence[Item], head: EmbedHead) -> dict[str, Tensor]:
    """View -> (items,) bool: a visual view is there where its medium is."""
    all_there = torch.ones(len(items), dtype=torch.bool)
    return {view: all_there if view == MULTIMODAL else _has(items, view) for view in head.views}


def _has(items: Sequence[Item], modality: Any) -> Tensor:
    wanted: tuple[Modality, ...] = (modality,)
    return torch.tensor([readable(item, wanted) for item in items])


@contextmanager
def _written_over(embedding: nn.Module, learned: Sequence[tuple[int, int, str]], head: EmbedHead) -> Iterator[None]:
    """Inside, the embedding gives the head's learned vectors at these places of its next batch."""
    if not head.learned:
        yield
        return
    rows, columns = (torch.tensor([place[k] for place in learned], dtype=torch.long) for k in (0, 1))
    # All of them are read in every batch, also those that stand nowhere in it: processes then agree on what they touch.
    table = torch.stack([head.token(name) for name in head.tokens])
    vectors = table[torch.tensor([head.tokens.index(name) for _, _, name in learned], dtype=torch.long)]

    def put(module: nn.Module, given: Any, out: Tensor) -> Tensor:
        return out.index_put((rows, columns), vectors.to(out.device, out.dtype))

    handle = embedding.register_forward_hook(put)
    try:
        yield
    finally:
        handle.remove()

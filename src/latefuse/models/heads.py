"""Heads: what stands behind a frozen backbone and is trained from nothing.

`EmbedHead` is NoteLLM-2's late fusion (arXiv 2405.16789, section 4.3): the raw feature of the vision tower is mixed
into the language model's states by a gate, then reduced to the vector that is served.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latefuse.config import MODALITIES, Modality
from latefuse.config_vectors import Embed
from latefuse.models.adapter_files import load_tensors, write_tensors
from latefuse.models.backbone import Backbone

HEAD = "head.safetensors"
MULTIMODAL = "multimodal"
LEARNED = ("marker.image", "marker.video", "absent.image", "absent.video", "absent.text")
LIGHT_WIDTH = 256
TOKEN_STD = 0.02


def gated(h: Tensor, c: Tensor, weight: Tensor) -> Tensor:
    """z * h + (1 - z) * c with z = sigmoid(W_g [h; c]), element by element (NoteLLM-2, section 4.3).

    h, c: (n, d). weight: (d, 2 d). Returns (n, d).
    """
    z = torch.sigmoid(torch.cat([h, c], dim=-1) @ weight.T)
    return z * h + (1 - z) * c


class EmbedHead(nn.Module):
    """Everything of the embedding task that is no adapter on the backbone.

    see: W_c, the raw visual feature (dv) of a modality to the width d. gate: W_g, shared by all views. reduce: W_r, d
    to the served width. drop: of raw features while training. absent: stands for the raw feature of an item without
    media. learned: vectors that stand in a prompt for a marker or for a field that is not there, by `tokens`. scale:
    (1,) logarithm of 1 / temperature. words, early: for light backbones, sentence vector and raw visual feature to d;
    None for language models.
    """

    def __init__(
        self,
        settings: Embed,
        inputs: Sequence[Modality],
        width: int,
        visual: Mapping[str, int],
        words: int | None = None,
    ) -> None:
        super().__init__()
        self.settings, self.inputs = settings, tuple(inputs)
        self.viewer: Any = None
        media = [modality for modality in self.inputs if modality != "text"]
        fused = settings.gate and bool(media)
        self.see = nn.ModuleDict({m: nn.Linear(visual[m], width, bias=False) for m in media} if fused else {})
        self.gate = nn.Linear(2 * width, width, bias=False) if fused else None
        self.absent = nn.Parameter(torch.randn(width) * TOKEN_STD) if fused else None
        self.drop = nn.Dropout(settings.feature_dropout)
        self.reduce = nn.Linear(width, settings.dim, bias=False)
        self.scale = nn.Parameter(torch.tensor([float(settings.scale)]))  # DeepSpeed can't send a scalar
        self.tokens = [name for name in LEARNED if self._is_read(name, light=words is not None)]
        self.learned = nn.ParameterDict({_key(n): nn.Parameter(torch.randn(width) * TOKEN_STD) for n in self.tokens})
        in_words = words is not None and "text" in self.inputs
        self.words = nn.Linear(words or 1, width, bias=False) if in_words else None
        early = media if words is not None and settings.prompt != "none" else []
        self.early = nn.ModuleDict({m: nn.Linear(visual[m], width, bias=False) for m in early})
        if self.gate is not None:
            nn.init.xavier_normal_(self.gate.weight)

    def _is_read(self, name: str, light: bool) -> bool:
        """Whether this arm ever shows the learned vector `name`."""
        kind, _, modality = name.partition(".")
        if kind == "marker":
            return not light and modality in self.views
        return modality in self.inputs and (modality == "text" or self.settings.prompt != "none")

    def token(self, name: str) -> Tensor:
        """The learned vector (d,) of a marker or an absent field."""
        vector: Tensor = self.learned[_key(name)]
        return vector

    @property
    def views(self) -> tuple[str, ...]:
        """The multimodal view and, with mICL, one for every medium that is compressed before something else comes."""
        shown = [modality for modality in MODALITIES if modality in self.inputs]
        return (MULTIMODAL, *(shown[:-1] if self.settings.prompt == "micl" else ()))

    def fuse(self, h: Tensor, c: Tensor | None) -> Tensor:
        """(n, d) states and raw features to vectors (n, dim), not yet of unit length; without a gate c has no say."""
        if self.gate is not None and c is not None:
            h = gated(h, c, self.gate.weight)
        out: Tensor = self.reduce(h)
        return out


def _key(name: str) -> str:
    """Parameter names can't hold dots."""
    return name.replace(".", "_")


def build(backbone: Backbone, settings: Embed, inputs: Sequence[Modality], seed: int) -> EmbedHead:
    """Put a new head on the backbone; its first weights come from `seed` alone. Returns it."""
    light = backbone.family.kind == "light"
    visual: dict[str, int] = {m: backbone.pooled_width(m) for m in inputs if m != "text"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        head = EmbedHead(
            settings,
            inputs,
            LIGHT_WIDTH if light else backbone.width,
            visual,
            backbone.text_width if light else None,
        )
    backbone.head = head.to(backbone.device)
    return head


def save_head(head: EmbedHead, folder: Path) -> int:
    """Write the head as safetensors; returns how many parameters it has. Raises AdapterError on one not finite."""
    return write_tensors(folder / HEAD, head.state_dict())


def load_head(backbone: Backbone, folder: Path, settings: Embed, inputs: Sequence[Modality]) -> EmbedHead:
    """Put a saved head on the backbone, frozen. Raises AdapterError unless every tensor lands with none left over."""
    head = build(backbone, settings, inputs, 0)
    backbone.head = None
    load_tensors(folder / HEAD, head, "embed")
    backbone.head = head
    return head

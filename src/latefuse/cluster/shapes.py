"""The sizes of a backbone's parts, from its configuration alone: what memory, work and tokens are counted from.

Counts are exact: a wrong one would be a wrong architecture, so what is not known here is refused.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latefuse.config import AdapterConfig
from latefuse.errors import UserError

Linear = tuple[int, int]
"""Width in, width out."""


class UnknownShapes(UserError, ValueError):
    """A backbone whose sizes can't be told without loading it."""


class UntoldShapes(UnknownShapes):
    """What this project does not reckon: nothing that the user could set right."""


@dataclass(frozen=True)
class Language:
    """A decoder of the Llama kind: RMS norms, gated MLP, grouped attention. biased: q, k and v have a bias."""

    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate: int
    vocabulary: int
    tied: bool = False
    biased: bool = False
    normed: bool = False

    @property
    def query(self) -> int:
        """Width of all queries, and of what attention gives."""
        return self.heads * self.head_dim

    @property
    def key(self) -> int:
        """Width of all keys, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Of one layer: q, k, v, o, gate, up, down."""
        d, f = self.hidden, self.intermediate
        return (d, self.query), (d, self.key), (d, self.key), (self.query, d), (d, f), (d, f), (f, d)

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with: all linears of all layers, without embeddings and head."""
        return self.layers * sum(a * b for a, b in self.linears)

    @property
    def parameters(self) -> int:
        """All of it, head included."""
        norms = 2 * self.hidden + (2 * self.head_dim if self.normed else 0)
        biases = self.query + 2 * self.key if self.biased else 0
        table = self.vocabulary * self.hidden
        return self.multiplied + self.layers * (norms + biases) + self.hidden + table * (1 if self.tied else 2)


@dataclass(frozen=True)
class Tower:
    """A vision transformer. used: layers that its features depend on. cls: a class token
    stands before the patches. pooled: it has a pooling head. quick: its activation is the sigmoid form of GELU."""

    hidden: int
    layers: int
    used: int
    heads: int
    intermediate: int
    side: int
    patch: int
    cls: bool
    pooled: bool = False
    quick: bool = False

    @property
    def grid(self) -> int:
        """Patches along one side."""
        return self.side // self.patch

    @property
    def tokens(self) -> int:
        """Tokens of a picture inside it."""
        return self.grid**2 + self.cls

    @property
    def linears(self) -> tuple[Linear, ...]:
        """Of one layer: q, k, v, out, fc1, fc2."""
        d, f = self.hidden, self.intermediate
        return (d, d), (d, d), (d, d), (d, d), (d, f), (f, d)

    @property
    def multiplied(self) -> int:
        """Weights that every token is multiplied with, in the layers in use."""
        return self.used * sum(a * b for a, b in self.linears)

    @property
    def parameters(self) -> int:
        """All of it, layers out of use included."""
        d, f = self.hidden, self.intermediate
        layer = sum(a * b + b for a, b in self.linears) + 4 * d
        patches = 3 * self.patch**2 * d + (0 if self.cls else d)
        # CLIP: class token, norms before and behind; SigLIP: a norm behind, and a head that pools where it is kept.
        around = d + 4 * d if self.cls else 2 * d
        head = d + 4 * (d * d + d) + 2 * d + 2 * d * f + d + f if self.pooled else 0
        return patches + self.tokens * d + around + head + self.layers * layer


@dataclass(frozen=True)
class Shapes:
    """A backbone: its language model and, where it sees, towers and the bridge.

    towers: how many stand in it (Video-LLaVA has one for pictures and one for clips). seen: width of what the bridge
    reads. extra: parameters beside all parts. keeps_cls: pictures keep their class token. pools: frames are pooled 2x2.
    """

    family: str
    language: Language
    tower: Tower | None = None
    towers: int = 0
    seen: int = 0
    extra: int = 0
    keeps_cls: bool = False
    pools: bool = False

    @property
    def bridge(self) -> tuple[Linear, ...]:
        """Two layers with bias."""
        return ((self.seen, self.language.hidden), (self.language.hidden,) * 2) if self.tower else ()

    @property
    def parameters(self) -> int:
        """All weights of the model."""
        towers = self.towers * self.tower.parameters if self.tower else 0
        return self.language.parameters + towers + sum(a * b + b for a, b in self.bridge) + self.extra

    def tokens(self, modality: str, frames: int) -> int:
        """Tokens that one medium takes in a row. Raises UnknownShapes for a medium that the backbone can't read."""
        if modality == "text":
            return 0
        if self.tower is None or (modality == "video" and self.family == "llava"):
            raise UnknownShapes(f"a backbone of the family {self.family} does not read {modality}")
        patches, kept = self.tower.grid**2, int(self.tower.cls)
        if self.pools:
            return 1 + (patches if modality == "image" else frames * math.ceil(self.tower.grid / 2) ** 2)
        return patches + kept * self.keeps_cls if modality == "image" else frames * (patches + kept)

    def encoded(self, modality: str, frames: int) -> int:
        """Tokens of one medium inside the tower."""
        return (
            0
            if modality == "text" or self.tower is None
            else self.tower.tokens * (frames if modality == "video" else 1)
        )


_TEXT = ("llama", "mistral", "qwen2", "qwen3")
_VISION = {"clip_vision_model": True, "siglip_vision_model": False}
_BRIDGED = {"video_llava": 2, "llava": 1, "llava_onevision": 1}


def shapes_of(config: Mapping[str, Any]) -> Shapes:
    """config: a model's configuration as Hugging Face writes it, in full. Raises UnknownShapes for another kind."""
    kind = config.get("model_type")
    if kind in _TEXT:
        return Shapes(str(kind), _language(config, bool(config.get("tie_word_embeddings", False))))
    if kind not in _BRIDGED:
        raise UnknownShapes(f"memory and work of a {kind!r} can't be told; known: {', '.join((*_BRIDGED, *_TEXT))}")
    text, vision, chosen = config["text_config"], config["vision_config"], config["vision_feature_layer"]
    layers = [chosen] if isinstance(chosen, int) else list(chosen)
    depth = int(vision["num_hidden_layers"])
    tower = _tower(vision, max(layer if layer >= 0 else depth + 1 + layer for layer in layers))
    language = _language(text, bool(config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))))
    return Shapes(
        str(kind),
        language,
        tower,
        towers=_BRIDGED[kind],
        seen=tower.hidden * len(layers),
        extra=language.hidden if kind == "llava_onevision" else 0,
        keeps_cls=config.get("vision_feature_select_strategy", "default") == "full",
        pools=kind == "llava_onevision",
    )


def _language(config: Mapping[str, Any], tied: bool) -> Language:
    kind = config["model_type"]
    if kind not in _TEXT:
        raise UnknownShapes(f"memory and work of a language model {kind!r} can't be told; known: {', '.join(_TEXT)}")
    if config.get("mlp_bias") or config.get("attention_bias"):
        raise UnknownShapes(f"a {kind} with biases (attention_bias, mlp_bias) is not known here")
    heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
    return Language(
        hidden=hidden,
        layers=int(config["num_hidden_layers"]),
        heads=heads,
        kv_heads=int(config.get("num_key_value_heads") or heads),
        head_dim=int(config.get("head_dim") or hidden // heads),
        intermediate=int(config["intermediate_size"]),
        vocabulary=int(config["vocab_size"]),
        tied=tied,
        biased=kind == "qwen2",
        normed=kind == "qwen3",
    )


def _tower(config: Mapping[str, Any], used: int) -> Tower:
    kind = config["model_type"]
    if kind not in _VISION:
        raise UnknownShapes(f"memory and work of a tower {kind!r} can't be told; known: {', '.join(_VISION)}")
    return Tower(
        hidden=int(config["hidden_size"]),
        layers=int(config["num_hidden_layers"]),
        used=used,
        heads=int(config["num_attention_heads"]),
        intermediate=int(config["intermediate_size"]),
        side=int(config["image_size"]),
        patch=int(config["patch_size"]),
        cls=_VISION[kind],
        pooled=not _VISION[kind] and bool(config.get("vision_use_head", True)),
        quick=config.get("hidden_act") == "quick_gelu",
    )


@dataclass(frozen=True)
class Trained:
    """Numbers that learn and the tensors that they lie in. whole: of the numbers, those that are no LoRA."""

    numbers: int
    tensors: int
    whole: int = 0


def trained(shapes: Shapes, adapter: AdapterConfig, modalities: tuple[str, ...]) -> Trained:
    """What an adapter on these modalities trains: two LoRA factors a linear, the bridge whole where asked for."""
    linears = [linear for part in _carriers(shapes, adapter, modalities) for linear in part]
    lora = adapter.r * sum(a + b for a, b in linears)
    bridge = shapes.bridge if adapter.bridge_full and sees(modalities) else ()
    whole = sum(a * b + b for a, b in bridge)
    return Trained(lora + whole, 2 * len(linears) + 2 * len(bridge), whole)


def sees(modalities: tuple[str, ...]) -> bool:
    """Whether there are media among them."""
    return any(modality != "text" for modality in modalities)


def _carriers(shapes: Shapes, adapter: AdapterConfig, modalities: tuple[str, ...]) -> list[tuple[Linear, ...]]:
    """The linears under LoRA, part by part, as `models.adapters.target_modules` chooses them."""
    media = [modality for modality in modalities if modality != "text"]
    parts: list[tuple[Linear, ...]] = []
    if "language" in adapter.on:
        parts.append(shapes.language.linears * shapes.language.layers)
    if "bridge" in adapter.on and media and not adapter.bridge_full:
        parts.append(shapes.bridge)
    if "tower" in adapter.on and media and shapes.tower is not None:
        parts += [shapes.tower.linears * shapes.tower.used] * min(len(media), shapes.towers)
    return parts

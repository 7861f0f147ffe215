"""A backbone: a frozen model from a sealed folder, behind the one interface that every task uses."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel

from latefuse.models.families import Family
from latefuse.models.folder import BackboneError, digest, read_seal, verify
from latefuse.models.media_batch import MediaBatch
from latefuse.models.tensors import family_of, read_model, read_processor

__all__ = ["Backbone", "BackboneError", "MediaBatch", "digest", "load"]


class Backbone:
    """A frozen vision-language model, language model, T5, or pair of encoders (light) from a sealed folder.

    model: the Hugging Face model, LoRA layers inside it once adapters are attached (`peft` then wraps it).
    tuned: the layers that hold adapters, once `adapters` has looked for them. head: what a task puts behind it.
    whole: names of the base's own weights that learn, with their old values once new ones are loaded. digest: what
    adapters are bound to.
    frames: frames of a clip. frame_marks: token ids that stand before each frame.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: Any,
        processor: Any,
        family: Family,
        path: Path,
        seal: Mapping[str, Any],
        frames: int,
    ) -> None:
        self.model: Any = model
        self.tokenizer = tokenizer
        self.processor = processor
        self.family = family
        self.path = path
        self.name: str = seal["name"]
        self.revision: str | None = seal.get("revision")
        self.digest: str = seal["digest"]
        self.frames = frames
        self.side: int | None = seal.get("side")
        self.frame_marks = [tokenizer.encode(m, add_special_tokens=False) for m in seal.get("frame_marks") or []]
        if self.frame_marks and len(self.frame_marks) < frames:
            raise BackboneError(f"{path}: marks for {len(self.frame_marks)} frames only, but frames={frames}")
        self.peft: Any = None
        self.tuned: Any = None
        self.head: Any = None
        self.whole: dict[str, Tensor | None] = {}
        self._parts = self._find_parts()

    @property
    def inner(self) -> Any:
        """The model without its head."""
        return self.model.model

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def modalities(self) -> tuple[str, ...]:
        return self.family.modalities

    def trained(self) -> list[nn.Parameter]:
        """Everything that learns: the adapter and the head."""
        parts = (self.model, self.head) if self.head is not None else (self.model,)
        return [parameter for part in parts for parameter in part.parameters() if parameter.requires_grad]

    def saved(self) -> list[nn.Parameter]:
        """Everything that an adapter's folder holds: what learns, and the frozen tables of a head."""
        own = () if self.head is None else self.head.parameters()
        return list(dict.fromkeys([*self.trained(), *own]))

    def parts(self) -> dict[str, list[str]]:
        """Part ("tower.image", "tower.video", "bridge", "language") -> full names of the linears that count in it."""
        return {part: list(names) for part, names in self._parts.items()}

    def _find_parts(self) -> dict[str, list[str]]:
        linears = [name for name, module in self.model.named_modules() if isinstance(module, nn.Linear)]
        family, used = self.family, self.family.used_layers(self.model.config)

        def under(prefixes: tuple[str, ...]) -> list[str]:
            return [name for name in linears if name.startswith(tuple(p + "." for p in prefixes))]

        def in_use(name: str) -> bool:
            layer = re.search(r"\.(?:layers|blocks)\.(\d+)\.", name)
            return layer is not None and (used is None or int(layer.group(1)) < used)

        bridge = under(family.bridge)
        parts = {
            f"tower.{modality}": [name for name in under((prefix,)) if in_use(name) and name not in bridge]
            for modality, prefix in family.tower.items()
        }
        return {**parts, "bridge": bridge, "language": [n for n in under(family.language) if re.search(r"\.\d+\.", n)]}

    @property
    def width(self) -> int:
        """d, the width of the language model's states."""
        self.must_speak()
        return int(self.model.config.get_text_config().hidden_size)

    @property
    def seq2seq(self) -> Any:
        """T5, where the backbone is an encoder-decoder, else None; `models.personal` makes what it reads."""
        return self.model.get_submodule(self.family.seq2seq) if self.family.kind == "encoder-decoder" else None

    def must_go_on(self) -> None:
        """Raise BackboneError unless there is a language model that goes on behind what it reads."""
        self.must_speak()
        if self.family.kind == "encoder-decoder":
            raise BackboneError(
                f"backbone {self.name!r} ({self.family.model_class}) is an encoder-decoder: it learns tasks of kind "
                "personalise only; take a causal language model or a vision-language model for this"
            )

    def must_speak(self) -> None:
        """Raise BackboneError unless there is a language model."""
        if not self.family.language:
            raise BackboneError(
                f"backbone {self.name!r} ({self.family.model_class}) has no language model: it reads no prompt, writes "
                "nothing and carries no LoRA; take a whole or a glued backbone for that"
            )

    @property
    def pad_id(self) -> int:
        """The token that fills up rows: the tokenizer's own, the end token where it has none."""
        token = self.tokenizer.pad_token_id
        return int(self.tokenizer.eos_token_id if token is None else token)

    def token_id(self, modality: str) -> int:
        """The id of the placeholder token of a modality."""
        self.must_go_on()
        self._must_read(modality)
        return int(getattr(self.model.config, self.family.token[modality]))

    def placeholder_ids(self, modality: str) -> list[int]:
        """The token ids that one medium takes in `input_ids`."""
        self.must_go_on()
        self._must_read(modality)
        return self.family.expand(self, modality)

    def _must_read(self, modality: str) -> None:
        if modality not in self.family.tower:
            raise BackboneError(
                f"backbone {self.name!r} ({self.family.model_class}) reads {', '.join(self.modalities)}, "
                f"not {modality!r}"
            )

    @property
    def transform_id(self) -> str:
        """Names the pixel transform and the number of frames: part of the key under which features are stored."""
        options = {k: v for k, v in self.processor.to_dict().items() if not k.startswith("_")} if self.processor else {}
        text = json.dumps([self.family.model_class, self.frames, self.side, options], sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def pixels(self, images: list[Image.Image], modality: str) -> Tensor:
        """The deterministic transform. images: n pictures, or the frames of n clips one after the other.

        Returns (n, C, H, W) for pictures, (n, frames, C, H, W) for clips; (n, patches, dim) for Qwen-VL.
        """
        self._must_read(modality)
        if not images or (modality == "video" and len(images) % self.frames):
            raise ValueError(
                f"{modality}: got {len(images)} images, expected a multiple of {self.frames} frames, not 0"
            )
        return self.family.pixels(self, images, modality)

    @torch.no_grad()
    def encode_media(self, pixels: Tensor, modality: str) -> Tensor:
        """What the frozen tower makes of the pixels, before the bridge: (n_media, tokens, dv), no gradient.

        Of a family that is not cacheable it serves `pooled` only: the language model takes pixels.
        """
        return self._encode(pixels, modality)

    def _encode(self, pixels: Tensor, modality: str) -> Tensor:
        self._must_read(modality)
        return self.family.encode(self, pixels.to(self.device, self.model.dtype), modality)

    def pooled(self, features: Tensor, modality: str) -> Tensor:
        """The tower's one vector a medium, (n, dv), of what `encode_media` makes (n, tokens, dv).

        CLS, or what stands first in its place, averaged over the frames of a clip; the mean of all tokens where the
        features hold neither.
        """
        self._must_read(modality)
        if not self.family.first_sums_up(self.inner, modality):
            return features.mean(1)
        frames = self.frames if modality == "video" else 1
        return features.reshape(len(features), frames, -1, features.shape[-1])[:, :, 0].mean(1)

    def pooled_width(self, modality: str) -> int:
        """dv of `pooled`."""
        self._must_read(modality)
        return self.family.seen_width(self.model.config)

    @torch.no_grad()
    def encode_text(self, texts: Sequence[str]) -> Tensor:
        """Sentence vectors (n, dt) of unit length, no gradient; light backbones only.

        Of a text longer than `config.text_tokens` only the beginning is read: `too_long` counts those.
        """
        return self.family.sentences(self, texts)

    @property
    def text_width(self) -> int:
        """dt of `encode_text`."""
        return int(self.model.config.get_text_config().hidden_size)

    def embed_media(self, media: MediaBatch | None) -> Iterator[tuple[str, Tensor]]:
        """Each modality of the batch as embeddings (n_media, tokens, d), made by the bridge with its gradient."""
        for modality, value in media.items() if media else ():
            if media is not None and media.kind == "pixels":
                with torch.set_grad_enabled(torch.is_grad_enabled() and self.tower_trains(modality)):
                    value = self._encode(value, modality)
            yield modality, self.family.bridge_forward(self.inner, value.to(self.device, self.model.dtype), modality)

    def tower_trains(self, modality: str) -> bool:
        """Whether anything in this modality's tower is trained: its features can't be stored then."""
        tower = self.model.get_submodule(self.family.tower[modality])
        return any(p.requires_grad for p in tower.parameters())

    def hidden(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        media: MediaBatch | None = None,
        *,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
    ) -> Tensor:
        """Last hidden states (B, L, d). input_ids, attention_mask: (B, L), padded on either side.

        position_ids: (B, L), counted over the mask unless given. With `past_key_values` (a transformers Cache, filled
        in place) attention_mask also covers the cached tokens; media go in with the first call only.
        """
        self.must_go_on()
        inputs = self._feed(input_ids, media)
        if position_ids is None:
            position_ids = (attention_mask.long().cumsum(-1) - 1).clamp(min=0)[:, -input_ids.shape[1] :]
        position_ids = self.family.positions(self.inner, inputs, attention_mask, position_ids, past_key_values)
        output = self.inner(
            **inputs,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            use_cache=past_key_values is not None,
        )
        return output.last_hidden_state

    def _feed(self, input_ids: Tensor, media: MediaBatch | None) -> dict[str, Any]:
        if media is not None and media.kind == "features" and not self.family.cacheable:
            raise BackboneError(f"backbone {self.name!r} ({self.family.model_class}) takes pixels, not features")
        return self.family.feed(self, input_ids, media)

    def logits(self, hidden: Tensor) -> Tensor:
        """The language-model head on any (..., d): (..., vocabulary)."""
        self.must_speak()
        return self.model.get_output_embeddings()(hidden)

    @torch.no_grad()
    def generate(
        self, input_ids: Tensor, attention_mask: Tensor, media: MediaBatch | None = None, **options: Any
    ) -> Tensor:
        """New token ids only, (B, <= max_new_tokens). Greedy unless told otherwise; prompts are padded on the left."""
        self.must_go_on()
        if not bool(attention_mask[:, -1].all()):
            raise ValueError("generate: pad prompts on the left; here a row ends with padding")
        inputs = self._feed(input_ids, media)
        options = {"do_sample": False, "pad_token_id": self.tokenizer.pad_token_id, **options}
        out = self.model.generate(**inputs, attention_mask=attention_mask, **options)
        return out[:, input_ids.shape[1] :] if "input_ids" in inputs else out


def load(path: str | Path, dtype: str = "float32", frames: int | None = None) -> Backbone:
    """A frozen backbone from a sealed folder, in evaluation mode.

    frames: frames a clip, as sealed unless given. Raises BackboneError when a file is not what was sealed, when a
    tensor is missing or left over, or when the family is unknown.
    """
    folder = Path(path)
    seal = read_seal(folder)
    verify(folder, seal)
    family = family_of(folder)
    model = read_model(folder, family, dtype)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    processor = read_processor(folder, family, model.config, seal.get("side"))
    return Backbone(model, tokenizer, processor, family, folder, seal, frames or int(seal["frames"]))


def load_placed(path: str | Path) -> Backbone:
    """The same in float32 on the first GPU where there is one: for what measures, fuses and serves. Training places its
    model itself."""
    backbone = load(path)
    if torch.cuda.is_available():
        backbone.model.to("cuda")
    return backbone

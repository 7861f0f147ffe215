"""Features of a frozen tower: computed once, stored by content, read through memory maps.

`FeatureCache` is the store, `Features` hands the media of a batch to a backbone: stored features where the tower is
frozen, pixels where it learns or where a family can't be fed behind its tower.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from latefuse.config_data import MediaLimits
from latefuse.data.media import MediaError, open_image, read_frames
from latefuse.models.backbone import Backbone, MediaBatch
from latefuse.prompts import MediaRef
from latefuse.training.distributed import TrainingError, is_sharded
from latefuse.training.store import FeatureCache, decoders

__all__ = ["FeatureCache", "Features", "decode", "media_key", "text_digest", "text_key", "tower_digest"]

GIB = 1024**3
MEMORY_BYTES = GIB // 2
"""What pooled and sentence vectors may take in memory, beside the store on disk."""
STORED = re.compile(r"^media/[0-9a-f]{2}/([0-9a-f]{64})\.")
SYNTHETIC_SIDE = 64
SLICE = 256
"""Vectors that are read from disk at a time."""
ENCODED = 32
"""Media that go through a tower at a time."""


def media_key(ref: MediaRef) -> str:
    """The name of a medium by content: its SHA-256, which the dataset already has in its path."""
    found = STORED.match(ref.path)
    return f"{ref.modality}-{found.group(1) if found else hashlib.sha256(ref.path.encode()).hexdigest()}"


def text_key(text: str) -> str:
    """The name of a text: its SHA-256."""
    return f"text-{hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()}"


def tower_digest(backbone: Backbone, modality: str) -> str:
    """SHA-256 over the weights of a modality's tower and which of its layers are read; LoRA in it is not counted."""
    config = backbone.model.config
    keys = ("model_type", "vision_feature_layer", "vision_feature_select_strategy")
    told = [getattr(config, key, None) for key in keys]
    if backbone.family.kind != "whole":
        told.append(config.vision_config.to_json_string())
    return _digest(repr(told), backbone.model.get_submodule(backbone.family.tower[modality]))


def text_digest(backbone: Backbone) -> str:
    """SHA-256 over a light backbone's sentence encoder, its tokenizer, and how much of a text it reads."""
    config, words = backbone.model.config, json.loads(backbone.tokenizer.backend_tokenizer.to_str())
    for state_of_the_last_call in ("truncation", "padding"):
        words.pop(state_of_the_last_call, None)
    told = [config.text_tokens, config.text_config.to_json_string(), json.dumps(words, sort_keys=True)]
    return _digest(repr(told), backbone.inner["text_encoder"])


def _digest(told: str, module: nn.Module) -> str:
    whole = hashlib.sha256(told.encode())
    for name, tensor in sorted(module.state_dict().items()):
        if "lora_" not in name:
            whole.update(name.replace("base_layer.", "").encode())
            whole.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def decode(ref: MediaRef, locate: Callable[[str], Path], frames: int, limits: MediaLimits) -> list[Image.Image]:
    """A medium as pictures: one, or the `frames` of a clip.

    `constant:<grey>` and `noise:<seed>` are media too, for controls: a grey of 0 to 255, or seeded random pixels.
    Raises MediaError with the file named.
    """
    count = frames if ref.modality == "video" else 1
    kind, _, value = ref.path.partition(":")
    if kind == "constant":
        return [Image.new("RGB", (SYNTHETIC_SIDE, SYNTHETIC_SIDE), (int(value or 128),) * 3)] * count
    if kind == "noise":
        shape = (count, SYNTHETIC_SIDE, SYNTHETIC_SIDE, 3)
        draws = np.random.default_rng(int(value or 0)).integers(0, 256, shape, np.uint8)
        return [Image.fromarray(frame) for frame in draws]
    path = locate(ref.path)
    try:
        return read_frames(path, frames, limits) if ref.modality == "video" else [open_image(path, limits)]
    except MediaError as error:
        raise MediaError(error.reason, f"{path}: {error}; it was readable in `prepare`: run that step again") from error


class Features:
    """The media of batches, for one backbone and one dataset.

    locate: a path of a MediaRef -> file (`Dataset.media`). cache: the root of the store, None to encode pixels anew in
    every batch, by the model's own forward. Absent media (empty path) have no features and are passed over.
    """

    def __init__(
        self,
        backbone: Backbone,
        locate: Callable[[str], Path],
        cache: Path | None = None,
        budget_bytes: int = 8 * GIB,
        limits: MediaLimits | None = None,
    ) -> None:
        self.backbone, self.locate, self.root = backbone, locate, cache
        self.budget_bytes, self.limits = budget_bytes, limits or MediaLimits()
        self._stores: dict[str, FeatureCache] = {}
        self._vectors: dict[str, Tensor] = {}
        self._vectors_bytes = 0

    def warm(self, refs: Iterable[MediaRef], progress: bool = True) -> int:
        """Encode every distinct medium that is not stored yet; returns how many were encoded.

        Under torchrun each process of a machine takes its share.
        """
        distinct = sorted({ref for ref in refs if ref.path}, key=lambda ref: (ref.modality, ref.path))[_own_share()]
        encoded = 0
        for modality in ("image", "video"):
            wanted = [ref for ref in distinct if ref.modality == modality]
            if wanted and self.stored(modality):
                encode = self._encoder(modality)
                encoded += self._store(modality).fill(
                    {media_key(ref): ref for ref in wanted}, self._decode, encode, progress=progress
                )
        return encoded

    def batch(self, refs: Sequence[MediaRef]) -> MediaBatch | None:
        """The media of a batch in the order of their placeholders; None without any that is present."""
        present = [ref for ref in refs if ref.path]
        if not present:
            return None
        modalities = {ref.modality for ref in present}
        if all(self.stored(modality) for modality in modalities):
            values = {m: self._features([ref for ref in present if ref.modality == m], m) for m in modalities}
            return MediaBatch(values.get("image"), values.get("video"), "features")
        values = {m: self._pixels([ref for ref in present if ref.modality == m], m) for m in modalities}
        return MediaBatch(values.get("image"), values.get("video"), "pixels")

    def pooled(self, refs: Sequence[MediaRef]) -> Tensor:
        """The tower's one vector a medium, (n, dv), in the order of refs, on the CPU; see `Backbone.pooled`.

        refs: present media of one modality. Each is encoded once where features may be stored, else anew each time.
        """
        modality = refs[0].modality
        if any(ref.modality != modality or not ref.path for ref in refs):
            raise ValueError("pooled vectors: refs must be present media of one modality")
        if not (self.root is not None and self._frozen(modality)):
            return self._pool_pixels(refs, modality)
        keys = {f"pooled-{media_key(ref)}": ref for ref in refs}
        found = self._remembered(keys, lambda wanted: self._pool_stored([keys[key] for key in wanted], modality))
        return torch.stack([found[f"pooled-{media_key(ref)}"] for ref in refs])

    def _pool_pixels(self, refs: Sequence[MediaRef], modality: str) -> Tensor:
        self._must_be_whole()
        found = []
        for start in range(0, len(refs), ENCODED):
            pixels = self._pixels(refs[start : start + ENCODED], modality)
            found.append(self.backbone.pooled(self.backbone.encode_media(pixels, modality), modality).cpu())
        return torch.cat(found)

    def _pool_stored(self, refs: Sequence[MediaRef], modality: str) -> Tensor:
        if self.stored(modality):
            return self.backbone.pooled(self._features(refs, modality), modality)
        return self._pool_pixels(refs, modality)

    def warm_text(self, texts: Iterable[str], progress: bool = True) -> int:
        """Encode every distinct text that is not stored yet; returns how many were encoded. Light backbones only.

        Under torchrun each process of a machine takes its share.
        """
        if self.root is None:
            return 0
        wanted = {text_key(text): text for text in sorted(set(texts), key=lambda text: (len(text), text))[_own_share()]}
        return self._text_store().fill(wanted, str, self._encode_texts, progress=progress)

    def text(self, texts: Sequence[str]) -> Tensor:
        """Sentence vectors (n, dt) of a light backbone, on the CPU: stored ones where `warm_text` has made them."""
        if self.root is None:
            self._must_be_whole()
            return self.backbone.encode_text(texts).cpu()
        keys = {text_key(text): text for text in texts}
        found = self._remembered(keys, lambda wanted: self._read_texts({key: keys[key] for key in wanted}))
        return torch.stack([found[text_key(text)] for text in texts])

    def _read_texts(self, wanted: Mapping[str, str]) -> Tensor:
        store, dtype = self._text_store(), self.backbone.model.dtype
        found: dict[str, Tensor] = {}
        for key in wanted:
            with suppress(KeyError):
                found[key] = _tensor(np.array(store.get(key)), dtype)
        missing = [key for key in wanted if key not in found]
        if missing:
            self._must_be_whole()
            fresh = self.backbone.encode_text([wanted[key] for key in missing]).cpu()
            found.update(zip(missing, fresh, strict=True))
        return torch.stack([found[key] for key in wanted])

    def _encode_texts(self, texts: list[str]) -> np.ndarray[Any, Any]:
        return _array(self.backbone.encode_text(texts))

    def _text_store(self) -> FeatureCache:
        if "text" not in self._stores:
            assert self.root is not None
            kind = f"text-{str(self.backbone.model.dtype).removeprefix('torch.')}"
            self._stores["text"] = FeatureCache(self.root, text_digest(self.backbone), kind, self.budget_bytes)
        return self._stores["text"]

    def _remembered(self, keys: Collection[str], make: Callable[[list[str]], Tensor]) -> dict[str, Tensor]:
        """Small vectors by key, from memory where they are; what `make` gives for the others is kept while it fits."""
        found = {key: self._vectors[key] for key in keys if key in self._vectors}
        missing = [key for key in keys if key not in found]
        for start in range(0, len(missing), SLICE):
            part = missing[start : start + SLICE]
            for key, vector in zip(part, make(part), strict=True):
                found[key] = vector.clone()  # not a view that holds its whole slice
                size = vector.numel() * vector.element_size()
                if self._vectors_bytes + size <= MEMORY_BYTES:
                    self._vectors[key] = found[key]
                    self._vectors_bytes += size
        return found

    def stored(self, modality: str) -> bool:
        """Whether this modality's features are stored: not where its tower learns, carries an adapter or a change."""
        return self.root is not None and self.backbone.family.cacheable and self._frozen(modality)

    def _frozen(self, modality: str) -> bool:
        tower = self.backbone.model.get_submodule(self.backbone.family.tower[modality])
        return not any(
            "lora_" in name or p.requires_grad or getattr(p, "changed", False) for name, p in tower.named_parameters()
        )

    def _store(self, modality: str) -> FeatureCache:
        if modality not in self._stores:
            assert self.root is not None
            transform = f"{self.backbone.transform_id}-{str(self.backbone.model.dtype).removeprefix('torch.')}"
            digest = tower_digest(self.backbone, modality)
            self._stores[modality] = FeatureCache(self.root, digest, transform, self.budget_bytes)
        return self._stores[modality]

    def _features(self, refs: Sequence[MediaRef], modality: str) -> Tensor:
        keys = {f"{modality}-{media_key(ref)}": ref for ref in refs}
        found = self._remembered(keys, lambda wanted: torch.stack(self._read([keys[key] for key in wanted], modality)))
        return torch.stack([found[f"{modality}-{media_key(ref)}"] for ref in refs])

    def _read(self, refs: Sequence[MediaRef], modality: str) -> list[Tensor]:
        """Stored features. What is past the byte budget, or evicted since, is decoded side by side and encoded for this
        batch only, one by one, so that it comes out the same in any batch."""
        store, dtype, found = self._store(modality), self.backbone.model.dtype, dict[MediaRef, Tensor]()
        for ref in refs:
            with suppress(KeyError):
                found[ref] = _tensor(np.array(store.get(media_key(ref))), dtype)
        missing, width = [ref for ref in refs if ref not in found], decoders()
        if missing:
            encode = self._encoder(modality)
            with ThreadPoolExecutor(width) as pool:
                for start in range(0, len(missing), width):
                    part = missing[start : start + width]
                    for ref, medium in zip(part, pool.map(self._decode, part), strict=True):
                        found[ref] = _tensor(encode([medium])[0], dtype)
        return [found[ref] for ref in refs]

    def _pixels(self, refs: Sequence[MediaRef], modality: str) -> Tensor:
        distinct = {ref: self._decode(ref) for ref in dict.fromkeys(refs)}
        return self.backbone.pixels(list(chain.from_iterable(distinct[ref] for ref in refs)), modality)

    def _decode(self, ref: MediaRef) -> list[Image.Image]:
        return decode(ref, self.locate, self.backbone.frames, self.limits)

    def _must_be_whole(self) -> None:
        """Raise TrainingError under ZeRO-3, where a tower that one process runs by itself waits for all others."""
        if is_sharded(self.backbone.model):
            raise TrainingError(
                "under ZeRO-3 frozen features must be stored before training begins, and one is not: set "
                "train.feature_cache: true and raise train.feature_cache_gib, or take deepspeed: {stage: 2}"
            )

    def _encoder(self, modality: str) -> Callable[[list[Any]], np.ndarray[Any, Any]]:
        self._must_be_whole()

        def encode(media: list[Any]) -> np.ndarray[Any, Any]:
            pixels = self.backbone.pixels(list(chain.from_iterable(media)), modality)
            return _array(self.backbone.encode_media(pixels, modality))

        return encode


def _own_share() -> slice:
    """Of a list that all processes of a machine see, what this one does."""
    return slice(int(os.environ.get("LOCAL_RANK", 0)), None, int(os.environ.get("LOCAL_WORLD_SIZE", 1)))


def _array(features: Tensor) -> np.ndarray[Any, Any]:
    """NumPy has no bfloat16: its bits are stored as int16."""
    features = features.detach().cpu().contiguous()
    return np.asarray((features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy())


def _tensor(features: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(features))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 and tensor.dtype == torch.int16 else tensor

"""Features of a frozen tower: computed once, stored by content, read through memory maps.

`FeatureCache` is the store, `Features` hands the media of a batch to a backbone: stored features where the tower is
frozen, pixels where it learns or where a family can't be fed behind its tower.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from latefuse.config import MediaLimits
from latefuse.data.media import MediaError, open_image, read_frames
from latefuse.models.backbone import Backbone, MediaBatch
from latefuse.prompts import MediaRef
from latefuse.training.store import FeatureCache

__all__ = ["FeatureCache", "Features", "decode", "media_key", "tower_digest"]

GIB = 1024**3
STORED = re.compile(r"^media/[0-9a-f]{2}/([0-9a-f]{64})\.")
SYNTHETIC_SIDE = 64


def media_key(ref: MediaRef) -> str:
    """The name of a medium by content: its SHA-256, which the dataset already has in its path."""
    found = STORED.match(ref.path)
    return f"{ref.modality}-{found.group(1) if found else hashlib.sha256(ref.path.encode()).hexdigest()}"


def tower_digest(backbone: Backbone, modality: str) -> str:
    """SHA-256 over the weights of a modality's tower and which of its layers are read; LoRA in it is not counted."""
    whole = hashlib.sha256()
    config = backbone.model.config
    keys = ("model_type", "vision_feature_layer", "vision_feature_select_strategy")
    whole.update(repr([getattr(config, key, None) for key in keys]).encode())
    tower = backbone.model.get_submodule(backbone.family.tower[modality])
    for name, tensor in sorted(tower.state_dict().items()):
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

    def warm(self, refs: Iterable[MediaRef], progress: bool = True) -> int:
        """Encode every distinct medium that is not stored yet; returns how many were encoded.

        Under torchrun each process of a machine takes its share.
        """
        share, shares = int(os.environ.get("LOCAL_RANK", 0)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        distinct = sorted({ref for ref in refs if ref.path}, key=lambda ref: (ref.modality, ref.path))[share::shares]
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

    def stored(self, modality: str) -> bool:
        """Whether this modality's features are stored: not where its tower learns, carries an adapter or a change."""
        backbone = self.backbone
        if self.root is None or not backbone.family.cacheable:
            return False
        tower = backbone.model.get_submodule(backbone.family.tower[modality])
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
        store, dtype = self._store(modality), self.backbone.model.dtype
        found: dict[MediaRef, Tensor] = {}
        for ref in dict.fromkeys(refs):
            try:
                found[ref] = _tensor(np.array(store.get(media_key(ref))), dtype)
            except KeyError:
                # Past the byte budget, or evicted since: encoded for this batch only.
                found[ref] = _tensor(self._encoder(modality)([self._decode(ref)])[0], dtype)
        return torch.stack([found[ref] for ref in refs])

    def _pixels(self, refs: Sequence[MediaRef], modality: str) -> Tensor:
        distinct = {ref: self._decode(ref) for ref in dict.fromkeys(refs)}
        return self.backbone.pixels(list(chain.from_iterable(distinct[ref] for ref in refs)), modality)

    def _decode(self, ref: MediaRef) -> list[Image.Image]:
        return decode(ref, self.locate, self.backbone.frames, self.limits)

    def _encoder(self, modality: str) -> Callable[[list[Any]], np.ndarray[Any, Any]]:
        def encode(media: list[Any]) -> np.ndarray[Any, Any]:
            pixels = self.backbone.pixels(list(chain.from_iterable(media)), modality)
            return _array(self.backbone.encode_media(pixels, modality))

        return encode


def _array(features: Tensor) -> np.ndarray[Any, Any]:
    """NumPy has no bfloat16: its bits are stored as int16."""
    features = features.detach().cpu().contiguous()
    return np.asarray((features.view(torch.int16) if features.dtype == torch.bfloat16 else features).numpy())


def _tensor(features: np.ndarray[Any, Any], dtype: torch.dtype) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(features))
    return tensor.view(torch.bfloat16) if dtype == torch.bfloat16 and tensor.dtype == torch.int16 else tensor

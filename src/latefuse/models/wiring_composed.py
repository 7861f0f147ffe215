"""The wiring of backbones composed of parts: glued (tower, bridge, language model) and light (tower, sentences).

A clip's frames go through the tower one by one. Its features are its frames' tokens one after the other, each frame's
beginning with the one that sums it up.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor

from latefuse.models.bridge import BridgeOptions
from latefuse.models.towers import look
from latefuse.models.wiring import flat_frames, marked_frames

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone


def encode(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """(n, frames * (1 + P), dv): see `towers.look`."""
    flat, n, frames = flat_frames(pixels)
    states = look(backbone.inner.vision_tower, flat)
    return states.reshape(n, frames * states.shape[1], states.shape[2])


def encode_whole(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """(n, frames, dv): of each frame only what sums it up."""
    flat, n, frames = flat_frames(pixels)
    return look(backbone.inner.vision_tower, flat)[:, :1].reshape(n, frames, -1)


def bridge(inner: Any, features: Tensor, modality: str) -> Tensor:
    """Frame by frame, so that a Q-Former gives each frame its own tokens and the order of frames is kept."""
    seen = inner.config.vision_tokens
    vectors = inner.bridge(features.reshape(-1, seen, features.shape[-1]))
    return vectors.reshape(features.shape[0], -1, vectors.shape[-1])


def expand(backbone: Backbone, modality: str) -> list[int]:
    """The tokens that the bridge makes of a picture; of a clip those of its frames, each behind its mark if any."""
    config = backbone.model.config
    tokens = [backbone.token_id(modality)] * BridgeOptions.model_validate(config.bridge).length(config.vision_tokens)
    return tokens if modality == "image" else marked_frames(backbone, tokens)


def first_sums_up(inner: Any, modality: str) -> bool:
    """By construction: see `towers.look`."""
    return True


def width(config: Any) -> int:
    """Width of the tower's tokens."""
    return int(config.vision_width)

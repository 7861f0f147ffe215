"""The media of a batch on their way into a backbone."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor


@dataclass
class MediaBatch:
    """The media of a batch, in the order of their placeholders.

    image, video: `pixels` as `Backbone.pixels` makes them, or `features` as `Backbone.encode_media` does
    (n_media, tokens, dim). extra: further inputs of a family's own forward.
    """

    image: Tensor | None = None
    video: Tensor | None = None
    kind: Literal["pixels", "features"] = "pixels"
    extra: dict[str, Any] = field(default_factory=dict)

    def items(self) -> Iterator[tuple[str, Tensor]]:
        """The modalities that are there."""
        for modality, value in (("image", self.image), ("video", self.video)):
            if value is not None and len(value):
                yield modality, value

    def to(self, device: torch.device | str) -> MediaBatch:
        """The same batch on another device."""
        moved = {modality: value.to(device) for modality, value in self.items()}
        return MediaBatch(moved.get("image"), moved.get("video"), self.kind, self.extra)

"""A beginning that many prompts share, encoded once: they go on behind its key-value cache."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from transformers import DynamicCache

from latefuse.models.backbone import Backbone
from latefuse.models.media_batch import MediaBatch
from latefuse.training.batching import pad


class Prefix:
    """Token ids (P,) with their media, held as a cache of one row. Only of a backbone that `goes_on` behind one."""

    @torch.no_grad()
    def __init__(self, backbone: Backbone, ids: Sequence[int], media: MediaBatch | None) -> None:
        self.backbone, self.length = backbone, len(ids)
        self.cache = DynamicCache()
        if ids:
            row = torch.tensor([list(ids)], device=backbone.device)
            media = media.to(backbone.device) if media else None
            backbone.hidden(row, torch.ones_like(row), media, past_key_values=self.cache)

    @torch.no_grad()
    def last_states(self, rows: Sequence[Sequence[int]], media: MediaBatch | None) -> Tensor:
        """Hidden states (B, d) at the last token of each row, which stands behind the prefix.

        rows: token ids, at least one each; media: of all rows, in order.
        """
        backbone, cache = self.backbone, DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            shape = (len(rows), *layer.keys.shape[1:])
            cache.update(layer.keys.expand(shape), layer.values.expand(shape), number)
        ids = pad([list(row) for row in rows], backbone.pad_id).to(backbone.device)
        mask = pad([[1] * (self.length + len(row)) for row in rows], 0).to(backbone.device)
        hidden = backbone.hidden(ids, mask, media.to(backbone.device) if media else None, past_key_values=cache)
        last = torch.tensor([len(row) - 1 for row in rows], device=ids.device)
        return hidden[torch.arange(len(rows), device=ids.device), last]

"""Personalised prompts as tensors: token ids, whole words, and which picture stands in which visual slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from latefuse.config_personal import PROMPT_FAMILIES
from latefuse.prompts.personal import Encoded

IGNORED = -100


@dataclass(frozen=True)
class Prompted:
    """B prompts of at most L tokens as a model reads them, and answers of at most T.

    ids: (B, L) int64; a visual slot holds the marker token, padding the pad id. mask: (B, L) bool. words: (B, L) int64
    index of the whole word, 0 for padding; each visual slot has its own. visual: (B, L) int64, -1 for text, else row of
    `pictures` * k + which of the k tokens. pictures: (m, dv) distinct picture vectors of the batch. seen: (m,) bool;
    False where the item has no picture, whose row then says nothing. labels: (B, T) int64 answer tokens with end token,
    -100 for padding. family: (B,) int64 place in `PROMPT_FAMILIES`, which bottlenecks of their own ask for. may: (E, 3)
    int64 row, place and token of `labels`: all that may stand there; where nothing is named, any token may.
    """

    ids: Tensor
    mask: Tensor
    words: Tensor
    visual: Tensor
    pictures: Tensor
    seen: Tensor
    labels: Tensor | None = None
    family: Tensor | None = None
    may: Tensor | None = None

    def to(self, device: torch.device) -> Prompted:
        """The same there."""
        moved = {field.name: getattr(self, field.name) for field in fields(self)}
        return replace(self, **{name: one.to(device) for name, one in moved.items() if one is not None})


def collate(rows: Sequence[Encoded], pad: int, k: int, vectors: Tensor, seen: Tensor) -> Prompted:
    """Prompts padded on the right, each distinct item's picture once.

    pad: the token that fills up. k: visual tokens of an item. vectors: (items, dv) by item code. seen: (items,) bool,
    whether an item has a picture.
    """
    shown = sorted({item for row in rows for item in row.items if item >= 0})
    place = {item: number for number, item in enumerate(shown)}
    visual = [
        [-1 if item < 0 else place[item] * k + slot for item, slot in zip(row.items, row.slot, strict=True)]
        for row in rows
    ]
    ids = _padded([row.ids for row in rows], pad)
    lengths = torch.tensor([len(row.ids) for row in rows])
    return Prompted(
        ids=ids,
        mask=torch.arange(ids.shape[1]) < lengths[:, None],
        words=_padded([row.words for row in rows], 0),
        visual=_padded(visual, -1),
        pictures=vectors[shown],
        seen=seen[shown],
        labels=_padded([row.target for row in rows], IGNORED),
        family=torch.tensor([PROMPT_FAMILIES.index(row.family) for row in rows]),
    )


def _padded(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[value] * (longest - len(row))] for row in rows], dtype=torch.long)

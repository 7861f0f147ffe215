"""Items as vectors by an arm that has learned, and by what is frozen in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from latefuse.models.backbone import Backbone
from latefuse.models.heads import MULTIMODAL, EmbedHead
from latefuse.progress import bar
from latefuse.prompts.items import Item
from latefuse.tasks.catalogue import readable
from latefuse.tasks.views import Views, viewer, words_of
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features


def warm_items(items: Iterable[Item], backbone: Backbone, features: Features, progress: bool) -> int:
    """Store what the frozen parts make of items: media, and for a light backbone their words; how many were encoded."""
    items = list(items)
    inputs = head_of(backbone).inputs
    media = (ref for item in items for ref in item.media if ref.modality in inputs)
    encoded = features.warm(media, progress=progress)
    if backbone.family.kind == "light" and "text" in inputs:
        texts = [words_of(item) for item in items if readable(item, ("text",))]
        encoded += features.warm_text(texts, progress=progress)
    return encoded


@torch.no_grad()
def vectors(
    backbone: Backbone, items: Sequence[Item], *, features: Features, batch_size: int = 64, progress: bool = False
) -> Tensor:
    """The served vectors of items, (n, dim), of unit length: the multimodal view.

    An item without any field that the arm reads gets the vector of an absent one: leave it out by `readable`.
    """
    return next(iter(views(backbone, items, features=features, batch_size=batch_size, progress=progress).values()))


@torch.no_grad()
def views(
    backbone: Backbone, items: Sequence[Item], *, features: Features, batch_size: int = 64, progress: bool = False
) -> Views:
    """Every view of items as unit vectors (n, dim), the multimodal one first; items of like length share a batch."""
    show, head = viewer(backbone), head_of(backbone)
    order = sorted(range(len(items)), key=lambda number: show.length(items[number]), reverse=True)
    out = {view: torch.empty(len(items), head.settings.dim) for view in head.views}
    with bar(total=len(items), desc="embed", unit="item", wanted=progress, leave=False) as shown:
        for numbers in _slices(order, batch_size):
            found = show.encode(show.prepare([items[number] for number in numbers], features))
            for view, values in found.items():
                out[view][numbers] = F.normalize(values.float(), dim=-1).cpu()
            shown.update(len(numbers))
    return {MULTIMODAL: out.pop(MULTIMODAL), **out}


def _slices(order: Sequence[int], size: int) -> Iterator[list[int]]:
    return (list(order[start : start + size]) for start in range(0, len(order), size))


def head_of(backbone: Backbone) -> EmbedHead:
    """The head that an arm was given. Raises TrainingError without one."""
    if backbone.head is None:
        raise TrainingError("no head on this backbone: heads.build makes one, heads.load_head reads one")
    return backbone.head

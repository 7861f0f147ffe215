"""Prompts of made-up items, for a tokenizer of bytes: texts, visual slots, words and answers of all lengths."""

from __future__ import annotations

import random
from typing import Any

import torch

from latefuse.config import AdapterConfig
from latefuse.config_personal import PROMPT_FAMILIES, Personalise
from latefuse.models import personal
from latefuse.models.backbone import Backbone
from latefuse.models.personal import Personal
from latefuse.models.prompted import Prompted, collate
from latefuse.prompts.personal import Encoded

ITEMS, MARKER = 6, 4
"""Items of the catalogue, the last without a picture; the token that holds the place of a visual slot."""


def rows(count: int = 5, k: int = 2, seed: int = 0, families: tuple[str, ...] = PROMPT_FAMILIES) -> list[Encoded]:
    """Every row shows two items; their lengths differ. The first row shows the item without a picture."""
    rng, out = random.Random(seed), []
    for number in range(count):
        ids, words, items, slot = [], [], [], []
        for item in (ITEMS - 1 if number == 0 else rng.randrange(ITEMS - 1), rng.randrange(ITEMS - 1)):
            for _ in range(rng.randint(1, 4)):
                ids.append(rng.randrange(20, 200))
                words.append(max(words, default=0) + rng.randrange(2) if words else 1)
                items.append(-1)
                slot.append(-1)
            for place in range(k):
                ids.append(MARKER)
                words.append(max(words) + 1)
                items.append(item)
                slot.append(place)
        target = [rng.randrange(20, 200) for _ in range(rng.randint(1, 5))]
        out.append(Encoded(ids, words, items, slot, [*target, 2], families[number % len(families)], "made up"))
    return out


def batch(made: list[Encoded], k: int = 2, width: int = 24) -> Prompted:
    """The rows as tensors; pictures are drawn, and the last item has none."""
    vectors = torch.randn(ITEMS, width, generator=torch.Generator().manual_seed(7))
    return collate(made, 0, k, vectors, torch.arange(ITEMS) < ITEMS - 1)


CAUSAL: dict[str, Any] = {"places": ("self", "ffn")}
KINDS: list[tuple[str, dict[str, Any]]] = [
    ("sighted", {}),
    ("sighted", {"per_family": True}),
    ("glued_mlp", CAUSAL),
    ("sighted", {"adapter": "lora"}),
]
"""Backbones and settings that everything is tried on."""


def made(base: Backbone, seed: int = 0, **settings: Any) -> Personal:
    """A new network on the backbone."""
    return personal.build(base, Personalise.model_validate({"reduction": 4, **settings}), seed, AdapterConfig(r=2))


def stirred(base: Backbone, **settings: Any) -> Personal:
    """One whose bottlenecks and norms are no longer as they began."""
    network, draw = made(base, **settings), torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in base.trained():
            parameter += 0.1 * torch.randn(parameter.shape, generator=draw)
    return network

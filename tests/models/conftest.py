"""Pictures, prompts and media for tiny random backbones of every family."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from latefuse.models import backbone
from latefuse.models.backbone import Backbone, MediaBatch


@pytest.fixture
def fresh(backbone_folder: Callable[..., Path]) -> Callable[..., Backbone]:
    """A backbone of a family as loaded from its folder, with the options of `load`."""
    return lambda family="video_llava", **options: backbone.load(backbone_folder(family), **options)


@pytest.fixture(scope="session")
def pictures() -> list[Image.Image]:
    """Eight pictures that differ, not square."""
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 256, (40, 50, 3), dtype=np.uint8)) for _ in range(8)]


@pytest.fixture(scope="session")
def prompt() -> Callable[..., tuple[torch.Tensor, torch.Tensor]]:
    """Rows "<media> text" of one modality: input_ids and attention_mask, padded on the right or on the left."""

    def make(base: Backbone, modality: str, texts: list[str], left: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        before = [] if modality == "text" else base.placeholder_ids(modality)
        rows = [[*before, *base.tokenizer.encode(text, add_special_tokens=False)] for text in texts]
        longest = max(map(len, rows))
        ids, mask = torch.zeros(len(rows), longest, dtype=torch.long), torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            place = slice(longest - len(row), None) if left else slice(0, len(row))
            ids[i, place], mask[i, place] = torch.tensor(row), 1
        return ids, mask

    return make


@pytest.fixture(scope="session")
def media(pictures: list[Image.Image]) -> Callable[..., MediaBatch | None]:
    """`n` media of a modality as a batch of pixels; None for text."""

    def make(base: Backbone, modality: str, n: int, first: int = 0) -> MediaBatch | None:
        if modality == "text":
            return None
        count = n if modality == "image" else n * base.frames
        chosen = [pictures[(first + i) % len(pictures)] for i in range(count)]
        return MediaBatch(**{modality: base.pixels(chosen, modality)})

    return make

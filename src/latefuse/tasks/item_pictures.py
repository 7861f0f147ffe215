"""What a frozen tower sees of items: the mean vector of each one's pictures, its own or, as a control, another's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from latefuse.models.backbone import Backbone
from latefuse.prompts import MediaRef
from latefuse.training.features import Features

Array = NDArray[Any]
BLOCK = 2_048


def warm_pictures(images: Sequence[Sequence[str]], features: Features, progress: bool) -> int:
    """Encode what is not stored yet; returns how many. images: paths of each item's pictures."""
    return features.warm([MediaRef("image", path) for paths in images for path in paths], progress=progress)


def picture_vectors(images: Sequence[Sequence[str]], backbone: Backbone, features: Features) -> tuple[Tensor, Array]:
    """(m, dv) the mean of the pictures of every item that has some, and (i,) where each item's stands, -1 for none."""
    there = [number for number, paths in enumerate(images) if len(paths)]
    made = []
    for start in range(0, len(there), BLOCK):
        some = [images[number] for number in there[start : start + BLOCK]]
        vectors = features.pooled([MediaRef("image", path) for paths in some for path in paths]).float()
        made.append(torch.stack([part.mean(0) for part in vectors.split([len(paths) for paths in some])]))
    place = np.full(len(images), -1, np.int64)
    place[there] = np.arange(len(there))
    return torch.cat(made) if made else torch.zeros(0, backbone.pooled_width("image")), place


def donors_among(there: Array, seed: list[int]) -> Array:
    """(i,) whose vector each item has, in one cycle through those that have one, drawn by seed; others keep nothing.

    there: (i,) bool. Of two or more nobody keeps its own.
    """
    donors, owners = np.arange(len(there)), np.flatnonzero(there)
    order = np.random.default_rng(seed).permutation(len(owners))
    donors[owners[order]] = owners[np.roll(order, 1)]
    return donors

"""How like two judgements are: the cosine of what a frozen backbone makes of their pictures and of their words."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latefuse.config import Modality
from latefuse.models.backbone import Backbone
from latefuse.models.text_vectors import mean_words
from latefuse.prompts import MediaRef
from latefuse.training.features import Features

Row = Mapping[str, Any]
Floats = NDArray[np.float32]


class Likeness:
    """Vectors of judgements: the tower's of the picture beside the mean word embedding of the text.

    Each side is centred on the known rows and of length one, so that both count alike; one that a row or all known ones
    lack is zero. sides: what the arm reads, since a blind one must not see by its demonstrations. An adapter that the
    backbone carries has no say. The known rows are encoded once, when they are first needed.
    """

    def __init__(self, backbone: Backbone, features: Features, known: Sequence[Row], sides: Sequence[Modality]) -> None:
        self.backbone, self.features, self.known = backbone, features, known
        self.sides = [side for side in ("image", "text") if side in sides]
        self._made: dict[str, tuple[dict[str, Floats], Floats]] = {}

    def vectors(self, rows: Sequence[Row]) -> Floats:
        """(n, dv + d). Raises MediaError for a picture that can't be read."""
        return np.concatenate([self._side(rows, side) for side in self.sides], axis=1)

    def _side(self, rows: Sequence[Row], side: str) -> Floats:
        if side not in self._made:
            made = self._encoded({row[side] for row in self.known}, side)
            self._made[side] = made, np.mean(list(made.values()), axis=0) if made else np.zeros(0, np.float32)
        made, middle = self._made[side]
        if not made:
            return np.zeros((len(rows), 1), np.float32)
        found = ChainMap(self._encoded({row[side] for row in rows} - made.keys(), side), made)
        out = np.zeros((len(rows), len(middle)), np.float32)
        for number, row in enumerate(rows):
            if row[side]:
                centred = found[row[side]] - middle
                out[number] = centred / max(float(np.linalg.norm(centred)), 1e-12)
        return out

    def _encoded(self, values: set[str], side: str) -> dict[str, Floats]:
        """What the backbone makes of each picture or text."""
        wanted = sorted(filter(None, values))
        if not wanted:
            return {}
        with torch.no_grad(), _bare(self.backbone):
            made = self._pictures(wanted) if side == "image" else mean_words(self.backbone, wanted)
        return dict(zip(wanted, made.float().cpu().numpy(), strict=True))

    def _pictures(self, paths: Sequence[str]) -> torch.Tensor:
        return self.features.pooled([MediaRef("image", path) for path in paths])


@contextmanager
def _bare(backbone: Backbone) -> Iterator[None]:
    if backbone.peft is None:
        yield
    else:
        with backbone.peft.disable_adapter():
            yield

"""How like two judgements are: the cosine of what a frozen backbone makes of their pictures and of their words."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from latefuse.models.backbone import Backbone
from latefuse.prompts import MediaRef
from latefuse.training.features import Features

Row = Mapping[str, Any]
Floats = NDArray[np.float32]


class Likeness:
    """Vectors of judgements: the tower's of the picture beside the mean word embedding of the text.

    Each side is centred on the known rows and of length one, so that both count alike; one that a row lacks is zero. An
    adapter that the backbone carries has no say.
    """

    def __init__(self, backbone: Backbone, locate: Callable[[str], Path], known: Sequence[Row]) -> None:
        self.backbone, self.features = backbone, Features(backbone, locate)
        self.middles = {side: _middle(self._distinct(known, side)) for side in ("image", "text")}

    def vectors(self, rows: Sequence[Row]) -> Floats:
        """(n, dv + d). Raises MediaError for a picture that can't be read."""
        return np.concatenate([self._side(rows, side) for side in self.middles], axis=1)

    def _side(self, rows: Sequence[Row], side: str) -> Floats:
        found, middle = self._distinct(rows, side), self.middles[side]
        out = np.zeros((len(rows), len(middle)), np.float32)
        for number, row in enumerate(rows):
            if row[side]:
                centred = found[row[side]] - middle
                out[number] = centred / max(float(np.linalg.norm(centred)), 1e-12)
        return out

    def _distinct(self, rows: Sequence[Row], side: str) -> dict[str, Floats]:
        """What the backbone makes of each picture or text of the rows, once."""
        values = list(dict.fromkeys(row[side] for row in rows if row[side]))
        if not values:
            return {}
        with torch.no_grad(), _bare(self.backbone):
            made = self._pictures(values) if side == "image" else self._words(values)
        return dict(zip(values, made.float().cpu().numpy(), strict=True))

    def _pictures(self, paths: Sequence[str]) -> torch.Tensor:
        return self.features.pooled([MediaRef("image", path) for path in paths])

    def _words(self, texts: Sequence[str]) -> torch.Tensor:
        table = self.backbone.model.get_input_embeddings()
        ids = self.backbone.tokenizer(list(texts), add_special_tokens=False)["input_ids"]
        empty = table.weight.new_zeros(table.weight.shape[1])
        return torch.stack(
            [table(torch.tensor(one, device=self.backbone.device)).mean(0) if one else empty for one in ids]
        )


def _middle(found: Mapping[str, Floats]) -> Floats:
    return np.mean(list(found.values()), axis=0) if found else np.zeros(0, np.float32)


@contextmanager
def _bare(backbone: Backbone) -> Iterator[None]:
    if backbone.peft is None:
        yield
    else:
        with backbone.peft.disable_adapter():
            yield

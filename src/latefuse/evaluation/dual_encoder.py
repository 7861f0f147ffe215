"""How alike a picture and a text are, whatever the rule: what judging by similarity is worth beside a judge.

Two encoders that were trained together (CLIP, Radford et al. 2021), by name, or a linear map that ridge regression
finds between two that never met, from relevant training rows alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from transformers import AutoModel, AutoProcessor

from latefuse.models import folder as folders
from latefuse.models.folder import FROM_FOLDER, BackboneError, must_be_complete
from latefuse.progress import no_library_bars

Floats = NDArray[np.float64]
ALPHAS = np.logspace(-2, 4, 13)
BATCH = 32


def ridge_similarity(pictures: Tensor, texts: Tensor) -> Callable[[Tensor, Tensor], Floats]:
    """What scores pairs by the cosine of a text and what a ridge map makes of a picture.

    pictures: (n, dv), texts: (n, dt), of relevant training pairs; the strength of the ridge is chosen on them by
    leave-one-out (scikit-learn's RidgeCV). The scorer takes (m, dv) and (m, dt) and gives (m,) in -1..1.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    middle = texts.double().mean(0)
    fitted = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(pictures.double().numpy(), (texts - middle).double())

    def score(asked: Tensor, said: Tensor) -> Floats:
        mapped = torch.from_numpy(np.asarray(fitted.predict(asked.double().numpy())))
        return np.asarray(F.cosine_similarity(mapped, said.double() - middle), dtype=np.float64)

    return score


class DualEncoder:
    """A CLIP-type model from its folder: whatever has image and text features in one space."""

    def __init__(self, folder: Path) -> None:
        """Raises BackboneError for a folder that is not safe to load, or holds no such model."""
        folders.check(folder)
        try:
            with no_library_bars():
                model, info = AutoModel.from_pretrained(folder, **FROM_FOLDER)
                self.processor: Any = AutoProcessor.from_pretrained(
                    folder, local_files_only=True, trust_remote_code=False
                )
        except (ValueError, OSError, KeyError) as error:
            raise BackboneError(f"{folder}: can't be read as a dual encoder: {error}") from error
        must_be_complete(folder, info)
        self.model: Any = model.eval()
        if not (hasattr(self.model, "get_image_features") and hasattr(self.model, "get_text_features")):
            raise BackboneError(
                f"{folder}: {type(self.model).__name__} has no image and text features in one space; name a CLIP or "
                "SigLIP model"
            )

    @torch.no_grad()
    def similarity(self, pictures: Sequence[Image.Image], texts: Sequence[str]) -> Floats:
        """(n,) cosines of each picture and its text, of which as many tokens count as the model reads."""
        found = [
            F.cosine_similarity(
                self._pictures(pictures[start : start + BATCH]), self._texts(texts[start : start + BATCH])
            )
            for start in range(0, len(texts), BATCH)
        ]
        return np.asarray(torch.cat(found).double()) if found else np.zeros(0)

    def _pictures(self, pictures: Sequence[Image.Image]) -> Tensor:
        return _vectors(self.model.get_image_features(**self.processor(images=list(pictures), return_tensors="pt")))

    def _texts(self, texts: Sequence[str]) -> Tensor:
        longest = self.model.config.text_config.max_position_embeddings
        told = self.processor(
            text=list(texts), return_tensors="pt", padding="max_length", truncation=True, max_length=longest
        )
        return _vectors(self.model.get_text_features(**told))


def _vectors(found: Any) -> Tensor:
    """Features as the versions of the library give them: a tensor, or an output that holds it."""
    return found if isinstance(found, Tensor) else found.pooler_output

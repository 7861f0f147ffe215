"""What stands below every judge: the commoner label, the backbone as it is, and similarity, into which no rule goes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from latefuse.config_judge import Verdicts
from latefuse.data import media
from latefuse.evaluation import floors, zero_shot
from latefuse.evaluation.dual_encoder import DualEncoder, ridge_similarity
from latefuse.models.backbone import Backbone
from latefuse.models.named import located
from latefuse.prompts import MediaRef
from latefuse.training.features import Features

Row = dict[str, Any]
Ask = Callable[[Sequence[Row]], NDArray[np.float64]]
"""What gives scores (n,) of judgements, in any unit; higher is likelier relevant."""
MAJORITY, ZERO_SHOT, MAP, DUAL = "majority", "zero-shot", "linear map", "dual encoder"
SIMILARITY = (MAP, DUAL)
PICTURES = 32
"""Pictures that are held whole at a time."""
MEANINGS = {
    MAJORITY: "the commoner label of each task's validation rows; nothing is read",
    ZERO_SHOT: "the backbone as it is, with the main arm's prompt",
    MAP: "cosine of the text and a ridge map of the picture, between frozen encoders; fitted on relevant training rows",
    DUAL: "cosine of picture and text in an encoder of both; nothing is trained",
}


def majority(rows: Sequence[Row]) -> NDArray[np.float64]:
    """The same score for all rows."""
    return np.zeros(len(rows))


def linear_map(known: Sequence[Row], backbone: Backbone, features: Features, words: str | None) -> Ask:
    """Similarity by a linear map between the frozen tower and frozen words; a row that lacks either side scores 0.

    known: training rows. words: a sentence encoder by name; without one the mean state of the backbone's own language
    model.
    """
    told = [row for row in known if row["label"] and row["image"] and row["text"]]

    def texts(rows: Sequence[Row]) -> torch.Tensor:
        said = [row["text"] for row in rows]
        return floors.sentences(words, said) if words else zero_shot.mean_states(backbone, said)

    def pictures(rows: Sequence[Row]) -> torch.Tensor:
        return features.pooled([MediaRef("image", row["image"]) for row in rows]).float()

    fitted = cache(lambda: ridge_similarity(pictures(told), texts(told)))

    def ask(rows: Sequence[Row]) -> NDArray[np.float64]:
        return _where_both(rows, lambda some: fitted()(pictures(some), texts(some)))

    return ask


def dual_encoder(name: str, features: Features) -> Ask:
    """Similarity by a CLIP-type model. name: its folder. Raises BackboneError as DualEncoder does."""
    model = DualEncoder(located(name, "evaluation.verdicts.dual_encoder"))

    def ask(rows: Sequence[Row]) -> NDArray[np.float64]:
        return _where_both(rows, similar)

    def similar(rows: Sequence[Row]) -> NDArray[np.float64]:
        parts = [rows[start : start + PICTURES] for start in range(0, len(rows), PICTURES)]
        return np.concatenate([model.similarity(opened(part), [row["text"] for row in part]) for part in parts])

    def opened(rows: Sequence[Row]) -> list[Image.Image]:
        return [media.open_image(features.locate(row["image"])) for row in rows]

    return ask


def _where_both(rows: Sequence[Row], similar: Callable[[list[Row]], NDArray[np.float64]]) -> NDArray[np.float64]:
    out = np.zeros(len(rows))
    numbers = [number for number, row in enumerate(rows) if row["image"] and row["text"]]
    if numbers:
        out[numbers] = similar([rows[number] for number in numbers])
    return out


def names(how: Verdicts, both: bool) -> dict[str, str]:
    """The floors that are measured, with words for each. both: whether the main arm reads picture and text."""
    found = [MAJORITY, ZERO_SHOT, *([MAP] if both else []), *([DUAL] if both and how.dual_encoder else [])]
    return {name: MEANINGS[name] for name in found}

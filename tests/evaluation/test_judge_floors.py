"""What stands below every judge: similarity that no rule reaches, and one label for all."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.linear_model import RidgeCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from latefuse.config_judge import Verdicts
from latefuse.data.dataset import Dataset
from latefuse.evaluation import judge_floors
from latefuse.evaluation.dual_encoder import ALPHAS
from latefuse.models.backbone import load
from latefuse.prompts import MediaRef
from latefuse.training.features import Features


@pytest.fixture(scope="module")
def backbone(backbone_folder: Callable[..., Path]) -> Any:
    return load(backbone_folder("llava_onevision"))


def mean_state(backbone: Any, text: str) -> np.ndarray:
    """One text alone, without padding: the mean of the language model's last states."""
    ids = torch.tensor([backbone.tokenizer(text)["input_ids"]])
    with torch.no_grad():
        return backbone.hidden(ids, torch.ones_like(ids), None)[0].mean(0).numpy()


def test_the_linear_map_is_the_ridge_of_scikit_learn_between_frozen_encoders(judged: Dataset, backbone: Any) -> None:
    known, test = judged.rows("judgements", "train"), judged.rows("judgements", "test")
    features = Features(backbone, judged.media)
    told = [row for row in known if row["label"] and row["image"]]

    def pictures(rows: list[dict[str, Any]]) -> np.ndarray:
        return np.stack([features.pooled([MediaRef("image", row["image"])])[0].double().numpy() for row in rows])

    def words(rows: list[dict[str, Any]]) -> np.ndarray:
        return np.stack([mean_state(backbone, row["text"]) for row in rows]).astype(float)

    middle = words(told).mean(0)
    ridge = make_pipeline(StandardScaler(), RidgeCV(ALPHAS)).fit(pictures(told), words(told) - middle)
    both = [row for row in test if row["image"]]
    mapped, said = ridge.predict(pictures(both)), words(both) - middle
    cosines = (mapped * said).sum(1) / np.linalg.norm(mapped, axis=1) / np.linalg.norm(said, axis=1)
    found = judge_floors.linear_map(known, backbone, features, None)(both)
    np.testing.assert_allclose(found, cosines, atol=1e-3)


def test_a_row_that_lacks_a_side_says_nothing(judged: Dataset, backbone: Any) -> None:
    known, test = judged.rows("judgements", "train"), judged.rows("judgements", "test")
    ask = judge_floors.linear_map(known, backbone, Features(backbone, judged.media), None)
    rows = [*test, {**test[0], "text": ""}]
    lacking = [number for number, row in enumerate(rows) if not (row["image"] and row["text"])]
    assert len(lacking) == 3
    scores = ask(rows)
    assert np.flatnonzero(scores == 0).tolist() == lacking
    assert ask(rows[-1:]).tolist() == [0.0]


def test_similarity_gives_one_score_whatever_the_rule(judged: Dataset, backbone: Any) -> None:
    ask = judge_floors.linear_map(judged.rows("judgements", "train"), backbone, Features(backbone, judged.media), None)
    rows = judged.rows("judgements", "test")
    changed = [{**row, "task": "other", "instruction": "the very opposite"} for row in rows]
    np.testing.assert_array_equal(ask(rows), ask(changed))


def test_which_floors_are_measured() -> None:
    assert list(judge_floors.names(Verdicts(), both=True)) == ["majority", "zero-shot", "linear map"]
    assert list(judge_floors.names(Verdicts(dual_encoder="clip"), both=True))[-1] == "dual encoder"
    assert list(judge_floors.names(Verdicts(dual_encoder="clip"), both=False)) == ["majority", "zero-shot"]
    assert judge_floors.majority([{}, {}]).tolist() == [0.0, 0.0]

"""Nearest demonstrations: the order of brute force over cosines, by picture and by words, whatever adapter is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.prompts import MediaRef
from latefuse.tasks import judge
from latefuse.tasks.demonstrations import Demonstrations, alike
from latefuse.tasks.likeness import Likeness
from latefuse.training.features import Features


def task_of(**settings: Any) -> Task:
    known = {"choose": "nearest", "fixed": False, "demos": 2, **settings}
    raw = {"kind": "judge", "modality": ("image", "text"), "judge": known, "train": {"max_tokens": 4096}}
    return Task.model_validate({**raw, "adapter": {"r": 4, "on": ["language", "bridge", "tower"]}})


@pytest.fixture
def backbone(fresh_backbone: Callable[..., Any]) -> Any:
    return fresh_backbone("llava_onevision")


def by_hand(backbone: Any, data: Dataset, known: list[dict[str, Any]], rows: list[dict[str, Any]]) -> np.ndarray:
    """Cosines (rows, known): sums over the two sides, a side at a time."""
    features, table = Features(backbone, data.media), backbone.model.get_input_embeddings().weight

    def picture(row: dict[str, Any]) -> np.ndarray | None:
        return features.pooled([MediaRef("image", row["image"])])[0].numpy() if row["image"] else None

    def words(row: dict[str, Any]) -> np.ndarray:
        ids = backbone.tokenizer(row["text"], add_special_tokens=False)["input_ids"]
        return table[torch.tensor(ids)].detach().numpy().mean(0)

    total = np.zeros((len(rows), len(known)))
    for side, key in ((picture, "image"), (words, "text")):
        distinct = {row[key]: side(row) for row in known if row[key]}
        middle = np.mean(list(distinct.values()), axis=0)
        for i, row in enumerate(rows):
            for j, other in enumerate(known):
                one, two = side(row), side(other)
                if one is not None and two is not None:
                    a, b = one - middle, two - middle
                    total[i, j] += a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    return total


def test_the_nearest_of_each_label_are_shown(judged: Dataset, backbone: Any) -> None:
    known = [row for row in judged.rows("judgements", "train") if row["task"] == "fits"]
    rows = [row for row in judged.rows("judgements", "test") if row["task"] == "fits"]
    assert any(not row["image"] for row in rows)
    like = by_hand(backbone, judged, known, rows)
    vectors = Likeness(backbone, judged.media, known).vectors
    np.testing.assert_allclose(vectors(rows) @ vectors(known).T, like, atol=1e-5)
    shown = Demonstrations(known, task_of().judge, vectors)
    for number, row in enumerate(rows):
        wanted = {
            max(
                (j for j, one in enumerate(known) if one["label"] == label and not alike(one, row)),
                key=like[number].item,
            )
            for label in (True, False)
        }
        assert {one["id"] for one in shown.of(row, fixed=False)} == {known[j]["id"] for j in wanted}
    alone = [[one["id"] for one in shown.of(row, fixed=False)] for row in rows]
    shown.expect(rows)
    assert [[one["id"] for one in shown.of(row, fixed=False)] for row in rows] == alone


def test_an_adapter_has_no_say_in_who_is_near(judged: Dataset, backbone: Any) -> None:
    rows = judged.rows("judgements", "test")
    likeness = Likeness(backbone, judged.media, judged.rows("judgements", "train"))
    before = likeness.vectors(rows)
    judge.attach(backbone, {"judge": task_of()}, seed=0)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    np.testing.assert_array_equal(likeness.vectors(rows), before)


def test_the_nearest_need_demonstrations_of_ones_own(judged: Dataset, backbone: Any) -> None:
    with pytest.raises(ValueError, match="say fixed: false"):
        task_of(fixed=True)
    with pytest.raises(ValueError, match="without vectors"):
        Demonstrations([], task_of().judge)
    rows = judge.examples(judged, task_of(), "test", backbone)
    assert len({row.demos for row in rows}) > 2

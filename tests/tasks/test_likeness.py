"""Nearest demonstrations: the order of brute force over cosines, by picture and by words, whatever adapter is on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from latefuse.config import Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.prompts import MediaRef
from latefuse.tasks import judge
from latefuse.tasks.demonstrations import Demonstrations, alike
from latefuse.tasks.likeness import Likeness
from latefuse.training.features import Features

SIDES: tuple[Modality, ...] = ("image", "text")


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
    vectors = Likeness(backbone, Features(backbone, judged.media), known, SIDES).vectors
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
    known = judged.rows("judgements", "train")
    likeness = Likeness(backbone, Features(backbone, judged.media), known, SIDES)
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


@pytest.mark.parametrize(("blind", "hidden"), [("text", "image"), ("image", "text")])
def test_a_blind_arm_does_not_see_by_its_demonstrations(
    judged: Dataset, backbone: Any, blind: Modality, hidden: str
) -> None:
    """Whatever stands on the side that it does not read, the same demonstrations are shown."""
    known, rows = judged.rows("judgements", "train"), judged.rows("judgements", "test")
    rows = [{**row, "item": ""} for row in rows if row["image"]]
    task = task_of().model_copy(update={"modality": (blind,)})

    def shown(asked: list[dict[str, Any]], features: Features) -> list[list[str]]:
        writer = judge.Writer.behind(backbone, task, known, features)
        writer.shown.expect(asked)
        return [[one["id"] for one in writer.shown.of(row, fixed=False)] for row in asked]

    turned = [{**row, hidden: other[hidden]} for row, other in zip(rows, rows[3:] + rows[:3], strict=True)]
    features = Features(backbone, judged.media)
    assert shown(rows, features) == shown(turned, features)
    if blind == "text":

        def never(ref: str) -> Any:
            raise AssertionError("a picture was opened")

        assert shown(rows, Features(backbone, never)) == shown(rows, features)


def test_many_are_found_together_as_one_by_one_also_where_the_nearest_are_too_like(judged: Dataset) -> None:
    """Twenty copies of what is asked stand nearer than anything that may be shown."""
    rule = {"task": "t", "instruction": "i", "image": "", "item": ""}
    points = [{**rule, "id": f"k{n}", "text": f"text {n}", "label": n % 2 == 0, "at": n / 50} for n in range(100)]
    copies = [{**rule, "id": f"c{n}", "text": "asked", "label": True, "at": 0.5} for n in range(20)]
    asked = [{**rule, "id": "q", "text": "asked", "at": 0.5}, {**rule, "id": "r", "text": "else", "at": 1.7}]

    def vectors(rows: Any) -> np.ndarray:
        angles = np.array([row["at"] for row in rows])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    shown = Demonstrations([*points, *copies], task_of().judge, vectors)
    alone = [{one["id"] for one in shown.of(row, fixed=False)} for row in asked]
    shown.expect(asked)
    assert [{one["id"] for one in shown.of(row, fixed=False)} for row in asked] == alone
    assert alone[0] <= {"k24", "k25", "k26"}
    assert len(alone[0]) == 2


def test_a_side_that_no_training_row_has_says_nothing(judged: Dataset, backbone: Any) -> None:
    known = [{**row, "text": ""} for row in judged.rows("judgements", "train")]
    likeness = Likeness(backbone, Features(backbone, judged.media), known, SIDES)
    rows = judged.rows("judgements", "test")
    np.testing.assert_array_equal(likeness.vectors(rows), likeness.vectors([{**row, "text": ""} for row in rows]))

"""Validation rows: spread, counted, and never of another split."""

from __future__ import annotations

import pytest

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.fusion.changes import FusionError
from latefuse.fusion.rows import evenly, validation_rows
from latefuse.tasks import instruct

TASK = Task(modality="image", where={"topic": "dish"})


@pytest.mark.parametrize(("count", "numbers"), [(1, [0]), (2, [0, 5]), (3, [0, 2, 5]), (6, range(6)), (99, range(6))])
def test_rows_are_spread_over_the_split(count, numbers, dishes, fresh_backbone):
    rows = validation_rows(Dataset(dishes), TASK, fresh_backbone(), count)
    assert [row.row for row in rows] == [f"valid-{number}-image" for number in numbers]


def test_places_are_evenly_spread():
    assert evenly(5, None) == evenly(5, 9) == [0, 1, 2, 3, 4]
    assert evenly(101, 5) == [0, 25, 50, 75, 100]
    assert evenly(7, 0) == evenly(0, 3) == []


def test_a_task_without_validation_rows_has_none_and_one_with_useless_rows_says_so(dishes, fresh_backbone):
    data, backbone = Dataset(dishes), fresh_backbone()
    assert validation_rows(data, TASK.model_copy(update={"where": {"topic": "soup"}}), backbone, 3) == []
    short = TASK.model_copy(update={"train": TASK.train.model_copy(update={"max_tokens": 8})})
    with pytest.raises(DataError, match="max_tokens"):
        validation_rows(data, short, backbone, 3)


@pytest.mark.parametrize("split", ["train", "test"])
def test_rows_of_another_split_are_refused(split, dishes, fresh_backbone, monkeypatch):
    honest = instruct.examples
    monkeypatch.setattr(instruct, "examples", lambda data, task, _, backbone: honest(data, task, split, backbone))
    with pytest.raises(FusionError, match=f"{split}-0-image is not of split 'valid'"):
        validation_rows(Dataset(dishes), TASK, fresh_backbone(), 3)

"""Controls of late fusion: what a model is given when a modality is swapped between items."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.evaluation.fused import shuffled_views
from latefuse.fusion import late


@pytest.mark.parametrize("modality", ["image", "video", "text"])
def test_a_shuffled_view_is_another_items_down_to_the_token(
    dishes: Path, fresh_backbone: Callable[..., Any], modality: Any
) -> None:
    backbone, tasks = fresh_backbone(), {name: Task(modality=name) for name in ("image", "video", "text")}
    fused = late.shared(Dataset(dishes), tasks, "test", backbone)
    before = fused.rows[modality]
    after = shuffled_views(backbone, fused, modality, seed=0)
    assert after is not None
    shown = [(row.prompt_ids, [ref.path for ref in row.media]) for row in before if row is not None]
    swapped = [(row.prompt_ids, [ref.path for ref in row.media]) for row in after if row is not None]
    assert sorted(map(str, shown)) == sorted(map(str, swapped))
    assert all(one != other for one, other in zip(shown, swapped, strict=True))

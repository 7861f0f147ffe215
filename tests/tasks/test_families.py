"""The same task on every family of backbones: prompts, features or pixels, the tree of names, a short training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latefuse.config import Job, Task
from latefuse.data.dataset import Dataset
from latefuse.models.adapters import attach
from latefuse.tasks import instruct
from latefuse.training import engine
from latefuse.training.features import Features

NAMES = ["red", "green", "red rice", "gold and blue"]
FAMILIES = [
    ("llava", "image"),
    ("llava_onevision", "image"),
    ("llava_onevision", "video"),
    ("qwen2_5_vl", "image"),
    ("qwen2_5_vl", "video"),
    ("qwen3_vl", "image"),
    ("smolvlm", "image"),
    ("llama", "text"),
]


@pytest.mark.parametrize(("family", "modality"), FAMILIES)
def test_names_are_scored_as_one_at_a_time(
    family: str, modality: str, small_dataset: Path, fresh_backbone: Any, tmp_path: Path
) -> None:
    data, backbone = Dataset(small_dataset), fresh_backbone(family)
    task = Task.model_validate({"modality": modality, "train": {"max_tokens": 4096}})
    rows = instruct.examples(data, task, "test", backbone)[:2]
    features = Features(backbone, data.media, tmp_path)
    fast = instruct.score(backbone, rows, NAMES, features=features)
    splicer = instruct.Splicer.of(backbone)
    for i, row in enumerate(rows):
        for k, name in enumerate(NAMES):
            answer = splicer.answer_ids(name)
            ids = torch.tensor([row.prompt_ids + answer])
            with torch.no_grad():
                hidden = backbone.hidden(ids, torch.ones_like(ids), features.batch(row.media))
            start = len(row.prompt_ids) - 1
            log_probs = torch.log_softmax(backbone.logits(hidden), dim=-1)[0, start : start + len(answer)]
            wanted = log_probs.gather(1, torch.tensor(answer).unsqueeze(1)).sum()
            assert float(fast[i, k]) == pytest.approx(float(wanted), abs=1e-3)


@pytest.mark.parametrize(("family", "modality"), [FAMILIES[k] for k in (0, 2, 4, 5, 6)])
def test_a_few_steps_lower_the_loss(
    family: str, modality: str, small_dataset: Path, fresh_backbone: Any, tmp_path: Path
) -> None:
    data, backbone = Dataset(small_dataset), fresh_backbone(family)
    train = {"max_tokens": 4096, "max_steps": 8, "batch_size": 4, "lr": 1e-2, "log_every": 1, "schedule": "constant"}
    job = Job.model_validate({"name": "x", "seed": 0, "tasks": {"x": {"modality": modality, "train": train}}})
    rows = {"x": instruct.examples(data, job.tasks["x"], "train", backbone)[:4]}
    attach(backbone, job.tasks["x"].adapter, modality, seed=0)
    features = Features(backbone, data.media, tmp_path / "cache")
    losses = engine.train(backbone, job, rows, {}, tmp_path, features, lambda values, step: None)["losses"]
    assert losses[-1] < losses[0] - 0.05

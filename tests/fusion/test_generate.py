"""Decoding several adapters together, against each of them alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latefuse.config import AdapterConfig, Task
from latefuse.data.dataset import Dataset
from latefuse.fusion.generate import Stream, generate_mixed
from latefuse.models.adapters import active, attach
from latefuse.tasks import instruct
from latefuse.training.features import Features


def test_a_mix_of_one_adapter_with_itself_writes_what_it_writes_alone(
    small_dataset: Path, fresh_backbone: Any, tmp_path: Path
) -> None:
    data, backbone = Dataset(small_dataset), fresh_backbone()
    features = Features(backbone, data.media, tmp_path / "cache")
    for number, name in enumerate(("one", "two")):
        attach(backbone, AdapterConfig(r=2), ["image", "text"], seed=number, name=name)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    rows = instruct.examples(data, Task(modality="image"), "train", backbone)[:3]
    words = instruct.examples(data, Task(modality="text"), "train", backbone)[:3]
    with active(backbone, "two"):
        alone = instruct.predict(backbone, rows, 6, features=features)
    same = [Stream(backbone, rows, "two", features)] * 2
    assert generate_mixed(same, torch.tensor([0.4, 0.6]), 6) == alone
    missing = [Stream(backbone, [None] * 3, "one", features), Stream(backbone, rows, "two", features)]
    assert generate_mixed(missing, torch.tensor([0.5, 0.5]), 6, batch_size=2) == alone
    with active(backbone, "one"):
        other = instruct.predict(backbone, words, 6, features=features)
    partly = [
        Stream(backbone, [None, words[1], words[2]], "one", features),
        Stream(backbone, [rows[0], None, rows[2]], "two", features),
    ]
    mixed = generate_mixed(partly, torch.tensor([0.5, 0.5]), 6)
    assert mixed[:2] == [alone[0], other[1]]


def test_streams_of_different_length_are_refused(small_dataset: Path, fresh_backbone: Any, tmp_path: Path) -> None:
    data, backbone = Dataset(small_dataset), fresh_backbone()
    features = Features(backbone, data.media, tmp_path / "cache")
    rows = instruct.examples(data, Task(modality="text"), "train", backbone)
    streams = [Stream(backbone, rows[:2], None, features), Stream(backbone, rows[:3], None, features)]
    with pytest.raises(ValueError, match=r"\[2, 3\] rows"):
        generate_mixed(streams, torch.tensor([0.5, 0.5]))

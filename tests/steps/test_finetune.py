from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open

from latefuse.config import Job
from latefuse.data.dataset import Dataset
from latefuse.models import adapters
from latefuse.steps import finetune
from latefuse.tasks import instruct
from latefuse.tracking import Null
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features


class Heard(Null):
    def __init__(self) -> None:
        self.values: dict[str, float] = {}
        self.files: list[str] = []

    def metrics(self, values: Any, step: int | None = None) -> None:
        self.values.update(values)

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        self.files.append(Path(path).name)


def job_of(tasks: dict[str, dict[str, Any]], name: str = "one", **train: Any) -> Job:
    settings = {"max_steps": 3, "batch_size": 4, "log_every": 1, **train}
    whole = {key: {"adapter": {"r": 4}, "train": settings, **task} for key, task in tasks.items()}
    return Job.model_validate({"name": name, "seed": 0, "tasks": whole})


def test_one_arm_from_dataset_to_adapter(
    small_dataset: Path, backbone_folder: Any, fresh_backbone: Any, tmp_path: Path
) -> None:
    heard, folder = Heard(), backbone_folder()
    job = job_of({"dish": {"modality": "image"}})
    result = finetune.run(job, small_dataset, folder, tmp_path / "out", heard, tmp_path / "cache", tmp_path / "work")
    assert json.loads((tmp_path / "out" / "result.json").read_text()) == result
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["adapter", "result.json"]
    for name in ("loss", "lr", "grad_norm", "samples_per_s", "tokens_per_s", "trainable_share"):
        assert f"train/{name}" in heard.values
    assert heard.files == ["adapter"]
    for key in ("wall_s", "peak_rss_gib", "samples_per_s", "tokens_per_s", "valid_loss", "train_tokens"):
        assert result[key] > 0
    assert result["rows"] == {"dish": 8}
    assert len(result["losses"]) == 3

    data, backbone = Dataset(small_dataset), fresh_backbone()
    adapters.load(backbone, tmp_path / "out" / "adapter")
    rows = instruct.examples(data, job.tasks["dish"], "valid", backbone)
    features = Features(backbone, data.media, tmp_path / "cache" / "features")
    loss = float(instruct.nll(backbone, rows, features=features).sum()) / sum(row.learned for row in rows)
    assert loss == pytest.approx(result["valid_loss"], abs=1e-4)
    card = adapters.read_card(tmp_path / "out" / "adapter")
    assert (card.task, card.arm, card.modality, card.seed) == ("dish", "one", ("image",), 0)
    assert card.data_fingerprint == data.fingerprint
    assert card.metrics["valid_loss"] == result["valid_loss"]


def test_the_adapter_loads_in_plain_peft(
    small_dataset: Path, backbone_folder: Any, fresh_backbone: Any, tmp_path: Path
) -> None:
    from peft import PeftModel

    job = job_of({"words": {"modality": "text"}}, lr=2e-2)
    finetune.run(job, small_dataset, backbone_folder(), tmp_path / "out", Null(), tmp_path / "cache")
    ours, theirs = fresh_backbone(), fresh_backbone()
    adapters.load(ours, tmp_path / "out" / "adapter")
    plain = PeftModel.from_pretrained(theirs.model, tmp_path / "out" / "adapter")
    ids = torch.arange(20, 40).unsqueeze(0)
    with torch.no_grad():
        wanted = ours.logits(ours.hidden(ids, torch.ones_like(ids)))
        found, bare = plain(input_ids=ids).logits, fresh_backbone().model(input_ids=ids).logits
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)
    assert not torch.allclose(found, bare, atol=1e-4)


def test_the_mix_is_one_adapter_on_the_union_of_the_modules(
    small_dataset: Path, backbone_folder: Any, tmp_path: Path
) -> None:
    tasks = {"dish": {"modality": "image"}, "words": {"modality": "text", "adapter": {"r": 8}}}
    out = tmp_path / "mixed"
    job = job_of(tasks, "mixed")
    mixed = finetune.run(job, small_dataset, backbone_folder(), out, Null(), tmp_path / "cache")
    with safe_open(out / "adapter" / "adapter_model.safetensors", "pt") as file:
        shapes = {key: file.get_slice(key).get_shape() for key in file.keys()}  # noqa: SIM118 - not a dictionary
    assert any("multi_modal_projector" in key for key in shapes)
    assert {shape[0] for key, shape in shapes.items() if "lora_A" in key} == {8}
    assert not any("tower" in key for key in shapes)
    each = [
        finetune.run(
            job_of({name: task}), small_dataset, backbone_folder(), tmp_path / name, Null(), tmp_path / "cache"
        )
        for name, task in tasks.items()
    ]
    assert mixed["train_tokens"] == sum(one["train_tokens"] for one in each)
    assert mixed["steps"] == sum(one["steps"] for one in each) == 6


def test_rows_that_are_left_out_are_in_the_result(
    small_dataset: Path, backbone_folder: Any, fresh_backbone: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    job = job_of({"words": {"modality": "text"}})
    rows = instruct.examples(Dataset(small_dataset), job.tasks["words"], "train", fresh_backbone())
    longest = max(len(row.input_ids) for row in rows)
    shorter = job_of({"words": {"modality": "text"}}, max_tokens=longest - 1)
    out = tmp_path / "out"
    result = finetune.run(shorter, small_dataset, backbone_folder(), out, Null(), tmp_path / "cache")
    gone = sum(len(row.input_ids) == longest for row in rows)
    assert result["left_out"]["words/train"] == {"too-long": gone}
    assert result["rows"] == {"words": len(rows) - gone}
    assert "raise train.max_tokens" in caplog.text


def test_a_batch_that_can_not_be_split_stops_before_training(
    small_dataset: Path, backbone_folder: Any, tmp_path: Path
) -> None:
    job = job_of({"words": {"modality": "text"}}, batch_size=4, accumulation=3)
    with pytest.raises(TrainingError, match="choose a multiple of 3"):
        finetune.run(job, small_dataset, backbone_folder(), tmp_path / "out", Null(), tmp_path / "cache")
    assert not (tmp_path / "out" / "adapter").exists()

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latefuse.config import Job, Train
from latefuse.steps import finetune
from latefuse.tracking import Null
from latefuse.training.distributed import TrainingError, deepspeed_config, micro_batch
from latefuse.training.launch import launch

DEEPSPEED = Path(__file__).parents[2] / "configs" / "deepspeed"


def job_of(**changes: Any) -> Job:
    train = {"max_steps": 4, "batch_size": 8, "accumulation": 2, "log_every": 1, "max_grad_norm": 0.7}
    tasks = {m: {"modality": m, "adapter": {"r": 4}, "train": train} for m in ("image", "text")}
    return Job.model_validate({"name": "mixed", "seed": 1, "tasks": tasks, **changes})


def test_a_batch_is_micro_times_accumulation_times_processes() -> None:
    assert micro_batch(Train(batch_size=24, accumulation=3), 4) == 2
    with pytest.raises(TrainingError, match=r"batch_size=16 .* accumulation=3 x 2 .* a multiple of 6"):
        micro_batch(Train(batch_size=16, accumulation=3), 2)


@pytest.mark.parametrize("name", ["zero2", "zero2-offload", "zero3"])
@pytest.mark.parametrize("precision", ["float32", "bfloat16", "float16"])
def test_deepspeed_gets_batch_and_precision_of_the_job(name: str, precision: str) -> None:
    job = job_of(precision=precision)
    train = job.tasks["image"].train
    filled = deepspeed_config(DEEPSPEED / f"{name}.json", job, train, world=2)
    assert "auto" not in json.dumps(filled)
    assert filled["train_batch_size"] == 8
    assert filled["train_micro_batch_size_per_gpu"] == 2
    assert filled["gradient_accumulation_steps"] == 2
    assert filled["gradient_clipping"] == 0.7
    assert filled["bf16"]["enabled"] == (precision == "bfloat16")
    assert filled["fp16"]["enabled"] == (precision == "float16")
    assert filled["zero_optimization"]["stage"] == (3 if name == "zero3" else 2)
    assert filled.get("zero_force_ds_cpu_optimizer") is (False if name == "zero2-offload" else None)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"train_batch_size": 64}, "train_batch_size is 64 .* the job says 8"),
        ({"bf16": {"enabled": True}}, "bf16 is True .* the job says False"),
        ({"optimizer": {"type": "AdamW"}}, "leave 'optimizer'"),
    ],
)
def test_a_deepspeed_file_that_says_otherwise_is_refused(content: dict[str, Any], message: str) -> None:
    job = job_of()
    with pytest.raises(TrainingError, match=message):
        deepspeed_config(content, job, job.tasks["image"].train, world=1)


def test_a_missing_deepspeed_file_is_named(tmp_path: Path) -> None:
    job = job_of()
    with pytest.raises(TrainingError, match=r"nothing\.json: no such file"):
        deepspeed_config(tmp_path / "nothing.json", job, job.tasks["image"].train, world=1)


class Heard(Null):
    def __init__(self) -> None:
        self.losses: list[float] = []

    def metrics(self, values: Any, step: int | None = None) -> None:
        if "train/loss" in values:
            self.losses.append(values["train/loss"])


def test_two_processes_train_as_one(small_dataset: Path, backbone_folder: Any, tmp_path: Path) -> None:
    paths = (small_dataset, backbone_folder())
    alone, heard = Heard(), Heard()
    one = finetune.run(job_of(), *paths, tmp_path / "one", alone, tmp_path / "cache")
    job = job_of(launcher="torchrun", processes=2, threads=1)
    two = finetune.run(job, *paths, tmp_path / "two", heard, tmp_path / "cache")
    assert two["processes"] == 2
    assert two["train_tokens"] == one["train_tokens"]
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert heard.losses == pytest.approx(alone.losses, abs=1e-5)
    assert two["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-4)
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "two"))
    for name, tensor in first.items():
        torch.testing.assert_close(tensor, second[name], rtol=1e-3, atol=1e-4)


def test_a_batch_that_does_not_fit_the_processes_stops_before_they_start(
    small_dataset: Path, backbone_folder: Any, tmp_path: Path
) -> None:
    job = job_of(launcher="torchrun", processes=3)
    with pytest.raises(TrainingError, match="choose a multiple of 6"):
        finetune.run(job, small_dataset, backbone_folder(), tmp_path / "out", Null(), tmp_path / "cache")
    assert not (tmp_path / "out").exists()


def test_a_process_that_fails_is_an_error_and_its_lines_are_heard(tmp_path: Path) -> None:
    script = tmp_path / "falls.py"
    script.write_text(
        "import json, os, sys\n"
        "asked = json.load(open(sys.argv[1]))\n"
        "if os.environ['RANK'] == '0':\n"
        "    open(asked['log'], 'a').write(json.dumps({'values': {'train/loss': asked['x']}, 'step': 7}) + '\\n')\n"
        "else:\n"
        "    sys.exit(3)\n"
    )
    heard: list[tuple[int, float]] = []
    job = job_of(launcher="torchrun", processes=2, threads=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(TrainingError, match=r"rank 1 \(process \d+\) failed: it ended with code 3"):
            launch("falls", {"x": 0.5}, job, tmp_path, lambda values, step: heard.append((step, values["train/loss"])))
    assert heard == [(7, 0.5)]

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from latefuse.config import Job
from latefuse.data.dataset import Dataset
from latefuse.tasks import instruct
from latefuse.training import engine
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features


def job_of(*modalities: str, name: str = "one", adapter: dict[str, Any] | None = None, **train: Any) -> Job:
    settings = {"max_steps": 4, "batch_size": 4, "log_every": 1, "save_every": 100, **train}
    tasks = {m: {"modality": m, "adapter": {"r": 4, **(adapter or {})}, "train": settings} for m in modalities}
    return Job.model_validate({"name": name, "seed": 3, "tasks": tasks})


class Run:
    """One training on the small dataset, with everything around it."""

    def __init__(self, backbone: Any, data: Dataset, job: Job, folder: Path, cache: Path | None = None) -> None:
        self.backbone, self.job, self.folder = backbone, job, folder
        self.features = Features(backbone, data.media, cache)
        self.examples = {name: instruct.examples(data, task, "train", backbone) for name, task in job.tasks.items()}
        self.valid = {name: instruct.examples(data, task, "valid", backbone) for name, task in job.tasks.items()}
        self.logged: list[tuple[int, dict[str, float]]] = []
        instruct.attach(backbone, job.tasks, job.seed)

    def train(self) -> dict[str, Any]:
        return engine.train(
            self.backbone, self.job, self.examples, self.valid, self.folder, self.features,
            lambda values, step: self.logged.append((step, values)),
        )  # fmt: skip

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: p.detach().clone() for name, p in self.backbone.model.named_parameters() if p.requires_grad}


@pytest.fixture(scope="module")
def data(small_dataset: Path) -> Dataset:
    return Dataset(small_dataset)


@pytest.mark.parametrize("modality", ["image", "video", "text"])
def test_eight_samples_are_learned_by_heart(modality: str, data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    job = job_of(modality, adapter={"r": 16}, max_steps=250, batch_size=8, lr=5e-3, log_every=10)
    backbone = fresh_backbone()
    # A random head is too flat to be sure of anything: the final norm bounds what the frozen head can say.
    backbone.model.get_output_embeddings().weight.data *= 10
    run = Run(backbone, data, job, tmp_path, tmp_path / "cache")
    result = run.train()
    assert result["losses"][0] > 3
    assert result["losses"][-1] < 0.1
    rows = run.examples[modality]
    written = instruct.predict(run.backbone, rows, 24, features=run.features)
    assert sum(text == row.answer for text, row in zip(written, rows, strict=True)) >= 7


def test_what_is_logged(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    run = Run(fresh_backbone(), data, job_of("image", "text", max_steps=3, warmup=0), tmp_path)
    result = run.train()
    assert [step for step, _ in run.logged] == [1, 2, 3, 4, 5, 6] == result["loss_steps"]
    names = ("loss", "grad_norm", "lr", "samples_per_s", "tokens_per_s")
    assert {f"train/{name}" for name in names} == set(run.logged[0][1])
    assert run.logged[0][1]["train/lr"] == pytest.approx(2e-3)
    assert result["trainable_share"] == result["trainable"] / result["total"]
    assert set(result["valid_losses"]) == {"image", "text"}


def test_the_loss_is_the_mean_over_the_answer_tokens_of_a_step_however_it_is_split(
    data: Dataset, fresh_backbone: Any, tmp_path: Path
) -> None:
    whole = Run(fresh_backbone(), data, job_of("video", batch_size=8), tmp_path / "a").train()
    parts = Run(fresh_backbone(), data, job_of("video", batch_size=8, accumulation=4), tmp_path / "b").train()
    assert whole["losses"] == pytest.approx(parts["losses"], abs=1e-5)
    again = Run(fresh_backbone(), data, job_of("video", batch_size=8, gradient_checkpointing=True), tmp_path / "d")
    assert whole["losses"] == pytest.approx(again.train()["losses"], abs=1e-5)
    run = Run(fresh_backbone(), data, job_of("video", batch_size=8, max_steps=1), tmp_path / "c")
    with torch.no_grad():
        total, count = instruct.loss(run.backbone, instruct.collate(run.examples["video"], run.backbone, run.features))
    assert run.train()["losses"] == pytest.approx([float(total / count)], abs=1e-5)


def test_cached_features_and_pixels_train_alike(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    stored = Run(fresh_backbone(), data, job_of("image"), tmp_path / "a", tmp_path / "cache").train()
    fresh = Run(fresh_backbone(), data, job_of("image"), tmp_path / "b").train()
    assert stored["losses"] == pytest.approx(fresh["losses"], abs=1e-5)
    assert stored["media_encoded"] == 12
    assert fresh["media_encoded"] == 0


def test_the_mix_sees_the_tokens_of_the_separate_jobs(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    each = [
        Run(fresh_backbone(), data, job_of(m, max_steps=n), tmp_path / m).train()
        for m, n in (("image", 2), ("text", 3))
    ]  # fmt: skip
    tasks = {"image": job_of("image", max_steps=2).tasks["image"], "text": job_of("text", max_steps=3).tasks["text"]}
    mixed = Run(fresh_backbone(), data, Job(name="mixed", seed=3, tasks=tasks), tmp_path / "mixed").train()
    for key in ("steps", "samples", "train_tokens", "answer_tokens"):
        assert mixed[key] == each[0][key] + each[1][key]


def test_a_loss_that_is_not_finite_names_the_rows(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    run = Run(fresh_backbone(), data, job_of("text"), tmp_path)
    with torch.no_grad():
        run.backbone.model.get_output_embeddings().weight[5:].fill_(float("nan"))
    with pytest.raises(TrainingError, match=r"step 1: the loss is nan; rows \['text-train-\d'"):
        run.train()


def test_an_adapter_without_gradient_stops_at_its_first_step(
    data: Dataset, fresh_backbone: Any, tmp_path: Path
) -> None:
    run = Run(fresh_backbone(), data, job_of("image"), tmp_path)
    bridge = run.backbone.model.get_submodule("model.multi_modal_projector")
    bridge.register_forward_hook(lambda module, inputs, output: output.detach())
    with pytest.raises(TrainingError, match="step 1: no gradient reaches bridge"):
        run.train()


def test_a_frozen_weight_that_moves_is_found(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    run = Run(fresh_backbone(), data, job_of("text"), tmp_path)
    embeddings = run.backbone.model.get_input_embeddings().weight

    def move(values: dict[str, float], step: int) -> None:
        embeddings.data[7, 0] += 1e-3

    with pytest.raises(TrainingError, match="frozen backbone has moved"):
        engine.train(run.backbone, run.job, run.examples, run.valid, tmp_path, run.features, move)


def test_a_run_is_deterministic(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    runs = [Run(fresh_backbone(), data, job_of("image", adapter={"dropout": 0.2}), tmp_path / str(k)) for k in range(2)]
    for run in runs:
        run.train()
    first, second = (run.weights() for run in runs)
    assert all(torch.equal(first[name], second[name]) for name in first)


SCRIPT = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from latefuse.config import Job
from latefuse.steps import finetune
from latefuse.tracking import Null

class Tell(Null):
    def metrics(self, values, step=None):
        if step: print("step", step, flush=True)

job, dataset, backbone, out, cache = sys.argv[1:]
result = finetune.run(Job.model_validate_json(job), Path(dataset), Path(backbone), Path(out), Tell(), Path(cache))
print("resumed from", result["resumed_from"], flush=True)
"""


def run_step(job: Job, dataset: Path, backbone: Path, out: Path, kill_at: int | None = None) -> str:
    """The step in a real process; with kill_at it gets SIGKILL when it says that this step is done."""
    paths = [str(path) for path in (dataset, backbone, out, out.parent / "cache")]
    command = [sys.executable, "-c", SCRIPT, job.model_dump_json(), *paths]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as child:
        assert child.stdout is not None
        said = ""
        for line in child.stdout:
            said += line
            if kill_at is not None and line.strip() == f"step {kill_at}":
                time.sleep(random.Random(kill_at).random() * 0.05)
                child.send_signal(signal.SIGKILL)
                break
        else:
            assert child.wait() == 0, said
    return said


def test_a_killed_run_goes_on_and_ends_bit_equal(small_dataset: Path, backbone_folder: Any, tmp_path: Path) -> None:
    job = job_of(
        "image", "text", name="mixed", adapter={"dropout": 0.1}, max_steps=15, save_every=4, accumulation=2, lr=5e-3
    )
    kill_at = random.Random(os.getpid()).randint(5, 25)
    whole = run_step(job, small_dataset, backbone_folder(), tmp_path / "whole")
    assert "resumed from 0" in whole
    run_step(job, small_dataset, backbone_folder(), tmp_path / "killed", kill_at)
    assert not (tmp_path / "killed" / "result.json").exists()
    newest = max((tmp_path / "killed" / "checkpoints").iterdir(), key=lambda path: int(path.name.rpartition("-")[2]))
    broken = newest.with_name("checkpoint-28")  # a newer one that a kill left half written
    broken.mkdir()
    (broken / "trainer_state.json").write_text("{")
    said = run_step(job, small_dataset, backbone_folder(), tmp_path / "killed")
    resumed = int(said.rpartition("resumed from ")[2])
    assert 4 <= resumed <= kill_at + 1
    assert resumed % 4 == 0
    saved = "adapter/adapter_model.safetensors"
    first, second = (load_file(tmp_path / name / saved) for name in ("whole", "killed"))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first), (kill_at, resumed)
    losses = [json.loads((tmp_path / name / "result.json").read_text())["losses"] for name in ("whole", "killed")]
    assert losses[0] == losses[1]

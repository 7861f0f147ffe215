"""Every kind under DeepSpeed in two processes on this machine, against one process without it.

One pair of processes trains all cases one after the other; a hang ends it after `LONGEST` seconds.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import small_ranks
import small_shop
import torch
from safetensors.torch import load_file

from latefuse.config import Job
from latefuse.config_zero import ZeroAsked, zero_file
from latefuse.data.dataset import Dataset
from latefuse.models import adapters, tiny_random
from latefuse.models.backbone import load
from latefuse.steps import finetune
from latefuse.tasks import instruct
from latefuse.tracking import Null
from latefuse.training import engine
from latefuse.training.features import Features

LONGEST = 600
pytestmark = [
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed; `dev` has it"),
    pytest.mark.timeout(2 * LONGEST),
]
HELPER = Path(__file__).parents[1] / "helpers" / "zero_ranks.py"
TRAIN = {"max_steps": 3, "batch_size": 8, "accumulation": 2, "log_every": 1, "max_grad_norm": 0.7, "lr": 0.003}
ALL = [(stage, offload) for stage in (1, 2, 3) for offload in (False, True)]
FEW = [(2, False), (3, False)]
STAGES = {"instruct": ALL, "embed": FEW, "judge": FEW, "rank": FEW, "personalise": FEW, "dealt": FEW}
CASES = [(kind, stage, offload) for kind, stages in STAGES.items() for stage, offload in stages]
KILLED_AT = 5
MODALITIES = ("image", "video", "text")
TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "instruct": {m: {"modality": m, "adapter": {"r": 4, "bridge_full": True}} for m in MODALITIES},
    # Towers learn, so that each modality touches weights that no other one does, and nothing is stored.
    "dealt": {m: {"modality": m, "adapter": {"r": 4, "on": ["tower", "bridge", "language"]}} for m in MODALITIES},
    "embed": {"both": {"kind": "embed", "modality": ["image", "text"], "embed": {"dim": 16, "modality_dropout": 0},
              "adapter": {"r": 4}}},
    "judge": {"judge": {"kind": "judge", "modality": ["image", "text"], "judge": {"demos": 0}, "adapter": {"r": 4}}},
    "rank": {"like": {"kind": "rank", "modality": ["text", "image"], "rank": {"bins": 500, "dim": 16, "bottom": [32],
             "top": [32], "sparse": False, "absence": 0}}},
    "personalise": {"both": {"kind": "personalise", "modality": ["text", "image"], "personalise": {"k": 2,
                    "candidates": 12, "per_user": 2, "history": 6}}},
}  # fmt: skip
FAMILY = {"instruct": "video_llava", "dealt": "video_llava", "embed": "glued_mlp", "judge": "llava_onevision",
          "rank": "video_llava", "personalise": "sighted"}  # fmt: skip


def job_of(kind: str, stage: int = 0, offload: bool = False, **train: Any) -> Job:
    steps = {"max_steps": 2} if kind == "dealt" else {}  # the slowest, with towers
    tasks = {name: {**task, "train": {**TRAIN, **steps, **train}} for name, task in TASKS[kind].items()}
    content = zero_file(ZeroAsked(stage=stage, offload=offload, bucket=10_000)) if stage else None
    if stage == 3:
        content["zero_optimization"]["stage3_param_persistence_threshold"] = 0  # else tiny weights are not spread
    spread = {"processes": 2, "launcher": "torchrun", "deepspeed": content} if stage else {}
    return Job.model_validate({"name": kind, "seed": 1, "tasks": tasks, "threads": 1, **spread})


@pytest.fixture(scope="module")
def places(small_dataset: Path, shop_items: Path, judged: Any, backbone_folder: Any, tmp_path_factory: Any) -> Any:
    """kind -> dataset and backbone."""
    base = tmp_path_factory.mktemp("kinds")
    personal = small_shop.shop(base / "personal", [9, 4, 12, 3, 7, 5, 20], items=40, pictures=True)
    data = {"instruct": small_dataset, "dealt": small_dataset, "embed": shop_items, "judge": judged.path,
            "personalise": personal.path, "rank": small_ranks.shop(base / "ranks").path}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tiny_random.ALL, "sighted", _without_dropout)  # each process draws its own
        still = tiny_random.random_backbone(base / "sighted", "sighted", 0)
    return {kind: (data[kind], still if kind == "personalise" else backbone_folder(FAMILY[kind])) for kind in STAGES}


def _without_dropout(vocabulary: int) -> Any:
    config = tiny_random.READERS["sighted"](vocabulary)
    config.text_config.dropout_rate = 0.0
    return config


@pytest.fixture(scope="module")
def trained(places: Any, tmp_path_factory: Any) -> Path:
    """The folder in which two processes have trained all cases, two of them after one of the processes had died."""
    out = tmp_path_factory.mktemp("zero")
    wanted = [(f"{kind}-{stage}-{offload}", kind, job_of(kind, stage, offload), 0) for kind, stage, offload in CASES]
    wanted += [(f"killed-{s}", "instruct", job_of("instruct", s, save_every=2), KILLED_AT) for s, _ in FEW]
    cases = [
        {"job": job.model_dump(mode="json"), "dataset": str(places[kind][0]), "backbone": str(places[kind][1]),
         "out": str(out / name), "deal": kind == "dealt", "kill": kill}
        for name, kind, job, kill in wanted
    ]  # fmt: skip
    (out / "cases.json").write_text(json.dumps(cases))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(HELPER)]
    until = time.monotonic() + LONGEST
    with (out / "said").open("w") as said:
        for _ in range(1 + len(FEW)):  # each of those that are killed ends both processes once
            done = subprocess.run(
                [*command, str(out / "cases.json")], stdout=said, stderr=said, timeout=until - time.monotonic(),
                check=False, env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
            )  # fmt: skip
            if not done.returncode:
                break
    return out


@pytest.fixture(scope="module")
def alone(places: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """kind -> what one process makes of the same job, and its adapter."""
    import zero_ranks

    found = {}
    for kind, (dataset, backbone) in places.items():
        out = tmp_path_factory.mktemp(f"alone-{kind}")
        with pytest.MonkeyPatch.context() as patch:
            if kind == "dealt":
                patch.setattr(engine, "schedule", zero_ranks.dealt)
            found[kind] = finetune.run(job_of(kind), dataset, backbone, out, Null(), out / "c"), out / "adapter"
    return found


def result_of(trained: Path, name: str) -> dict[str, Any]:
    told = [json.loads(path.read_text()) for path in sorted((trained / name).glob("told-*.json"))]
    assert len(told) == 2, (trained / "said").read_text()[-3000:]
    assert all("result" in one for one in told), told
    return told[0]["result"]


def same_weights(folder: Path, other: Path, **tolerance: float) -> None:
    names = sorted(path.name for path in folder.glob("*.safetensors"))
    assert names
    assert names == sorted(path.name for path in other.glob("*.safetensors"))
    for name in names:
        first, second = load_file(folder / name), load_file(other / name)
        assert first.keys() == second.keys()
        for key, tensor in first.items():
            torch.testing.assert_close(second[key], tensor, **tolerance, msg=lambda m, k=key: f"{k}: {m}")


@pytest.mark.parametrize(("kind", "stage", "offload"), CASES)
def test_two_processes_learn_what_one_learns(
    kind: str, stage: int, offload: bool, trained: Path, alone: dict[str, Any]
) -> None:
    found, (one, adapter) = result_of(trained, f"{kind}-{stage}-{offload}"), alone[kind]
    assert found["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert found["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-4)
    assert found["trainable"] == one["trainable"]
    same_weights(adapter, trained / f"{kind}-{stage}-{offload}" / "adapter", rtol=1e-3, atol=2e-4)


def test_dealt_rows_put_different_media_before_the_processes_at_a_time(alone: dict[str, Any]) -> None:
    assert alone["dealt"][0]["losses"] != alone["instruct"][0]["losses"]


@pytest.mark.parametrize("stage", [2, 3])
def test_a_run_whose_process_was_killed_goes_on_and_ends_as_if_it_had_not(stage: int, trained: Path) -> None:
    whole, resumed = (result_of(trained, name) for name in (f"instruct-{stage}-False", f"killed-{stage}"))
    assert (trained / f"killed-{stage}" / "killed").exists()
    assert whole["resumed_from"] == 0
    assert resumed["resumed_from"] == KILLED_AT - 1
    assert resumed["losses"] == pytest.approx(whole["losses"], abs=1e-6)
    folders = (trained / name / "adapter" for name in (f"instruct-{stage}-False", f"killed-{stage}"))
    same_weights(*folders, rtol=0, atol=1e-6)


@pytest.mark.parametrize("offload", [False, True])
def test_one_process_reads_an_adapter_that_zero_3_has_written(offload: bool, places: Any, trained: Path) -> None:
    dataset, backbone = Dataset(places["instruct"][0]), load(places["instruct"][1])
    name = f"instruct-3-{offload}"
    adapters.load(backbone, trained / name / "adapter")
    for task, loss in result_of(trained, name)["valid_losses"].items():
        rows = instruct.examples(dataset, job_of("instruct").tasks[task], "valid", backbone)
        found = instruct.nll(backbone, rows, features=Features(backbone, dataset.media))
        assert float(found.sum()) / sum(row.learned for row in rows) == pytest.approx(loss, abs=1e-4)

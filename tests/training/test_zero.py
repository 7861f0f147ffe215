"""Every kind under DeepSpeed in two processes on this machine, against one process without it.

One pair of processes trains all cases one after the other.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import small_ranks
import small_shop
import torch
from safetensors.torch import load_file

from latefuse.config import Job
from latefuse.config_zero import ZeroAsked, zero_file
from latefuse.steps import finetune
from latefuse.tracking import Null

pytest.importorskip("deepspeed", reason="DeepSpeed is not installed; the extra `gpu` has it")

HELPER = Path(__file__).parents[1] / "helpers" / "zero_ranks.py"
TRAIN = {"max_steps": 3, "batch_size": 8, "accumulation": 2, "log_every": 1, "max_grad_norm": 0.7, "lr": 0.003}
ALL = [(stage, offload) for stage in (1, 2, 3) for offload in (False, True)]
FEW = [(2, False), (3, False)]
STAGES = {"instruct": ALL, "embed": [(2, False)], "judge": FEW, "rank": FEW, "personalise": FEW}
CASES = [(kind, stage, offload) for kind, stages in STAGES.items() for stage, offload in stages]
TASKS: dict[str, dict[str, dict[str, Any]]] = {
    "instruct": {m: {"modality": m, "adapter": {"r": 4, "bridge_full": True}} for m in ("image", "video", "text")},
    "embed": {"both": {"kind": "embed", "modality": ["text"], "embed": {"dim": 16}, "adapter": {"r": 4}}},
    "judge": {"judge": {"kind": "judge", "modality": ["image", "text"], "judge": {"demos": 0}, "adapter": {"r": 4}}},
    "rank": {"like": {"kind": "rank", "modality": ["text", "image"], "rank": {"bins": 500, "dim": 16, "bottom": [32],
             "top": [32]}}},
    "personalise": {"both": {"kind": "personalise", "modality": ["text", "image"], "personalise": {"k": 2,
                    "candidates": 12, "per_user": 2, "history": 6}}},
}  # fmt: skip
FAMILY = {"instruct": "video_llava", "embed": "glued_mlp", "judge": "llava_onevision", "rank": "video_llava",
          "personalise": "sighted"}  # fmt: skip


def job_of(kind: str, stage: int = 0, offload: bool = False) -> Job:
    tasks = {name: {**task, "train": TRAIN} for name, task in TASKS[kind].items()}
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
    data = {"instruct": small_dataset, "embed": shop_items, "judge": judged.path, "personalise": personal.path,
            "rank": small_ranks.shop(base / "ranks").path}  # fmt: skip
    return {kind: (data[kind], backbone_folder(FAMILY[kind])) for kind in STAGES}


@pytest.fixture(scope="module")
def trained(places: Any, tmp_path_factory: Any) -> Path:
    """The folder in which two processes have trained all cases."""
    out = tmp_path_factory.mktemp("zero")
    wanted = [
        {"job": job_of(*case).model_dump(mode="json"), "dataset": str(places[case[0]][0]),
         "backbone": str(places[case[0]][1]), "out": str(out / "{}-{}-{}".format(*case))}
        for case in CASES
    ]  # fmt: skip
    (out / "cases.json").write_text(json.dumps(wanted))
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(HELPER)]
    done = subprocess.run(
        [*command, str(out / "cases.json")], capture_output=True, text=True, timeout=280,
        env={**os.environ, "DS_ACCELERATOR": "cpu", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    (out / "said").write_text(done.stdout + done.stderr)
    return out


@pytest.fixture(scope="module")
def alone(places: Any, tmp_path_factory: Any) -> dict[str, Any]:
    """kind -> what one process makes of the same job, and its adapter."""
    found = {}
    for kind, (dataset, backbone) in places.items():
        out = tmp_path_factory.mktemp(f"alone-{kind}")
        found[kind] = finetune.run(job_of(kind), dataset, backbone, out, Null(), out / "c"), out / "adapter"
    return found


@pytest.mark.parametrize(("kind", "stage", "offload"), CASES)
def test_two_processes_learn_what_one_learns(
    kind: str, stage: int, offload: bool, trained: Path, alone: dict[str, Any]
) -> None:
    folder = trained / f"{kind}-{stage}-{offload}"
    told = [json.loads(path.read_text()) for path in sorted(folder.glob("told-*.json"))]
    assert told, (trained / "said").read_text()[-3000:]
    assert all("result" in one for one in told), told
    found, (one, adapter) = told[0]["result"], alone[kind]
    assert found["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert found["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-4)
    names = sorted(path.name for path in adapter.glob("*.safetensors"))
    assert names
    assert names == sorted(path.name for path in (folder / "adapter").glob("*.safetensors"))
    for name in names:
        whole, spread = load_file(adapter / name), load_file(folder / "adapter" / name)
        assert whole.keys() == spread.keys()
        for key, tensor in whole.items():
            torch.testing.assert_close(spread[key], tensor, rtol=1e-3, atol=2e-4, msg=lambda m, k=key: f"{k}: {m}")

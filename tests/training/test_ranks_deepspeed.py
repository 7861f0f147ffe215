"""`launcher: deepspeed`: DeepSpeed's own launcher trains as one process does, and tells which rank has ended it."""

from __future__ import annotations

import os
import re
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from latefuse.config import Job
from latefuse.config_zero import ZeroAsked, zero_file
from latefuse.steps import finetune
from latefuse.tracking import Null
from latefuse.training.distributed import TrainingError
from latefuse.training.launch import launch

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed; `dev` has it")
HELPERS = Path(__file__).parents[1] / "helpers"
STALL_S = 8.0


def job_of(steps: int = 3, **changes: Any) -> Job:
    train = {"max_steps": steps, "batch_size": 4, "log_every": 1}
    tasks = {"text": {"modality": "text", "adapter": {"r": 4}, "train": train}}
    return Job.model_validate({"name": "text", "seed": 1, "tasks": tasks, "threads": 1, **changes})


def under_deepspeed(stage: int, **changes: Any) -> Job:
    given = {"launcher": "deepspeed", "processes": 2, "deepspeed": zero_file(ZeroAsked(stage=stage))}
    return job_of(**given, **changes)


def test_deepspeed_s_launcher_trains_as_one_process(small_dataset: Path, backbone_folder: Any, tmp_path: Path) -> None:
    paths = (small_dataset, backbone_folder())
    one = finetune.run(job_of(), *paths, tmp_path / "one", Null(), tmp_path / "c")
    two = finetune.run(under_deepspeed(3), *paths, tmp_path / "two", Null(), tmp_path / "c")
    assert two["processes"] == 2
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-4)
    assert two["valid_loss"] == pytest.approx(one["valid_loss"], abs=1e-4)


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("kill", r"rank 1 \(process \d+\) was ended by SIGKILL in step [23]; out of memory"),
        ("sleep", r"rank 1 hangs in step [23] at helpers/bad_rank\.py:\d+ in sleep_for_ever: nothing moved for 8 s, "),
    ],
)
def test_a_rank_that_ends_or_hangs_under_zero_3_is_named(
    what: str, message: str, small_dataset: Path, backbone_folder: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("BAD_RANK", what)
    monkeypatch.setenv("BAD_RANK_AT", str(tmp_path / "at"))
    monkeypatch.setenv("PYTHONPATH", str(HELPERS), prepend=":")
    job = under_deepspeed(3, steps=8, stall_s=STALL_S)
    start = lambda module, *given: launch("bad_rank", *given)  # noqa: E731
    with pytest.raises(TrainingError) as caught:
        finetune.run(job, small_dataset, backbone_folder(), tmp_path / "out", Null(), tmp_path / "c", start=start)
    assert re.match(message, str(caught.value)), caught.value
    assert time.time() - float((tmp_path / "at").read_text()) < STALL_S + 60


def test_a_rank_that_raises_says_what(tmp_path: Path) -> None:
    (tmp_path / "falls.py").write_text(
        "import os\n"
        "from torch.distributed.elastic.multiprocessing.errors import record\n\n"
        "def main():\n"
        "    assert os.environ['LOCAL_WORLD_SIZE'] == os.environ['WORLD_SIZE'] == '2'\n"
        "    if os.environ['RANK'] == '1':\n"
        "        raise ValueError('row 7 tastes of soap')\n\n"
        "record(main)()\n"
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(TrainingError, match=r"rank 1 .* failed: ValueError: row 7 tastes of soap"):
            launch("falls", {}, under_deepspeed(2), tmp_path, lambda values, step: None)

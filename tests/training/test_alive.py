"""A rank that dies or hangs ends the training within a bounded time, and the error names it."""

from __future__ import annotations

import json
import re
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from latefuse.config import Job
from latefuse.steps import finetune
from latefuse.tracking import Null
from latefuse.training import alive
from latefuse.training.distributed import TrainingError
from latefuse.training.launch import launch

STALL_S = 8.0


def job_of(**changes: Any) -> Job:
    train = {"max_steps": 8, "batch_size": 4, "log_every": 1}
    tasks = {"text": {"modality": "text", "adapter": {"r": 4}, "train": train}}
    given = {"name": "text", "seed": 1, "tasks": tasks, "launcher": "torchrun", "processes": 2, "threads": 1}
    return Job.model_validate({**given, "stall_s": STALL_S, **changes})


@pytest.fixture
def run_badly(small_dataset: Path, backbone_folder: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """`run(what)` -> the error of a training whose second rank does `what`, and the seconds until it is raised."""

    def run(what: str) -> tuple[str, float]:
        monkeypatch.setenv("BAD_RANK", what)
        monkeypatch.setenv("BAD_RANK_AT", str(tmp_path / "at"))
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1] / "helpers"), prepend=":")
        start = lambda module, *given: launch("bad_rank", *given)  # noqa: E731
        paths = (small_dataset, backbone_folder(), tmp_path / "out")
        with pytest.raises(TrainingError) as caught:
            finetune.run(job_of(), *paths, Null(), tmp_path / "cache", start=start)
        return str(caught.value), time.time() - float((tmp_path / "at").read_text())

    before = set(psutil.Process().children(recursive=True))  # earlier tests may have left a resource tracker
    yield run
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [one for one in left if one.status() != psutil.STATUS_ZOMBIE]


def test_a_rank_that_is_killed_is_named_and_takes_the_others_along(run_badly: Any) -> None:
    said, seconds = run_badly("kill")
    assert said.startswith("rank 1 (process ")
    assert re.search(r"was ended by SIGKILL in step [23]; out of memory", said)
    assert seconds < 60


def test_a_rank_that_sleeps_for_ever_ends_the_training_and_is_told_from_who_waits_for_it(run_badly: Any) -> None:
    said, seconds = run_badly("sleep")
    assert re.match(r"rank 1 hangs in step [23] at helpers/bad_rank\.py:\d+", said)
    assert "in sleep_for_ever: nothing moved for 8 s, rank(s) 0 wait for it" in said
    assert STALL_S - 1 < seconds < STALL_S + 60


def test_a_rank_that_raises_says_what(run_badly: Any) -> None:
    said, _ = run_badly("raise")
    assert "rank 1" in said
    assert "ValueError: row 7 tastes of soap" in said


STACK = """Timeout (0:00:08)!
Thread 0x00007f0000000001 (most recent call first):
  File "/usr/lib/python3.11/threading.py", line 331 in wait
Thread 0x00007f00000000aa (most recent call first):
{frames}
"""
WAITING = """  File "/v/lib/python3.11/site-packages/torch/autograd/graph.py", line 8 in _engine_run_backward
  File "/home/x/engine.py", line 5 in train"""


def left_behind(folder: Path, **frames: str) -> Path:
    for rank, text in frames.items():
        (folder / f"rank-{rank[1:]}.stack").write_text(text and STACK.format(frames=text))
        (folder / f"rank-{rank[1:]}.json").write_text(json.dumps({"pid": 1, "step": 7, "main": "7f00000000aa"}))
    return folder


def test_ranks_that_all_wait_are_said_to_disagree(tmp_path: Path) -> None:
    said = alive.cause(left_behind(tmp_path, r0=WAITING, r1=WAITING), 8)
    assert said is not None
    assert "all ranks wait for each other" in said
    assert "rank 1 at x/engine.py:5 in train" in said


def test_a_rank_that_left_no_stack_is_the_one_that_hangs(tmp_path: Path) -> None:
    said = alive.cause(left_behind(tmp_path, r0=WAITING, r1=""), 8)
    assert said == (
        "rank 1 hangs in step 7 at an unknown place (it left no stack): nothing moved for 8 s, rank(s) 0 wait for it"
    )


def test_who_only_lost_another_rank_is_not_the_cause(tmp_path: Path) -> None:
    failure = partial(dict, pid=5, code=1, signal="")
    alive.record(tmp_path, 0, [failure(rank=0, message="RuntimeError: Connection closed by peer", time=10)])
    alive.record(tmp_path, 1, [failure(rank=9, message="", signal="SIGKILL", code=-9, time=11)])
    assert "rank 9 (process 5) was ended by SIGKILL" in str(alive.cause(tmp_path, 8))


def test_nothing_left_behind_tells_nothing(tmp_path: Path) -> None:
    assert alive.cause(tmp_path, 8) is None
    alive.beat(3)
    assert not list(tmp_path.iterdir())

"""One step in several processes of this machine, under torchrun or DeepSpeed's launcher: its numbers are read back."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from latefuse.config import Job
from latefuse.training import alive, ranks, ranks_deepspeed
from latefuse.training.distributed import TrainingError

OnLog = Callable[[dict[str, float], int], None]
Launch = Callable[[str, Mapping[str, Any], Job, Path, OnLog], None]
"""Runs `python -m module request.json` in all processes of a job: `launch` here, a TrainJob on many nodes."""
POLL_SECONDS = 0.5
GRACE_SECONDS = 30
PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


def must_launch(job: Job) -> bool:
    """Whether the job wants several processes and this is not one of them yet."""
    wanted = job.launcher == "trainjob" or (job.launcher != "none" and job.processes > 1)
    return wanted and "LOCAL_RANK" not in os.environ


def launch(module: str, request: Mapping[str, Any], job: Job, folder: Path, on_log: OnLog) -> None:
    """Run `python -m module request.json` in `job.processes` processes under the job's launcher, torchrun or
    DeepSpeed's own, and wait for all of them.

    The first process appends its numbers to `folder/log.jsonl`, from where they reach on_log. Whatever ends this
    process ends the others. Raises TrainingError, which names the rank and why, when one of them fails or hangs.
    """
    asked, lines = written(request, folder)
    threads = str(job.threads or max(1, (os.cpu_count() or 1) // job.processes))
    torchrun = [ranks.__name__, "--standalone", f"--nproc-per-node={job.processes}", "-m"]
    deepspeed = [ranks_deepspeed.__name__, str(job.processes)]
    child = subprocess.Popen(
        [sys.executable, "-m", *(deepspeed if job.launcher == "deepspeed" else torchrun), module, str(asked)],
        env={**os.environ, "OMP_NUM_THREADS": threads},
        preexec_fn=_end_with_parent,
    )
    read = 0
    try:
        while child.poll() is None:
            time.sleep(POLL_SECONDS)
            read = forward(lines, read, on_log)
    finally:
        _end(child)
    forward(lines, read, on_log)
    if child.returncode:
        why = alive.cause(folder / ranks.RANKS, job.stall_s)
        raise TrainingError(why or f"{job.launcher} ended with code {child.returncode}; it says why above")


def written(request: Mapping[str, Any], folder: Path) -> tuple[Path, Path]:
    """The files between this process and the ranks: the request, and the first rank's numbers, still empty."""
    ranks.fresh(folder)
    asked, lines = folder / "request.json", folder / "log.jsonl"
    told = {**request, "log": str(lines), "ranks": str(folder / ranks.RANKS)}
    asked.write_text(json.dumps(told), encoding="utf-8")
    lines.write_text("", encoding="utf-8")
    return asked, lines


def forward(lines: Path, start: int, on_log: OnLog) -> int:
    """Hand on the whole lines behind byte `start`; returns where they end."""
    with lines.open("rb") as file:
        file.seek(start)
        whole, newline, _ = file.read().rpartition(b"\n")
    for line in whole.splitlines():
        said = json.loads(line)
        on_log(said["values"], said["step"])
    return start + len(whole) + len(newline)


def _end(child: subprocess.Popen[bytes]) -> None:
    """torchrun ends its processes when it is asked to end itself; it is made to when that takes too long."""
    if child.poll() is not None:
        return
    child.terminate()
    try:
        child.wait(GRACE_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _end_with_parent() -> None:
    """In the child: a parent that is killed without a word takes it along (Linux only)."""
    if _LIBC is not None:
        _LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

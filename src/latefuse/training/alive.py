"""Signs of life of processes that train together, and what their last ones tell of why a training has ended.

Each rank keeps two files in a folder that all share: how far it is, and its stack when it was ended. The stack is
written by `faulthandler` in C, so a process that hangs in a foreign library still leaves one.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import signal
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

SYNC_EVERY_S = 1.0
RECORD = 128
# Frames of a process that waits for the others: collectives, and the backward pass in which DDP's run.
WAITS = re.compile(r"torch/distributed/|torch/autograd/graph\.py|deepspeed/comm/|accelerate/utils/operations\.py")
# What a rank says that has only lost another one.
SECONDHAND = re.compile(r"(?i)connection (closed|reset|refused)|broken pipe|timed? ?out|remote process exited")
_FRAME = re.compile(r'^  File "(.+)", line (\d+) in (.+)$')
_THREAD = re.compile(r"^(?:Current thread|Thread) 0x([0-9a-f]+) .*\(most recent call first\):$")


@dataclass
class _Rank:
    stall_s: float
    stack: IO[str]
    said: int
    synced_at: float = 0.0


_mine: _Rank | None = None


@contextmanager
def watched(folder: Path, rank: int, stall_s: float) -> Iterator[None]:
    """This process is `rank`. Within, a SIGTERM leaves its stack; so do `stall_s` seconds without a `beat` after the
    first, and then the process ends itself with code 1.
    """
    global _mine
    folder.mkdir(parents=True, exist_ok=True)
    said, stacked = folder / f"rank-{rank}.json", folder / f"rank-{rank}.stack"
    with said.open("wb", buffering=0) as told, stacked.open("w", encoding="utf-8") as stack:
        faulthandler.register(signal.SIGTERM, stack, all_threads=True, chain=True)
        _mine = _Rank(stall_s, stack, told.fileno())
        _tell(_mine, None)
        try:
            yield
        finally:
            rest()
            _mine = None
            faulthandler.unregister(signal.SIGTERM)


def beat(step: int) -> None:
    """The process lives and works on `step`; nothing happens where it is not watched."""
    if _mine is None:
        return
    faulthandler.dump_traceback_later(_mine.stall_s, exit=True, file=_mine.stack)
    _tell(_mine, step)


def rest() -> None:
    """What comes now may take as long as it likes."""
    faulthandler.cancel_dump_traceback_later()


def _tell(mine: _Rank, step: int | None) -> None:
    """Some microseconds, so that it can be done at each step; readers on other machines see it a moment later."""
    content = {"pid": os.getpid(), "step": step, "main": f"{threading.main_thread().ident:x}"}
    os.pwrite(mine.said, json.dumps(content).ljust(RECORD).encode(), 0)
    if time.monotonic() - mine.synced_at > SYNC_EVERY_S:
        mine.synced_at = time.monotonic()
        os.fsync(mine.said)


def record(folder: Path, node: int, failures: Sequence[Mapping[str, Any]]) -> None:
    """What the launching process of a node has seen: rank, code, signal, message and time of each that failed."""
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".node-{node}.json"
    partial.write_text(json.dumps(list(failures)), encoding="utf-8")
    os.replace(partial, folder / f"node-{node}.json")


def cause(folder: Path, stall_s: float) -> str | None:
    """Why the training of `folder` has ended, in one line that names ranks; None where nothing tells."""
    stacks = {int(path.stem.partition("-")[2]): path for path in folder.glob("rank-*.stack")}
    texts = {rank: path.read_text(encoding="utf-8", errors="replace") for rank, path in stacks.items()}
    if any(text.startswith("Timeout (") for text in texts.values()):
        return _hang({rank: _place(folder, rank, text) for rank, text in sorted(texts.items())}, folder, stall_s)
    found = [one for path in sorted(folder.glob("node-*.json")) for one in json.loads(path.read_text(encoding="utf-8"))]
    if not found:
        return None
    first = min(found, key=lambda one: (bool(SECONDHAND.search(one["message"])), one["time"]))
    return _end(first, _step(folder, first["rank"]))


def _end(failure: Mapping[str, Any], step: str) -> str:
    who = f"rank {failure['rank']} (process {failure['pid']})"
    if failure["signal"]:
        why = "; out of memory, most likely, or somebody ended it" if failure["signal"] == "SIGKILL" else ""
        return f"{who} was ended by {failure['signal']}{step}{why}"
    return f"{who} failed{step}: {failure['message']}"


def _hang(places: Mapping[int, tuple[str, bool]], folder: Path, stall_s: float) -> str:
    hanging = {rank: where for rank, (where, waits) in places.items() if not waits}
    waiting = ", ".join(str(rank) for rank, (_, waits) in places.items() if waits)
    if not hanging:
        told = "; ".join(f"rank {rank} at {where}" for rank, (where, _) in places.items())
        return (
            f"nothing moved for {stall_s:g} s and all ranks wait for each other, so they disagree on what comes next: "
            f"{told}"
        )
    told = "; ".join(f"rank {rank} hangs{_step(folder, rank)} at {where}" for rank, where in hanging.items())
    return f"{told}: nothing moved for {stall_s:g} s" + (f", rank(s) {waiting} wait for it" if waiting else "")


def _place(folder: Path, rank: int, text: str) -> tuple[str, bool]:
    """Where the main thread of a rank stood, and whether it waited for the others."""
    frames = _frames(text, str(said(folder, rank).get("main", "")))
    if not frames:
        return "an unknown place (it left no stack)", False
    ours = (frame for frame in frames if "/lib/python" not in frame[0] and not frame[0].startswith("<"))
    path, line, function = next(ours, frames[0])
    waits = any(WAITS.search(path) for path, _, _ in frames[:12])
    return f"{'/'.join(Path(path).parts[-2:])}:{line} in {function}", waits


def _frames(text: str, main: str) -> list[tuple[str, int, str]]:
    """The frames of the main thread in the last dump of a stack file, innermost first."""
    frames: list[tuple[str, int, str]] = []
    inside = False
    for line in text.splitlines():
        if thread := _THREAD.match(line):
            inside = int(thread.group(1), 16) == int(main or "0", 16)
            frames = [] if inside else frames
        elif inside and (found := _FRAME.match(line)):
            frames.append((found.group(1), int(found.group(2)), found.group(3)))
    return frames


def said(folder: Path, rank: int) -> dict[str, Any]:
    """pid and step of a rank as it has last told them; empty where it has not."""
    try:
        told: dict[str, Any] = json.loads((folder / f"rank-{rank}.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return told


def _step(folder: Path, rank: int) -> str:
    step = said(folder, rank).get("step")
    return "" if step is None else f" in step {step}"

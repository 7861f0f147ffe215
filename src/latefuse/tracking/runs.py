"""Which run a process writes to, and how that run ends: adopt or create, FINISHED, FAILED or KILLED."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from latefuse import places, usage
from latefuse.tracking import Null, Tracker, words
from latefuse.tracking.door import Away, Door, Record, Refused
from latefuse.tracking.outbox import Outbox, replay_file

PARENT, PIPELINE, EXPERIMENT, RUNNER = (
    "LATEFUSE_PARENT_RUN",
    "LATEFUSE_PIPELINE_RUN",
    "LATEFUSE_EXPERIMENT",
    "LATEFUSE_RUNNER",
)
SPOOL_SUFFIX = ".tracking.jsonl"
SWEEP_S = 1.0


class Terminated(SystemExit):
    """SIGTERM has come; unwinds the step so that its run is closed as KILLED."""


def door() -> Door:
    """The server of this process: `MLFLOW_TRACKING_URI`, else a database in latefuse's folder."""
    uri = places.tracking_uri()
    if uri.startswith("sqlite:"):
        places.home().mkdir(parents=True, exist_ok=True)
        return Door(uri, places.home() / "mlartifacts")
    return Door(uri)


@contextmanager
def step_run(step: str, config_digest: str, out: Path, node: str) -> Iterator[Tracker]:
    """See `latefuse.tracking.step_run`."""
    if int(os.environ.get("RANK") or 0) > 0:
        yield Null()
        return
    pipeline = os.environ.get(PIPELINE) or ""
    alone = hashlib.sha256(str(out.absolute()).encode()).hexdigest()[:12]
    adopted = os.environ.pop("MLFLOW_RUN_ID", None)
    experiment = _experiment("latefuse")
    header: Record = {
        "run_id": adopted,
        "shared": False,
        "identity": f"{pipeline or alone}/{node}/{config_digest}",
        "experiment": experiment,
        "name": node,
        "parent": os.environ.get(PARENT),
        "parent_header": _pipeline_header(pipeline, experiment) if pipeline else None,
        "tags": {
            "latefuse.step": step,
            "latefuse.node": node,
            "latefuse.config": config_digest,
        },
    }
    spool = out.absolute().parent / f"{out.name}{SPOOL_SUFFIX}"
    if spool.exists():
        replay_file(door(), spool)
    if runner := os.environ.get(RUNNER):
        threading.Thread(target=_watch, args=(runner,), name="runner-watch", daemon=True).start()
    outbox = Outbox(door(), header, spool)
    with _closing(outbox, adopted=bool(adopted)):
        yield outbox


@contextmanager
def pipeline_run(name: str, config_digest: str, workdir: Path) -> Iterator[Tracker]:
    """See `latefuse.tracking.pipeline_run`."""
    key = uuid.uuid4().hex[:12]
    adopted = os.environ.pop("MLFLOW_RUN_ID", None)
    experiment = _experiment(name)
    header = _pipeline_header(key, experiment) | {"run_id": adopted, "name": name}
    header["tags"] = {**header["tags"], "latefuse.config": config_digest}
    parent_door = door()
    outbox = Outbox(parent_door, header, workdir / f"{key}{SPOOL_SUFFIX}")
    state = {
        EXPERIMENT: experiment,
        PIPELINE: key,
        PARENT: outbox.run_id,
        RUNNER: _alive_mark(os.getpid()),
    }
    before = {name: os.environ.get(name) for name in state}
    _set_environment(state)
    status = "FAILED"
    try:
        with _closing(outbox, adopted=False):
            try:
                yield outbox
                status = "FINISHED"
            except (KeyboardInterrupt, Terminated):
                status = "KILLED"
                raise
            finally:
                if outbox.run_id and status != "FINISHED":
                    with suppress(Away, Refused):
                        parent_door.close_children(outbox.run_id, status)
    finally:
        _set_environment(before)


def replay(folder: Path, unfinished: str) -> dict[str, int | None]:
    """See `latefuse.tracking.replay`. Spools of processes that still run are left to them.

    After the first file that stays, the others are only counted: a dead server costs one try.
    """
    kept: dict[str, int | None] = {}
    away = False
    for path in sorted(folder.rglob(f"*{SPOOL_SUFFIX}")):
        kept[str(path)] = 1 if away else replay_file(door(), path, unfinished)
        away = away or (bool(kept[str(path)]) and path.exists())
    return kept


def _experiment(default: str) -> str:
    return os.environ.get("MLFLOW_EXPERIMENT_NAME") or os.environ.get(EXPERIMENT) or default


def _pipeline_header(pipeline: str, experiment: str) -> Record:
    return {
        "t": int(time.time() * 1000),
        "spool": f"pipeline-{pipeline}",
        "run_id": None,
        "shared": True,
        "identity": f"pipeline/{pipeline}",
        "experiment": experiment,
        "name": experiment,
        "tags": {"latefuse.step": "pipeline", "latefuse.pipeline": pipeline},
    }


@contextmanager
def _closing(outbox: Outbox, adopted: bool) -> Iterator[None]:
    """Ends the run by the way the body was left; an adopted run that went well is ended by its owner."""
    start = time.monotonic()
    before = _raise_on_sigterm()
    status: str | None = "FAILED"
    try:
        yield
        status = None if adopted else "FINISHED"
    except (KeyboardInterrupt, Terminated):
        status = "KILLED"
        raise
    except BaseException as error:
        outbox.tags({"latefuse.error": words.scrub(f"{type(error).__name__}: {error}")[:500]})
        raise
    finally:
        _restore(before, ignore=True)
        used = {"wall_s": time.monotonic() - start, **usage.peaks()}
        outbox.metrics({f"sys/{name}": value for name, value in used.items()})
        outbox.close(status, patience_s=8.0 if status == "KILLED" else None)
        _restore(before)


def _raise_on_sigterm() -> dict[int, Any]:
    """The handlers as they were; empty where this thread can't set any or somebody else has set one."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    before: dict[int, Any] = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    if before[signal.SIGTERM] == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    return before


def _restore(before: dict[int, Any], ignore: bool = False) -> None:
    for number, handler in before.items():
        signal.signal(number, signal.SIG_IGN if ignore else handler)


def _terminate(number: int, frame: FrameType | None) -> None:
    raise Terminated(128 + number)


def _set_environment(values: dict[str, str | None]) -> None:
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


def _alive_mark(pid: int) -> str:
    process = psutil.Process(pid)
    if process.status() == psutil.STATUS_ZOMBIE:  # dead, and its parent has not looked yet
        raise psutil.NoSuchProcess(pid)
    return f"{pid}:{process.create_time()}"


def _watch(mark: str) -> None:
    """End this process when the runner that started it has died without a chance to say so."""
    pid = int(mark.partition(":")[0])
    while True:
        time.sleep(SWEEP_S)
        try:
            gone = _alive_mark(pid) != mark
        except psutil.Error:
            gone = True
        if gone:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(10)
            os.kill(os.getpid(), signal.SIGKILL)

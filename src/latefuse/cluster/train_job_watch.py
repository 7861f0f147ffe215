"""Waiting for a TrainJob: as long as its own deadline says, with its log, and with the cause when it fails."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latefuse.cluster.kubernetes_api import Cluster, ClusterError
from latefuse.cluster.train_job_logs import Follower
from latefuse.cluster.train_job_manifest import INDEX_LABEL, NODE
from latefuse.cluster.train_job_where import Where
from latefuse.config import Job
from latefuse.training import alive, ranks
from latefuse.training.distributed import TrainingError
from latefuse.training.launch import OnLog, forward

GONE_S = 300.0
SLACK_S = 60.0
EVENTS = 6
ENDED = ("Succeeded", "Failed")


class JobFailed(TrainingError):
    """The TrainJob has ended by itself, and not well."""


class Clock:
    """How long a job has stood in a queue, waited for a place and run; a job in a queue is asked for nothing."""

    def __init__(self, deadline_s: float | None, pending_s: float) -> None:
        self.deadline_s, self.pending_s = deadline_s, pending_s
        self.active_since: float | None = None
        self.placed = False

    def look(self, suspended: bool, placed: bool, now: float) -> str:
        """What is over: "deadline", "pending", or nothing.

        The deadline is the job's own, which Kubernetes ends too; where it does not, it is ended from here a bit later.
        """
        if suspended:
            self.active_since = None
            return ""
        if self.active_since is None:
            self.active_since = now
        self.placed = self.placed or placed
        passed = now - self.active_since
        if self.deadline_s is not None and passed > self.deadline_s + SLACK_S:
            return "deadline"
        return "pending" if not self.placed and passed > self.pending_s else ""


def wait(cluster: Cluster, name: str, uid: str, given: Where, job: Job, lines: Path, on_log: OnLog) -> None:
    """Return when the TrainJob is complete. Raises JobFailed when it fails, ClusterError when it is deleted, replaced,
    never placed or past its deadline.

    lines: where the first process writes its numbers, which are handed on to on_log.
    """
    clock = Clock(given.resources.timeout_s, given.nodes.pending_s)
    follower = Follower(cluster, lambda text: print(text, flush=True))
    told: set[str] = set()
    read = 0
    try:
        while True:
            state = _state(cluster, name, uid)
            pods = cluster.pods(name)
            _follow(follower, pods)
            read = forward(lines, read, on_log)
            if state.get("Complete") or state.get("Failed"):
                break
            _tell_new(cluster.warnings(name), told)
            placed = any(pod.get("status", {}).get("phase") in ("Running", *ENDED) for pod in pods)
            over = clock.look(bool(state.get("Suspended")), placed, time.monotonic())
            if over:
                raise ClusterError(_too_late(cluster, name, over, clock, pods))
            time.sleep(given.nodes.poll_s)
    except BaseException:
        follower.close(0)  # whoever ends this process does not wait for a log
        raise
    follower.close()
    forward(lines, read, on_log)
    if failed := state.get("Failed"):
        raise JobFailed(_why(cluster, name, failed, pods, lines.parent / ranks.RANKS, job.stall_s))


def until_gone(cluster: Cluster, name: str) -> None:
    """Return when a deleted TrainJob and its pods are gone: two trainings must not write the same checkpoints."""
    end = time.monotonic() + GONE_S
    while cluster.get(name) is not None or cluster.pods(name):
        if time.monotonic() > end:
            raise ClusterError(f"TrainJob {name} or its pods are still there {GONE_S:.0f} s after they were deleted")
        time.sleep(1.0)


def _state(cluster: Cluster, name: str, uid: str) -> dict[str, Mapping[str, Any]]:
    """The conditions of the job that are true, by type."""
    found = cluster.get(name)
    if found is None or found["metadata"]["uid"] != uid or found["metadata"].get("deletionTimestamp"):
        raise ClusterError(f"TrainJob {name} was deleted while its training ran; a retry goes on from its checkpoint")
    conditions = found.get("status", {}).get("conditions") or []
    return {one["type"]: one for one in conditions if one.get("status") == "True"}


def _follow(follower: Follower, pods: list[dict[str, Any]]) -> None:
    """The newest pod of the first node, once it has begun."""
    first = [pod for pod in pods if pod["metadata"].get("labels", {}).get(INDEX_LABEL, "0") == "0"]
    begun = [pod for pod in first if pod.get("status", {}).get("phase") in ("Running", *ENDED)]
    if begun:
        newest = max(begun, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        follower.see(newest["metadata"]["name"], newest["status"]["phase"] in ENDED)


def _tell_new(warnings: list[str], told: set[str]) -> None:
    for text in warnings:
        if text not in told:
            told.add(text)
            print(f"latefuse: {text}", flush=True)


def _too_late(cluster: Cluster, name: str, over: str, clock: Clock, pods: list[dict[str, Any]]) -> str:
    if over == "deadline":
        said = f"TrainJob {name} is not done within its {clock.deadline_s:.0f} s (steps.finetune.timeout_s)"
    else:
        said = f"TrainJob {name} found no place within {clock.pending_s:.0f} s (trainjob.pending_s)"
    return "; ".join([said, *_of_pods(pods), *_events(cluster, name)])


def _why(
    cluster: Cluster, name: str, failed: Mapping[str, Any], pods: list[dict[str, Any]], signs: Path, stall_s: float
) -> str:
    """The rank and why, where one has left word; what Kubernetes says of job, pods and events."""
    cause = alive.cause(signs, stall_s)
    condition = f"TrainJob {name} has failed: {failed.get('reason')}: {failed.get('message')}"
    return "; ".join([*([cause] if cause else []), condition, *_of_pods(pods), *_events(cluster, name)])


def _of_pods(pods: list[dict[str, Any]]) -> list[str]:
    """What is wrong with each pod, in its own words; nothing for one that is well."""
    said = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        status = pod.get("status", {})
        parts = [f"{status.get('reason')}: {status.get('message')}"] if status.get("reason") else []
        for one in status.get("containerStatuses") or []:
            waiting, ended = one.get("state", {}).get("waiting"), one.get("state", {}).get("terminated")
            if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
                parts.append(f"{waiting.get('reason')}: {waiting.get('message')}")
            if ended and ended.get("exitCode"):
                parts.append(f"{one['name'] if one['name'] != NODE else 'it'} ended with code {ended['exitCode']}, "
                             f"{ended.get('reason')} {ended.get('message') or ''}".rstrip())  # fmt: skip
        if parts:
            index = pod["metadata"].get("labels", {}).get(INDEX_LABEL, "?")
            said.append(f"node {index} ({pod['metadata']['name']}): {', '.join(parts)}")
    return said


def _events(cluster: Cluster, name: str) -> list[str]:
    """The newest warnings; an API that is away must not hide why the job has failed."""
    patience, cluster.patience_s = cluster.patience_s, 5.0
    try:
        return cluster.warnings(name)[-EVENTS:]
    except ClusterError:
        return []
    finally:
        cluster.patience_s = patience

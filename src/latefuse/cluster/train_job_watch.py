"""Waiting for a TrainJob: as long as its own deadline says, with its log, and with the cause when it fails."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latefuse.cluster.kubernetes_api import Cluster, ClusterError
from latefuse.cluster.train_job_logs import Follower
from latefuse.cluster.train_job_manifest import INDEX_LABEL, JOB_LABEL, NODE
from latefuse.cluster.train_job_where import Where
from latefuse.config import Job
from latefuse.config_trainjob import Nodes
from latefuse.training import alive, ranks
from latefuse.training.distributed import TrainingError
from latefuse.training.launch import OnLog, forward

GONE_S = 300.0
SLACK_S = 60.0
FAILED_S = 60.0
EVENTS = 6
ENDED = ("Succeeded", "Failed")


class JobFailed(TrainingError):
    """The TrainJob has ended by itself, and not well."""


class Clock:
    """How long a job has stood in a queue, looked for places and run; none of it goes on for ever.

    A job in a queue is asked for nothing else. The deadline is the job's own, which Kubernetes ends too; where it does
    not, the job is ended from here a bit later. A rank that has failed ends the job soon, even where its runtime would
    start the node again: trying again is the pipeline's business, which knows how often and how far apart.
    """

    def __init__(self, deadline_s: float | None, nodes: Nodes) -> None:
        self.deadline_s, self.nodes = deadline_s, nodes
        self.queued = self.active = self.unplaced = self.failed = 0.0
        self.last: float | None = None

    def look(self, suspended: bool, placed: bool, failed: bool, now: float) -> str:
        """What is over: "queue", "deadline", "pending", "failed", or nothing.

        placed: all of its nodes have begun. failed: a rank has left word that it has.
        """
        passed = 0.0 if self.last is None else now - self.last
        self.last = now
        if suspended:
            self.queued, self.unplaced = self.queued + passed, 0.0
            return "queue" if self.queued > self.nodes.queue_s else ""
        self.active += passed
        self.unplaced = 0.0 if placed else self.unplaced + passed
        self.failed = self.failed + passed if failed else 0.0
        if self.deadline_s is not None and self.active > self.deadline_s + SLACK_S:
            return "deadline"
        if self.failed > FAILED_S:
            return "failed"
        return "pending" if self.unplaced > self.nodes.pending_s else ""


def wait(cluster: Cluster, name: str, uid: str, given: Where, job: Job, lines: Path, on_log: OnLog) -> None:
    """Return when the TrainJob is complete. Raises JobFailed when it fails, ClusterError when it is deleted, replaced,
    never placed or past its deadline, or when a rank has failed and the job goes on.

    lines: where the first process writes its numbers, which are handed on to on_log.
    """
    clock, signs = Clock(given.resources.timeout_s, given.nodes), lines.parent / ranks.RANKS
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
            cause = alive.cause(signs, job.stall_s)
            placed = len({_index(pod) for pod in _begun(pods)}) >= job.nodes
            over = clock.look(bool(state.get("Suspended")), placed, bool(cause), time.monotonic())
            if over:
                raise ClusterError(_told(cluster, name, cause, _over(name, over, clock), pods))
            time.sleep(given.nodes.poll_s)
    except BaseException:
        follower.close(0)  # whoever ends this process does not wait for a log
        raise
    follower.close()
    forward(lines, read, on_log)
    if failed := state.get("Failed"):
        condition = f"TrainJob {name} has failed: {failed.get('reason')}: {failed.get('message')}"
        raise JobFailed(_told(cluster, name, alive.cause(signs, job.stall_s), condition, pods))


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
    first = [pod for pod in _begun(pods) if _index(pod) == "0"]
    if first:
        newest = max(first, key=lambda pod: str(pod["metadata"].get("creationTimestamp", "")))
        follower.see(newest["metadata"]["name"], newest["status"]["phase"] in ENDED)


def _begun(pods: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods of nodes that run or have run; a runtime may have pods of other jobs, which prepare something."""
    nodes = [pod for pod in pods if pod["metadata"].get("labels", {}).get(JOB_LABEL, NODE) == NODE]
    return [pod for pod in nodes if pod.get("status", {}).get("phase") in ("Running", *ENDED)]


def _index(pod: dict[str, Any]) -> str:
    return str(pod["metadata"].get("labels", {}).get(INDEX_LABEL, "0"))


def _tell_new(warnings: list[str], told: set[str]) -> None:
    for text in warnings:
        if text not in told:
            told.add(text)
            print(f"latefuse: {text}", flush=True)


def _over(name: str, over: str, clock: Clock) -> str:
    words = {
        "deadline": f"is not done within its {clock.deadline_s or 0:.0f} s (steps.finetune.timeout_s)",
        "pending": f"found no place for all of its nodes within {clock.nodes.pending_s:.0f} s (trainjob.pending_s)",
        "queue": f"stood in a queue for {clock.nodes.queue_s:.0f} s (trainjob.queue_s)",
        "failed": f"is still there {FAILED_S:.0f} s after that and is ended from here",
    }
    return f"TrainJob {name} {words[over]}"


def _told(cluster: Cluster, name: str, cause: str | None, said: str, pods: list[dict[str, Any]]) -> str:
    """The rank and why, where one has left word; what is over; what Kubernetes says of pods and events."""
    return "; ".join([*([cause] if cause else []), said, *_of_pods(pods), *_events(cluster, name)])


def _of_pods(pods: list[dict[str, Any]]) -> list[str]:
    """What is wrong with each pod, in its own words; nothing for one that is well."""
    said = []
    for pod in sorted(pods, key=lambda pod: str(pod["metadata"]["name"])):
        status = pod.get("status", {})
        parts = [f"{status.get('reason')}: {status.get('message')}"] if status.get("reason") else []
        parts += [
            f"{one.get('reason')}: {one.get('message')}"
            for one in status.get("conditions") or []
            if one.get("type") == "PodScheduled" and one.get("status") == "False"
        ]
        for one in status.get("containerStatuses") or []:
            waiting, ended = one.get("state", {}).get("waiting"), one.get("state", {}).get("terminated")
            if waiting and waiting.get("reason") not in ("ContainerCreating", "PodInitializing"):
                parts.append(f"{waiting.get('reason')}: {waiting.get('message')}")
            if ended and ended.get("exitCode"):
                parts.append(f"{one['name'] if one['name'] != NODE else 'it'} ended with code {ended['exitCode']}, "
                             f"{ended.get('reason')} {ended.get('message') or ''}".rstrip())  # fmt: skip
        if parts:
            said.append(f"node {_index(pod)} ({pod['metadata']['name']}): {', '.join(parts)}")
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

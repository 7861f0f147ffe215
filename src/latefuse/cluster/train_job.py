"""A training on many nodes: a TrainJob is made, watched, and read back; the step itself is the one that runs anywhere.

What torchrun is on one machine, `launcher` is on a cluster: the same module with the same request in every process.
Inputs, checkpoints and the adapter lie on a volume that all nodes and the pipeline's own node mount.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from latefuse import places
from latefuse.cluster import train_job_watch
from latefuse.cluster.kubernetes_api import Cluster, ClusterError, connect
from latefuse.cluster.train_job_manifest import job_name, manifest
from latefuse.cluster.train_job_watch import JobFailed
from latefuse.cluster.train_job_where import WHERE, Where, mount
from latefuse.config import Job
from latefuse.sections import ConfigError
from latefuse.training import ranks
from latefuse.training.launch import Launch, OnLog, written

PARTING_S = 20.0
LEASE_EVERY = 0.2


def launcher(given: Where | None, node: str, cluster: Cluster | None = None) -> Launch:
    """What runs a job's processes on the nodes of a TrainJob; node: the name in the pipeline's graph.

    cluster: the one that this process runs in, or that kubectl speaks to, by default.
    """
    if given is None:
        raise ConfigError(f"launcher trainjob: nobody says where the nodes stand; {WHERE} is not set")
    # Now, not in `launch`: MLflow is imported by a thread by then, and two threads must not import the same libraries.
    api = cluster or connect(given.nodes.namespace)

    def launch(module: str, request: Mapping[str, Any], job: Job, folder: Path, on_log: OnLog) -> None:
        """As `latefuse.training.launch.launch`. Raises JobFailed, ClusterError."""
        _check_home(given)
        out = folder / "out"
        shutil.rmtree(out, ignore_errors=True)
        staged = {name: str(stage(Path(request[name]), given)) for name in ("dataset", "backbone")}
        asked, lines = written({**request, **staged, "out": str(out)}, folder)
        body = manifest(
            given,
            job_name(node, str(folder), os.environ.get("LATEFUSE_PIPELINE_RUN") or ""),
            api.namespace,
            (job.nodes, job.processes),
            ["python3", "-m", ranks.__name__, "-m", module, str(asked)],
            _told_to_all(job, folder / ranks.LEASE),
            _owner(given.nodes.namespace, api),
        )
        with _lease(folder / ranks.LEASE, given.nodes.lease_s), _made(api, body) as uid:
            train_job_watch.wait(api, body["metadata"]["name"], uid, given, job, lines, on_log)
        shutil.copytree(out, Path(request["out"]), dirs_exist_ok=True)

    return launch


@contextmanager
def _made(cluster: Cluster, body: dict[str, Any]) -> Iterator[str]:
    """The TrainJob's uid. One left behind by an earlier attempt goes first; a job that has ended by itself stays, so
    that people can look at it; whatever else ends the block, a signal too, deletes it.
    """
    name = body["metadata"]["name"]
    if cluster.get(name) is not None:
        print(f"TrainJob {name}: an earlier attempt is still there and is deleted first", flush=True)
        cluster.delete(name)
        train_job_watch.until_gone(cluster, name)
    try:
        uid = cluster.create(body)
        shape = f"{body['spec']['trainer']['numNodes']} x {body['spec']['trainer']['numProcPerNode']} processes"
        print(f"TrainJob {name} in namespace {cluster.namespace}: {shape}", flush=True)
        yield uid
    except JobFailed:
        raise
    except BaseException:
        cluster.patience_s = min(cluster.patience_s, PARTING_S)
        try:
            cluster.delete(name)
            print(f"TrainJob {name} is deleted", flush=True)
        except ClusterError as error:
            print(f"TrainJob {name} could not be deleted, so its lease or deadline ends it: {error}", flush=True)
        raise


def stage(path: Path, given: Where) -> Path:
    """`path`, or its copy on a volume that the nodes mount; kept by what it holds, so that all arms share one."""
    from latefuse.cluster.node import fingerprint

    path = path.resolve()
    if mount(str(path), given.resources.volumes):
        return path
    target = places.home() / "staged" / fingerprint(path)
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=target.parent))
        shutil.copytree(path, partial / "all")
        try:
            (partial / "all").rename(target)
        except OSError:
            if not target.exists():
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


@contextmanager
def _lease(path: Path, seconds: float) -> Iterator[None]:
    """Tell the nodes, again and again, that somebody waits for them; a killed pod has no chance to delete its job."""
    path.parent.mkdir(parents=True, exist_ok=True)
    over = threading.Event()

    def renew() -> None:
        partial = path.with_name(f".{path.name}")
        partial.write_text(f"{seconds:g} {time.time_ns()}", encoding="utf-8")
        os.replace(partial, path)

    def renew_again() -> None:
        while not over.wait(LEASE_EVERY * seconds):
            with suppress(OSError):  # a volume that is away for a while; the next time comes soon
                renew()

    renew()
    thread = threading.Thread(target=renew_again, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(5.0)
        path.unlink(missing_ok=True)


def _told_to_all(job: Job, lease: Path) -> dict[str, str]:
    threads = {"OMP_NUM_THREADS": str(job.threads)} if job.threads else {}
    return {"PYTHONUNBUFFERED": "1", ranks.LEASED: str(lease), **threads}


def _check_home(given: Where) -> None:
    if not mount(str(places.home()), given.resources.volumes):
        raise ConfigError(
            f"LATEFUSE_HOME is {places.home()}, which is on none of the volumes of steps.finetune "
            f"({', '.join(sorted(given.resources.volumes)) or 'it has none'}): the nodes could not read their request"
        )


def _owner(namespace: str | None, cluster: Cluster) -> tuple[str, str] | None:
    """This pod, where Kubeflow says which it is and the job is made in its namespace."""
    name, uid = os.environ.get("KFP_POD_NAME"), os.environ.get("KFP_POD_UID")
    return (name, uid) if name and uid and namespace in (None, cluster.namespace) else None

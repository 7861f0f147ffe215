"""What a plan asks of a cluster, where one is named: whether Kubeflow answers and what is needed is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from latefuse.cluster.needs import Cluster, ClusterError, Kubernetes, Need, missing, reachable

ALLOW_TAG = "ALLOW_TAG"


def tags_allowed() -> bool:
    """Whether images by tag pass."""
    return os.environ.get(ALLOW_TAG, "").lower() in ("1", "true", "yes")


def missing_there(
    wanted: Sequence[Need],
    host: str = "",
    namespace: str | None = None,
    cluster: Callable[[str | None], Cluster] = Kubernetes,
) -> list[str]:
    """A line for everything that is not there. Nothing is asked without a host, a namespace or `KUBECONFIG`."""
    told: list[str] = []
    if host:
        from latefuse.cluster.submit import SubmitError, connect

        try:
            connect(host, namespace)
        except SubmitError as error:
            told.append(str(error))
    if wanted and reachable() and (host or namespace or os.environ.get("KUBECONFIG")):
        try:
            told += missing(wanted, cluster(namespace))
        except ClusterError as error:
            told.append(str(error))
    elif wanted and namespace:
        told.append(f"namespace {namespace!r} can't be asked: there is no kubeconfig, set KUBECONFIG")
    return told

"""What a plan asks of a cluster, where one is named: whether Kubeflow answers and what is needed is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from latefuse.cluster.needs import Need
from latefuse.cluster.there import Cluster, ClusterError, Kubernetes, missing, reachable

ALLOW_TAG = "ALLOW_TAG"


def tags_allowed() -> bool:
    """Whether images by tag pass."""
    return os.environ.get(ALLOW_TAG, "").lower() in ("1", "true", "yes")


def missing_there(
    wanted: Sequence[Need],
    host: str = "",
    namespace: str | None = None,
    context: str | None = None,
    cluster: Callable[[str | None, str | None], Cluster] = Kubernetes,
) -> tuple[list[str], list[str]]:
    """A line for everything that is not there, and one for all that could not be looked up.

    Nothing is asked without a host, a namespace, a context or `KUBECONFIG`.
    """
    told: list[str] = []
    unchecked: list[str] = []
    if host:
        from latefuse.cluster.submit import SubmitError, connect

        try:
            connect(host, namespace)
        except SubmitError as error:
            told.append(str(error))
    if wanted and reachable() and (host or namespace or context or os.environ.get("KUBECONFIG")):
        try:
            absent, unchecked = missing(wanted, cluster(namespace, context))
            told += absent
        except ClusterError as error:
            told.append(str(error))
    elif wanted and (namespace or context):
        named = f"namespace {namespace!r}" if namespace else f"context {context!r}"
        told.append(f"{named} can't be asked: there is no kubeconfig, set KUBECONFIG")
    elif wanted and host:
        unchecked.append("not checked: secrets, claims and accounts, for want of a kubeconfig; set KUBECONFIG")
    return told, unchecked

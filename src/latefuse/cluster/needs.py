"""What a cluster must have before a pipeline of this profile can run there, and whether it is there."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, get_args

from latefuse.config_profile import Profile, Resources, Step
from latefuse.errors import UserError

TRAINJOB = "trainjobs.trainer.kubeflow.org"
NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
TIMEOUT_S = 10


class ClusterError(UserError, RuntimeError):
    """A cluster that can't be asked; the message says what to do."""


@dataclass(frozen=True, order=True)
class Need:
    """One thing by name. kind: secret, config map, claim, service account or kind of resource. why: who asks for it."""

    kind: str
    name: str
    why: str


class Cluster(Protocol):
    """Whatever can say whether a thing is there; `where` is how it is called in messages."""

    where: str

    def has(self, need: Need) -> bool:
        """Raises ClusterError where it can't be told."""
        ...


def needs(profile: Profile) -> list[Need]:
    """Secrets, config maps, claims, the service account and kinds of resources, each once, with the steps that ask."""
    if not profile.default.image:
        return []
    parts = {str(step): profile.resources(step) for step in get_args(Step)}
    if profile.launcher == "trainjob":
        parts["driver"] = profile.placed("finetune")
    asked: dict[tuple[str, str], list[str]] = {}
    for part, resources in parts.items():
        for kind, name in dict.fromkeys(_named(resources)):
            asked.setdefault((kind, name), []).append(part)
    if profile.launcher == "trainjob":
        asked["kind of resource", TRAINJOB] = ["finetune"]
    return sorted(Need(kind, name, ", ".join(who)) for (kind, name), who in asked.items())


def missing(wanted: Sequence[Need], cluster: Cluster) -> list[str]:
    """One line for each that is not there. Raises ClusterError."""
    absent = [need for need in wanted if not cluster.has(need)]
    return [f"{need.kind} {need.name!r} is not in {cluster.where} (asked for by {need.why})" for need in absent]


def _named(resources: Resources) -> Iterator[tuple[str, str]]:
    yield from (("secret", name) for name in (*resources.secrets, *resources.pull_secrets))
    yield from (("config map", name) for name in resources.config_maps)
    yield from (("claim", name) for name in resources.volumes.values())
    if resources.service_account:
        yield "service account", resources.service_account


class Kubernetes:
    """A namespace of the cluster that a kubeconfig names. Only names are asked for: no value of a secret is sent."""

    def __init__(self, namespace: str | None = None) -> None:
        """Raises ClusterError without the client, without a kubeconfig, and for one that can't be read."""
        try:
            from kubernetes import client, config
        except ImportError:
            raise ClusterError("asking the cluster needs its client: pip install 'latefuse[cluster]'") from None
        try:
            config.load_kube_config()
            _, context = config.list_kube_config_contexts()
        except (config.ConfigException, OSError, ValueError) as error:
            raise ClusterError(f"the kubeconfig can't be used ({error}); see `kubectl config view`") from None
        self.namespace = namespace or context["context"].get("namespace") or "kubeflow"
        self.where = f"namespace {self.namespace!r} of {context['name']!r}"
        self._api: Any = client.ApiClient()

    def has(self, need: Need) -> bool:
        """Raises ClusterError where the cluster refuses to tell or can't be reached."""
        import urllib3
        from kubernetes.client import ApiException

        retries = urllib3.Retry(connect=1, read=1, redirect=0)
        self._api.rest_client.pool_manager.connection_pool_kw["retries"] = retries
        try:
            self._api.call_api(
                self._path(need),
                "GET",
                header_params={"Accept": NAMES_ONLY},
                auth_settings=["BearerToken"],
                _request_timeout=TIMEOUT_S,
            )
        except ApiException as error:
            if error.status == 404:
                return False
            raise ClusterError(
                f"{self.where} does not tell us whether it has the {need.kind} {need.name!r} ({error.status} "
                f"{error.reason}): your role must be allowed to `get` it"
            ) from None
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(f"{self.where} can't be reached ({str(error)[:160]})") from None
        return True

    def _path(self, need: Need) -> str:
        if need.kind == "kind of resource":
            return f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{need.name}"
        plural = {
            "secret": "secrets",
            "config map": "configmaps",
            "claim": "persistentvolumeclaims",
            "service account": "serviceaccounts",
        }[need.kind]
        return f"/api/v1/namespaces/{self.namespace}/{plural}/{need.name}"


def reachable() -> bool:
    """Whether there is a kubeconfig that names a cluster."""
    named = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return any(Path(path).expanduser().is_file() for path in named.split(os.pathsep) if path)

"""Whether what a pipeline needs is there: asked of the cluster that a kubeconfig names, by name only.

No value of a secret is sent: the request asks for the metadata and nothing else.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from latefuse.cluster.needs import Need
from latefuse.errors import UserError

NAMES_ONLY = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
REVIEWS = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews"
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
TIMEOUT_S = 10


class ClusterError(UserError, RuntimeError):
    """A cluster that can't be asked; the message says what to do."""


class NotAllowed(ClusterError):
    """The cluster does not tell us, which says nothing of whether the thing is there."""


class Cluster(Protocol):
    """Whatever can say whether a thing is there; `where` is how it is called in messages."""

    where: str
    namespace: str

    def has(self, need: Need) -> bool:
        """Raises NotAllowed where it is not told to us, ClusterError where nothing can be asked."""
        ...


def missing(wanted: Sequence[Need], cluster: Cluster) -> tuple[list[str], list[str]]:
    """A line for each that is not there, and one for each that could not be looked up. Raises ClusterError."""
    absent, unchecked = [], []
    for need in (Need("namespace", cluster.namespace, "the run"), *wanted):
        try:
            if cluster.has(need):
                continue
        except NotAllowed as error:
            unchecked.append(f"not checked: {error}")
            continue
        if need.kind == "namespace":  # without it nothing else can be there either
            return [f"there is no namespace {need.name!r}: {cluster.where}; --namespace names another"], unchecked
        if need.kind == "right":
            absent.append(f"service account {need.why!r} may not {need.name} in {cluster.where}: see deploy/README.md")
        else:
            absent.append(f"{need.kind} {need.name!r} is not in {cluster.where} (asked for by {need.why})")
    return absent, unchecked


def reachable() -> bool:
    """Whether there is a kubeconfig that names a cluster."""
    named = os.environ.get("KUBECONFIG") or "~/.kube/config"
    return any(Path(path).expanduser().is_file() for path in named.split(os.pathsep) if path)


def api_client(context: str | None = None) -> tuple[Any, Mapping[str, Any]]:
    """A `kubernetes.client.ApiClient` for a context of kubectl, the current one by default, and that context.

    Raises ClusterError without the client, without a kubeconfig, and for one that can't be read.
    """
    try:
        from kubernetes import client, config
    except ImportError:
        raise ClusterError("asking the cluster needs its client: pip install 'latefuse[cluster]'") from None
    import urllib3

    settings = client.Configuration()
    settings.retries = urllib3.Retry(connect=1, read=1, redirect=0)
    file = os.environ.get("KUBECONFIG")
    try:
        contexts, current = config.list_kube_config_contexts(file)
        named = next((one for one in contexts if one["name"] == context), None) if context else current
        if named is None:
            there = ", ".join(one["name"] for one in contexts)
            raise ClusterError(f"kubectl has no context {context!r}, but {there}; see `kubectl config get-contexts`")
        config.load_kube_config(file, context=named["name"], client_configuration=settings)
    except (config.ConfigException, OSError, ValueError) as error:
        told = " ".join(str(error).split())[:200]
        raise ClusterError(f"the kubeconfig can't be used ({told}); see `kubectl config view`") from None
    return client.ApiClient(settings), named


def asked(api: Any, method: str, path: str, headers: dict[str, str], timeout_s: float, body: Any = None) -> Any:
    """What the API of an `api_client` answers, as JSON. Raises ApiException, urllib3's HTTPError, and ValueError where
    it is no JSON."""
    answer = api.call_api(
        path,
        method,
        header_params=headers,
        body=body,
        auth_settings=["BearerToken"],
        _preload_content=False,
        _return_http_data_only=True,
        _request_timeout=timeout_s,
    )
    return json.loads(answer.data)


class Kubernetes:
    """A namespace of the cluster that a context of kubectl names."""

    def __init__(self, namespace: str | None = None, context: str | None = None) -> None:
        """Raises ClusterError without the client, without a kubeconfig, and for one that can't be read."""
        self._api, named = api_client(context)
        self.namespace = namespace or named["context"].get("namespace") or "kubeflow"
        self.where = f"namespace {self.namespace!r} of {named['name']!r}"

    def has(self, need: Need) -> bool:
        """Raises NotAllowed where the cluster refuses to tell, ClusterError where it can't be reached."""
        if need.kind == "right":
            return self._may(need.name, need.why)
        wanted = f"whether it has the {need.kind} {need.name!r}"
        try:
            return self._get(self._path(need), wanted, f"your role must be allowed to `get` {self._plural(need)}")
        except NotAllowed:
            if need.kind != "kind of resource":
                raise
        plural = need.name.partition(".")[0]  # kinds of a whole cluster are often hidden, the list of an API never is
        return plural in self._kinds(TRAINER, wanted)

    def _may(self, right: str, account: str) -> bool:
        """Whether a service account may do something in the namespace; asked in its name, as `kubectl auth can-i`."""
        verb, _, what = right.partition(" ")
        resource, _, group = what.partition(".")
        resource, _, part = resource.partition("/")
        asked = {"namespace": self.namespace, "verb": verb, "group": group, "resource": resource, "subresource": part}
        user = f"system:serviceaccount:{self.namespace}:{account}"
        review = {"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview"}
        answer = self._call(
            "POST",
            REVIEWS,
            f"whether {account} may {right}",
            f"your role must be allowed to `impersonate` it; who is: kubectl auth can-i {right} --namespace "
            f"{self.namespace} --as {user}",
            {"Accept": "application/json", "Content-Type": "application/json", "Impersonate-User": user},
            {**review, "spec": {"resourceAttributes": {key: value for key, value in asked.items() if value}}},
        )
        return bool((answer or {}).get("status", {}).get("allowed"))

    def _get(self, path: str, wanted: str, advice: str) -> bool:
        return self._call("GET", path, wanted, advice, {"Accept": NAMES_ONLY}) is not None

    def _kinds(self, path: str, wanted: str) -> set[str]:
        found = self._call("GET", path, wanted, "the list of its APIs is hidden", {"Accept": "application/json"})
        return {one["name"] for one in (found or {}).get("resources", ())}

    def _call(
        self, method: str, path: str, wanted: str, advice: str, headers: dict[str, str], body: Any = None
    ) -> dict[str, Any] | None:
        """The answer as JSON; None for a 404."""
        import urllib3
        from kubernetes.client import ApiException

        try:
            found = asked(self._api, method, path, headers, TIMEOUT_S, body)
        except ApiException as error:
            if error.status == 404:
                return None
            told = f"{self.where} does not tell us {wanted} ({error.status} {error.reason})"
            if error.status == 403:
                raise NotAllowed(f"{told}: {advice}") from None
            if error.status == 401:
                raise ClusterError(f"{told}: log in to the cluster again, `kubectl get namespaces` must work") from None
            raise ClusterError(f"{told}: try later") from None
        except urllib3.exceptions.HTTPError as error:
            raise ClusterError(f"{self.where} can't be reached ({str(error)[:160]})") from None
        except ValueError:
            raise ClusterError(f"{self.where} answers with something that is no JSON: is a proxy in between?") from None
        return dict(found)

    def _path(self, need: Need) -> str:
        plural, inside = self._plural(need), f"namespaces/{self.namespace}"
        if need.kind == "kind of resource":
            return f"{CRDS}/{need.name}"
        if need.kind == "namespace":
            return f"/api/v1/namespaces/{need.name}"
        if need.kind == "ClusterTrainingRuntime":
            return f"{TRAINER}/{plural}/{need.name}"
        if need.kind == "TrainingRuntime":
            return f"{TRAINER}/{inside}/{plural}/{need.name}"
        return f"/api/v1/{inside}/{plural}/{need.name}"

    def _plural(self, need: Need) -> str:
        return {
            "secret": "secrets",
            "config map": "configmaps",
            "claim": "persistentvolumeclaims",
            "service account": "serviceaccounts",
            "namespace": "namespaces",
            "kind of resource": "customresourcedefinitions",
            "ClusterTrainingRuntime": "clustertrainingruntimes",
            "TrainingRuntime": "trainingruntimes",
        }[need.kind]

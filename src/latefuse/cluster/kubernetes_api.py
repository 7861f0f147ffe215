"""The few calls that a TrainJob needs of the Kubernetes API, through its official client, patient where that helps."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from latefuse.cluster.train_job_manifest import GROUP, JOBSET_LABEL, NODE, PLURAL, VERSION
from latefuse.errors import UserError

T = TypeVar("T")
OWN_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
PATIENCE_S = 600.0
PAUSE_S = 1.0
REQUEST_S = (10.0, 60.0)
STREAM_S = (10.0, 300.0)
RBAC = "kubectl apply -k deploy/ gives what is needed"


class ClusterError(UserError, RuntimeError):
    """The cluster can't be reached, refuses us, or lacks something; the message says what to do."""


class Cluster:
    """TrainJobs, pods, logs and events of one namespace. Every call raises ClusterError.

    An answer of 429 or 5xx, or none at all, is asked for again within `patience_s`, longer and longer apart.
    """

    def __init__(self, client: Any, namespace: str, patience_s: float = PATIENCE_S) -> None:
        """client: a `kubernetes.client.ApiClient`."""
        from kubernetes import client as kubernetes

        self.namespace, self.patience_s = namespace, patience_s
        self._core, self._custom = kubernetes.CoreV1Api(client), kubernetes.CustomObjectsApi(client)
        self._about = {"group": GROUP, "version": VERSION, "namespace": namespace, "plural": PLURAL}

    def create(self, body: dict[str, Any]) -> str:
        """Make a TrainJob; returns its uid. One that is there already is ours when its making was not answered."""
        name = body["metadata"]["name"]
        told: list[int] = []

        def make() -> dict[str, Any]:
            told.append(1)
            return dict(
                self._custom.create_namespaced_custom_object(**self._about, body=body, _request_timeout=REQUEST_S)
            )

        try:
            return str(self._ask(f"make TrainJob {name}", make)["metadata"]["uid"])
        except _Conflict:
            there = self.get(name)
            if len(told) > 1 and there is not None:
                return str(there["metadata"]["uid"])
            raise ClusterError(f"TrainJob {name} is there already: another node of the pipeline has made it") from None

    def get(self, name: str) -> dict[str, Any] | None:
        """A TrainJob, or None."""

        def look() -> dict[str, Any]:
            return dict(self._custom.get_namespaced_custom_object(**self._about, name=name, _request_timeout=REQUEST_S))

        return self._ask(f"read TrainJob {name}", look, or_none=True)

    def delete(self, name: str) -> None:
        """Delete a TrainJob with its pods; it is gone when they are."""

        def remove() -> Any:
            return self._custom.delete_namespaced_custom_object(
                **self._about, name=name, propagation_policy="Foreground", _request_timeout=REQUEST_S
            )

        self._ask(f"delete TrainJob {name}", remove, or_none=True)

    def pods(self, name: str) -> list[dict[str, Any]]:
        """The pods of a TrainJob, as the API's JSON."""

        def look() -> list[dict[str, Any]]:
            selector = f"{JOBSET_LABEL}={name}"
            return _items(
                self._core.list_namespaced_pod(
                    self.namespace, label_selector=selector, _request_timeout=REQUEST_S, _preload_content=False
                )
            )

        return self._ask(f"list the pods of TrainJob {name}", look) or []

    def warnings(self, name: str) -> list[str]:
        """What the cluster warns of about the TrainJob and all that was made for it, oldest first, each once."""

        def look() -> list[dict[str, Any]]:
            return _items(
                self._core.list_namespaced_event(
                    self.namespace, field_selector="type=Warning", _request_timeout=REQUEST_S, _preload_content=False
                )
            )

        found = []
        for one in self._ask("list events", look) or []:
            about = one.get("involvedObject", {})
            if about.get("name") == name or str(about.get("name", "")).startswith(f"{name}-"):
                when = one.get("lastTimestamp") or one.get("eventTime") or ""
                text = f"{about.get('kind')} {about['name']}: {one.get('reason')}: {one.get('message')}"
                found.append((str(when), " ".join(text.split())))
        return list(dict.fromkeys(text for _, text in sorted(found)))

    def log(self, pod: str, since_s: int | None) -> Iterator[str]:
        """Lines of a pod's log, with their times, until it ends or the connection does; raises whatever that raises."""
        since = {"since_seconds": since_s} if since_s else {}
        answer = self._core.read_namespaced_pod_log(
            pod, self.namespace, container=NODE, follow=True, timestamps=True, **since,
            _preload_content=False, _request_timeout=STREAM_S,
        )  # fmt: skip
        rest = b""
        try:
            for part in answer.stream(4096, decode_content=True):
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode("utf-8", "replace") for line in lines)
            if rest:
                yield rest.decode("utf-8", "replace")
        finally:
            answer.release_conn()

    def _ask(self, what: str, call: Callable[[], T], or_none: bool = False) -> Any:
        """or_none: a 404 is an answer."""
        from kubernetes.client import ApiException
        from urllib3.exceptions import HTTPError

        end, pause = time.monotonic() + self.patience_s, PAUSE_S
        while True:
            try:
                return call()
            except ApiException as error:
                if error.status == 404 and or_none:
                    return None
                if error.status == 409:
                    raise _Conflict from None
                asked_to_wait = _seconds((error.headers or {}).get("Retry-After"))
                problem = explain(error.status, what, self.namespace, _detail(error.body))
                again = error.status == 429 or error.status >= 500 or error.status == 0
            except HTTPError as error:
                asked_to_wait, again = 0.0, True
                problem = f"can't {what}: the Kubernetes API does not answer ({str(error)[:200]})"
            pause = max(pause, asked_to_wait)
            if not again or time.monotonic() + pause > end:
                raise ClusterError(problem)
            time.sleep(pause)
            pause = min(2 * pause, 30.0)


class _Conflict(Exception):
    """A 409."""


def connect(namespace: str | None, patience_s: float = PATIENCE_S) -> Cluster:
    """By the pod's service account, else by the current context of kubectl.

    namespace: that of the pod or of the context, by default.
    """
    try:
        from kubernetes import client as kubernetes
        from kubernetes import config
    except ImportError as error:
        raise ClusterError(
            f"a TrainJob needs the client of Kubernetes, pip install 'latefuse[cluster]': {error}"
        ) from None

    file = os.environ.get("KUBECONFIG")
    settings = kubernetes.Configuration()
    settings.retries = False  # ours know which answers are worth another try
    try:
        config.load_incluster_config(settings)
        own = OWN_NAMESPACE.read_text(encoding="utf-8").strip() if OWN_NAMESPACE.exists() else None
    except config.ConfigException:
        try:
            config.load_kube_config(file, client_configuration=settings)
            own = config.list_kube_config_contexts(file)[1]["context"].get("namespace")
        except config.ConfigException as error:
            raise ClusterError(f"no cluster for a TrainJob: this is no pod, and of kubectl's: {error}") from None
    found = namespace or own
    if not found:
        raise ClusterError("which namespace? Name one in the profile, trainjob.namespace")
    return Cluster(kubernetes.ApiClient(settings), found, patience_s)


def explain(status: int, what: str, namespace: str, detail: str) -> str:
    """What an HTTP status means for whoever runs the pipeline."""
    said = f" It says: {detail}" if detail else ""
    if status in (401, 403):
        return f"may not {what} in namespace {namespace} ({status}): {RBAC}.{said}"
    if status == 404:
        wanted = f"is Kubeflow Trainer 2.2 or newer installed, and is there a namespace {namespace}?"
        return f"can't {what} (404): {wanted}{said}"
    if status in (400, 422):
        return f"can't {what}: the cluster finds it wrong ({status}).{said}"
    return f"can't {what}: the Kubernetes API answers {status}.{said}"


def _seconds(retry_after: Any) -> float:
    """0 for none, and for a date, which proxies may send."""
    try:
        return float(retry_after or 0)
    except ValueError:
        return 0.0


def _items(answer: Any) -> list[dict[str, Any]]:
    """The items of a list as plain JSON; made into objects they would lose names that the client does not know."""
    return list(json.loads(answer.data).get("items") or [])


def _detail(body: Any) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    with contextlib.suppress(ValueError, AttributeError):
        text = str(json.loads(text).get("message") or text)
    return " ".join(text.split())[:400]

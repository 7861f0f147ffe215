"""Upload a compiled pipeline to Kubeflow, start it, or start it by the clock, through `kfp.Client`."""

from __future__ import annotations

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latefuse.cluster import kfp_context
from latefuse.cluster.kfp_auth import COOKIE, NOBODY, TOKEN, TOKEN_FILE, Auth, SubmitError, choose
from latefuse.cluster.kfp_errors import detail, explain, taught

__all__ = ["COOKIE", "TOKEN", "TOKEN_FILE", "Server", "SubmitError", "connect"]

PORT_FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80, then KFP_HOST=http://localhost:8080"
HOSTS = ("KFP_HOST", "KF_PIPELINES_ENDPOINT")
PAGES = "KF_PIPELINES_UI_ENDPOINT"
IN_POD = "http://ml-pipeline.{}.svc.cluster.local:8888"
REQUEST_S = 30.0


@dataclass(frozen=True)
class Server:
    """A Kubeflow Pipelines that answers. kfp: its `kfp.Client`. host: its address, empty where a context leads there.

    namespace: whose runs they are, where it serves several users. installed: the namespace that it lives in.
    """

    kfp: Any = field(repr=False)
    auth: Auth
    host: str
    namespace: str | None = None
    context: str | None = None
    installed: str = "kubeflow"

    @contextmanager
    def asked(self, what: str) -> Iterator[Any]:
        """The client, for calls about `what`; raises SubmitErrors that name it."""
        with taught(what, self.auth):
            yield self.kfp

    def link(self, page: str) -> str:
        """The address of a page, such as runs/details/ID; KF_PIPELINES_UI_ENDPOINT names that of the pages where it is
        another one. Without any, how to get to it."""
        base = os.environ.get(PAGES) or self.host
        if base:
            return f"{base.rstrip('/')}/#/{page}"
        by = f"kubectl --context {self.context} -n {self.installed} port-forward svc/ml-pipeline-ui 8080:80"
        return f"http://localhost:8080/#/{page} (after {by})"

    def options(self) -> str:
        """The options of the command line that lead here again."""
        parts = [f"--host {self.host}"] if self.host else [f"--context {self.context}"]
        parts += [f"--namespace {self.namespace}"] if self.namespace else []
        parts += [f"--kfp-namespace {self.installed}"] if self.installed != "kubeflow" else []
        return " ".join(parts)


def connect(
    host: str = "", namespace: str | None = None, context: str | None = None, installed: str = "kubeflow"
) -> Server:
    """A server that has answered. Raises SubmitError.

    host: KFP_HOST of the environment where it is empty, else the service inside the cluster from a pod, else through
    the Kubernetes API by kubectl's `context`, or its current one. The address is tried first: the client itself would
    repeat a refused request for half a minute and print tracebacks.
    """
    host = host or ("" if context else next((os.environ[name] for name in HOSTS if os.environ.get(name)), ""))
    if host and context:
        raise SubmitError("--host (KFP_HOST) and --context are given, each says where Kubeflow Pipelines is: keep one")
    host = host if "://" in host or not host else f"http://{host}"
    auth = choose(host, context)
    if not host and not context and kfp_context.in_pod():
        host = IN_POD.format(installed)
    if not host:
        return _by_kubectl(auth, namespace, context, installed)
    host = host.rstrip("/")
    _several_users(_health(host, auth), host, namespace)
    from kfp import client

    with taught("client", auth):
        made = client.Client(
            host=host,
            namespace=namespace or "kubeflow",
            credentials=_credentials(auth) if auth.token is not None else None,
            cookies=auth.cookie,  # an empty one too, else a cookie of the client's own file would go along
        )
    return Server(made, auth, host, namespace, installed=installed)


def upload(server: Server, package: Path, pipeline: str, version: str) -> tuple[str, str]:
    """Upload `package` as a new version of `pipeline`, which is made if need be; returns both ids."""
    found = {"predicates": [{"operation": 1, "key": "display_name", "stringValue": pipeline}]}
    with server.asked(f"pipeline {pipeline!r}") as kfp:
        listed = kfp.list_pipelines(filter=json.dumps(found), namespace=server.namespace).pipelines
        if listed:
            known = listed[0].pipeline_id
        else:
            known = kfp.upload_pipeline(str(package), pipeline_name=pipeline, namespace=server.namespace).pipeline_id
        made = kfp.upload_pipeline_version(str(package), pipeline_version_name=version, pipeline_id=known)
    return str(known), str(made.pipeline_version_id)


def experiment_id(server: Server, name: str) -> str:
    """The experiment of that name, which is made if need be."""
    with server.asked(f"experiment {name!r}") as kfp:
        return str(kfp.create_experiment(name, namespace=server.namespace).experiment_id)


def start(
    server: Server,
    uploaded: tuple[str, str],
    experiment: str,
    name: str,
    arguments: Mapping[str, str],
    service_account: str | None = None,
) -> str:
    """Start a run of an uploaded version; returns its id."""
    group = experiment_id(server, experiment)
    with server.asked(f"pipeline {uploaded[0]} or experiment {experiment!r}") as kfp:
        run = kfp.run_pipeline(
            experiment_id=group,
            job_name=name,
            pipeline_id=uploaded[0],
            version_id=uploaded[1],
            params=dict(arguments),
            service_account=service_account,
        )
    return str(run.run_id)


def _by_kubectl(auth: Auth, namespace: str | None, context: str | None, installed: str) -> Server:
    if auth is not NOBODY:
        raise SubmitError(f"{auth.name} says who we are, but not to whom: give KFP_HOST=http://... (or --host) as well")
    otherwise = f"no host: give KFP_HOST=http://... (or --host). From outside the cluster: {PORT_FORWARD}"
    context, user = kfp_context.find(context, f"{otherwise}; or a context of kubectl, --context")
    auth = Auth(
        f"the context {context!r} of kubectl",
        f"its user needs get and create on services/proxy in namespace {installed} (deploy/submitter.yaml), and where "
        f"Kubeflow serves several users {TOKEN_FILE} with KFP_HOST must be used instead",
    )
    health = kfp_context.health(context, installed, lambda status, said: explain(status, user, auth, said))
    _several_users(health, user, namespace)
    with taught("client", auth):
        made = kfp_context.client(context, installed)
    return Server(made, auth, "", namespace, context, installed)


def _several_users(health: Mapping[str, Any], where: str, namespace: str | None) -> None:
    if health.get("multi_user") and not namespace:
        raise SubmitError(f"{where} serves several users: say whose namespace the run belongs to, --namespace NAME")


def _credentials(auth: Auth) -> Any:
    """What the client asks for the token before each request."""
    from kfp.client.token_credentials_base import TokenCredentialsBase

    class Fresh(TokenCredentialsBase):
        def refresh_api_key_hook(self, config: Any) -> None:
            assert auth.token is not None
            config.api_key["authorization"] = auth.token()

    return Fresh()


def _health(host: str, auth: Auth) -> dict[str, Any]:
    """The answer of the API's health check; a SubmitError that teaches where it is none."""
    try:
        body = _get(f"{host}/apis/v2beta1/healthz", auth)
    except urllib.error.HTTPError as error:
        if error.code in range(300, 400):
            to = auth.hide(str(error.headers.get("Location"))[:200])
            raise SubmitError(f"{host} sends us to {to}: log in there, {NOBODY.advice}; or give that address") from None
        if error.code == 404 and _answers(f"{host}/apis/v1beta1/healthz", auth):
            raise SubmitError(f"{host} runs Kubeflow Pipelines 1.x; latefuse needs 2.x (API v2beta1)") from None
        raise SubmitError(explain(error.code, host, auth, detail(error.read(2000)))) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SubmitError(f"{host} can't be reached ({reason}). Is it right? From outside: {PORT_FORWARD}") from None
    try:
        found = json.loads(body)
    except ValueError:
        raise SubmitError(f"{host} answers with a page, most likely a login: {NOBODY.advice}") from None
    return found if isinstance(found, dict) else {}


def _answers(address: str, auth: Auth) -> bool:
    try:
        _get(address, auth)
    except (OSError, ValueError):
        return False
    return True


class _Stay(urllib.request.HTTPRedirectHandler):
    """Follows no redirect: it may lead to another host, which must not get our token."""

    def redirect_request(self, *told: Any) -> None:
        return None


def _get(address: str, auth: Auth) -> str:
    request = urllib.request.Request(address, headers=auth.headers())
    with urllib.request.build_opener(_Stay).open(request, timeout=REQUEST_S) as answer:
        return str(answer.read().decode("utf-8", "replace"))

"""Upload a compiled pipeline to Kubeflow, start it and wait for it, through `kfp.Client`; errors say what to do."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

PORT_FORWARD = "kubectl -n kubeflow port-forward svc/ml-pipeline-ui 8080:80, then KFP_HOST=http://localhost:8080"
ENDED = {"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR"}
TOKEN, COOKIE = "KFP_TOKEN", "KFP_COOKIE"
REQUEST_S = 30.0


class SubmitError(RuntimeError):
    """The cluster can't be reached or has refused; the message says what to do."""


def connect(host: str, namespace: str | None = None) -> Any:
    """A checked `kfp.Client`. `KFP_TOKEN` (a bearer token) or `KFP_COOKIE` are used where the environment has them.

    The address is tried first: the client itself would repeat a refused request for half a minute and print
    tracebacks. Raises SubmitError.
    """
    if not host:
        raise SubmitError(f"no host: give KFP_HOST=http://... (or --host). From outside the cluster: {PORT_FORWARD}")
    host = host.rstrip("/") if "://" in host else f"http://{host.rstrip('/')}"
    health = _health(host)
    if health.get("multi_user") and not namespace:
        raise SubmitError(f"{host} serves several users: say whose namespace the run belongs to, --namespace NAME")
    from kfp import client

    with _quiet():
        return client.Client(
            host=host,
            namespace=namespace or "kubeflow",
            existing_token=os.environ.get(TOKEN),
            cookies=os.environ.get(COOKIE),
        )


def start(
    kfp: Any,
    package: Path,
    pipeline: str,
    version: str,
    experiment: str,
    arguments: Mapping[str, str],
    namespace: str | None = None,
    service_account: str | None = None,
) -> str:
    """Upload `package` as a new version of `pipeline` (which is made if need be), start a run, return its id."""
    with _taught(f"pipeline {pipeline!r} or experiment {experiment!r}"), _quiet():
        known = kfp.get_pipeline_id(pipeline)
        if known is None:
            known = kfp.upload_pipeline(str(package), pipeline_name=pipeline, namespace=namespace).pipeline_id
        uploaded = kfp.upload_pipeline_version(str(package), pipeline_version_name=version, pipeline_id=known)
        group = kfp.create_experiment(experiment, namespace=namespace)
        run = kfp.run_pipeline(
            experiment_id=group.experiment_id,
            job_name=version,
            pipeline_id=known,
            version_id=uploaded.pipeline_version_id,
            params=dict(arguments),
            service_account=service_account,
        )
    return str(run.run_id)


def link(host: str, run_id: str) -> str:
    """The page of the run; `KF_PIPELINES_UI_ENDPOINT` names the address of the pages where it is another."""
    base = os.environ.get("KF_PIPELINES_UI_ENDPOINT") or (host if "://" in host else f"http://{host}")
    return f"{base.rstrip('/')}/#/runs/details/{run_id}"


def wait(kfp: Any, run_id: str, timeout_s: float, pause_s: float = 5.0) -> str:
    """The state in which the run has ended. A server that stumbles for a moment is asked again.

    `kfp.Client.wait_for_run_completion` would wait for ever on a cancelled run.
    """
    end = time.monotonic() + timeout_s
    stumbles = 0
    while True:
        try:
            with _taught(f"run {run_id}"), _quiet():
                state = str(kfp.get_run(run_id).state or "").upper()
            stumbles = 0
        except SubmitError:
            stumbles += 1
            if stumbles > 5:
                raise
            state = ""
        if state in ENDED:
            return state
        if time.monotonic() > end:
            raise SubmitError(f"run {run_id} goes on, but {timeout_s:.0f} s are over; wait longer with --timeout")
        time.sleep(pause_s)


def _health(host: str) -> dict[str, Any]:
    """The answer of the API's health check; a SubmitError that teaches where it is none."""
    try:
        body = _get(f"{host}/apis/v2beta1/healthz")
    except urllib.error.HTTPError as error:
        if error.code == 404 and _answers(f"{host}/apis/v1beta1/healthz"):
            raise SubmitError(f"{host} runs Kubeflow Pipelines 1.x; latefuse needs 2.x (API v2beta1)") from None
        raise SubmitError(explain(error.code, host)) from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise SubmitError(f"{host} can't be reached ({reason}). Is it right? From outside: {PORT_FORWARD}") from None
    try:
        found = json.loads(body)
    except ValueError:
        raise SubmitError(f"{host} answers with a page, most likely a login: set {TOKEN} or {COOKIE}") from None
    return found if isinstance(found, dict) else {}


def _answers(address: str) -> bool:
    try:
        _get(address)
    except (OSError, ValueError):
        return False
    return True


def _get(address: str) -> str:
    request = urllib.request.Request(address)
    if token := os.environ.get(TOKEN):
        request.add_header("Authorization", f"Bearer {token}")
    if cookie := os.environ.get(COOKIE):
        request.add_header("Cookie", cookie)
    with urllib.request.urlopen(request, timeout=REQUEST_S) as answer:
        return str(answer.read().decode("utf-8", "replace"))


def explain(status: int | None, where: str, detail: str = "", asked: str = "") -> str:
    """What an HTTP status of the API means for the person who submits; asked: for what, where the API is in reach."""
    said = f" It says: {detail}" if detail else ""
    if status in (401, 403):
        return (
            f"{where} refuses us ({status}): set {TOKEN} to a bearer token (kubectl create token ...) or {COOKIE} to "
            f"the session cookie, and check the namespace and its role.{said}"
        )
    if status == 404 and asked:
        return f"{where} knows no {asked} (404): was it deleted, or is it in another namespace?{said}"
    if status == 404:
        return f"{where} has no Kubeflow Pipelines API (404): give its root, for instance http://host/pipeline.{said}"
    if status == 400:
        return f"{where} finds the pipeline or its arguments wrong (400).{said}"
    if status is not None and status >= 500:
        return f"{where} is in trouble ({status}): try later; kubectl -n kubeflow logs deploy/ml-pipeline.{said}"
    return f"{where} answers {status}.{said}" if status else f"{where} can't be reached.{said}"


@contextlib.contextmanager
def _taught(asked: str) -> Iterator[None]:
    """Turn the client's exceptions into SubmitErrors that name what was asked for."""
    import kfp_server_api
    import urllib3

    try:
        yield
    except kfp_server_api.ApiException as error:
        raise SubmitError(explain(error.status, "the Kubeflow Pipelines API", _detail(error.body), asked)) from None
    except urllib3.exceptions.HTTPError as error:
        raise SubmitError(explain(None, "the Kubeflow Pipelines API", str(error)[:200])) from None


def _detail(body: Any) -> str:
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    try:
        found = json.loads(text)
        text = str(found.get("error_message") or found.get("message") or text)
    except (ValueError, AttributeError):
        pass
    return " ".join(text.split())[:300]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """The client prints links of its own, and warns of backends before 2.0; we check that ourselves."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield

"""Kubeflow Pipelines behind the Kubernetes API, as kubectl reaches it: no port is forwarded and no token copied."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from latefuse.cluster.kfp_auth import SubmitError
from latefuse.cluster.there import ClusterError, api_client, asked, reachable

SERVICE = "/api/v1/namespaces/{}/services/ml-pipeline:http/proxy"
TIMEOUT_S = 30


def in_pod() -> bool:
    """Whether this is a container of a cluster."""
    return bool(os.environ.get("KUBERNETES_SERVICE_HOST"))


def find(context: str | None, otherwise: str) -> tuple[str, str]:
    """The name of the context, the current one by default, and how to call what it leads to.

    otherwise: what to say where there is no kubeconfig and none was asked for. Raises SubmitError.
    """
    if not context and not reachable():
        raise SubmitError(otherwise)
    try:
        _, named = api_client(context)
    except ClusterError as error:
        raise SubmitError(str(error) if context else f"{error}. Or {otherwise}") from None
    return str(named["name"]), f"Kubeflow Pipelines by the context {named['name']!r} of kubectl"


def health(context: str, installed: str, explained: Callable[[int | None, str], str]) -> dict[str, Any]:
    """The answer of the API's health check; explained: words for a status and what was said. Raises SubmitError."""
    import urllib3
    from kubernetes.client import ApiException

    api, _ = api_client(context)
    try:
        path = f"{SERVICE.format(installed)}/apis/v2beta1/healthz"
        found = asked(api, "GET", path, {"Accept": "application/json"}, TIMEOUT_S)
    except ApiException as error:
        if error.status == 404:
            raise SubmitError(
                f"context {context!r} has no service ml-pipeline in namespace {installed!r} (404): where is Kubeflow "
                "Pipelines installed? --kfp-namespace NAME"
            ) from None
        raise SubmitError(explained(error.status, " ".join(str(error.body or "").split())[:300])) from None
    except urllib3.exceptions.HTTPError as error:
        raise SubmitError(f"the cluster of context {context!r} can't be reached ({str(error)[:160]})") from None
    except ValueError:
        raise SubmitError(f"context {context!r}: ml-pipeline in {installed!r} is no Kubeflow Pipelines API") from None
    return found if isinstance(found, dict) else {}


def client(context: str, installed: str) -> Any:
    """A `kfp.Client` behind the Kubernetes API.

    The one that `kfp.Client` makes of a context loses the path of the service at its first request: the loader of the
    kubeconfig refreshes the token, and with it the host and its own hook. So its settings are made here.
    """
    import kfp_server_api
    from kfp import client
    from kubernetes import config

    settings = kfp_server_api.Configuration()
    config.load_kube_config(os.environ.get("KUBECONFIG"), context=context, client_configuration=settings)
    root, refresh = f"{settings.host}{SERVICE.format(installed)}", settings.refresh_api_key_hook

    def stay(told: Any) -> None:
        if refresh is not None:
            refresh(told)
        told.host, told.refresh_api_key_hook = root, stay

    stay(settings)

    class Behind(client.Client):
        def _load_config(self, *told: Any) -> Any:
            return settings

    return Behind(cookies="")

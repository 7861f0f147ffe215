"""What the API of Kubeflow Pipelines answers, told to the person who submits: what is wrong, and what to do."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Iterator
from typing import Any

from latefuse.cluster.kfp_auth import Auth, SubmitError

API = "the Kubeflow Pipelines API"


def explain(status: int | None, where: str, auth: Auth, detail: str = "", asked: str = "") -> str:
    """What an HTTP status of the API means. asked: for what, where the API is in reach. No secret is repeated."""
    said = f" It says: {auth.hide(detail)}" if detail else ""
    if status in (401, 403):
        came = f"{where} refuses us ({status}), who came with {auth.name}"
        return f"{came}: {auth.advice}; check the namespace and its role too, deploy/README.md.{said}"
    if status == 404 and asked:
        return f"{where} knows no {asked} (404): was it deleted, or is it in another namespace?{said}"
    if status == 404:
        return f"{where} has no Kubeflow Pipelines API (404): give its root, for instance http://host/pipeline.{said}"
    if status == 400:
        return f"{where} finds the pipeline or its arguments wrong (400).{said}"
    if status == 409:
        return f"{where} has {asked or 'something'} of that name already (409): somebody was quicker, try again.{said}"
    if status is not None and status >= 500:
        return f"{where} is in trouble ({status}): try later; kubectl -n kubeflow logs deploy/ml-pipeline.{said}"
    return f"{where} answers {status}.{said}" if status else f"{where} can't be reached.{said}"


@contextlib.contextmanager
def taught(asked: str, auth: Auth) -> Iterator[None]:
    """Turn the client's exceptions into SubmitErrors that name what was asked for, and keep the client quiet.

    It prints links of its own, and warns of backends before 2.0; both are told by us.
    """
    import kfp_server_api
    import urllib3

    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    except kfp_server_api.ApiException as error:
        raise SubmitError(explain(error.status, API, auth, detail(error.body), asked)) from None
    except urllib3.exceptions.HTTPError as error:
        raise SubmitError(explain(None, API, auth, str(error)[:200])) from None


def detail(body: Any) -> str:
    """The message in the body of an answer, on one line."""
    text = body.decode("utf-8", "replace") if isinstance(body, bytes) else str(body or "")
    with contextlib.suppress(ValueError, AttributeError):
        found = json.loads(text)
        text = str(found.get("error_message") or found.get("message") or text)
    return " ".join(text.split())[:300]

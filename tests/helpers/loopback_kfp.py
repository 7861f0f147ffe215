"""A Kubeflow Pipelines backend of a few lines on the loopback device, and a check of requests against its swagger."""

import json
import re
import threading
import zlib
from collections.abc import Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jsonschema

PROXY = "/api/v1/namespaces/kubeflow/services/ml-pipeline:http/proxy"
LOGIN = "http://login.example/dex"


class Backend:
    """Speaks the paths that a submission uses; `requests` keeps all that was asked."""

    def __init__(self) -> None:
        self.requests: list[dict] = []
        self.pipelines: dict[str, str] = {}
        self.versions: list[str] = []
        self.packages: list[str] = []
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.states = ["PENDING", "RUNNING", "SUCCEEDED"]
        self.health: tuple[int, object] = (200, {"multi_user": False})
        self.fail: dict[str, list[int]] = {}
        self.token: str | None = None
        self.cookie: str | None = None
        self.said: list[str | None] = []
        self.details: list[list[dict]] = [[]]
        self.recurring: dict[str, dict] = {}
        self.error = ""

    def lets_in(self, headers) -> bool:
        """Whether a request says who it is as the backend wants it said; what it says is kept in `said`."""
        self.said.append(headers.get("Authorization") or headers.get("Cookie"))
        if self.token:
            return headers.get("Authorization") == f"Bearer {self.token}"
        return not self.cookie or headers.get("Cookie") == self.cookie

    def answer(self, method: str, path: str, query: dict, body: object, form: str) -> tuple[int, object]:
        for part, statuses in self.fail.items():
            if part in path and statuses:
                return statuses.pop(0), {"error_message": f"planned failure of {part}"}
        if path.endswith("/healthz"):
            return self.health if path.startswith("/apis/v2beta1") else (404, {})
        if path.endswith("/pipelines/upload"):
            self.pipelines[query["name"]] = "p1"
            return 200, {"pipeline_id": "p1", "display_name": query["name"]}
        if path.endswith("/pipelines/upload_version"):
            self.versions.append(query["name"])
            self.packages.append(form)
            return 200, {"pipeline_id": query["pipelineid"], "pipeline_version_id": f"v{len(self.versions)}"}
        if "/recurringruns" in path:
            return self.by_the_clock(method, path.rpartition("/recurringruns")[2].lstrip("/"), query, body)
        if path.endswith("/pipelines"):
            wanted = _wanted(query)
            found = [{"pipeline_id": i, "display_name": n} for n, i in self.pipelines.items() if n == wanted]
            return 200, {"pipelines": found} if found else {}
        if path.endswith("/experiments") and method == "POST":
            self.experiments[body["display_name"]] = "e1"
            return 200, {"experiment_id": "e1", **body}
        if path.endswith("/experiments"):
            named = [
                {"experiment_id": i, "display_name": n} for n, i in self.experiments.items() if n == _wanted(query)
            ]
            return 200, {"experiments": named} if named else {}
        if path.endswith("/runs") and method == "POST":
            self.runs["r1"] = body
            return 200, {"run_id": "r1", **body}
        if re.search(r"/runs/[^/]+$", path):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            details = self.details.pop(0) if len(self.details) > 1 else self.details[0]
            told = {"run_id": path.rsplit("/", 1)[1], "state": state, "run_details": {"task_details": details}}
            return 200, {**told, "error": {"code": 2, "message": self.error}} if self.error else told
        return 404, {"error_message": f"no {path}"}

    def by_the_clock(self, method: str, rest: str, query: dict, body: dict) -> tuple[int, object]:
        key, _, action = rest.partition(":")
        if method == "POST" and not key:
            made = {"recurring_run_id": f"c{len(self.recurring) + 1}", "status": "ENABLED", **body}
            self.recurring[made["recurring_run_id"]] = made
            return 200, made
        if method == "GET":
            found = [one for one in self.recurring.values() if one["display_name"] == _wanted(query)]
            return 200, {"recurringRuns": found} if found else {}
        if key not in self.recurring:
            return 404, {"error_message": f"no recurring run {key}"}
        if method == "DELETE":
            del self.recurring[key]
        else:
            self.recurring[key]["status"] = f"{action.upper()}D"
        return 200, {}


def _wanted(query: dict) -> str:
    return json.loads(query["filter"])["predicates"][0]["stringValue"]


BEGAN = datetime(2026, 11, 23, 3, 0, tzinfo=UTC)
NEVER = "0001-01-01T00:00:00Z"


def argo(
    step: str, state: str, seconds: int | None = None, pods: Sequence[str] = ("RUNNING",), began: int = 0
) -> list[dict]:
    """The nodes by which a backend tells of a step: its driver, the step, and one pod for each state of `pods`.

    As Argo has them: children are named by their ids, pods by workflow, template and the number of the id; several pods
    are the attempts of a node of their own. seconds: after which the step has ended; began: when, after 03:00.
    """

    def node(name: str, state: str, pod: str, children: Sequence[str] = (), ended: bool = False) -> dict:
        start = BEGAN + timedelta(seconds=began)
        end = (start + timedelta(seconds=seconds or 0)).isoformat() if ended else NEVER
        return {
            "run_id": "r1", "display_name": name, "state": state, "pod_name": pod, "create_time": BEGAN.isoformat(),
            "start_time": start.isoformat(), "end_time": end, "child_tasks": [{"pod_name": one} for one in children],
        }  # fmt: skip

    number = 1000 * (zlib.crc32(step.encode()) % 1000)
    ids = [f"wf-{number + 10 + k}" for k in range(len(pods))]
    driver = node(f"{step}-driver", "SUCCEEDED", f"wf-system-container-driver-{number}", [f"wf-{number + 1}"], True)
    tried = len(pods) > 1
    below = [f"wf-{number + 2}"] if tried else ids
    found = [driver, node(step, state, f"wf-system-container-executor-{number + 1}", below, seconds is not None)]
    if tried:
        found.append(node("executor", pods[-1], f"wf-retry-{number + 2}", ids, seconds is not None))
    for k, one in enumerate(pods):
        name = f"executor({k})" if tried else "executor"
        found.append(node(name, one, f"wf-system-container-impl-{number + 10 + k}", (), one != "RUNNING"))
    return found


def around(nodes: list[dict]) -> list[dict]:
    """The nodes of steps with those of the workflow itself, in the order of their names, as the backend sorts them."""
    own = [{"display_name": "latefuse-golden-x7k2p", "pod_name": "latefuse-golden-x7k2p", "state": "RUNNING"},
           {"display_name": "root-driver", "pod_name": "wf-system-dag-driver-7", "state": "SUCCEEDED"},
           {"display_name": "root", "pod_name": "wf-root-8", "state": "RUNNING"}]  # fmt: skip
    return sorted([*own, *nodes], key=lambda one: one["pod_name"])


@contextmanager
def serving(backend: Backend):
    """The address of a server that answers with `backend`."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            url = urlsplit(self.path.replace(PROXY, "", 1).replace("//", "/"))
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type") or ""
            body = json.loads(raw) if raw and "json" in kind else None
            form = raw.decode() if "multipart" in kind else ""
            backend.requests.append(
                {
                    "method": self.command,
                    "path": url.path,
                    "query": query,
                    "body": body,
                    "form": form,
                    "kind": kind,
                    "raw": self.path,
                }
            )
            if not backend.lets_in(self.headers):
                status, answer = 401, {"error_message": "who are you"}
            else:
                status, answer = backend.answer(self.command, url.path, query, body, form)
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 302:
                self.send_header("Location", LOGIN)
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = do_PATCH = handle_any

        def log_message(self, *args) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def check(swagger: dict, request: dict) -> None:
    """Raise AssertionError unless the swagger knows the path, the method, every query parameter and the whole body."""
    for template, methods in swagger["paths"].items():
        pattern = re.sub(r"\\{[^}]+\\}", "[^/:]+", re.escape(template))
        if re.fullmatch(pattern, request["path"]) and request["method"].lower() in methods:
            operation = methods[request["method"].lower()]
            break
    else:
        raise AssertionError(f"the API has no {request['method']} {request['path']}")
    parameters = operation.get("parameters", [])
    unknown = set(request["query"]) - {one["name"] for one in parameters if one["in"] == "query"}
    assert not unknown, f"{request['path']}: unknown query parameters {unknown}"
    for one in parameters:
        place = {"query": request["query"], "formData": request["form"]}.get(one["in"])
        assert not one.get("required") or place is None or one["name"] in place, f"{request['path']}: no {one['name']}"
    bodies = [one for one in parameters if one["in"] == "body"]
    if request["body"] is not None:
        assert bodies, f"{request['path']} takes no body"
        jsonschema.validate(request["body"], {**bodies[0]["schema"], "definitions": _strict(swagger["definitions"])})


def _strict(definitions: dict) -> dict:
    """The definitions with unknown properties forbidden where a definition lists its own; JSON of protobuf's 64-bit
    numbers may be a text or a number."""
    closed = {}
    for name, schema in definitions.items():
        for one in schema.get("properties", {}).values():
            if one.get("format") == "int64":
                one["type"] = ["string", "integer"]
        listed = "properties" in schema and "additionalProperties" not in schema
        closed[name] = {**schema, "additionalProperties": False} if listed and "Any" not in name else schema
    return closed

"""A Kubeflow Pipelines backend of a few lines on the loopback device, and a check of requests against its swagger."""

import json
import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import jsonschema


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
        if path.endswith("/pipelines"):
            wanted = json.loads(query["filter"])["predicates"][0]["stringValue"]
            found = [{"pipeline_id": i, "display_name": n} for n, i in self.pipelines.items() if n == wanted]
            return 200, {"pipelines": found} if found else {}
        if path.endswith("/experiments") and method == "POST":
            self.experiments[body["display_name"]] = "e1"
            return 200, {"experiment_id": "e1", **body}
        if path.endswith("/experiments"):
            return 200, {"experiments": [{"experiment_id": i, "display_name": n} for n, i in self.experiments.items()]}
        if path.endswith("/runs") and method == "POST":
            self.runs["r1"] = body
            return 200, {"run_id": "r1", **body}
        if re.search(r"/runs/[^/]+$", path):
            state = self.states.pop(0) if len(self.states) > 1 else self.states[0]
            return 200, {"run_id": path.rsplit("/", 1)[1], "state": state}
        return 404, {"error_message": f"no {path}"}


@contextmanager
def serving(backend: Backend):
    """The address of a server that answers with `backend`."""

    class Handler(BaseHTTPRequestHandler):
        def handle_any(self) -> None:
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            kind = self.headers.get("Content-Type") or ""
            body = json.loads(raw) if raw and "json" in kind else None
            form = raw.decode() if "multipart" in kind else ""
            backend.requests.append(
                {"method": self.command, "path": url.path, "query": query, "body": body, "form": form, "kind": kind}
            )
            if backend.token and self.headers.get("Authorization") != f"Bearer {backend.token}":
                status, answer = 401, {"error_message": "who are you"}
            else:
                status, answer = backend.answer(self.command, url.path, query, body, form)
            data = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "text/html" if isinstance(answer, str) else "application/json")
            self.send_header("Content-Length", str(len(data)))
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
    """The definitions with unknown properties forbidden where a definition lists its own."""
    closed = {}
    for name, schema in definitions.items():
        listed = "properties" in schema and "additionalProperties" not in schema
        closed[name] = {**schema, "additionalProperties": False} if listed and "Any" not in name else schema
    return closed

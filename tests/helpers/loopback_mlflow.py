"""An MLflow tracking server of a few lines on the loopback device that can stop, crawl and lose its answers."""

import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit


class Server:
    """Speaks the REST paths of MLflow 2.0; like the real one it takes a metric of the same name, step, time once."""

    def __init__(self, artifacts: Path) -> None:
        self.artifacts = artifacts
        self.experiments: dict[str, str] = {}
        self.runs: dict[str, dict] = {}
        self.requests: list[tuple[float, str]] = []
        self.delay_s = 0.0
        self.lose_answers = 0
        self.status = 200
        self._http: ThreadingHTTPServer | None = None
        self.port = 0

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> "Server":
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def handle_any(self) -> None:
                url = urlsplit(self.path)
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                ask = json.loads(raw) if raw else {key: value[0] for key, value in parse_qs(url.query).items()}
                outer.requests.append((time.monotonic(), url.path))
                time.sleep(outer.delay_s)
                status, answer = (outer.status, {}) if outer.status != 200 else outer.answer(url.path, ask)
                if outer.lose_answers and url.path.endswith("log-batch"):
                    outer.lose_answers -= 1
                    self.connection.close()
                    return
                data = json.dumps(answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_POST = do_PATCH = handle_any

            def log_message(self, *args) -> None:
                pass

        class Quiet(ThreadingHTTPServer):
            allow_reuse_address = True

            def handle_error(self, request, client_address) -> None:
                pass

        self._http = Quiet(("127.0.0.1", self.port), Handler)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def stop(self) -> None:
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http = None

    def named(self, name: str) -> list[dict]:
        """The runs of that name, oldest first."""
        return [run for run in self.runs.values() if run["name"] == name]

    def answer(self, path: str, ask: dict) -> tuple[int, dict]:
        method = path.rsplit("/mlflow/", 1)[1]
        if method == "experiments/get-by-name":
            name = ask["experiment_name"]
            if name not in self.experiments:
                return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": name}
            found = {"experiment_id": self.experiments[name], "name": name, "lifecycle_stage": "active"}
            return 200, {"experiment": found}
        if method == "experiments/create":
            self.experiments[ask["name"]] = str(len(self.experiments) + 1)
            return 200, {"experiment_id": self.experiments[ask["name"]]}
        if method == "runs/create":
            key = f"{len(self.runs):032x}"
            tags = {tag["key"]: tag["value"] for tag in ask.get("tags", [])}
            self.runs[key] = {
                "id": key, "name": ask.get("run_name", ""), "experiment": ask["experiment_id"], "status": "RUNNING",
                "tags": tags, "params": {}, "metrics": [], "inputs": [],
            }  # fmt: skip
            return 200, {"run": self._run(key)}
        if method == "runs/search":
            return 200, {"runs": [self._run(key) for key, run in self.runs.items() if self._fits(run, ask["filter"])]}
        run = self.runs.get(ask["run_id"])
        if run is None:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": "no such run"}
        if method == "runs/update":
            run["status"] = ask.get("status", run["status"])
            return 200, {"run_info": self._run(run["id"])["info"]}
        if method == "runs/log-batch":
            for one in ask.get("params", []):
                if run["params"].setdefault(one["key"], one["value"]) != one["value"]:
                    return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": f"{one['key']} is set already"}
            for one in ask.get("metrics", []):
                if one not in run["metrics"]:
                    run["metrics"].append(one)
            run["tags"].update({one["key"]: one["value"] for one in ask.get("tags", [])})
        elif method == "runs/set-tag":
            run["tags"][ask["key"]] = ask["value"]
        elif method == "runs/log-inputs":
            run["inputs"] = ask["datasets"]
        return 200, {"run": self._run(run["id"])} if method == "runs/get" else {}

    def _fits(self, run: dict, query: str) -> bool:
        for part in query.split(" and "):
            name, _, value = part.partition(" = ")
            have = run["status"] if name == "attributes.status" else run["tags"].get(name.split("`")[1])
            if have != value.strip("'"):
                return False
        return True

    def _run(self, key: str) -> dict:
        run = self.runs[key]
        info = {
            "run_id": key, "run_uuid": key, "experiment_id": run["experiment"], "status": run["status"],
            "run_name": run["name"], "lifecycle_stage": "active", "artifact_uri": (self.artifacts / key).as_uri(),
        }  # fmt: skip
        tags = [{"key": name, "value": value} for name, value in run["tags"].items()]
        return {"info": info, "data": {"tags": tags}}

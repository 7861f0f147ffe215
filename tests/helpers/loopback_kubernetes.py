"""A Kubernetes API of a few lines on the loopback device: TrainJobs, their pods, logs and events."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

PATHS = {
    r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/(?P<ns>[^/]+)/trainjobs": ("trainer.kubeflow.org", "trainjobs"),
    r"/apis/trainer\.kubeflow\.org/v1alpha1/namespaces/(?P<ns>[^/]+)/trainjobs/(?P<name>[^/]+)": (
        "trainer.kubeflow.org",
        "trainjobs",
    ),
    r"/api/v1/namespaces/(?P<ns>[^/]+)/pods": ("", "pods"),
    r"/api/v1/namespaces/(?P<ns>[^/]+)/pods/(?P<name>[^/]+)/log": ("", "pods/log"),
    r"/api/v1/namespaces/(?P<ns>[^/]+)/events": ("", "events"),
}


def pod(job, index=0, phase="Running", **status):
    labels = {"jobset.sigs.k8s.io/jobset-name": job, "batch.kubernetes.io/job-completion-index": str(index)}
    return {"metadata": {"name": f"{job}-node-0-{index}-abcde", "labels": labels}, "status": {"phase": phase, **status}}


def ended(code, reason="Error"):
    """The container statuses of a pod whose container has ended."""
    return [{"name": "node", "state": {"terminated": {"exitCode": code, "reason": reason}}}]


def event(about, reason, message, kind="Pod", when="2026-11-23T03:00:00Z"):
    return {
        "involvedObject": {"kind": kind, "name": about},
        "reason": reason,
        "message": message,
        "type": "Warning",
        "lastTimestamp": when,
    }


def condition(kind, reason="Because", message="it is so"):
    return {"type": kind, "status": "True", "reason": reason, "message": message}


class Cluster:
    """`plot` holds what each look at the job finds: functions of the job's name that give (conditions, pods, events).

    The last one stays. `fail` holds statuses for requests whose "METHOD path" has a text in it, 0 for a dropped
    connection. `log` is served to every request for it, of which the first ones are cut off after `cuts` lines.
    """

    def __init__(self, *plot):
        self.plot = list(plot) or [lambda job: ([condition("Complete")], [], [])]
        self.job = None
        self.made = []
        self.deleted = []
        self.requests = []
        self.fail = {}
        self.headers = {}
        self.log = []
        self.cuts = []
        self.log_answers = 0
        self.lingers = 0
        self.on_create = lambda body: None
        self.token = None

    def verbs(self):
        """What was asked for, as a role says it: {(group, resource, verb)}."""
        return {(one["group"], one["resource"], one["verb"]) for one in self.requests}

    def create(self, body):
        if self.job is not None:
            return 409, {"message": "already exists", "reason": "AlreadyExists"}
        number = len(self.made)
        self.job = {**body, "metadata": {**body["metadata"], "uid": f"uid-{number}"}}
        self.made.append(body)
        self.on_create(body)
        return 201, self.job

    def look(self):
        """(conditions, pods, events) of now."""
        name = self.job["metadata"]["name"]
        return self.plot[0](name)

    def answer(self, verb, resource, name, query, body):
        if resource == "trainjobs" and verb == "create":
            return self.create(body)
        if resource == "trainjobs" and (self.job is None or self.job["metadata"]["name"] != name):
            return 404, {"message": f'trainjobs "{name}" not found', "reason": "NotFound"}
        if resource == "trainjobs" and verb == "delete":
            self.deleted.append((name, query))
            self.job = None
            return 200, {"status": "Success"}
        if resource == "trainjobs":
            conditions, self.pods_now, self.events_now = self.look()
            if len(self.plot) > 1:
                self.plot.pop(0)
            if self.job is None:
                return 404, {"message": f'trainjobs "{name}" was deleted meanwhile', "reason": "NotFound"}
            return 200, {**self.job, "status": {"conditions": conditions}}
        if resource == "pods":
            assert query["labelSelector"].startswith("jobset.sigs.k8s.io/jobset-name=")
            if self.job is None:
                self.lingers -= 1
                return 200, {"items": [pod("left", 0)] if self.lingers >= 0 else []}
            return 200, {"items": self.pods_now}
        assert resource == "events", resource
        return 200, {"items": self.events_now if self.job is not None else []}


@contextmanager
def serving(cluster):
    """The address of a server that answers with `cluster`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def handle_any(self):
            url = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(url.query).items()}
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = next((m, to) for p, to in PATHS.items() if (m := re.fullmatch(p, url.path)))
            name, (group, resource) = found[0].groupdict().get("name"), found[1]
            verb = {"POST": "create", "DELETE": "delete", "GET": "get" if name else "list"}[self.command]
            body = json.loads(raw) if raw else None
            about = {"verb": verb, "group": group, "resource": resource, "query": query, "path": url.path}
            cluster.requests.append({**about, "token": self.headers.get("Authorization")})
            for part, statuses in cluster.fail.items():
                if part in f"{self.command} {url.path}" and statuses:
                    return self.refuse(statuses.pop(0))
            if cluster.token and self.headers.get("Authorization") != f"Bearer {cluster.token}":
                return self.say(403, {"message": "may not"})
            if resource == "pods/log":
                return self.stream(query)
            try:
                answer = cluster.answer(verb, resource, name, query, body)
            except Exception as error:  # noqa: BLE001 - of the test's own plot; a client would wait for an answer
                answer = 418, {"message": f"{type(error).__name__} in the test: {error}"}
            return self.say(*answer)

        def refuse(self, status):
            if not status:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.say(status, {"message": f"planned {status}"}, cluster.headers)

        def say(self, status, answer, headers=()):
            data = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            for key, value in dict(headers).items():
                self.send_header(key, value)
            self.end_headers()
            self.wfile.write(data)

        def stream(self, query):
            assert query["follow"] == "True"
            assert query["timestamps"] == "True"
            assert query["container"] == "node"
            cluster.log_answers += 1
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            cut = cluster.cuts.pop(0) if cluster.cuts else None
            for number, (stamp, text) in enumerate(cluster.log):
                if number == cut:
                    break
                line = f"{stamp} {text}\n".encode()
                self.wfile.write(b"%x\r\n%s\r\n" % (len(line), line))
            if cut is not None:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.close_connection = True
                return
            self.wfile.write(b"0\r\n\r\n")

        do_GET = do_POST = do_DELETE = handle_any

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def kubeconfig(folder, host, namespace="kitchen", token="a-token"):
    """The file that kubectl would use for this server."""
    parts = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "loop",
        "clusters": [{"name": "loop", "cluster": {"server": host}}],
        "users": [{"name": "cook", "user": {"token": token}}],
        "contexts": [{"name": "loop", "context": {"cluster": "loop", "user": "cook", "namespace": namespace}}],
    }
    path = Path(folder, "kubeconfig")
    path.write_text(json.dumps(parts))
    return path


class Operator(Cluster):
    """Runs the nodes of a TrainJob as processes of this machine, told as Trainer's torch plugin tells them."""

    def __init__(self, folder):
        super().__init__()
        self.folder, self.processes, self.files = Path(folder), [], []
        self.on_create = self.start
        self.plot = [self.now]

    def start(self, body):
        trainer = body["spec"]["trainer"]
        self.processes, self.files = [], []
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        for node in range(trainer["numNodes"]):
            told = {one["name"]: one["value"] for one in trainer["env"] if "value" in one}
            told |= {
                "PET_NNODES": str(trainer["numNodes"]),
                "PET_NPROC_PER_NODE": str(trainer["numProcPerNode"]),
                "PET_NODE_RANK": str(node),
                "PET_MASTER_ADDR": "127.0.0.1",
                "PET_MASTER_PORT": str(port),
            }
            command = [sys.executable if word == "python3" else word for word in trainer["command"]]
            log = (self.folder / f"{len(self.made)}-{node}.log").open("w")
            self.files.append(log.name)
            self.processes.append(
                subprocess.Popen(
                    command, env={**os.environ, **told}, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
                )
            )

    def now(self, job):
        codes = [one.poll() for one in self.processes]
        lines = Path(self.files[0]).read_text().splitlines()
        self.log = [
            (f"2026-11-23T03:00:{number // 1000:02}.{number % 1000:03}Z", one) for number, one in enumerate(lines)
        ]
        phases = ["Running" if code is None else "Failed" if code else "Succeeded" for code in codes]
        pods = [
            pod(job, node, phase, **({"containerStatuses": ended(codes[node])} if codes[node] is not None else {}))
            for node, phase in enumerate(phases)
        ]
        if any(codes):
            self.end()  # as JobSet ends the other nodes
            return [condition("Failed", "FailedJobs", "jobset failed due to one or more job failures")], pods, []
        return [condition("Complete")] if all(code == 0 for code in codes) else [], pods, []

    def answer(self, verb, resource, name, query, body):
        if (verb, resource) == ("delete", "trainjobs"):
            self.end()
        return super().answer(verb, resource, name, query, body)

    def end(self):
        for one in self.processes:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGTERM)
        end = time.monotonic() + 40
        while any(one.poll() is None for one in self.processes) and time.monotonic() < end:
            time.sleep(0.1)
        for one in self.processes:
            if one.poll() is None:
                os.killpg(one.pid, signal.SIGKILL)

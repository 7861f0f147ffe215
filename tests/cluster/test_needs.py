"""What a profile needs of a cluster, asked of a small server that speaks the Kubernetes API."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import yaml

from latefuse.cluster.needs import ClusterError, Kubernetes, Need, missing, needs, reachable
from latefuse.config_profile import Profile
from latefuse.configfile import load

THERE = {
    "/api/v1/namespaces/cooks/secrets/latefuse-tracking",
    "/api/v1/namespaces/cooks/configmaps/latefuse-settings",
    "/api/v1/namespaces/cooks/persistentvolumeclaims/latefuse-workspace",
    "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainjobs.trainer.kubeflow.org",
}


@contextmanager
def api(there, status=404):
    """The address of a server that has exactly these paths, and the requests that it got."""
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append((self.path, self.headers["Accept"], self.headers["Authorization"]))
            body = json.dumps({"kind": "PartialObjectMetadata", "metadata": {"name": "x"}}).encode()
            self.send_response(200 if self.path in there else status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", seen
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def kubeconfig(tmp_path, monkeypatch):
    """Writes a kubeconfig for an address and makes it the one in use."""

    def write(address, namespace="cooks"):
        path = tmp_path / "config"
        context = {"cluster": "c", "user": "u", "namespace": namespace}
        content = {
            "apiVersion": "v1", "kind": "Config", "current-context": "here",
            "contexts": [{"name": "here", "context": context}],
            "clusters": [{"name": "c", "cluster": {"server": address}}],
            "users": [{"name": "u", "user": {"token": "let-me-in"}}],
        }  # fmt: skip
        path.write_text(yaml.safe_dump(content))
        monkeypatch.setenv("KUBECONFIG", str(path))
        # The client reads the variable when it is first imported.
        monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))

    return write


def test_each_thing_once_with_who_asks():
    raw = {
        "name": "far", "launcher": "trainjob", "nodes": 2,
        "default": {
            "image": "i:1", "volumes": {"/w": "work"}, "secrets": {"s": {"k": "V"}}, "service_account": "runner",
        },
        "steps": {"finetune": {"secrets": {"t": {"k": "V"}}, "pull_secrets": ["p"]}},
        "driver": {"config_maps": {"m": {"k": "V"}}, "secrets": {}},
    }  # fmt: skip
    assert [(need.kind, need.name, need.why) for need in needs(Profile.model_validate(raw))] == [
        ("claim", "work", "prepare, backbone, finetune, fuse, evaluate, driver"),
        ("config map", "m", "driver"),
        ("kind of resource", "trainjobs.trainer.kubeflow.org", "finetune"),
        ("secret", "p", "finetune"),
        ("secret", "s", "prepare, backbone, fuse, evaluate"),
        ("secret", "t", "finetune"),
        ("service account", "runner", "prepare, backbone, finetune, fuse, evaluate, driver"),
    ]
    assert needs(load("tests/golden/recipe.yaml", "local").profile) == []


def test_what_is_not_there_is_named_and_no_value_is_asked_for(kubeconfig):
    wanted = needs(load("tests/golden/recipe.yaml", "multinode").profile)
    with api(THERE) as (address, seen):
        kubeconfig(address)
        assert reachable()
        told = missing(wanted, Kubernetes())
    assert [line.partition(" is not in ")[0] for line in told] == [
        "claim 'latefuse-models'", "secret 'latefuse-hub'", "service account 'latefuse-runner'",
    ]  # fmt: skip
    assert "namespace 'cooks' of 'here' (asked for by backbone)" in told[1]
    assert len(seen) == len(wanted)
    assert all("PartialObjectMetadata" in accept for _, accept, _ in seen)
    assert {authorization for *_, authorization in seen} == {"Bearer let-me-in"}


def test_a_namespace_by_hand_wins(kubeconfig):
    with api({"/api/v1/namespaces/other/secrets/a"}) as (address, _):
        kubeconfig(address)
        assert Kubernetes("other").has(Need("secret", "a", "prepare"))
        assert not Kubernetes().has(Need("secret", "a", "prepare"))


def test_errors_teach(kubeconfig, tmp_path, monkeypatch):
    with api(set(), status=403) as (address, _):
        kubeconfig(address)
        with pytest.raises(ClusterError, match=r"secret 'a' \(403.*allowed to `get` it"):
            Kubernetes().has(Need("secret", "a", "prepare"))
    with pytest.raises(ClusterError, match="can't be reached"):
        Kubernetes().has(Need("secret", "a", "prepare"))
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "none"))
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert not reachable()
    with pytest.raises(ClusterError, match="kubectl config view"):
        Kubernetes()

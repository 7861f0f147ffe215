"""What is there, asked of a small server that speaks the Kubernetes API; refusals are told from absences."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from loopback_kubernetes import kubeconfig

from latefuse import cli
from latefuse.cluster.needs import RIGHTS, Need, needs
from latefuse.cluster.there import REVIEWS, ClusterError, Kubernetes, NotAllowed, missing, reachable
from latefuse.configfile import load

RECIPE = "tests/golden/recipe.yaml"
KITCHEN = "/api/v1/namespaces/kitchen"
CRD = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/trainjobs.trainer.kubeflow.org"
TRAINER = "/apis/trainer.kubeflow.org/v1alpha1"
ALL = {
    KITCHEN,
    f"{KITCHEN}/secrets/latefuse-tracking",
    f"{KITCHEN}/secrets/latefuse-hub",
    f"{KITCHEN}/configmaps/latefuse-settings",
    f"{KITCHEN}/persistentvolumeclaims/latefuse-workspace",
    f"{KITCHEN}/persistentvolumeclaims/latefuse-models",
    f"{KITCHEN}/serviceaccounts/latefuse-runner",
    f"{TRAINER}/clustertrainingruntimes/torch-distributed",
    CRD,
}


class Api:
    """`there`: paths that exist. hidden: paths, or parts of them, that are answered with `refusal`. denied: rights."""

    def __init__(self, there=ALL, hidden=(), denied=(), refusal=403):
        self.there, self.hidden, self.denied, self.refusal = set(there), tuple(hidden), set(denied), refusal
        self.seen, self.reviews = [], []

    def answer(self, method, path, headers, body):
        self.seen.append((method, path, headers))
        if any(part in path for part in self.hidden):
            return self.refusal, {"message": "planned"}
        if (method, path) == ("POST", REVIEWS):
            assert headers["Content-Type"] == "application/json"
            assert (body["apiVersion"], body["kind"]) == ("authorization.k8s.io/v1", "SelfSubjectAccessReview")
            self.reviews.append((headers["Impersonate-User"], asked := body["spec"]["resourceAttributes"]))
            resource = "/".join(asked[key] for key in ("resource", "subresource") if key in asked)
            right = f"{asked['verb']} {resource}.{asked.get('group', '')}".rstrip(".")
            return 201, {"status": {"allowed": right not in self.denied}}
        if path == TRAINER:
            return 200, {"kind": "APIResourceList", "resources": [{"name": "trainjobs"}] if CRD in self.there else []}
        return (200, {"metadata": {"name": "x"}}) if path in self.there else (404, {})


@contextmanager
def serving(api):
    class Handler(BaseHTTPRequestHandler):
        def handle_any(self):
            raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, told = api.answer(self.command, self.path, self.headers, json.loads(raw) if raw else None)
            data = json.dumps(told).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = handle_any

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def asked(nowhere, tmp_path, monkeypatch):
    """`asked(api)`: the two lists of lines about all that the profile of many nodes needs."""

    def ask(api, namespace=None):
        with serving(api) as host:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, host, token="let-me-in")))
            return missing(needs(load(RECIPE, "multinode").profile), Kubernetes(namespace))

    return ask


def test_where_all_is_there_nothing_is_said_and_no_value_is_asked_for(asked):
    api = Api()
    assert asked(api) == ([], [])
    gets = [headers for method, _, headers in api.seen if method == "GET"]
    assert {headers["Accept"] for headers in gets} == {"application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
    assert {headers["Authorization"] for _, _, headers in api.seen} == {"Bearer let-me-in"}
    assert {path for method, path, _ in api.seen if method == "GET"} == ALL


def test_rights_are_asked_for_in_the_name_of_the_account(asked):
    api = Api()
    asked(api)
    assert {user for user, _ in api.reviews} == {"system:serviceaccount:kitchen:latefuse-runner"}
    told = [attributes for _, attributes in api.reviews]
    assert {"namespace": "kitchen", "verb": "create", "group": "trainer.kubeflow.org", "resource": "trainjobs"} in told
    assert {"namespace": "kitchen", "verb": "get", "resource": "pods", "subresource": "log"} in told
    assert len(told) == len(RIGHTS)


@pytest.mark.parametrize("path", sorted(ALL - {KITCHEN}))
def test_each_thing_that_is_not_there_is_one_line(asked, path):
    [line], unchecked = asked(Api(ALL - {path}))
    assert f"{path.rsplit('/', 1)[1]!r} is not in namespace 'kitchen' of 'loop' (asked for by " in line
    assert unchecked == []


def test_a_right_that_is_not_given_is_one_line(asked):
    absent, unchecked = asked(Api(denied=["create trainjobs.trainer.kubeflow.org", "get pods/log"]))
    assert [line.partition(" in ")[0] for line in absent] == [
        "service account 'latefuse-runner' may not create trainjobs.trainer.kubeflow.org",
        "service account 'latefuse-runner' may not get pods/log",
    ]
    assert unchecked == []


def test_a_namespace_that_is_not_there_says_it_all(asked):
    absent, unchecked = asked(Api(), "pantry")
    assert absent == ["there is no namespace 'pantry': namespace 'pantry' of 'loop'; --namespace names another"]
    assert unchecked == []


def test_what_may_not_be_looked_up_is_not_checked_and_not_missing(asked):
    absent, unchecked = asked(Api(hidden=["/secrets/", "/serviceaccounts/", REVIEWS]))
    assert absent == []
    assert all(
        line.startswith("not checked: namespace 'kitchen' of 'loop' does not tell us whether") for line in unchecked
    )
    assert len(unchecked) == 3 + len(RIGHTS)
    [hub] = [line for line in unchecked if "secret 'latefuse-hub'" in line]
    assert "(403 Forbidden): your role must be allowed to `get` secrets" in hub
    assert "kubectl auth can-i get pods/log --namespace kitchen --as system:serviceaccount:kitchen:latefuse-runner" in (
        "\n".join(unchecked)
    )


@pytest.mark.parametrize("there", [True, False])
def test_where_definitions_are_hidden_the_list_of_the_api_tells(asked, there):
    absent, unchecked = asked(Api(ALL if there else ALL - {CRD}, hidden=["customresourcedefinitions"]))
    assert unchecked == []
    assert [line.partition(" is not in ")[0] for line in absent] == (
        [] if there else ["kind of resource 'trainjobs.trainer.kubeflow.org'"]
    )


def test_errors_teach(asked, nowhere, tmp_path, monkeypatch):
    with pytest.raises(ClusterError, match="log in to the cluster again"):
        asked(Api(hidden=["namespaces"], refusal=401))
    with pytest.raises(ClusterError, match="try later"):
        asked(Api(hidden=["namespaces"], refusal=500))
    with pytest.raises(ClusterError, match="can't be reached"):
        Kubernetes().has(Need("secret", "a", "prepare"))
    with pytest.raises(ClusterError, match="kubectl has no context 'lop', but loop"):
        Kubernetes(context="lop")
    assert issubclass(NotAllowed, ClusterError)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    assert not reachable()
    with pytest.raises(ClusterError, match="kubectl config view"):
        Kubernetes()


@pytest.mark.parametrize(
    ("api", "status", "words"),
    [
        (Api(), 0, "No problem found."),
        (Api(ALL - {f"{KITCHEN}/secrets/latefuse-hub"}), 1, "secret 'latefuse-hub' is not in namespace 'kitchen'"),
        (Api(hidden=["/secrets/"]), 0, "not checked: namespace 'kitchen' of 'loop' does not tell us"),
    ],
)
def test_a_plan_says_so_and_ends_with_1_only_for_what_is_missing(
    nowhere, api, status, words, tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("ALLOW_TAG", "1")
    with serving(api) as host:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, host)))
        assert cli.main(["plan", RECIPE, "--profile", "cpu-cluster"]) == status
    assert words in capsys.readouterr().out

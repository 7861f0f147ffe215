"""The manifests of deploy/: they parse, fit the official models of the API, and nothing in them is left to fill in."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from kubernetes import client

FOLDER = Path("deploy")
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if path.name != "kustomization.yaml")
MODELS = {"ServiceAccount": "V1ServiceAccount", "Role": "V1Role", "RoleBinding": "V1RoleBinding", "Job": "V1Job"}


def documents(path):
    return [one for one in yaml.safe_load_all(path.read_text()) if one]


def everything(*paths):
    return [one for path in paths for one in documents(path)]


def through_the_model(document):
    """The document as the official client of the API reads and writes it: what it does not know is lost on the way."""
    api = client.ApiClient()

    class Answer:
        data = json.dumps(document)

    return api.sanitize_for_serialization(api.deserialize(Answer, MODELS[document["kind"]]))


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_a_manifest_is_what_the_api_knows(path):
    for document in documents(path):
        assert through_the_model(document) == document, document["metadata"]["name"]
        assert "namespace" not in document["metadata"]
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", document["metadata"]["name"])


def test_the_check_itself_finds_what_is_wrong():
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "x"}}
    wrong = {**role, "rules": [{"apiGroups": [""], "ressources": ["pods"], "verbs": ["get"]}]}
    assert through_the_model(wrong) != wrong
    with pytest.raises(ValueError, match="verbs"):
        through_the_model({**role, "rules": [{"resources": ["pods"]}]})


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_nothing_is_left_to_fill_in_and_the_first_line_is_how_it_is_used(path):
    text = path.read_text()
    assert text.startswith("# kubectl apply --namespace ")
    assert path.name in text.splitlines()[0]
    values = json.dumps(documents(path))
    assert not re.search(r"NAMESPACE|TODO|CHANGE|<|\$\{|example", values)


def test_bindings_lead_from_accounts_to_roles_that_are_there():
    found = everything(*MANIFESTS)
    accounts = {one["metadata"]["name"] for one in found if one["kind"] == "ServiceAccount"}
    own = {one["metadata"]["name"] for one in found if one["kind"] == "Role"}
    kubeflows = {("Role", "pipeline-runner"), ("ClusterRole", "kubeflow-edit")}
    bindings = [one for one in found if one["kind"] == "RoleBinding"]
    assert {("Role", name) for name in own} | kubeflows == {
        (one["roleRef"]["kind"], one["roleRef"]["name"]) for one in bindings
    }
    assert {subject["name"] for one in bindings for subject in one["subjects"]} == accounts - {"latefuse-nodes"}


def test_no_role_reads_secrets_or_allows_everything():
    for role in (one for one in everything(*MANIFESTS) if one["kind"] == "Role"):
        for rule in role["rules"]:
            said = {*rule["apiGroups"], *rule["resources"], *rule["verbs"]}
            assert not said & {"*", "secrets", "impersonate", "escalate", "bind"}


def test_the_readme_tells_of_every_file():
    text = (FOLDER / "README.md").read_text()
    assert {path.name for path in FOLDER.glob("*.yaml")} <= set(re.findall(r"`([a-z-]+\.yaml)`", text))


def test_kustomize_builds_what_the_files_hold():
    listed = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    wanted = everything(*(FOLDER / name for name in listed))
    assert len({(one["kind"], one["metadata"]["name"]) for one in wanted}) == len(wanted)
    if not shutil.which("kubectl"):
        pytest.skip("no kubectl here, which builds a kustomization without a cluster")
    done = subprocess.run(["kubectl", "kustomize", str(FOLDER)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    built = list(yaml.safe_load_all(done.stdout))
    order = lambda one: (one["kind"], one["metadata"]["name"])  # noqa: E731
    assert sorted(built, key=order) == sorted(wanted, key=order)

"""The TrainJob as it is sent: against the cluster's own schema, and against the official models of the API."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from latefuse.cluster.train_job_manifest import NAME_LENGTH, job_name, manifest

SPECS = Path(os.environ.get("LATEFUSE_SPECS", Path(__file__).parents[3] / "shared" / "specs"))
CRD = SPECS / "kubeflow-trainer" / "trainer.kubeflow.org_trainjobs.yaml"
COMMAND = ["python3", "-m", "latefuse.training.ranks", "-m", "latefuse.steps.finetune", "/workspace/request.json"]


@pytest.fixture
def body(where):
    return manifest(where(), "lf-image-0123", "kitchen", (2, 8), COMMAND, {"OMP_NUM_THREADS": "4"}, ("pod-7", "u-7"))


def closed(schema):
    """The schema as a strict server reads it: what it does not name is refused, quantities are numbers or texts."""
    if isinstance(schema, list):
        return [closed(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key != "format"}
    if isinstance(made.get("properties"), dict) and made.get("type") == "object":
        made.setdefault("additionalProperties", made.pop("x-kubernetes-preserve-unknown-fields", False))
    return made


@pytest.fixture(scope="module")
def schema():
    if not CRD.exists():
        pytest.skip(f"no description of TrainJobs at {CRD}")
    [version] = [one for one in yaml.safe_load(CRD.read_text())["spec"]["versions"] if one["name"] == "v1alpha1"]
    found = closed(version["schema"]["openAPIV3Schema"])
    found["properties"]["metadata"] = {"type": "object"}
    return found


def test_it_fits_the_schema_of_the_cluster(body, schema):
    jsonschema.validate(body, schema)


def test_a_job_with_nothing_special_fits_too(where, schema):
    bare = where(
        {"service_account": None}, shm=None, node_selector={}, tolerations=[], pull_secrets=[], gpu=0, cpu=None
    )
    jsonschema.validate(manifest(bare, "lf-x", "kitchen", (1, 1), COMMAND, {}), schema)


@pytest.mark.parametrize("dead", ["podSpecOverrides", "podTemplateOverrides"])
def test_the_check_itself_finds_what_is_wrong(body, schema, dead):
    with pytest.raises(jsonschema.ValidationError, match=dead):
        jsonschema.validate({**body, "spec": {**body["spec"], dead: []}}, schema)
    patch = json.loads(json.dumps(body))
    [job] = patch["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    job["template"]["spec"]["template"]["spec"]["hostNetwork"] = True
    with pytest.raises(jsonschema.ValidationError, match="hostNetwork"):
        jsonschema.validate(patch, schema)


def test_the_official_models_read_all_of_it_and_write_the_same(body):
    models = pytest.importorskip("kubeflow_trainer_api.models")
    read = models.TrainerV1alpha1TrainJob.from_dict(body)
    assert json.loads(read.to_json()) == body
    assert read.spec.runtime_patches[0].manager == "latefuse"
    assert read.spec.trainer.num_nodes == 2
    assert read.spec.active_deadline_seconds == 7200


def test_what_schema_and_models_do_not_know_holds(body):
    """Rules of the admission webhook and of CEL: no variables for the node by patches, a name of a DNS label."""
    [job] = body["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]["template"]["spec"]
    assert job["name"] == "node"
    assert [one["name"] for one in spec["containers"]] == ["node"]
    assert "env" not in spec["containers"][0]
    mounted = {one["name"] for one in spec["containers"][0]["volumeMounts"]}
    assert mounted == {one["name"] for one in spec["volumes"]}
    assert body["spec"]["trainer"]["resourcesPerNode"]["limits"] == {"memory": "512Gi", "nvidia.com/gpu": 8}


def test_secrets_come_by_name_only(body):
    env = {one["name"]: one for one in body["spec"]["trainer"]["env"]}
    assert env["MLFLOW_TRACKING_TOKEN"]["valueFrom"] == {"secretKeyRef": {"name": "latefuse-tracking", "key": "token"}}
    assert env["MLFLOW_TRACKING_URI"]["valueFrom"]["configMapKeyRef"]["name"] == "latefuse-settings"
    assert env["LATEFUSE_HOME"] == {"name": "LATEFUSE_HOME", "value": "/workspace/latefuse"}


def test_two_mounts_of_one_claim_are_one_volume(where):
    given = where(volumes={"/a": "claim", "/b": "claim"})
    made = manifest(given, "lf-x", "kitchen", (1, 1), COMMAND, {})
    [job] = made["spec"]["runtimePatches"][0]["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    spec = job["template"]["spec"]["template"]["spec"]
    assert [one["name"] for one in spec["volumes"]] == ["claim-0", "shm"]
    assert [one["mountPath"] for one in spec["containers"][0]["volumeMounts"]] == ["/a", "/b", "/dev/shm"]


def test_a_name_is_that_of_its_work_and_run():
    name = job_name("finetune-image-s1", "/w/a", "run-1")
    assert name == job_name("finetune-image-s1", "/w/a", "run-1")
    assert len({name, job_name("finetune-image-s1", "/w/b", "run-1"), job_name("finetune-image-s1", "/w/a", "")}) == 3
    for node in ("Mixed_Wide.2", "x" * 200, "9", "-", "ä"):
        made = job_name(node, "/w", "r")
        assert len(made) <= NAME_LENGTH
        assert re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", made)

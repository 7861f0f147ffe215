"""What a profile says, word by word in the compiled pipeline."""

import json
from pathlib import Path

import pytest
import yaml
from google.protobuf import json_format
from kfp.kubernetes import kubernetes_executor_config_pb2 as pb

from latefuse.cluster import train_job_where
from latefuse.cluster.place import check_supported
from latefuse.config import Config, Recipe
from latefuse.config_profile import Profile
from latefuse.configfile import load
from latefuse.sections import ConfigError
from pipelines.compile import compile_pipeline

RECIPE = Recipe.model_validate({"name": "r", "data": {"source": "demo"}, "tasks": {"image": {"modality": "image"}}})
FULL = {
    "cpu": "3", "memory": "5Gi", "gpu": 2, "gpu_resource": "amd.com/gpu", "gpu_kind": "MI300X",
    "retries": 4, "backoff_s": 7, "backoff_factor": 3, "backoff_max_s": 90, "timeout_s": 61,
    "node_selector": {"disk": "fast"},
    "tolerations": [{"key": "gpu", "value": "yes", "effect": "NoExecute", "seconds": 30}, {"operator": "Exists"}],
    "shm": "1Gi",
    "volumes": {"/data": "claim"},
    "secrets": {"tracking": {"token": "MLFLOW_TRACKING_TOKEN"}},
    "config_maps": {"settings": {"uri": "MLFLOW_TRACKING_URI"}},
    "pull_secrets": ["registry"],
    "security": {"user": 10001},
    "env": {"HF_HOME": "/data/hf"},
}  # fmt: skip


def profile(image="i:1", default=None, **more):
    return Profile.model_validate({"name": "far", "default": {"image": image, **(default or {})}, **more})


def compiled(made, tmp_path):
    path = compile_pipeline(Config(recipe=RECIPE, profile=made), tmp_path / "ir.yaml")
    spec, platform = yaml.safe_load_all(path.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for one in executors.values():
        json_format.ParseDict(one, pb.KubernetesExecutorConfig())  # the backend reads it with this very message
    return spec, executors


def test_all_that_a_step_may_ask_for_reaches_its_pod_and_no_other(tmp_path):
    made = profile(steps={"finetune": FULL}, launcher="torchrun", processes=2)
    spec, executors = compiled(made, tmp_path)
    container = spec["deploymentSpec"]["executors"]["exec-finetune"]["container"]
    assert container["resources"] == {
        "accelerator": {
            "count": "2", "resourceCount": "2", "resourceType": "amd.com/gpu", "type": "amd.com/gpu",
        },
        "cpuRequest": 3.0, "resourceCpuRequest": "3",
        "memoryLimit": 5.36870912, "memoryRequest": 5.36870912,
        "resourceMemoryLimit": "5Gi", "resourceMemoryRequest": "5Gi",
    }  # fmt: skip
    assert {e["name"]: e["value"] for e in container["env"]} == {"LATEFUSE_EXPERIMENT": "r", "HF_HOME": "/data/hf"}
    retry = spec["root"]["dag"]["tasks"]["finetune-image"]["retryPolicy"]
    assert retry == {
        "maxRetryCount": 4, "backoffDuration": "7s", "backoffFactor": 3.0, "backoffMaxDuration": "90s",
    }  # fmt: skip
    pod = executors["exec-finetune"]
    assert pod["activeDeadlineSeconds"] == "61"
    assert pod["nodeSelector"] == {"labels": {"disk": "fast"}}
    assert pod["tolerations"] == [
        {"key": "gpu", "operator": "Equal", "value": "yes", "effect": "NoExecute", "tolerationSeconds": "30"},
        {"operator": "Exists"},
    ]
    assert pod["emptyDirMounts"] == [
        {"volumeName": "shm", "mountPath": "/dev/shm", "medium": "Memory", "sizeLimit": "1Gi"}
    ]
    [mount] = pod["pvcMount"]
    assert (mount["constant"], mount["mountPath"]) == ("claim", "/data")
    [secret] = pod["secretAsEnv"]
    assert secret["secretName"] == "tracking"
    assert secret["keyToEnv"] == [{"secretKey": "token", "envVar": "MLFLOW_TRACKING_TOKEN"}]
    [settings] = pod["configMapAsEnv"]
    assert settings["keyToEnv"] == [{"configMapKey": "uri", "envVar": "MLFLOW_TRACKING_URI"}]
    assert [one["secretName"] for one in pod["imagePullSecret"]] == ["registry"]
    assert pod["securityContext"] == {"runAsUser": "10001", "runAsNonRoot": True}
    assert set(executors["exec-prepare"]) == {"fieldPathAsEnv", "securityContext"}


def test_no_pod_runs_as_root_unless_a_profile_says_so(tmp_path):
    _, executors = compiled(profile(), tmp_path)
    assert [one["securityContext"] for one in executors.values()] == [{"runAsNonRoot": True}] * len(executors)
    _, executors = compiled(profile(default={"security": {"non_root": False}}), tmp_path)
    assert [one["securityContext"] for one in executors.values()] == [{"runAsNonRoot": False}] * len(executors)


def test_where_a_trainjob_trains_the_pipelines_own_node_has_no_gpu(tmp_path):
    kept = {"volumes": {"/data": "workspace"}, "env": {"LATEFUSE_HOME": "/data"}}
    many = {"launcher": "trainjob", "nodes": 2, "processes": 2, "driver": {"memory": "1Gi", **kept}}
    asked = {key: value for key, value in FULL.items() if key not in train_job_where.AGAIN}
    spec, _ = compiled(profile(steps={"finetune": {**asked, **kept}}, **many), tmp_path)
    resources = spec["deploymentSpec"]["executors"]["exec-finetune"]["container"]["resources"]
    assert "accelerator" not in resources
    assert resources["resourceMemoryLimit"] == "1Gi"


def test_a_service_account_is_the_whole_runs():
    check_supported(profile(default={"service_account": "runner"}))
    with pytest.raises(ConfigError, match=r"steps\.fuse\.service_account: .*name it under default"):
        check_supported(profile(steps={"fuse": {"service_account": "other"}}))
    check_supported(profile(image=None, steps={"fuse": {"service_account": "other"}}))  # on one machine nothing counts


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"memory": "8 gigs"}, "memory"),
        ({"shm": "-1Gi"}, "shm"),
        ({"volumes": {"data": "claim"}}, "volumes"),
        ({"volumes": {"/data": "My Claim"}}, "volumes"),
        ({"secrets": {"tracking": {"token": "NOT A NAME"}}}, "secrets"),
        ({"secrets": ["tracking"]}, "secrets"),
        ({"tolerations": [{"key": "gpu", "operator": "Exists", "value": "x"}]}, "Exists has no value"),
        ({"tolerations": [{"value": "x"}]}, "needs operator Exists"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"security": {"user": 0}}, "user"),
        ({"env": {"HF_TOKEN": "hf_abc"}}, "HF_TOKEN looks like a secret"),
        ({"env": {"AWS_SECRET_ACCESS_KEY": "x"}}, "name it under"),
    ],
)
def test_what_kubernetes_would_refuse_or_show_is_refused_here(asked, words):
    with pytest.raises(ValueError, match=words):
        profile(default=asked)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"nodes": 2}, "launcher: trainjob"),
        ({"processes": 2}, "need a launcher"),
        ({"launcher": "torchrun", "processes": 4, "steps": {"finetune": {"gpu": 8}}}, "each process has one GPU"),
    ],
)
def test_a_profile_that_contradicts_itself_is_refused(more, words):
    with pytest.raises(ValueError, match=words):
        profile(**more)


def test_the_deepspeed_file_travels_with_the_job_and_is_in_its_digest(tmp_path):
    def digest(stage):
        (tmp_path / "zero.json").write_text(json.dumps({"zero_optimization": {"stage": stage}}))
        (tmp_path / "far.yaml").write_text(f"name: far\ndeepspeed: {tmp_path / 'zero.json'}\n")
        [job, *_] = load("tests/golden/recipe.yaml", tmp_path / "far.yaml").jobs()
        assert job.deepspeed == {"zero_optimization": {"stage": stage}}
        return job.digest

    assert digest(2) == digest(2) != digest(3)
    (tmp_path / "far.yaml").write_text("name: far\ndeepspeed: nowhere.json\n")
    with pytest.raises(ConfigError, match=r"far\.yaml: deepspeed: nowhere\.json: no such file"):
        load("tests/golden/recipe.yaml", tmp_path / "far.yaml")


@pytest.mark.parametrize("path", sorted(Path("configs/profiles").glob("*.yaml")), ids=lambda path: path.stem)
def test_every_profile_can_be_compiled(path):
    check_supported(load("tests/golden/recipe.yaml", path.stem).profile)

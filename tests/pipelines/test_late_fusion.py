"""The compiled pipeline: names, order, lists, size, and one golden file per profile."""

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml
from kfp import compiler

from latefuse.configfile import load
from pipelines.compile import compile_pipeline, with_defaults
from pipelines.late_fusion import build

GOLDEN = Path("tests/golden")
PROFILES = sorted(path.stem for path in Path("configs/profiles").glob("*.yaml"))


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    made = {}

    def compile_(profile, *sets):
        if (profile, sets) not in made:
            path = tmp_path_factory.mktemp("ir") / f"{profile}.yaml"
            made[profile, sets] = compile_pipeline(load(GOLDEN / "recipe.yaml", profile, sets), path)
        return made[profile, sets]

    return compile_


def documents(path):
    return list(yaml.safe_load_all(path.read_text()))


def tasks(path):
    return documents(path)[0]["root"]["dag"]["tasks"]


@pytest.mark.parametrize("profile", PROFILES)
def test_golden(profile, compiled):
    """LATEFUSE_GOLDEN=write makes the files anew; read the difference before you commit it."""
    path, golden = compiled(profile), GOLDEN / f"ir-{profile}.yaml"
    if os.environ.get("LATEFUSE_GOLDEN") == "write":
        golden.write_text(path.read_text())
    assert path.read_text() == golden.read_text(), f"LATEFUSE_GOLDEN=write make test ARGS={__file__}"


@pytest.mark.parametrize("profile", PROFILES)
def test_small_and_the_same_every_time(profile, compiled, tmp_path):
    path = compiled(profile)
    assert path.stat().st_size < 100_000
    again = compile_pipeline(load(GOLDEN / "recipe.yaml", profile), tmp_path / "again.yaml")
    assert again.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("profile", PROFILES)
def test_many_seeds_stay_small(profile, compiled):
    assert compiled(profile, "seeds=[0,1,2]").stat().st_size < 100_000


@pytest.mark.parametrize("profile", ["local", "gpu", "multinode"])
def test_nodes_that_share_a_component_run_as_the_compiler_wrote_them(profile, compiled, tmp_path):
    """Node by node against what comes out of the compiler itself."""
    plain = tmp_path / "plain.yaml"
    compiler.Compiler().compile(build(load(GOLDEN / "recipe.yaml", profile, ["seeds=[0,1]"])), str(plain))
    wanted, found = (by_node(documents(path)) for path in (plain, compiled(profile, "seeds=[0,1]")))
    assert found == wanted
    assert len(documents(plain)[0]["components"]) > len(documents(compiled(profile, "seeds=[0,1]"))[0]["components"])


def by_node(parts):
    """What each node is, with its component and executor in place of their names; and the pipeline without them."""
    spec, *platforms = parts
    pods = [one["platforms"]["kubernetes"]["deploymentSpec"]["executors"] for one in platforms]
    executors, components = spec["deploymentSpec"].pop("executors"), spec.pop("components")
    found = {}
    for name, task in spec["root"]["dag"]["tasks"].items():
        component = dict(components[task["componentRef"].pop("name")])
        label = component.pop("executorLabel")
        found[name] = (component, executors[label], [pod.get(label) for pod in pods])
    return found, spec


def test_nodes_have_the_names_of_the_arms(compiled):
    assert set(tasks(compiled("local"))) == {
        "prepare", "backbone", "fuse", "evaluate",
        "finetune-image", "finetune-video", "finetune-text", "finetune-mixed", "finetune-mixed-wide",
    }  # fmt: skip


def test_shards_are_nodes_of_their_own_and_prepare_merges_them(compiled):
    nodes = tasks(compiled("multinode"))
    parts = [f"prepare-shard-{number}" for number in range(4)]
    assert {name for name in nodes if name.startswith("prepare")} == {"prepare", *parts}
    assert nodes["prepare"]["dependentTasks"] == parts
    for number, name in enumerate(parts):
        given = {key: one["runtimeValue"]["constant"] for key, one in nodes[name]["inputs"]["parameters"].items()
                 if "runtimeValue" in one}  # fmt: skip
        assert (given["shard"], given["shards"]) == (number, 4)
        assert nodes[name]["inputs"]["parameters"]["source"] == {"componentInputParameter": "prepare_source"}
        assert nodes[name]["cachingOptions"] == {"enableCache": True}
    inputs = nodes["prepare"]["inputs"]
    assert {one["taskOutputArtifact"]["producerTask"] for one in inputs["artifacts"].values()} == set(parts)
    assert all(f"{name}-Output" in inputs["parameters"]["inputs"]["runtimeValue"]["constant"] for name in parts)
    resources = documents(compiled("multinode"))[0]["deploymentSpec"]["executors"]
    assert resources["exec-prepare-shard"]["container"]["resources"]["resourceCpuRequest"] == "16"


def test_a_catalogue_is_embedded_by_as_many_nodes_as_there_are_shards(tmp_path):
    recipe = tmp_path / "vectors.yaml"
    task = "{kind: embed, modality: [text, image]}"
    recipe.write_text(
        f"name: vectors\nseeds: [3, 4]\ndata: {{source: demo}}\ntasks: {{both: {task}}}\n"
        "arms: {text-only: {modality: [text]}}\ncatalogue: {arm: text-only, index: hnsw}\n"
    )
    path = compile_pipeline(load(recipe, "multinode"), tmp_path / "vectors-ir.yaml")
    nodes, parts = tasks(path), [f"embed-shard-{number}" for number in range(4)]
    assert {name for name in nodes if name.startswith("embed")} == {"embed", *parts}
    assert nodes["embed"]["dependentTasks"] == parts
    for number, name in enumerate(parts):
        inputs = nodes[name]["inputs"]
        assert inputs["parameters"]["shard"]["runtimeValue"]["constant"] == number
        assert inputs["parameters"]["source"] == {"componentInputParameter": "embed_source"}
        producers = {key: one["taskOutputArtifact"]["producerTask"] for key, one in inputs["artifacts"].items()}
        assert producers == {"dataset": "prepare", "backbone": "backbone", "adapter": "finetune-text-only-s3"}
        assert "finetune-text-only-s3-Output" in inputs["parameters"]["inputs"]["runtimeValue"]["constant"]
    assert path.stat().st_size < 100_000


def test_several_seeds_are_in_the_names(compiled):
    nodes = tasks(compiled("local", "seeds=[0,5]"))
    assert {"finetune-image-s0", "finetune-image-s5", "fuse-s0", "fuse-s5"} <= set(nodes)
    assert len(nodes) == 2 + 2 * 5 + 2 + 1


def test_fuse_gets_the_adapters_of_its_seed_and_no_control(compiled):
    nodes = tasks(compiled("local", "seeds=[0,5]"))
    given = nodes["fuse-s5"]["inputs"]["artifacts"]
    adapters = {key: one["taskOutputArtifact"]["producerTask"] for key, one in given.items() if "adapters" in key}
    assert adapters == {f"adapters_{i}": f"finetune-{task}-s5" for i, task in enumerate(("image", "video", "text"))}


def test_evaluate_gets_every_arm(compiled):
    given = tasks(compiled("local"))["evaluate"]["inputs"]["artifacts"]
    producers = {one["taskOutputArtifact"]["producerTask"] for one in given.values()}
    assert producers == set(tasks(compiled("local"))) - {"evaluate"}


def test_one_task_needs_no_fusion(tmp_path):
    recipe = tmp_path / "one.yaml"
    recipe.write_text("name: one\ndata: {source: demo}\ntasks: {image: {modality: image}}\n")
    nodes = tasks(compile_pipeline(load(recipe), tmp_path / "one-ir.yaml"))
    assert set(nodes) == {"prepare", "backbone", "finetune-image", "evaluate"}


def test_what_changes_with_the_code_or_the_image_is_a_parameter(compiled):
    spec = documents(compiled("cpu-cluster"))[0]
    inputs = spec["root"]["inputDefinitions"]["parameters"]
    steps = ("prepare", "backbone", "finetune", "fuse", "embed", "evaluate")
    assert set(inputs) == {"image", *(f"{step}_source" for step in steps)}
    assert all("defaultValue" not in inputs[f"{step}_source"] for step in steps)
    images = {one["container"]["image"] for one in spec["deploymentSpec"]["executors"].values()}
    assert images == {"{{$.inputs.parameters['pipelinechannel--image']}}"}


def test_the_cache_is_keyed_by_what_goes_in(compiled):
    parameters = tasks(compiled("local"))["finetune-image"]["inputs"]["parameters"]
    assert parameters["source"] == {"componentInputParameter": "finetune_source"}
    assert "prepare-Output" in parameters["inputs"]["runtimeValue"]["constant"]
    assert "backbone-Output" in parameters["inputs"]["runtimeValue"]["constant"]


@pytest.mark.parametrize("shards", [1, 2])
def test_raw_files_that_are_not_here_are_read_in_every_run(tmp_path, shards):
    """Nothing here can tell whether they have changed; what comes after is keyed by the fingerprint of the dataset."""
    (tmp_path / "here").mkdir()
    for path, kept in ((tmp_path / "here", True), (tmp_path / "there", False), ("$ONLY_THERE/x", False)):
        recipe = tmp_path / "one.yaml"
        recipe.write_text(
            f"name: one\ndata: {{source: captions, path: {path}}}\ntasks: {{image: {{modality: image}}}}\n"
        )
        config = load(recipe, "cpu-cluster")
        config = config.model_copy(update={"profile": config.profile.model_copy(update={"shards": shards})})
        nodes = tasks(compile_pipeline(config, tmp_path / "ir.yaml"))
        readers = {"prepare"} if shards == 1 else {"prepare-shard-0", "prepare-shard-1"}
        cached = {name for name, one in nodes.items() if one["cachingOptions"].get("enableCache")}
        assert cached == (set(nodes) if kept else set(nodes) - readers)


def test_a_recipe_slice_reaches_only_its_readers(compiled):
    def constants(path):
        return {name: node["inputs"]["parameters"]["config"] for name, node in tasks(path).items()}

    before, after = constants(compiled("local")), constants(compiled("local", "tasks.image.train.max_steps=9"))
    changed = {name for name in before if before[name] != after[name]}
    assert changed == {"finetune-image", "finetune-mixed", "finetune-mixed-wide", "fuse", "evaluate"}


def test_a_run_id_comes_by_environment_only(compiled):
    platform = documents(compiled("cpu-cluster"))[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    for executor in platform.values():
        assert executor["fieldPathAsEnv"] == [
            {"name": "LATEFUSE_PIPELINE_RUN", "fieldPath": "metadata.labels['pipeline/runid']"}
        ]
    assert "runid" not in compiled("local").read_text()


@pytest.mark.parametrize("profile", ["cpu-cluster", "gpu", "multinode"])
def test_parameters_are_what_a_step_reads_and_nothing_that_is_another_one_each_time(profile, compiled):
    """What the caches are keyed by: configuration, code, fingerprints of the inputs; no run, time, name or server."""
    spec, platform = documents(compiled(profile))
    known = {"config", "source", "inputs", "name", "shard", "shards", "base_image"}
    for name, task in spec["root"]["dag"]["tasks"].items():
        given = task["inputs"]["parameters"]
        assert {key for key in given if not key.startswith("pipelinechannel--")} <= known, name
        assert json.loads(given["config"]["runtimeValue"]["constant"]) is not None
        if not name.startswith("prepare-shard") and name not in ("prepare", "backbone"):
            stamp = given["inputs"]["runtimeValue"]["constant"]
            assert "prepare-Output" in stamp, f"{name}: the fingerprint of the data is no parameter"
    compiled_in = re.sub(
        r"evaluat\w+|shards?", "", json.dumps([task["inputs"] for task in spec["root"]["dag"]["tasks"].values()])
    )
    assert not re.search(r"runid|run_id|MLFLOW|LATEFUSE_|pipelineJob|ScheduledTime|experiment", compiled_in)
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        [field] = executor["fieldPathAsEnv"]
        assert field["fieldPath"] == "metadata.labels['pipeline/runid']"


def test_defaults_are_all_that_an_uploaded_version_has_more(compiled, tmp_path):
    given = {"image": "registry.example/x:1", "prepare_source": "0123 4567", "fuse_source": "1.0"}
    plain = documents(compiled("cpu-cluster"))
    filled = documents(with_defaults(Path(shutil.copy(compiled("cpu-cluster"), tmp_path / "ir.yaml")), given))
    inputs = filled[0]["root"]["inputDefinitions"]["parameters"]
    assert {name: inputs[name].pop("defaultValue") for name in given} == given
    assert all(inputs[name].pop("isOptional") for name in given)
    plain[0]["root"]["inputDefinitions"]["parameters"]["image"] = inputs["image"]  # the one with a default before
    assert filled == plain


def test_two_runs_of_one_recipe_give_the_same_parameters(monkeypatch):
    from pipelines.submit import _given

    config = load(GOLDEN / "recipe.yaml", "cpu-cluster")
    monkeypatch.setenv("MLFLOW_RUN_ID", "a")
    first = _given(config)
    monkeypatch.setenv("MLFLOW_RUN_ID", "b")
    assert _given(config) == first
    other = load(GOLDEN / "recipe.yaml", "cpu-cluster", ["train.max_steps=7"])
    assert (other.digest != config.digest, _given(other)) == (True, first)


def test_resources_of_a_profile_reach_the_nodes(compiled):
    executors = documents(compiled("cpu-cluster"))[0]["deploymentSpec"]["executors"]
    assert executors["exec-finetune"]["container"]["resources"]["resourceMemoryLimit"] == "8Gi"
    assert executors["exec-prepare"]["container"]["resources"]["resourceMemoryLimit"] == "4Gi"
    assert tasks(compiled("cpu-cluster"))["finetune-image"]["retryPolicy"]["maxRetryCount"] == 2


def test_nothing_of_the_environment_is_compiled_in(tmp_path, monkeypatch):
    secrets = {
        "MLFLOW_TRACKING_PASSWORD": "correct-horse-4711",
        "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
        "KFP_TOKEN": "eyJhbGciOiJSUzI1NiJ9.c3VibWl0.4b1d",
        "KFP_COOKIE": "authservice_session=MTc2NDAx-c2Vzc2lvbg",
        "HF_TOKEN": "hf_" + "qXw7RtLmPz" * 3,
        "DATABASE_URL": "postgresql://cook:tulip-3345@db.example/food",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    text = compile_pipeline(load(GOLDEN / "recipe.yaml", "cpu-cluster"), tmp_path / "ir.yaml").read_text()
    assert not [value for value in secrets.values() if value in text]
    assert str(Path.home()) + "/" not in text.replace("~/", "")
    assert str(Path.cwd()) not in text

"""Lists of inputs and names of nodes, which the compiler of Kubeflow Pipelines lacks."""

from typing import List  # noqa: UP035

import pytest
import yaml
from kfp import compiler, dsl
from kfp.dsl import Input, Model, Output

from latefuse.cluster.graph import check_supported, node, spread
from latefuse.config import Config, Recipe
from latefuse.config_profile import Profile
from latefuse.sections import ConfigError
from pipelines.compile import compile_pipeline


def count(text: str, given: Input[List[Model]], out: Output[Model]) -> str:  # noqa: UP006
    """How many."""
    return f"{text} {len(given)} {list(given)}"


def make(text: str, out: Output[Model]) -> str:
    return text


def plain(text: str) -> str:
    return text


def test_a_list_becomes_single_inputs_and_the_body_reads_the_list():
    three = spread(count, {"given": 3})
    assert list(three.__annotations__) == ["text", "given_0", "given_1", "given_2", "out", "return"]
    assert three("n", given_0="a", given_1="b", given_2="c", out=None) == "n 3 ['a', 'b', 'c']"
    assert three.__doc__ == "How many."
    assert spread(count, {"given": 0})("n", out=None) == "n 0 []"


def test_only_lists_of_artifacts_can_be_spread():
    with pytest.raises(TypeError, match=r"text: expected Input\[List"):
        spread(plain, {"text": 2})


def test_nodes_keep_their_own_names(tmp_path):
    @dsl.pipeline(name="names")
    def pipeline() -> None:
        made = [node(make, f"make-{name}", text=name) for name in ("a", "b")]
        node(count, "count", text="x", given=[task.outputs["out"] for task in made])

    compiler.Compiler().compile(pipeline, str(tmp_path / "ir.yaml"))
    tasks = yaml.safe_load((tmp_path / "ir.yaml").read_text())["root"]["dag"]["tasks"]
    assert set(tasks) == {"make-a", "make-b", "count"}
    given = tasks["count"]["inputs"]["artifacts"]
    assert [given[f"given_{i}"]["taskOutputArtifact"]["producerTask"] for i in (0, 1)] == ["make-a", "make-b"]


UNSUPPORTED = {
    "timeout_s": 60,
    "node_selector": {"disk": "fast"},
    "tolerations": [{"key": "gpu"}],
    "shm": "1Gi",
    "volumes": {"/data": "claim"},
    "secrets": ["token"],
    "config_maps": ["settings"],
}


def profile(image="i:1", **steps):
    default = steps.pop("default", {})
    return Profile.model_validate({"name": "far", "default": {"image": image, **default}, "steps": steps})


@pytest.mark.parametrize("field", UNSUPPORTED)
@pytest.mark.parametrize("place", ["default", "finetune"])
def test_what_a_cluster_would_not_get_is_refused(field, place, tmp_path):
    asked = {place: {field: UNSUPPORTED[field]}}
    recipe = Recipe.model_validate({"name": "r", "data": {"source": "demo"}, "tasks": {"image": {"modality": "image"}}})
    where = f"default.{field}" if place == "default" else f"steps.{place}.{field}"
    with pytest.raises(ConfigError, match=f"'far': {where}: not supported yet"):
        compile_pipeline(Config(recipe=recipe, profile=profile(**asked)), tmp_path / "ir.yaml")
    assert not (tmp_path / "ir.yaml").exists()
    check_supported(profile(image=None, **asked))  # on one machine none of it counts


def test_a_service_account_is_the_whole_runs(tmp_path):
    check_supported(profile(default={"service_account": "runner"}))
    with pytest.raises(ConfigError, match=r"steps\.fuse\.service_account: not supported yet"):
        check_supported(profile(fuse={"service_account": "other"}))

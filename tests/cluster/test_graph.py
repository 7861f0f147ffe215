"""Lists of inputs and names of nodes, which the compiler of Kubeflow Pipelines lacks."""

from typing import List  # noqa: UP035

import pytest
import yaml
from kfp import compiler, dsl
from kfp.dsl import Input, Model, Output

from latefuse.cluster.graph import node, spread


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

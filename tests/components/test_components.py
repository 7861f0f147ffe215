"""The components are wrappers: few lines, no logic, a page that tells of every input and output."""

import ast
import inspect
import json
from importlib import import_module
from pathlib import Path

import pytest

from latefuse.cluster import node

NAMES = sorted(path.name for path in Path("components").iterdir() if (path / "component.py").exists())


def function(name):
    return getattr(import_module(f"components.{name}.component"), name)


def test_one_component_for_every_step():
    steps = {path.stem for path in Path("src/latefuse/steps").glob("*.py")} - {"__init__"}
    assert set(NAMES) <= steps
    assert {"prepare", "backbone", "finetune", "fuse", "evaluate"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_component_is_thin_and_calls_its_step(name):
    tree = ast.parse(inspect.getsource(function(name))).body[0]
    assert len(tree.body) <= 6
    assert not [part for part in ast.walk(tree) if isinstance(part, (ast.If, ast.For, ast.While, ast.Try))]
    called = {part.func.attr for part in ast.walk(tree) if isinstance(part, ast.Call) and hasattr(part.func, "attr")}
    assert name in called


@pytest.mark.parametrize("name", NAMES)
def test_the_page_names_every_input_and_output(name):
    page = (Path("components") / name / "README.md").read_text()
    for parameter in inspect.signature(function(name)).parameters:
        assert f"`{parameter}" in page, f"{name}: README.md says nothing of {parameter}"
    assert f"latefuse step {name}" in page


class Artifact:
    def __init__(self, path):
        self.path = str(path)
        self.values = {}

    def log_metric(self, name, value):
        self.values[name] = value


def test_the_report_and_the_headline_numbers_reach_kubeflow(tmp_path):
    (tmp_path / "report.html").write_text("<p>findings</p>")
    (tmp_path / "metrics.json").write_text('{"separate": {"dish_top1": 0.9, "n": 100, "note": "x", "bad": NaN}}')
    report, metrics = Artifact(tmp_path / "r"), Artifact(tmp_path / "m")
    node.publish(tmp_path, report, metrics)
    assert Path(report.path).read_text() == "<p>findings</p>"
    assert metrics.values == {"separate/dish_top1": 0.9, "separate/n": 100.0}
    assert Path(metrics.path).exists()  # without the file every later look-up in the cache is a miss


def test_of_many_numbers_the_shortest_names_are_the_headlines(tmp_path):
    arms = {f"eval/bleu/arm-{number}/low": 0.1 for number in range(200)}
    (tmp_path / "metrics.json").write_text(json.dumps({**arms, "eval/dish_top1": 0.4, "eval/contribution/video": 0.3}))
    metrics = Artifact(tmp_path / "m")
    node.publish(tmp_path, Artifact(tmp_path / "r"), metrics)
    assert list(metrics.values)[:2] == ["eval/dish_top1", "eval/contribution/video"]
    assert len(metrics.values) == 100
    assert len(json.loads(Path(metrics.path).read_text())) == 202


def test_the_fingerprint_is_of_the_content(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"weights")
    (tmp_path / "result.json").write_text('{"wall_s": 1}')
    before = node.fingerprint(tmp_path)
    (tmp_path / "result.json").write_text('{"wall_s": 2}')
    assert node.fingerprint(tmp_path) == before
    (tmp_path / "adapter" / "adapter_model.safetensors").write_bytes(b"other weights")
    assert node.fingerprint(tmp_path) != before

"""The digest of a step's source: an edit busts the steps that can reach it, and no other."""

import pytest

from latefuse.cluster.local import STEPS
from latefuse.cluster.sources import ROOT, closure, source_digest


@pytest.fixture
def package(tmp_path):
    """A package named latefuse with two steps: a reads a registry and a template, b nothing of it."""
    files = {
        "__init__.py": "",
        "steps/__init__.py": "",
        "steps/a.py": "from latefuse.parts import one\n\ndef run():\n    from latefuse import late\n",
        "steps/b.py": "import latefuse.shared\n",
        "parts/__init__.py": "import torch\nTABLE = {'x': 'latefuse.parts.lazy:Thing'}\nSEE = 'see latefuse.unseen'\n",
        "parts/one.py": "from . import two\nfrom .deep.three import x\n",
        "parts/two.py": "",
        "parts/lazy.py": "import importlib\nimportlib.import_module('latefuse.plugins.' + 'p')\n",
        "parts/deep/__init__.py": "",
        "parts/deep/three.py": "x = 1\n",
        "parts/templates/t.yaml": "a: 1\n",
        "plugins/__init__.py": "",
        "plugins/p.py": "",
        "late.py": "",
        "shared.py": "",
        "unseen.py": "",
    }
    for name, text in files.items():
        path = tmp_path / "latefuse" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "latefuse"


def names(package, step):
    return {path.relative_to(package).as_posix() for path in closure(f"latefuse.steps.{step}", package)[0]}


def test_the_closure_is_what_a_step_can_import(package):
    assert names(package, "a") == {
        "__init__.py", "steps/__init__.py", "steps/a.py", "late.py", "parts/__init__.py", "parts/one.py",
        "parts/two.py", "parts/lazy.py", "parts/deep/__init__.py", "parts/deep/three.py", "parts/templates/t.yaml",
        "plugins/__init__.py", "plugins/p.py",
    }  # fmt: skip
    assert names(package, "b") == {"__init__.py", "steps/__init__.py", "steps/b.py", "shared.py"}
    assert closure("latefuse.steps.a", package)[1] == ["torch"]


@pytest.mark.parametrize("edited", ["steps/a.py", "parts/deep/three.py", "parts/lazy.py", "parts/templates/t.yaml"])
def test_an_edit_busts_exactly_the_steps_that_use_it(package, edited):
    before = source_digest("a", package), source_digest("b", package)
    with (package / edited).open("a") as file:
        file.write("\n# another line\n")
    after = source_digest("a", package), source_digest("b", package)
    assert after[0] != before[0]
    assert after[1] == before[1]


def test_what_no_step_imports_busts_nothing(package):
    before = source_digest("a", package), source_digest("b", package)
    (package / "unseen.py").write_text("changed = True\n")
    assert (source_digest("a", package), source_digest("b", package)) == before


def test_a_new_template_busts_too(package):
    before = source_digest("a", package)
    (package / "parts" / "templates" / "u.yaml").write_text("b: 2\n")
    assert source_digest("a", package) != before


def test_the_steps_of_latefuse_reach_what_they_use():
    def files(step):
        return {path.relative_to(ROOT).as_posix() for path in closure(f"latefuse.steps.{step}")[0]}

    assert {"data/sources/movielens.py", "data/sources/demo.py", "data/media.py"} <= files("prepare")
    assert {"tasks/instruct.py", "training/engine.py", "prompts/splice.py"} <= files("finetune")
    assert "fusion/weights.py" in files("fuse")
    assert not {path for path in files("prepare") if path.startswith(("training/", "fusion/"))}
    opened = {f"models/{name}.py" for name in ("__init__", "folder", "hub", "named", "towers")}
    assert {path for path in files("prepare") if path.startswith("models/")} == opened
    assert not {path for path in files("finetune") if path.startswith(("evaluation/", "data/sources/"))}
    runner = {"cli.py", "commands.py", "cluster/local.py", "cluster/console.py", "cluster/submit.py"}
    assert not {path for step in STEPS for path in files(step)} & runner


def test_digests_are_stable_and_differ_between_steps():
    digests = {step: source_digest(step) for step in STEPS}
    assert len(set(digests.values())) == len(STEPS)
    assert digests == {step: source_digest(step) for step in STEPS}

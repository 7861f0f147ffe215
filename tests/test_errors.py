"""Mistakes are told in one line, bugs keep their traceback."""

import argparse
import subprocess
import sys

import pytest

from latefuse import commands
from latefuse.cluster import node
from latefuse.commands import UsageError
from latefuse.data.errors import DataError
from latefuse.errors import UserError
from latefuse.fusion.changes import FusionError
from latefuse.fusion.proof import ProofError
from latefuse.models.adapter_files import AdapterError
from latefuse.models.folder import BackboneError
from latefuse.places import PlaceError
from latefuse.prompts import PromptError
from latefuse.sections import ConfigError
from latefuse.training.distributed import TrainingError

MISTAKES = {
    ConfigError: ValueError,
    DataError: ValueError,
    UsageError: ValueError,
    PromptError: ValueError,
    FusionError: ValueError,
    ProofError: ValueError,
    AdapterError: RuntimeError,
    BackboneError: RuntimeError,
    TrainingError: RuntimeError,
    PlaceError: RuntimeError,
}


def step(monkeypatch, error):
    def fail(*arguments, **more):
        raise error

    monkeypatch.setattr(node, "backbone", fail)
    options = argparse.Namespace(
        command="step", step="backbone", recipe="tests/golden/recipe.yaml", profile="local", sets=[], out="x"
    )
    return commands.call(options)


@pytest.mark.parametrize("kind", MISTAKES, ids=lambda kind: kind.__name__)
def test_a_mistake_is_one_line(kind, monkeypatch, capsys):
    assert issubclass(kind, MISTAKES[kind])
    assert step(monkeypatch, kind("rows/7: do this instead")) == 2
    assert capsys.readouterr().err == "latefuse: rows/7: do this instead\n"


@pytest.mark.parametrize("kind", [ValueError, RuntimeError, KeyError, OSError, ZeroDivisionError])
def test_a_bug_keeps_its_traceback(kind, monkeypatch):
    assert not issubclass(kind, UserError)
    with pytest.raises(kind):
        step(monkeypatch, kind("a bug"))


def test_the_base_class_loads_nothing():
    code = "import sys; before = set(sys.modules); import latefuse.errors; print(len(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) <= 3  # latefuse, latefuse.errors and __future__

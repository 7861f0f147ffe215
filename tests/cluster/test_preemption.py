"""A step that is killed in a local run is tried again as the profile says, and loses nothing: the real pipeline."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import psutil
import pytest
import torch
from safetensors.torch import load_file

PROFILE = """
name: patient
default: {retries: 2, backoff_s: 1}
"""
RECIPE = """
name: killed
data: {source: demo, options: {dishes: 60, users: 20}}
backbone: {name: demo, options: {steps: 10, tower_steps: 5}}
tasks:
  text: {modality: text, where: {topic: allergens}, adapter: {r: 4, dropout: 0.1}}
train: {max_steps: 80, batch_size: 8, save_every: 4, log_every: 4}
evaluation: {max_rows: 4, side_rows: 2, max_new_tokens: 4, bootstrap: 20, examples: 0}
"""
pytestmark = pytest.mark.timeout(900)


@pytest.fixture
def latefuse(tmp_path):
    """`latefuse(*words)` starts the command line in a home of its own, without a tracking server of others."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "patient.yaml").write_text(PROFILE)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LATEFUSE_", "MLFLOW_TR"))}
    environment = {**kept, "LATEFUSE_HOME": str(tmp_path / "home"), "OMP_NUM_THREADS": "1"}

    def start(command, *words):
        whole = [sys.executable, "-m", "latefuse", *command.split(), str(tmp_path / "recipe.yaml"), *words]
        out = (tmp_path / "said").open("w")
        return subprocess.Popen(whole, env=environment, stdout=out, stderr=subprocess.STDOUT, start_new_session=True)

    return start


def newest(work):
    """The step of the newest complete checkpoint, 0 without one."""
    found = [re.search(r"checkpoint-(\d+)", str(path)) for path in work.rglob("complete.json")]
    return max((int(one[1]) for one in found if one), default=0)


def kill_the_step(run, work, after):
    """SIGKILL for the process group of the step at work, once it has a checkpoint behind `after`; returns that one."""
    end = time.monotonic() + 400
    while (reached := newest(work)) <= after:
        assert run.poll() is None, "the run has ended before it could be disturbed"
        assert time.monotonic() < end
        time.sleep(0.02)
    [group] = [child.pid for child in psutil.Process(run.pid).children() if os.getpgid(child.pid) == child.pid]
    os.killpg(group, signal.SIGKILL)
    return reached


def test_a_step_killed_twice_ends_as_if_nothing_had_happened(latefuse, tmp_path):
    run = latefuse("run", "--profile", str(tmp_path / "patient.yaml"))
    work = tmp_path / "home" / "work" / "finetune-text"
    first = kill_the_step(run, work, after=0)
    second = kill_the_step(run, work, after=first + 4)
    assert run.wait(400) == 0, (tmp_path / "said").read_text()
    said = (tmp_path / "said").read_text()
    assert "finetune-text: attempt 1 of 3 has failed, the next in 1 s" in said
    assert "finetune-text: attempt 2 of 3 has failed, the next in 2 s" in said
    latest = tmp_path / "home" / "latest" / "killed"
    result = json.loads((latest / "finetune-text" / "result.json").read_text())
    assert result["resumed_from"] >= second > first > 0

    given = ("--dataset", str(latest / "prepare"), "--backbone", str(latest / "backbone"))
    calm = latefuse("step finetune", "--job", "text", *given, "--out", str(tmp_path / "calm"))
    assert calm.wait(400) == 0, (tmp_path / "said").read_text()
    undisturbed = json.loads((tmp_path / "calm" / "result.json").read_text())
    assert undisturbed["resumed_from"] == 0
    assert undisturbed["losses"] == result["losses"]
    folders = (latest / "finetune-text", tmp_path / "calm")
    one, other = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in folders)
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert not list(work.rglob("checkpoint-*"))

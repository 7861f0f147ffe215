"""The command of a TrainJob really run: two nodes of this machine, told what Kubeflow Trainer tells them."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest
from loopback_kubernetes import Operator, kubeconfig, serving
from safetensors.torch import load_file

from latefuse.cluster import kubernetes_api, node, train_job_watch
from latefuse.config import Job
from latefuse.training import ranks

pytestmark = pytest.mark.timeout(240)


def job_of(steps=6, **changes):
    train = {"max_steps": steps, "batch_size": 4, "log_every": 1, "save_every": 2}
    tasks = {"text": {"modality": "text", "adapter": {"r": 4}, "train": train}}
    return Job.model_validate({"name": "text", "seed": 1, "tasks": tasks, "threads": 1, **changes})


@pytest.fixture
def finetune(small_dataset, backbone_folder, tmp_path, where, monkeypatch):
    """`finetune(job, operator)`: the pipeline's node, with its own MLflow run, on the nodes of the operator."""
    home = tmp_path / "home"
    monkeypatch.setenv("LATEFUSE_HOME", str(home))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setattr(kubernetes_api.connect, "__defaults__", (20.0,))  # an error of the fake API ends the test soon

    def run(job, operator, out):
        given = where({"poll_s": 0.2, "service_account": None}, volumes={str(home): "latefuse-workspace"}, env={},
                      secrets={}, config_maps={}, timeout_s=150)  # fmt: skip
        with serving(operator) as host:
            monkeypatch.setenv("KUBECONFIG", str(kubeconfig(tmp_path, host)))
            try:
                node.finetune(job.model_dump_json(), str(small_dataset), str(backbone_folder()), out, where=given)
            finally:
                operator.end()
        return json.loads((out / "result.json").read_text())

    return run


def test_two_nodes_train_as_one_process(finetune, tmp_path, capfd):
    (tmp_path / "pods").mkdir()
    operator = Operator(tmp_path / "pods")
    many = finetune(job_of(launcher="trainjob", nodes=2, processes=1), operator, tmp_path / "many")
    one = finetune(job_of(), operator, tmp_path / "one")
    assert len(operator.processes) == 2
    assert (many["processes"], one["processes"]) == (2, 1)
    assert many["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert many["run_id"]
    assert "finetune text (seed 1): 6 steps" in capfd.readouterr().out, "the log of the first node"
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("one", "many"))
    assert all((first[name] - second[name]).abs().max() < 1e-3 for name in first)
    assert not list((tmp_path / "home" / "work").rglob("checkpoint-*"))


def test_a_node_that_dies_is_named_and_the_next_attempt_goes_on(finetune, tmp_path):
    (tmp_path / "pods").mkdir()
    operator = Operator(tmp_path / "pods")
    job = job_of(20, launcher="trainjob", nodes=2, processes=1)

    def kill_the_second_rank():
        end = time.monotonic() + 120
        while not list((tmp_path / "home" / "work").rglob("checkpoint-*/complete.json")):
            if time.monotonic() > end:
                return
            time.sleep(0.02)
        for child in psutil.Process(operator.processes[1].pid).children():
            child.kill()

    killer = threading.Thread(target=kill_the_second_rank, daemon=True)
    killer.start()
    with pytest.raises(train_job_watch.JobFailed) as caught:
        finetune(job, operator, tmp_path / "out")
    killer.join()
    assert "rank 1 (process " in str(caught.value)
    assert "was ended by SIGKILL" in str(caught.value)
    assert "FailedJobs" in str(caught.value)
    assert 2 <= finetune(job, operator, tmp_path / "out")["resumed_from"] < 20
    assert len(operator.deleted) == 1, "the failed job went before the next was made"
    assert len(operator.made) == 2


def test_a_node_whose_pipeline_is_gone_ends_itself(tmp_path):
    (tmp_path / "sleeps.py").write_text("import time\ntime.sleep(1000)\n")
    (tmp_path / "request.json").write_text("{}")
    (tmp_path / ranks.LEASE).write_text("3 1 0")
    command = [sys.executable, "-m", ranks.__name__, "--standalone", "--nproc-per-node=1", "-m", "sleeps"]
    source = os.pathsep.join([str(tmp_path), str(Path(ranks.__file__).parents[2])])
    environment = {**os.environ, "PYTHONPATH": source, ranks.LEASED: str(tmp_path / ranks.LEASE)}
    process = subprocess.Popen(
        [*command, str(tmp_path / "request.json")], env=environment, stderr=subprocess.PIPE, text=True
    )
    for number in range(2, 8):
        time.sleep(1)
        (tmp_path / ranks.LEASE).write_text(f"3 {number} 0")
        assert process.poll() is None, "it has somebody who waits for it"
    _, said = process.communicate(timeout=120)
    assert process.returncode == 128 + 15
    assert "the pipeline's node is gone, so its training ends" in said


@pytest.mark.parametrize("found", [None, "0.2 1"], ids=["never there", "taken away"])
def test_a_lease_that_is_not_there_is_renewed_by_nobody(tmp_path, monkeypatch, found):
    monkeypatch.setattr(ranks, "LEASE_CHECK_S", 0.05)
    monkeypatch.setattr(ranks, "ABSENT_S", 0.2)
    sent = threading.Event()
    monkeypatch.setattr(ranks.os, "kill", lambda pid, number: sent.set() if number == signal.SIGTERM else None)
    lease = tmp_path / ranks.LEASE
    if found:
        lease.write_text(found)
    ranks._keep_lease(str(lease))
    time.sleep(0.1)
    lease.unlink(missing_ok=True)
    assert sent.wait(10)


def test_who_has_no_lease_watches_none(monkeypatch):
    before = threading.active_count()
    ranks._keep_lease(None)
    assert threading.active_count() == before

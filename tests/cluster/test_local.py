"""The runner on this machine, with the real `kfp.local` and steps of a few milliseconds."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from loopback_mlflow import Server

HELPERS = Path(__file__).parents[1] / "helpers"
USER = "marie-dupont"
SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-4711",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "HF_TOKEN": "hf_" + "qXw7RtLmPz" * 3,
    "DATABASE_URL": "postgresql://cook:tulip-3345@db.example/food",
}
pytestmark = pytest.mark.timeout(1800)  # every node imports mlflow, which takes long on a machine that is busy


@pytest.fixture
def server(tmp_path):
    made = Server(tmp_path / "artifacts").start()
    yield made
    made.stop()


@pytest.fixture
def environment(tmp_path, server):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LATEFUSE_", "MLFLOW_"))}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join([str(HELPERS), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "LATEFUSE_HOME": str(tmp_path / "home"),
        **SECRETS,
        "HOME": str(tmp_path / USER),
        "MLFLOW_TRACKING_URI": server.uri,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "SMALL_STEPS_PIDS": str(tmp_path),
    }


def start(environment, changes=None, *flags, **more):
    command = [sys.executable, str(HELPERS / "run_small.py"), json.dumps(changes or {}), *flags]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **more
    )


def run(environment, changes=None, *flags):
    process = start(environment, changes, *flags)
    out, _ = process.communicate(timeout=900)
    return process.returncode, out


def ends(server, *names):
    """How the one run of each name has ended; siblings may have gone first, `kfp.local` orders them as it likes."""
    return [run["status"] for name in names for run in server.named(name)]


def waiting(tmp_path, node):
    """The process of a node, once it waits in the middle of its work."""
    for _ in range(2000):
        if (tmp_path / f"{node}.pid").exists() and (text := (tmp_path / f"{node}.pid").read_text()):
            return psutil.Process(int(text))
        time.sleep(0.2)
    raise AssertionError(f"{node} has not started")


def test_runs_then_takes_everything_from_the_cache_then_only_what_is_unchanged(tmp_path, environment, server):
    status, out = run(environment)
    assert status == 0, out
    assert out.count("> finetune-image") == 1
    assert "arm metric" in out
    assert "100%|" in out
    assert "executor_input" not in out
    assert "INFO" not in out
    first = server.named("finetune-image")[0]["id"]
    latest = tmp_path / "home" / "latest" / "golden"
    assert {path.name for path in latest.iterdir()} == {"finetune-image", "finetune-video", "evaluate"}
    made = {path.name: path.resolve() for path in latest.iterdir()}

    status, again = run(environment)
    assert status == 0, again
    assert "3 steps, 3 of them from the cache" in again
    assert f"finetune-image: wrote image  [made by run {server.uri}/#/runs/{first}]" in again
    assert len(server.named("finetune-image")) == 1
    assert len(server.named("golden")) == 2
    assert {path.name: path.resolve() for path in latest.iterdir()} == made
    assert all((latest / "evaluate" / name).is_file() for name in ("table.txt", "result.json"))

    status, changed = run(environment, {"video": {"text": "another"}})
    assert status == 0, changed
    assert "= finetune-image" in changed
    assert "> finetune-video" in changed
    assert "> evaluate" in changed

    status, fresh = run(environment, {}, "--fresh")
    assert status == 0, fresh
    assert "3 steps, 0 of them from the cache" in fresh
    _, kept = run(environment, {"video": {"text": "another"}})
    assert "= finetune-image" in kept
    assert "= finetune-video" in kept

    everything = [path for path in tmp_path.rglob("*") if path.is_file()]
    for secret in (*SECRETS.values(), USER):
        assert not [path for path in everything if secret.encode() in path.read_bytes()]
        assert secret not in json.dumps(server.runs) + out + again + changed + fresh


def test_nodes_that_do_not_wait_for_each_other_run_side_by_side_and_share_the_cores(tmp_path, environment, server):
    process = start(environment, {"image": {"wait_s": 600}, "video": {"wait_s": 600}})
    both = [waiting(tmp_path, f"finetune-{name}") for name in ("image", "video")]
    assert all(step.is_running() for step in both)
    share = str(max(1, os.cpu_count() // 2))
    assert [step.environ()["OMP_NUM_THREADS"] for step in both] == [share, share]
    process.terminate()
    process.communicate(timeout=200)
    assert not any(step.is_running() and step.status() != psutil.STATUS_ZOMBIE for step in both)
    assert ends(server, "golden", "finetune-image", "finetune-video") == ["KILLED"] * 3


def test_what_is_at_work_when_another_node_fails_is_kept_in_the_cache(tmp_path, environment, server):
    status, out = run(environment, {"image": {"fail": True}, "video": {"wait_s": 8}})
    assert status == 1
    assert "< finetune-video" in out
    status, again = run(environment, {"video": {"wait_s": 8}})
    assert status == 0, again
    assert "= finetune-video" in again


def test_a_failing_step_fails_the_run_and_is_not_cached(tmp_path, environment, server):
    status, out = run(environment, {"video": {"fail": True}})
    assert status == 1
    assert "finetune-video was told to fail" in out
    assert "FAILED" in out
    assert ends(server, "golden", "finetune-video") == ["FAILED", "FAILED"]


def test_sigterm_leaves_no_process_and_closes_the_runs_as_killed(tmp_path, environment, server):
    process = start(environment, {"image": {"wait_s": 600}})
    step = waiting(tmp_path, "finetune-image")
    process.terminate()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 130, out
    assert "stopped SIGTERM" in out
    assert not step.is_running() or step.status() == psutil.STATUS_ZOMBIE
    assert ends(server, "golden", "finetune-image") == ["KILLED", "KILLED"]


def test_ctrl_c_in_a_terminal_reaches_the_whole_group(tmp_path, environment, server, heeds_sigint):
    process = start(environment, {"image": {"wait_s": 600}}, start_new_session=True)
    step = waiting(tmp_path, "finetune-image")
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=200)
    assert not step.is_running() or step.status() == psutil.STATUS_ZOMBIE
    assert ends(server, "golden", "finetune-image") == ["KILLED", "KILLED"]


def test_a_step_does_not_outlive_a_runner_that_was_killed(tmp_path, environment, server):
    process = start(environment, {"image": {"wait_s": 600}})
    step = waiting(tmp_path, "finetune-image")
    process.kill()
    step.wait(timeout=200)
    assert server.named("finetune-image")[0]["status"] == "KILLED"


def test_without_a_server_the_run_goes_on_and_is_told_later(tmp_path, environment, server):
    server.stop()
    status, out = run(environment)
    assert status == 0, out
    assert "latefuse replay" in out
    server.start()
    command = [sys.executable, "-m", "latefuse", "replay", environment["LATEFUSE_HOME"]]
    subprocess.run(command, env=environment, check=True, timeout=120)
    [parent] = server.named("golden")
    children = [run for run in server.runs.values() if run["tags"].get("mlflow.parentRunId") == parent["id"]]
    assert sorted(run["name"] for run in children) == ["evaluate", "finetune-image", "finetune-video"]
    assert {run["status"] for run in server.runs.values()} == {"FINISHED"}
    subprocess.run(command, env=environment, check=True, timeout=120)
    assert len(server.runs) == 4


def test_a_run_that_is_stopped_while_a_step_waits_for_its_next_attempt_does_not_make_one(tmp_path, environment, server):
    process = start({**environment, "SMALL_RETRIES": "3"}, {"image": {"fail": True}})
    step = waiting(tmp_path, "finetune-image")
    step.wait(timeout=200)
    process.terminate()
    out, _ = process.communicate(timeout=200)
    assert process.returncode == 130, out
    assert "attempt 1 of 4 has failed" in out
    assert out.count("> finetune-image") == 1

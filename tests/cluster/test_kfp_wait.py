"""Steps as they change, told out of the nodes that a backend on Argo reports; and how the waiting ends."""

import json
import os
import signal
import subprocess
import sys

import kfp_server_api
import pytest
from loopback_kfp import Backend, argo, around, serving

from latefuse import cli
from latefuse.cluster import kfp_wait, submit
from latefuse.cluster.kfp_steps import duration, steps


@pytest.fixture(autouse=True)
def _alone(nowhere):
    pass


@pytest.fixture
def backend():
    return Backend()


def told(nodes):
    """The lines for nodes as they come through the client of Kubeflow."""

    class Answer:
        data = json.dumps({"run_id": "r1", "run_details": {"task_details": nodes}})

    run = kfp_server_api.ApiClient().deserialize(Answer, "V2beta1Run")
    return [" ".join(step.words().split()) for step in steps(run.run_details.task_details)]


def test_the_nodes_of_argo_are_told_as_steps():
    nodes = around(
        [
            *argo("prepare", "SUCCEEDED", 200, ["SUCCEEDED"]),
            *argo("backbone", "SUCCEEDED", 3, ["SKIPPED"], began=1),
            *argo("finetune-image", "RUNNING", None, ["FAILED", "FAILED", "RUNNING"], began=300),
            *argo("finetune-text", "FAILED", 4000, ["FAILED", "FAILED"], began=301),
            *argo("finetune-video", "PENDING", None, [], began=302)[:1],
            {"display_name": "evaluate", "state": "RUNTIME_STATE_UNSPECIFIED", "pod_name": "wf-9"},
        ]
    )
    assert told(nodes) == [
        "prepare SUCCEEDED after 3 min 20 s",
        "backbone SKIPPED (cached)",
        "finetune-image RUNNING (attempt 3)",
        "finetune-text FAILED (attempt 2) after 1 h 6 min",
        "finetune-video PENDING",
    ]


def test_a_step_whose_driver_fails_has_failed_and_what_waits_for_it_is_not_told():
    driver = {**argo("fuse", "", None)[0], "state": "FAILED"}
    nodes = around([driver, {"display_name": "fuse", "state": "RUNTIME_STATE_UNSPECIFIED", "pod_name": "wf-1"}])
    [line] = told(nodes)
    assert line.startswith("fuse FAILED after 0 s: its driver has failed")


def test_a_backend_that_tells_of_tasks_alone_is_understood_too():
    flat = [{"display_name": "prepare", "task_id": "t1", "state": "SKIPPED"},
            {"display_name": "fuse", "task_id": "t2", "state": "FAILED", "error": {"message": "no  adapter"}},
            {"display_name": "evaluate", "task_id": "t3", "state": "FAILED",
             "state_history": [{"state": "FAILED", "error": {"message": "killed"}}]}]  # fmt: skip
    assert told(flat) == ["prepare SKIPPED (cached)", "fuse FAILED: no adapter", "evaluate FAILED: killed"]
    assert told([]) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.4, "0 s"), (59.4, "59 s"), (59.6, "1 min 0 s"), (3599, "59 min 59 s"), (7260, "2 h 1 min")],
)
def test_durations(seconds, words):
    assert duration(seconds) == words


def test_each_change_is_told_once_over_several_polls(backend):
    waits = argo("prepare", "PENDING", None, [])[:1]
    runs, ended = argo("prepare", "RUNNING"), argo("prepare", "SUCCEEDED", 12, ["SUCCEEDED"])
    fuses = argo("fuse", "SUCCEEDED", 3, ["SKIPPED"], began=20)
    backend.states = ["PENDING", "RUNNING", "RUNNING", "RUNNING", "RUNNING", "SUCCEEDED"]
    backend.details = [[], around(waits), around(runs), around(runs), around(ended), around([*ended, *fuses])]
    heard = []
    with serving(backend) as host:
        ended = kfp_wait.wait(submit.connect(host), "r1", 60, heard.append)
    assert [" ".join(line.split()) for line in heard] == [
        "prepare PENDING",
        "prepare RUNNING",
        "prepare SUCCEEDED after 12 s",
        "fuse SKIPPED (cached)",
    ]
    assert ended.state == "SUCCEEDED"


def test_a_failed_run_names_the_step_its_error_and_its_log(backend, capsys):
    nodes = argo("finetune-image", "FAILED", 61, ["FAILED"])
    nodes[1]["error"] = {"code": 2, "message": "loss is not finite in step 7"}
    backend.states, backend.details, backend.error = ["FAILED"], [around(nodes)], "workflow failed"
    with serving(backend) as host:
        assert cli.main(["watch", "r1", "--host", host]) == 1
    out = capsys.readouterr().out
    assert "finetune-image            FAILED after 1 min 1 s: loss is not finite in step 7" in out
    assert "run r1: FAILED\nthe run itself: workflow failed\nfinetune-image has failed: loss is not finite" in out
    pod = nodes[-1]["pod_name"]
    assert f"kubectl --namespace kubeflow logs {pod} --all-containers" in out


def test_a_cancelled_run_ends_the_waiting_and_a_stumble_does_not(backend):
    backend.states = ["RUNNING", "CANCELED"]
    backend.fail = {"/runs/r1": [503, 502]}
    with serving(backend) as host:
        assert kfp_wait.wait(submit.connect(host), "r1", 60).state == "CANCELED"
        assert cli.main(["watch", "r1", "--host", host]) == 1


def test_a_token_that_runs_out_says_how_to_look_again(backend, monkeypatch):
    backend.token = "eyJh.c3Vi.4b1d"
    monkeypatch.setenv("KFP_TOKEN", backend.token)
    with serving(backend) as host:
        server = submit.connect(host)
        backend.token = "renewed"
        words = r"refuses us \(401\), who came with KFP_TOKEN: .*use KFP_TOKEN_FILE.*latefuse watch r1 --host"
        with pytest.raises(submit.SubmitError, match=words):
            kfp_wait.wait(server, "r1", 60)


def test_waiting_has_an_end(backend):
    backend.states = ["RUNNING"]
    with serving(backend) as host, pytest.raises(submit.SubmitError, match=r"goes on.*\n?.*latefuse watch r1 --host"):
        kfp_wait.wait(submit.connect(host), "r1", timeout_s=0.0)


def test_ctrl_c_detaches_and_cancels_nothing(backend, tmp_path, heeds_sigint):
    """The whole command as a process, which gets the signal while the run goes on."""
    backend.states = ["RUNNING"]
    backend.details = [around(argo("prepare", "RUNNING"))]
    with serving(backend) as host:
        command = [sys.executable, "-m", "latefuse", "watch", "r1", "--host", host, "--namespace", "cooks"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        line = ""
        while "prepare" not in line:
            line = process.stdout.readline()
            assert line, process.stderr.read()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run r1 goes on, nothing was cancelled" in out
    assert f"look again with: latefuse watch r1 --host {host} --namespace cooks" in out
    assert err == ""
    assert {one["method"] for one in backend.requests} == {"GET"}
    assert os.environ["HOME"] == str(tmp_path)


def test_a_run_must_be_named(capsys):
    assert cli.main(["watch", "", "--host", "http://127.0.0.1:9"]) == 2
    assert "RUN=ID" in capsys.readouterr().err

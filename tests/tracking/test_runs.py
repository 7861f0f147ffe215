"""Which run is written to and how it ends; with the server up, down, dying, slow, and losing its answers."""

import json
import os
import signal
import socket
import subprocess
import sys
import time

import pytest

from latefuse import tracking
from latefuse.tracking.door import Door
from latefuse.tracking.outbox import Outbox

STEP = """
import sys, time
from pathlib import Path
from latefuse import tracking
with tracking.step_run("finetune", "cfg", Path(sys.argv[1]), "finetune-image") as tracker:
    tracker.metrics({"train/loss": 1.0}, step=1)
    print(tracker.run_id, flush=True)
    time.sleep(60)
"""


def values(run, name="train/loss"):
    return sorted((one["step"], one["value"]) for one in run["metrics"] if one["key"] == name)


def finish(out, count=5, **options):
    with tracking.step_run("finetune", "cfg", out, "finetune-image", **options) as tracker:
        for step in range(count):
            tracker.metrics({"train/loss": step / 2}, step=step)
    return tracker


def test_a_step_is_a_child_of_the_pipeline(server, tmp_path):
    with tracking.pipeline_run("demo", "cfg", tmp_path / "t") as parent:
        finish(tmp_path / "out")
        assert os.environ["LATEFUSE_PARENT_RUN"] == parent.run_id
    [pipeline], [step] = server.named("demo"), server.named("finetune-image")
    assert step["tags"]["mlflow.parentRunId"] == pipeline["id"] == parent.run_id
    assert (pipeline["status"], step["status"]) == ("FINISHED", "FINISHED")
    assert values(step) == [(step, step / 2) for step in range(5)]
    assert {"sys/wall_s", "sys/peak_rss_gib"} <= {one["key"] for one in step["metrics"]}
    assert "LATEFUSE_PARENT_RUN" not in os.environ
    assert not list(tmp_path.rglob("*.jsonl"))


def test_what_is_told_arrives_in_few_requests(server, tmp_path):
    report = tmp_path / "report.html"
    report.write_text("<p>findings</p>")
    with tracking.step_run("evaluate", "cfg", tmp_path / "out") as tracker:
        tracker.params({"train": {"lr": 0.1, "on": ["a", "b"]}, "none": None, "long": "x" * 7000})
        tracker.params({"train": {"lr": 0.2}})
        tracker.tags({"seed": 1})
        tracker.dataset("demo", "f" * 16, "demo")
        tracker.artifact(report, "pages")
        for step in range(2000):
            tracker.metrics({"eval/dish_top1": step, "bad": float("nan")}, step=step)
    [run] = server.runs.values()
    assert run["params"]["train.lr"] == "0.1"
    assert run["params"]["train.on"] == '["a", "b"]'
    assert len(run["params"]["long"]) <= 6000
    assert "none" not in run["params"]
    assert run["tags"]["seed"] == "1"
    assert run["inputs"][0]["dataset"]["digest"] == "f" * 16
    assert (tmp_path / "artifacts" / run["id"] / "pages" / "report.html").read_text() == "<p>findings</p>"
    assert len(values(run, "eval/dish_top1")) == 2000
    assert sum(path.endswith("log-batch") for _, path in server.requests) < 20


def test_kubeflows_own_run_is_adopted(server, tmp_path, monkeypatch):
    server.answer("/mlflow/runs/create", {"experiment_id": "1", "run_name": "made by the plugin"})
    [made] = server.runs
    monkeypatch.setenv("MLFLOW_RUN_ID", made)
    tracker = finish(tmp_path / "out")
    assert "MLFLOW_RUN_ID" not in os.environ
    assert tracker.run_id == made
    assert len(server.runs) == 1
    assert len(values(server.runs[made])) == 5
    assert server.runs[made]["status"] == "RUNNING"  # its end is its owner's


def test_steps_on_a_cluster_share_one_parent(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LATEFUSE_PIPELINE_RUN", "kfp-run-7")
    monkeypatch.setenv("LATEFUSE_EXPERIMENT", "food")
    finish(tmp_path / "a")
    finish(tmp_path / "b")
    [parent] = server.named("food")
    assert {run["tags"]["mlflow.parentRunId"] for run in server.named("finetune-image")} == {parent["id"]}


def test_a_crash_is_failed_and_names_its_error(server, tmp_path):
    with pytest.raises(ZeroDivisionError), tracking.step_run("finetune", "cfg", tmp_path / "out") as tracker:
        tracker.metrics({"train/loss": 1 / 0})
    [run] = server.runs.values()
    assert run["status"] == "FAILED"
    assert "ZeroDivisionError" in run["tags"]["latefuse.error"]


def test_other_ranks_are_silent(server, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    tracker = finish(tmp_path / "out")
    assert tracker.run_id is None
    assert not server.requests


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, "KILLED"), (signal.SIGINT, "KILLED")])
def test_a_signal_closes_the_run_as_killed(server, tmp_path, heeds_sigint, number, status):
    with subprocess.Popen([sys.executable, "-c", STEP, tmp_path / "out"], stdout=subprocess.PIPE, text=True) as process:
        run_id = process.stdout.readline().strip()
        process.send_signal(number)
        process.wait(30)
    assert server.runs[run_id]["status"] == status
    assert values(server.runs[run_id]) == [(1, 1.0)]


def test_what_a_killed_process_left_open_is_closed_at_the_retry(server, tmp_path):
    with subprocess.Popen([sys.executable, "-c", STEP, tmp_path / "out"], stdout=subprocess.PIPE, text=True) as process:
        first = process.stdout.readline().strip()
        process.kill()
    assert server.runs[first]["status"] == "RUNNING"
    second = finish(tmp_path / "out").run_id
    assert server.runs[first]["status"] == "FAILED"
    assert second != first
    assert server.runs[second]["status"] == "FINISHED"


def test_a_leftover_of_a_pod_whose_disk_is_gone_is_closed_too(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LATEFUSE_PIPELINE_RUN", "kfp-run-8")
    finish(tmp_path / "pod1")
    [first] = server.named("finetune-image")
    first["status"] = "RUNNING"
    finish(tmp_path / "pod2")
    assert first["status"] == "FAILED"
    assert server.named("finetune-image")[1]["tags"]["latefuse.attempt"] == "2"


def test_server_down_from_the_start(server, tmp_path):
    server.stop()
    start = time.monotonic()
    tracker = finish(tmp_path / "out")
    assert time.monotonic() - start < 20
    assert tracker.run_id is None
    [spool] = tmp_path.rglob("*.jsonl")
    server.start()
    assert tracking.replay(tmp_path) == {str(spool): 0}
    [run] = server.named("finetune-image")
    assert values(run) == [(step, step / 2) for step in range(5)]
    assert run["status"] == "FINISHED"
    assert tracking.replay(tmp_path) == {}


def test_a_retry_while_the_server_is_away_loses_nothing_of_the_first_attempt(server, tmp_path):
    server.stop()
    finish(tmp_path / "out", count=2)
    finish(tmp_path / "out", count=3)
    assert len(list(tmp_path.rglob("*.jsonl"))) == 2
    server.start()
    assert set(tracking.replay(tmp_path).values()) == {0}
    assert sorted(len(values(run)) for run in server.named("finetune-image")) == [2, 3]


def test_a_second_process_does_not_empty_the_spool_of_a_living_one(server, tmp_path):
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as first:
        first.metrics({"train/loss": 1.0}, step=1)
        before = (tmp_path / "out.tracking.jsonl").read_text()
        with pytest.raises(BlockingIOError):
            finish(tmp_path / "out")
        assert (tmp_path / "out.tracking.jsonl").read_text().startswith(before)


def test_a_replay_that_is_cut_short_counts_nothing_twice(server, tmp_path):
    server.stop()
    finish(tmp_path / "out", count=1000)
    [spool] = tmp_path.rglob("*.jsonl")
    text = spool.read_text()
    server.start()
    tracking.replay(tmp_path)
    spool.write_text(text)  # as if the process had died before it could delete the file
    assert tracking.replay(tmp_path) == {str(spool): 0}
    [run] = server.named("finetune-image")
    assert len(values(run)) == 1000
    assert len(run["metrics"]) == 1000 + len({one["key"] for one in run["metrics"]} - {"train/loss"})


def test_server_killed_in_mid_training(server, tmp_path):
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as tracker:
        tracker.metrics({"train/loss": 0.0}, step=0)
        assert tracker.run_id
        time.sleep(0.5)
        server.stop()
        slowest = 0.0
        for step in range(1, 200):
            start = time.monotonic()
            tracker.metrics({"train/loss": float(step)}, step=step)
            slowest = max(slowest, time.monotonic() - start)
        assert slowest < 1.0
        server.start()
        time.sleep(2.5)
    [run] = server.runs.values()
    assert values(run) == [(step, float(step)) for step in range(200)]
    assert run["status"] == "FINISHED"


def test_lost_answers_are_not_counted_twice(server, tmp_path):
    server.lose_answers = 2
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as tracker:
        for step in range(3):
            tracker.metrics({"train/loss": float(step)}, step=step)
            time.sleep(0.5)
        time.sleep(3)
    [run] = server.runs.values()
    assert values(run) == [(0, 0.0), (1, 1.0), (2, 2.0)]
    assert len(server.runs) == 1


def test_a_slow_server_does_not_slow_the_step(server, tmp_path):
    server.delay_s = 1.0
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as tracker:
        start = time.monotonic()
        for step in range(500):
            tracker.metrics({"train/loss": float(step)}, step=step)
        assert time.monotonic() - start < 0.8
    [run] = server.runs.values()
    assert len(values(run)) == 500


@pytest.fixture
def silent(monkeypatch):
    """A server that takes every connection and never says a word; mlflow is imported, which is not its fault."""
    import mlflow  # noqa: F401

    with socket.create_server(("127.0.0.1", 0)) as listening:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{listening.getsockname()[1]}")
        yield


@pytest.mark.usefixtures("silent")
def test_a_server_that_never_answers_does_not_hold_the_step_up(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    start = time.monotonic()
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as tracker:
        for step in range(500):
            tracker.metrics({"train/loss": float(step)}, step=step)
        assert time.monotonic() - start < 0.8
    assert time.monotonic() - start < 5
    assert tracker.run_id is None
    assert len((tmp_path / "out.tracking.jsonl").read_text().splitlines()) == 503  # a header, figures and an end beside


@pytest.mark.usefixtures("silent")
def test_patience_ends_before_the_request_does(tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "600")
    header = {"run_id": None, "shared": False, "identity": "i", "experiment": "e", "name": "n", "tags": {}}
    outbox = Outbox(Door(os.environ["MLFLOW_TRACKING_URI"]), header, tmp_path / "x.tracking.jsonl", patience_s=0.5)
    start = time.monotonic()
    outbox.metrics({"train/loss": 1.0}, step=1)
    assert outbox.run_id is None
    assert outbox.close("FINISHED") is False
    assert 0.9 < time.monotonic() - start < 4
    assert len((tmp_path / "x.tracking.jsonl").read_text().splitlines()) == 3


@pytest.mark.parametrize("status", [401, 500, 503])
def test_a_server_that_refuses_everything_keeps_the_spool(server, tmp_path, status):
    server.status = status
    finish(tmp_path / "out")
    [spool] = tmp_path.rglob("*.jsonl")
    assert len(spool.read_text().splitlines()) == 8  # the header, five losses, the system's figures, the end
    server.status = 200
    assert tracking.replay(tmp_path) == {str(spool): 0}
    assert len(values(server.named("finetune-image")[0])) == 5


def test_one_bad_record_does_not_hold_up_the_others(server, tmp_path):
    with tracking.step_run("finetune", "cfg", tmp_path / "out", "finetune-image") as tracker:
        server.runs[tracker.run_id]["params"]["lr"] = "set by somebody else"
        tracker.params({"lr": 0.1})
        tracker.metrics({"train/loss": 1.0}, step=1)
    [run] = server.runs.values()
    assert values(run) == [(1, 1.0)]
    assert run["status"] == "FINISHED"


def test_a_line_cut_off_by_a_dying_process_is_left_out(server, tmp_path):
    server.stop()
    finish(tmp_path / "out")
    [spool] = tmp_path.rglob("*.jsonl")
    lines = spool.read_text().splitlines()
    spool.write_text("\n".join([*lines[:4], lines[4][:20]]))
    server.start()
    assert tracking.replay(tmp_path) == {str(spool): 1}
    [run] = server.named("finetune-image")
    assert values(run) == [(step, step / 2) for step in range(3)]
    assert run["status"] == "FAILED"


@pytest.mark.parametrize("damage", ["{cut off", "\0\0\0", "17", "{}"])
def test_a_damaged_line_costs_itself_alone_and_is_kept(server, tmp_path, caplog, damage):
    server.stop()
    finish(tmp_path / "out")
    [spool] = tmp_path.rglob("*.jsonl")
    lines = spool.read_text().splitlines()
    lines[2] = damage
    spool.write_text(text := "\n".join(lines) + "\n")
    server.start()
    assert tracking.replay(tmp_path) == {str(spool): 1}
    [run] = server.named("finetune-image")
    assert values(run) == [(step, step / 2) for step in (0, 2, 3, 4)]
    assert run["status"] == "FINISHED"
    assert "1 line(s) can't be read" in caplog.text
    [aside] = tmp_path.rglob("*.damaged")
    assert aside.read_text() == text
    assert tracking.replay(tmp_path) == {}


def test_a_spool_without_its_header_is_kept_and_the_next_is_sent(server, tmp_path):
    server.stop()
    finish(tmp_path / "a")
    finish(tmp_path / "b")
    one, two = sorted(tmp_path.rglob("*.jsonl"))
    lines = one.read_text().splitlines()
    one.write_text("\n".join(["{", *lines[1:]]))
    server.start()
    assert tracking.replay(tmp_path) == {str(one): len(lines), str(two): 0}
    assert len(server.named("finetune-image")) == 1
    [aside] = tmp_path.rglob("*.damaged")
    assert len(aside.read_text().splitlines()) == len(lines)


def test_the_spool_of_a_living_process_is_left_to_it(server, tmp_path):
    with tracking.step_run("finetune", "cfg", tmp_path / "out") as tracker:
        tracker.metrics({"train/loss": 1.0}, step=1)
        spool = tmp_path / "out.tracking.jsonl"
        assert tracking.replay(tmp_path) == {str(spool): None}
        assert spool.exists()


def test_children_left_running_are_closed_with_the_pipeline(server, tmp_path):
    def interrupted():
        with tracking.pipeline_run("demo", "cfg", tmp_path / "t") as parent:
            tags = [{"key": "mlflow.parentRunId", "value": parent.run_id}]
            server.answer("/mlflow/runs/create", {"experiment_id": "1", "run_name": "orphan", "tags": tags})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert server.named("orphan")[0]["status"] == "KILLED"
    assert server.named("demo")[0]["status"] == "KILLED"


def test_spool_lines_are_json_with_rising_numbers(server, tmp_path):
    server.stop()
    finish(tmp_path / "out")
    [spool] = tmp_path.rglob("*.jsonl")
    records = [json.loads(line) for line in spool.read_text().splitlines()]
    assert [record["n"] for record in records[1:]] == list(range(1, len(records)))

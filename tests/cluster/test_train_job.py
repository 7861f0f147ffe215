"""A TrainJob against a loopback Kubernetes API: success, every kind of failure, an end from outside, what it may do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import yaml
from loopback_kubernetes import Cluster, condition, ended, event, kubeconfig, pod, serving

from latefuse.cluster import train_job_watch
from latefuse.cluster.kubernetes_api import ClusterError, connect
from latefuse.config_trainjob import Nodes
from latefuse.sections import ConfigError
from latefuse.training import alive, ranks

NAME = "lf-finetune-image-"
RUNNING = lambda job: ([], [pod(job, 0), pod(job, 1)], [])  # noqa: E731
DONE = lambda job: ([condition("Complete")], [pod(job, 0, "Succeeded"), pod(job, 1, "Succeeded")], [])  # noqa: E731


pytestmark = pytest.mark.usefixtures("quick")


def trained(body):
    """What the first node writes: numbers, and an adapter where it was told to; somebody waits for it already."""
    assert Path(body["spec"]["trainer"]["command"][-1]).with_name("lease").exists()
    asked = json.loads(Path(body["spec"]["trainer"]["command"][-1]).read_text())
    Path(asked["out"], "adapter").mkdir(parents=True)
    Path(asked["out"], "adapter", "adapter.json").write_text("{}")
    with Path(asked["log"]).open("a") as file:
        file.write(json.dumps({"values": {"train/loss": 0.5}, "step": 1}) + "\n")
    for name in ("dataset", "backbone"):
        assert Path(asked[name], "result.json").read_text() == name


def test_success_hands_on_numbers_log_and_adapter(launch, tmp_path, capsys):
    cluster = Cluster(lambda job: ([], [], []), RUNNING, DONE)
    cluster.on_create = trained
    cluster.log = [("2026-11-23T03:00:00.1Z", "step 1"), ("2026-11-23T03:00:00.2Z", "step 2")]
    out, heard = launch(cluster)
    assert (out / "adapter" / "adapter.json").exists()
    assert heard == [({"train/loss": 0.5}, 1)]
    said = capsys.readouterr().out
    assert said.count("step 1\n") == said.count("step 2\n") == 1
    assert not cluster.deleted
    [body] = cluster.made
    assert body["metadata"]["name"].startswith(NAME)
    assert body["metadata"]["namespace"] == "kitchen"
    assert {"name": "OMP_NUM_THREADS", "value": "3"} in body["spec"]["trainer"]["env"]
    [lease] = [one["value"] for one in body["spec"]["trainer"]["env"] if one["name"] == ranks.LEASED]
    assert Path(lease).parent == Path(body["spec"]["trainer"]["command"][-1]).parent
    assert (body["spec"]["trainer"]["numNodes"], body["spec"]["trainer"]["numProcPerNode"]) == (2, 8)
    assert all(one["token"] == "Bearer a-token" for one in cluster.requests)
    staged = list((tmp_path / "home" / "staged").iterdir())
    assert len(staged) == 2
    assert not list(tmp_path.rglob("lease"))


def test_a_log_that_drops_is_taken_up_where_it_was_lost(launch, capsys):
    cluster = Cluster(*[RUNNING] * 12, DONE)
    cluster.on_create = trained
    cluster.log = [(f"2026-11-23T03:00:00.{number // 2:03}Z", f"line {number}") for number in range(20)]
    cluster.cuts = [5, 0, 12, 13]
    launch(cluster)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("line ")]
    assert said == [f"line {number}" for number in range(20)]
    assert cluster.log_answers >= 5
    assert any("sinceSeconds" in one["query"] for one in cluster.requests)


def test_a_failure_tells_rank_condition_pods_and_events(launch, tmp_path):
    def failed(job):
        pods = [pod(job, 0, "Failed", containerStatuses=ended(1)), pod(job, 1, "Failed", reason="Evicted",
                message="low on memory", containerStatuses=ended(137, "OOMKilled"))]  # fmt: skip
        events = [event(f"{job}-node-0-1-abcde", "Evicted", "The node was low on resource: memory"),
                  event("another-job", "Evicted", "not ours")]  # fmt: skip
        return [condition("Failed", "FailedJobs", "jobset failed")], pods, events

    def last_word(body):
        signs = Path(body["spec"]["trainer"]["command"][-1]).parent / "ranks"
        failure = {"rank": 9, "pid": 5, "code": -9, "signal": "SIGKILL", "message": "", "time": 1}
        (signs / "node-1.json").write_text(json.dumps([failure]))

    cluster = Cluster(RUNNING, failed)
    cluster.on_create = last_word
    with pytest.raises(train_job_watch.JobFailed) as caught:
        launch(cluster)
    said = str(caught.value)
    assert said.startswith("rank 9 (process 5) was ended by SIGKILL; out of memory")
    assert "has failed: FailedJobs: jobset failed" in said
    assert "node 1 (" in said
    assert "Evicted: low on memory, it ended with code 137, OOMKilled" in said
    assert "The node was low on resource: memory" in said
    assert "not ours" not in said
    assert not cluster.deleted, "what has failed stays for people to look at"


def test_one_that_is_never_placed_ends_with_the_reason(launch, capsys):
    events = lambda job: [event(f"{job}-node-0-0", "FailedScheduling", "0/5 nodes: Insufficient nvidia.com/gpu")]  # noqa: E731
    stuck = {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}, "name": "node"}
    cluster = Cluster(lambda job: ([], [pod(job, 0, "Pending", containerStatuses=[stuck])], events(job)))
    with pytest.raises(ClusterError) as caught:
        launch(cluster, pending_s=0.4)
    said = str(caught.value)
    assert "found no place for all of its nodes within 0 s (trainjob.pending_s)" in said
    assert "ImagePullBackOff: no such image" in said
    assert "Insufficient nvidia.com/gpu" in said
    assert len(cluster.deleted) == 1
    assert capsys.readouterr().out.count("Insufficient nvidia.com/gpu") == 1, "told while it waits, and once"


def test_one_node_without_a_place_is_not_enough(launch):
    unplaced = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/5 nodes are big"}
    cluster = Cluster(lambda job: ([], [pod(job, 0), pod(job, 1, "Pending", conditions=[unplaced])], []))
    with pytest.raises(ClusterError, match=r"found no place .*; node 1 \(.*\): Unschedulable: 0/5 nodes are big"):
        launch(cluster, pending_s=0.3)
    assert len(cluster.deleted) == 1


def test_a_queue_that_never_ends_is_left(launch):
    cluster = Cluster(lambda job: ([condition("Suspended")], [], []))
    with pytest.raises(ClusterError, match=r"stood in a queue for 0 s \(trainjob\.queue_s\)"):
        launch(cluster, queue_s=0.3)
    assert len(cluster.deleted) == 1


def test_turns_of_a_job_that_a_queue_takes_back_count_together():
    clock = train_job_watch.Clock(10, Nodes(queue_s=100, pending_s=3))
    found = [clock.look(turn % 5 == 0, True, False, now=float(turn)) for turn in range(20)]
    assert found.index("deadline") == 13, "every fifth second is the queue's, and 0.2 s are slack"
    assert [clock.look(False, False, False, now=100.0 + turn) for turn in (0, 1)] == ["deadline"] * 2


def test_a_rank_that_has_failed_ends_a_job_whose_runtime_goes_on(launch, monkeypatch):
    monkeypatch.setattr(train_job_watch, "FAILED_S", 0.2)

    def last_word(body):
        failure = {"rank": 1, "pid": 5, "code": 1, "signal": "", "message": "ValueError: soap", "time": 1}
        alive.record(Path(body["spec"]["trainer"]["command"][-1]).parent / "ranks", 0, [failure])

    again = {"state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}}, "name": "node"}
    cluster = Cluster(lambda job: ([], [pod(job, 0), pod(job, 1, containerStatuses=[again])], []))
    cluster.on_create = last_word
    with pytest.raises(ClusterError) as caught:
        launch(cluster)
    said = str(caught.value)
    assert said.startswith("rank 1 (process 5) failed: ValueError: soap; TrainJob lf-")
    assert "is still there 0 s after that and is ended from here" in said
    assert "CrashLoopBackOff: back-off 10s" in said
    assert len(cluster.deleted) == 1


def test_the_deadline_that_kubernetes_ends_is_told_as_it_says(launch):
    late = condition("Failed", "DeadlineExceeded", "TrainJob exceeded its active deadline")
    cluster = Cluster(RUNNING, lambda job: ([late], [], []))
    with pytest.raises(train_job_watch.JobFailed, match="has failed: DeadlineExceeded: TrainJob exceeded its active"):
        launch(cluster)


def test_one_in_a_queue_is_waited_for_and_the_deadline_is_the_jobs_own(launch):
    queued = lambda job: ([condition("Suspended")], [], [])  # noqa: E731
    cluster = Cluster(*[queued] * 30, RUNNING)
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"is not done within its 2 s \(steps\.finetune\.timeout_s\)"):
        launch(cluster, pending_s=0.5)
    assert time.monotonic() - began > 30 * 0.05 + 2
    assert len(cluster.deleted) == 1


def test_one_that_somebody_deletes_is_an_error_at_once(launch):
    cluster = Cluster(RUNNING)

    def gone(job):
        cluster.job = None
        return [], [], []

    cluster.plot = [RUNNING, gone, RUNNING]
    with pytest.raises(ClusterError, match="was deleted while its training ran; a retry goes on"):
        launch(cluster)


def test_stumbles_of_the_api_are_asked_again(launch):
    cluster = Cluster(RUNNING, RUNNING, DONE)
    cluster.on_create = trained
    cluster.headers = {"Retry-After": "Mon, 23 Nov 2026 03:00:00 GMT"}  # a proxy may say so
    cluster.fail = {"POST": [503], "GET /apis": [429, 500, 0], "GET /api/v1/namespaces/kitchen/pods": [502, 0],
                    "/events": [504], "/log": [500, 0]}  # fmt: skip
    launch(cluster)
    assert not any(cluster.fail.values())
    assert len(cluster.made) == 1


def test_a_making_that_was_not_answered_is_not_made_twice(launch):
    cluster = Cluster(DONE)
    plain = cluster.answer

    def deaf(verb, resource, *given):
        status, body = plain(verb, resource, *given)
        return (500, {"message": "lost"}) if verb == "create" and status == 201 else (status, body)

    cluster.answer = deaf
    cluster.on_create = trained
    launch(cluster)
    assert len(cluster.made) == 1


def test_an_api_that_stays_away_is_an_error_in_bounded_time(launch):
    cluster = Cluster(RUNNING)
    cluster.fail = {"GET /apis": [503] * 100}
    began = time.monotonic()
    with pytest.raises(ClusterError, match=r"can't read TrainJob lf-.*answers 503"):
        launch(cluster)
    assert time.monotonic() - began < 15


@pytest.mark.parametrize(
    ("status", "words"),
    [(403, "kubectl apply -k deploy/"), (404, "is Kubeflow Trainer 2.2 or newer"), (422, "finds it wrong")],
)
def test_refusals_teach(launch, status, words):
    cluster = Cluster()
    cluster.fail = {"POST": [status]}
    with pytest.raises(ClusterError, match=words):
        launch(cluster)


def test_what_an_earlier_attempt_left_goes_first_with_its_pods(launch, monkeypatch):
    monkeypatch.setattr(train_job_watch.time, "sleep", lambda seconds: None)
    cluster = Cluster(RUNNING, DONE)
    cluster.on_create = trained
    launch(cluster)
    first = cluster.job["metadata"]["name"]
    cluster.plot, cluster.lingers = [RUNNING, DONE], 3
    cluster.on_create = lambda body: trained(body) if cluster.lingers < 0 else pytest.fail("its pods are still there")
    launch(cluster)
    assert [name for name, _ in cluster.deleted] == [first]
    assert cluster.deleted[0][1]["propagationPolicy"] == "Foreground"
    assert len(cluster.made) == 2


def test_it_belongs_to_the_pod_that_waits_for_it(launch, monkeypatch):
    monkeypatch.setenv("KFP_POD_NAME", "run-7-finetune")
    monkeypatch.setenv("KFP_POD_UID", "0f3c")
    cluster = Cluster(DONE)
    cluster.on_create = trained
    launch(cluster)
    [owner] = cluster.made[0]["metadata"]["ownerReferences"]
    assert owner == {"apiVersion": "v1", "kind": "Pod", "name": "run-7-finetune", "uid": "0f3c"}


def test_a_home_that_no_node_sees_is_refused_before_anything_is_made(launch, monkeypatch):
    monkeypatch.setenv("LATEFUSE_HOME", "/elsewhere")
    cluster = Cluster()
    with pytest.raises(ConfigError, match="LATEFUSE_HOME is /elsewhere"):
        launch(cluster)
    assert not cluster.requests


def test_no_cluster_at_all_is_said_in_one_line(monkeypatch, tmp_path):
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    with pytest.raises(ClusterError, match="no cluster for a TrainJob"):
        connect(None)


CANCELLED = """
import sys
from pathlib import Path
from latefuse.cluster import train_job, train_job_where
from latefuse.config import Job
from latefuse.tracking import step_run
given = train_job_where.Where.model_validate_json(sys.argv[1])
job = Job.model_validate({"name": "image", "seed": 0, "tasks": {}, "launcher": "trainjob", "nodes": 2})
request = {name: sys.argv[2] + "/" + name for name in ("dataset", "backbone", "out")}
launch = train_job.launcher(given, "finetune-image")
with step_run("finetune", "x", Path(request["out"])):
    launch("m", request, job, Path(sys.argv[3]), print)
"""


def test_sigterm_deletes_the_job_at_once_and_renews_the_lease_no_longer(launch, tmp_path, where):
    volumes = {str(tmp_path / "home"): "latefuse-workspace"}
    given = where({"poll_s": 0.1}, volumes=volumes)
    cluster = Cluster(RUNNING)
    work = tmp_path / "home" / "work"
    with serving(cluster) as host:
        environment = {**os.environ, "KUBECONFIG": str(kubeconfig(tmp_path, host)), "MLFLOW_TRACKING_URI": ""}
        command = [sys.executable, "-c", CANCELLED, given.model_dump_json(), str(tmp_path), str(work)]
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        end = time.monotonic() + 200
        while not cluster.log_answers and time.monotonic() < end and process.poll() is None:
            time.sleep(0.05)
        assert (work / "lease").exists(), process.poll() is None or process.communicate()
        seen = threading.Event()
        before = cluster.answer
        cluster.answer = lambda verb, *rest: (seen.set() if verb == "delete" else None, before(verb, *rest))[1]
        process.send_signal(signal.SIGTERM)
        assert seen.wait(5), process.communicate(timeout=60)
        out, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert "is deleted" in out
    assert len(cluster.deleted) == 1
    assert not (work / "lease").exists()


def test_the_role_allows_what_was_asked_for_and_nothing_else(launch):
    cluster = Cluster(RUNNING)
    cluster.log = [("2026-11-23T03:00:00.1Z", "step 1")]
    with pytest.raises(ClusterError):
        launch(cluster)  # past its deadline, so that it is deleted too
    documents = list(yaml.safe_load_all(Path("deploy/trainjobs.yaml").read_text()))
    [role] = [one for one in documents if one["kind"] == "Role"]
    allowed = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert cluster.verbs() == allowed
    [binding] = [one for one in documents if one["kind"] == "RoleBinding"]
    accounts = {one["metadata"]["name"] for one in documents if one["kind"] == "ServiceAccount"}
    assert {one["name"] for one in binding["subjects"]} < accounts
    assert binding["roleRef"]["name"] == role["metadata"]["name"]

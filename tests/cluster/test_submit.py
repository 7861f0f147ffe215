"""Submission against a loopback backend; every request must fit the API's own description."""

import json
import os
from pathlib import Path

import pytest
from loopback_kfp import Backend, check, serving

from latefuse import cli
from latefuse.cluster import submit

SPECS = Path(os.environ.get("LATEFUSE_SPECS", Path(__file__).parents[3] / "shared" / "specs"))
SWAGGER = SPECS / "kubeflow-pipelines" / "kfp_api_v2beta1.swagger.json"
RECIPE = "tests/golden/recipe.yaml"


@pytest.fixture(autouse=True)
def _home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in (submit.TOKEN, submit.COOKIE, "KF_PIPELINES_UI_ENDPOINT", "KF_PIPELINES_ENDPOINT"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def backend():
    return Backend()


def send(host, *more):
    return cli.main(["submit", RECIPE, "--host", host, *more])


def test_uploads_starts_prints_the_link_and_waits(backend, capsys, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    with serving(backend) as host:
        assert send(host, "--wait", "--image", "registry.example/latefuse:7") == 0
    out = capsys.readouterr().out
    assert f"{host}/#/runs/details/r1" in out
    assert "r1: SUCCEEDED" in out
    run = backend.runs["r1"]
    assert run["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}
    given = run["runtime_config"]["parameters"]
    assert given["image"] == "registry.example/latefuse:7"
    assert len(given["finetune_source"]) == 16
    assert "finetune-video" in backend.packages[0]


def test_every_request_fits_the_api(backend):
    if not SWAGGER.exists():
        pytest.skip(f"no description of the API at {SWAGGER}")
    backend.states = ["FAILED"]
    with serving(backend) as host:
        assert send(host, "--wait") == 1
        assert send(host) == 0
    swagger = json.loads(SWAGGER.read_text())
    for request in backend.requests:
        check(swagger, request)
    seen = {(one["method"], one["path"].rsplit("/v2beta1", 1)[1]) for one in backend.requests}
    assert {("POST", "/pipelines/upload"), ("POST", "/pipelines/upload_version"), ("POST", "/runs")} <= seen
    assert sum(one["path"].endswith("/pipelines/upload") for one in backend.requests) == 1


def test_the_check_itself_finds_a_wrong_request(backend):
    if not SWAGGER.exists():
        pytest.skip(f"no description of the API at {SWAGGER}")
    swagger = json.loads(SWAGGER.read_text())
    good = {"method": "POST", "path": "/apis/v2beta1/runs", "query": {}, "body": {"display_name": "x"}, "form": ""}
    check(swagger, good)
    for wrong in ({"path": "/apis/v1beta1/runs"}, {"query": {"colour": "red"}}):
        with pytest.raises(AssertionError):
            check(swagger, {**good, **wrong})
    with pytest.raises(Exception, match="nonsense"):
        check(swagger, {**good, "body": {"nonsense": 1}})


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"health": (401, {})}, "KFP_TOKEN"),
        ({"health": (403, {})}, "KFP_COOKIE"),
        ({"health": (503, {})}, "try later"),
        ({"health": (200, "<html>log in</html>")}, "login"),
        ({"health": (200, {"multi_user": True})}, "--namespace"),
        ({"health": (404, {})}, "404"),
        ({"fail": {"/runs": [400]}}, "planned failure of /runs"),
        ({"fail": {"/upload_version": [500]}}, "try later"),
    ],
)
def test_errors_teach(backend, capsys, setting, words):
    for name, value in setting.items():
        setattr(backend, name, value)
    with serving(backend) as host:
        assert send(host) == 1
    err = capsys.readouterr().err
    assert words in err
    assert "Traceback" not in err


def test_an_old_backend_is_named(backend, capsys, monkeypatch):
    plain = backend.answer
    old = lambda method, path, *rest: (200, {}) if path == "/apis/v1beta1/healthz" else plain(method, path, *rest)  # noqa: E731
    backend.health = (404, {})
    monkeypatch.setattr(backend, "answer", old)
    with serving(backend) as host:
        assert send(host) == 1
    assert "1.x" in capsys.readouterr().err


def test_without_a_host_or_with_a_dead_one(capsys):
    assert send("") == 1
    assert "KFP_HOST" in capsys.readouterr().err
    assert send("http://127.0.0.1:9") == 1
    assert "can't be reached" in capsys.readouterr().err


def test_a_profile_of_one_machine_is_refused(capsys):
    assert send("http://127.0.0.1:9", "--profile", "local") == 1
    assert "cpu-cluster" in capsys.readouterr().err


def test_the_token_is_sent_and_never_printed(backend, capsys, monkeypatch):
    backend.token = "eyJhbGciOiJSUzI1NiJ9.c3VibWl0.4b1d"
    monkeypatch.setenv(submit.TOKEN, backend.token)
    with serving(backend) as host:
        assert send(host) == 0
        monkeypatch.setenv(submit.TOKEN, "eyJhbGciOiJSUzI1NiJ9.d3Jvbmc.77aa")
        assert send(host) == 1
    printed = capsys.readouterr()
    assert "eyJhbGci" not in printed.out + printed.err


def test_a_run_that_has_vanished_is_told_from_a_wrong_address(backend, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    backend.fail = {"/runs/r1": [404] * 6}
    with serving(backend) as host, pytest.raises(submit.SubmitError, match=r"knows no run r1 \(404\)") as caught:
        submit.wait(submit.connect(host), "r1", 60)
    assert "root" not in str(caught.value)
    backend.health = (404, {})
    with serving(backend) as host, pytest.raises(submit.SubmitError, match="no Kubeflow Pipelines API"):
        submit.connect(host)


def test_a_cancelled_run_ends_the_waiting_and_a_stumble_does_not(backend, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    backend.states = ["RUNNING", "CANCELED"]
    backend.fail = {"/runs/r1": [503, 502]}
    with serving(backend) as host:
        assert submit.wait(submit.connect(host), "r1", 60) == "CANCELED"


def test_waiting_has_an_end(backend, monkeypatch):
    monkeypatch.setattr(submit.time, "sleep", lambda seconds: None)
    backend.states = ["RUNNING"]
    with serving(backend) as host, pytest.raises(submit.SubmitError, match="--timeout"):
        submit.wait(submit.connect(host), "r1", timeout_s=0.0)

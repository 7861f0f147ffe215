"""Submission against a loopback backend; every request must fit the API's own description."""

import json
import os
from pathlib import Path

import pytest
import yaml
from loopback_kfp import Backend, argo, around, check, serving

from latefuse import cli
from latefuse.cluster import kfp_wait, submit
from latefuse.cluster.asked import ALLOW_TAG
from latefuse.cluster.kfp_auth import WAYS
from latefuse.cluster.node import EvaluateConfig
from pipelines import submit as sending

SPECS = Path(os.environ.get("LATEFUSE_SPECS", Path(__file__).parents[3] / "shared" / "specs"))
SWAGGER = SPECS / "kubeflow-pipelines" / "kfp_api_v2beta1.swagger.json"
RECIPE = "tests/golden/recipe.yaml"


@pytest.fixture(autouse=True)
def _alone(nowhere, compiled_once, monkeypatch):
    monkeypatch.setenv(ALLOW_TAG, "1")


@pytest.fixture
def backend():
    return Backend()


def send(host, *more, command="submit"):
    return cli.main([command, RECIPE, "--host", host, *more])


def uploaded(backend):
    """The specification in the first package that was sent."""
    text = backend.packages[0]
    return next(iter(yaml.safe_load_all(text[text.index("components:") : text.rindex("\r\n--")])))


def test_uploads_starts_prints_the_link_and_waits(backend, capsys):
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


def test_experiment_and_run_have_names_given_or_sensible_ones(backend):
    with serving(backend) as host:
        assert send(host, "--experiment", "nightly", "--run-name", "with more salt") == 0
        assert backend.runs["r1"]["display_name"] == "with more salt"
        assert send(host) == 0
    assert list(backend.experiments) == ["nightly", "golden"]
    assert backend.runs["r1"]["display_name"] == backend.versions[1]
    assert backend.versions[1].startswith("latefuse-golden-")


def test_every_request_fits_the_api(backend):
    if not SWAGGER.exists():
        pytest.skip(f"no description of the API at {SWAGGER}")
    backend.states = ["FAILED"]
    with serving(backend) as host:
        assert send(host, "--wait") == 1
        assert send(host) == 0
        assert send(host, command="upload") == 0
        assert send(host, "--cron", "0 3 * * *", command="schedule") == 0
        assert send(host, "--cron", "0 4 * * *", "--replace", command="schedule") == 0
        assert send(host, "--stop", "disable", command="schedule") == 0
    swagger = json.loads(SWAGGER.read_text())
    for request in backend.requests:
        check(swagger, request)
    seen = {(one["method"], one["path"].rsplit("/v2beta1", 1)[1]) for one in backend.requests}
    assert {("POST", "/pipelines/upload"), ("POST", "/pipelines/upload_version"), ("POST", "/runs")} <= seen
    assert {("POST", "/recurringruns"), ("DELETE", "/recurringruns/c1"), ("POST", "/recurringruns/c2:disable")} <= seen
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


def test_an_upload_starts_nothing_and_can_be_started_from_the_page(backend, capsys):
    with serving(backend) as host:
        assert send(host, command="upload") == 0
        assert f"{host}/#/pipelines/details/p1/version/v1" in capsys.readouterr().out
    assert backend.runs == {}
    inputs = uploaded(backend)["root"]["inputDefinitions"]["parameters"]
    assert all(one["isOptional"] and one["defaultValue"] for one in inputs.values())
    assert len(inputs["finetune_source"]["defaultValue"]) == 16


def test_where_there_are_several_users_all_is_theirs(backend, capsys):
    """The second submission must find the pipeline of the first, which is listed only where the namespace is said."""
    backend.health = (200, {"multi_user": True})
    with serving(backend) as host:
        assert send(host, "--namespace", "cooks") == 0
        assert send(host, "--namespace", "cooks") == 0
        assert send(host) == 1
    assert "--namespace" in capsys.readouterr().err
    asked = [one for one in backend.requests if one["method"] == "GET" and one["path"].endswith("/pipelines")]
    assert {one["query"]["namespace"] for one in asked} == {"cooks"}
    [made] = [one for one in backend.requests if one["path"].endswith("/pipelines/upload")]
    assert made["query"]["namespace"] == "cooks"
    [group] = [one for one in backend.requests if one["method"] == "POST" and one["path"].endswith("/experiments")]
    assert group["body"]["namespace"] == "cooks"


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        ({"health": (401, {})}, "KFP_TOKEN"),
        ({"health": (403, {})}, "KFP_COOKIE"),
        ({"health": (503, {})}, "try later"),
        ({"health": (200, "<html>log in</html>")}, "login"),
        ({"health": (302, {})}, "login.example"),
        ({"health": (200, {"multi_user": True})}, "--namespace"),
        ({"health": (404, {})}, "404"),
        ({"fail": {"/runs": [400]}}, "planned failure of /runs"),
        ({"fail": {"/upload_version": [500]}}, "try later"),
        ({"fail": {"/upload_version": [409]}}, "somebody was quicker"),
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
    err = capsys.readouterr().err
    assert "KFP_HOST" in err
    assert "--context" in err
    assert send("http://127.0.0.1:9") == 1
    assert "can't be reached" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["submit", "upload", "schedule"])
def test_an_image_by_its_tag_is_refused_before_anything_is_sent(backend, capsys, monkeypatch, command):
    more = ["--cron", "0 3 * * *"] if command == "schedule" else []
    monkeypatch.delenv(ALLOW_TAG)
    with serving(backend) as host:
        assert send(host, *more, command=command) == 1
        assert "image localhost/latefuse-cpu:0.1.0 has no known digest" in capsys.readouterr().err
        assert send(host, *more, "--image", "registry.example/latefuse:7", command=command) == 1
        assert not backend.packages
        pinned = f"registry.example/latefuse@sha256:{'0' * 64}"
        assert send(host, *more, "--image", pinned, command=command) == 0
    assert len(backend.packages) == 1


def test_a_profile_of_one_machine_is_refused(capsys):
    assert send("http://127.0.0.1:9", "--profile", "local") == 1
    assert "cpu-cluster" in capsys.readouterr().err


def test_a_run_that_has_vanished_is_told_from_a_wrong_address(backend):
    backend.fail = {"/runs/r1": [404] * 6}
    with serving(backend) as host, pytest.raises(submit.SubmitError, match=r"knows no run r1 \(404\)") as caught:
        kfp_wait.wait(submit.connect(host), "r1", 60)
    assert "root" not in str(caught.value)
    backend.health = (404, {})
    with serving(backend) as host, pytest.raises(submit.SubmitError, match="no Kubeflow Pipelines API"):
        submit.connect(host)


def test_a_table_from_the_cache_is_looked_for_by_the_settings_that_evaluate_runs_with(backend, capsys, monkeypatch):
    """The digest that is looked for is the one that the step of the uploaded pipeline will write into its run."""
    looked = {}

    def table(run_id, page, settings=None, cached=False):
        looked.update(run=run_id, settings=settings, cached=cached)
        return "the table"

    monkeypatch.setattr(sending, "table_of_run", table)
    backend.details = [around(argo("evaluate", "SUCCEEDED", 2, ["SKIPPED"]))]
    with serving(backend) as host:
        assert send(host, "--wait") == 0
    spec = uploaded(backend)
    config = spec["root"]["dag"]["tasks"]["evaluate"]["inputs"]["parameters"]["config"]["runtimeValue"]["constant"]
    assert looked == {"run": "r1", "settings": EvaluateConfig.model_validate_json(config).digest, "cached": True}
    assert capsys.readouterr().out.endswith("run r1: SUCCEEDED\nthe table\n")


@pytest.mark.parametrize("variable", submit.HOSTS)
def test_the_environment_names_the_host_too(backend, monkeypatch, variable):
    assert variable not in WAYS
    with serving(backend) as host:
        monkeypatch.setenv(variable, host)
        assert submit.connect().host == host

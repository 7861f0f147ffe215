"""Runs by the clock, against a loopback backend: made once, replaced, stopped; nothing is sent for a wrong one."""

import pytest
from loopback_kfp import Backend, serving

from latefuse import cli
from latefuse.cluster.asked import ALLOW_TAG

RECIPE = "tests/golden/recipe.yaml"


@pytest.fixture(autouse=True)
def _alone(nowhere, compiled_once, monkeypatch):
    monkeypatch.setenv(ALLOW_TAG, "1")


@pytest.fixture
def backend():
    return Backend()


def schedule(host, *more):
    return cli.main(["schedule", RECIPE, "--host", host, *more])


def test_what_is_sent_and_what_is_said(backend, capsys):
    with serving(backend) as host:
        assert schedule(host, "--cron", "0 3 * * *", "--experiment", "nightly") == 0
    [made] = backend.recurring.values()
    assert made["display_name"] == "latefuse-golden"
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * *"}}
    assert (made["max_concurrency"], made["no_catchup"], made["mode"]) == (1, True, "ENABLE")
    assert made["service_account"] == "latefuse-runner"
    assert made["pipeline_version_reference"] == {"pipeline_id": "p1", "pipeline_version_id": "v1"}
    assert backend.runs == {}
    out = capsys.readouterr().out
    assert f"{host}/#/recurringrun/details/c1" in out
    assert "03:00:00" in out
    assert "UTC" in out
    assert "STOP=disable (or STOP=delete) NAME=latefuse-golden EXPERIMENT=nightly" in out


def test_the_data_are_looked_at_each_time_and_nothing_else_runs_again(backend):
    """Kubeflow writes the time into a parameter of `prepare`; what comes after it has its fingerprints as keys."""
    with serving(backend) as host:
        assert schedule(host, "--cron", "0 3 * * *") == 0
        assert cli.main(["submit", RECIPE, "--host", host]) == 0
    [made] = backend.recurring.values()
    given, once = made["runtime_config"]["parameters"], backend.runs["r1"]["runtime_config"]["parameters"]
    assert given["prepare_source"] == f"{once['prepare_source']} [[ScheduledTime]]"
    assert {key: value for key, value in given.items() if key != "prepare_source"} == {
        key: value for key, value in once.items() if key != "prepare_source"
    }


def test_the_same_name_again_is_refused_or_replaced(backend, capsys):
    with serving(backend) as host:
        assert schedule(host, "--cron", "0 3 * * *") == 0
        assert schedule(host, "--cron", "0 4 * * *") == 1
        assert (
            "has a recurring run 'latefuse-golden' already (c1): replace it with REPLACE=1" in capsys.readouterr().err
        )
        assert list(backend.recurring) == ["c1"]
        assert len(backend.versions) == 1
        assert schedule(host, "--cron", "0 4 * * *", "--name", "another") == 0
        assert schedule(host, "--cron", "0 5 * * *", "--replace") == 0
        assert "instead of c1, which is deleted" in capsys.readouterr().out
    assert {key: one["trigger"]["cron_schedule"]["cron"] for key, one in backend.recurring.items()} == {
        "c2": "0 0 4 * * *",
        "c3": "0 0 5 * * *",
    }


def test_a_replacement_that_fails_leaves_the_old_one(backend):
    with serving(backend) as host:
        assert schedule(host, "--cron", "0 3 * * *") == 0
        answer = backend.answer
        backend.answer = lambda method, path, *rest: (
            (400, {}) if (method, path.rsplit("/", 1)[1]) == ("POST", "recurringruns") else answer(method, path, *rest)
        )
        assert schedule(host, "--cron", "0 5 * * *", "--replace") == 1
    assert list(backend.recurring) == ["c1"]


def test_it_is_disabled_and_deleted_by_its_name(backend, capsys):
    with serving(backend) as host:
        assert schedule(host, "--cron", "0 3 * * *") == 0
        assert schedule(host, "--stop", "disable") == 0
        assert backend.recurring["c1"]["status"] == "DISABLED"
        assert schedule(host, "--stop", "delete") == 0
        assert backend.recurring == {}
        capsys.readouterr()
        for more in ([], ["--experiment", "no-such"]):
            assert schedule(host, "--stop", "delete", *more) == 1
            assert "has no recurring run 'latefuse-golden'" in capsys.readouterr().err
    assert "no-such" not in backend.experiments


@pytest.mark.parametrize(("text", "words"), [("", "--cron"), ("0 3 * *", "4 fields"), ("0 25 * * *", "25 is no hour")])
def test_a_wrong_time_is_refused_before_anything_is_sent(backend, capsys, text, words):
    with serving(backend) as host:
        assert schedule(host, "--cron", text) == 2
    assert words in capsys.readouterr().err
    assert backend.requests == []

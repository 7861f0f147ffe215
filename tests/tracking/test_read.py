"""What steps on a cluster have written is found again by those who waited elsewhere; against MLflow itself."""

import pytest

from latefuse import tracking
from latefuse.cluster.summary import table_of_run
from latefuse.tracking import runs

PAGE = "http://kubeflow.example/#/runs/details/run-1"
TABLE = "arm          dish_top1\nseparate     0.91\nmixed        0.85"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    """A database of MLflow's own, in which two pipelines have run: the second one's evaluation came from the cache."""
    folder = tmp_path_factory.mktemp("mlflow")
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.setenv("LATEFUSE_HOME", str(folder))
        patch.setenv("LATEFUSE_EXPERIMENT", "golden")
        patch.chdir(folder)
        for pipeline, steps in (("run-1", ("prepare", "evaluate")), ("run-2", ("prepare",))):
            patch.setenv("LATEFUSE_PIPELINE_RUN", pipeline)
            for step in steps:
                out = folder / pipeline / step
                out.mkdir(parents=True)
                with tracking.step_run(step, f"digest-of-{step}", out) as tracker:
                    tracker.metrics({"eval/dish_top1": 0.91, "eval/dish_top1/mixed": 0.85, "sys/x": 1.0})
                    if step == "evaluate":
                        (out / "table.txt").write_text(f"{TABLE}\n")
                        tracker.artifact(out / "table.txt", "evaluation")
    return uri


@pytest.fixture
def there(database, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", database)


def test_the_table_of_a_run_is_found_by_the_identity_of_its_steps(there):
    found = tracking.measured("run-1")
    assert (found.own, found.table) == (True, TABLE)
    assert found.numbers == {"eval/dish_top1": 0.91, "eval/dish_top1/mixed": 0.85}
    text = table_of_run("run-1", PAGE)
    assert TABLE in text
    assert text.endswith(f"MLflow run: {found.run_id}")


def test_what_the_cache_handed_on_is_told_as_such(there):
    assert tracking.measured("run-2") is None
    assert tracking.measured("run-2", "digest-of-another") is None
    assert tracking.measured("run-2", "digest-of-evaluate").own is False
    text = table_of_run("run-2", PAGE, "digest-of-evaluate", cached=True)
    assert TABLE in text
    assert "came from the cache: measured by the newest run with the same settings" in text
    assert "evaluate came from the cache" in table_of_run("run-2", PAGE, None, cached=True)


def test_without_a_table_it_is_said_where_to_look(there, monkeypatch):
    assert "was the server away" in table_of_run("run-3", PAGE, "digest-of-evaluate")
    assert PAGE in table_of_run("run-3", PAGE)
    monkeypatch.setattr(runs.Door, "text", lambda *told: (_ for _ in ()).throw(OSError("no store")))
    text = table_of_run("run-1", PAGE)
    assert "eval/dish_top1/mixed                             0.8500" in text
    assert "can't be read from here" in text
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert "MLFLOW_TRACKING_URI set as for the steps" in table_of_run("run-1", PAGE)


def test_a_server_that_is_away_is_said_to_be(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert table_of_run("run-1", PAGE).startswith("MLflow does not answer (")
    with pytest.raises(LookupError):
        tracking.measured("run-1")

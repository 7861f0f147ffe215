"""The local database, which is the default: the real MLflow, its real rules."""

from pathlib import Path

import mlflow
import pytest

from latefuse import places, tracking

SECRETS = {
    "MLFLOW_TRACKING_PASSWORD": "correct-horse-4711",
    "AWS_SECRET_ACCESS_KEY": "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
    "HF_TOKEN": "not-of-the-usual-shape-81",
    "DATABASE_URL": "postgresql://cook:tulip-3345@db.example/food",
}
USER = "marie-dupont"


@pytest.fixture
def database(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path / USER))
    return mlflow.MlflowClient(tracking_uri=places.tracking_uri())


def test_a_run_in_the_database_by_default(database, tmp_path):
    page = tmp_path / "report.html"
    told = " and ".join(SECRETS.values())
    page.write_text(f"<p>made in {Path.home()}/work with {told}</p>")
    ids = []

    def crash():
        with (
            tracking.pipeline_run("kitchen", "cfg", tmp_path / "t") as parent,
            tracking.step_run("evaluate", "cfg", tmp_path / "out") as tracker,
        ):
            tracker.params({"token": told, "where": f"{Path.home()}/data", "lr": 0.1})
            tracker.tags({"note": f"see {Path.home()}"})
            tracker.dataset("kitchen", "f" * 64, f"{Path.home()}/raw")
            tracker.artifact(page, "pages")
            for step in range(1500):
                tracker.metrics({"train/loss": 1 / (step + 1)}, step=step)
            ids.extend([parent.run_id, tracker.run_id])
            raise RuntimeError(f"no {Path.home()}/file for {told}")

    with pytest.raises(RuntimeError):
        crash()
    parent_id, run_id = ids
    run = database.get_run(run_id)
    assert run.info.status == "FAILED"
    assert run.data.tags["mlflow.parentRunId"] == parent_id
    assert run.data.params == {"token": "*** and *** and *** and ***", "where": "~/data", "lr": "0.1"}
    assert run.data.tags["latefuse.error"] == "RuntimeError: no ~/file for *** and *** and *** and ***"
    assert len(database.get_metric_history(run_id, "train/loss")) == 1500
    assert run.inputs.dataset_inputs[0].dataset.source == "~/raw"
    assert database.get_run(parent_id).info.status == "FAILED"
    stored = [path for path in places.home().rglob("*") if path.is_file()]
    assert any(path.name == "report.html" for path in stored)
    for secret in (*SECRETS.values(), USER):
        assert not [path for path in stored if secret.encode() in path.read_bytes()]


def test_the_same_records_twice_count_once(database, tmp_path):
    """What an answer that got lost leads to: the rule of the real server that exactly-once rests on."""
    from latefuse.tracking.door import Door

    door = Door(places.tracking_uri(), tmp_path / "artifacts")
    header = {
        "t": 1, "spool": "s1", "run_id": None, "shared": False, "identity": "i", "experiment": "e", "name": "n",
        "tags": {},
    }  # fmt: skip
    run_id = door.open(header)
    records = [{"n": 1, "t": 5, "kind": "metrics", "values": {"a": 1.0, "b": "nan"}, "step": 1}]
    door.send(run_id, "s1", records)
    door.send(run_id, "s1", records)
    assert door.open(header) == run_id
    assert door.sent(run_id, "s1") == 1
    assert len(database.get_metric_history(run_id, "a")) == len(database.get_metric_history(run_id, "b")) == 1

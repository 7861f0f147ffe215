"""A loopback MLflow server, and an environment in which tracking is quick to give up."""

import pytest
from loopback_mlflow import Server


@pytest.fixture(autouse=True)
def _environment(tmp_path, monkeypatch):
    for name in ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_NAME", "LATEFUSE_PARENT_RUN", "LATEFUSE_PIPELINE_RUN", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "home"))


@pytest.fixture
def server(tmp_path, monkeypatch):
    made = Server(tmp_path / "artifacts").start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", made.uri)
    yield made
    made.stop()

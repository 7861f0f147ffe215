"""The MLflow client behind the tracker, with bounded time-outs and two kinds of failure: `Away` and `Refused`.

The only file of the package that imports mlflow for writing. Nothing but what it is given is sent: MLflow's own
context (user, script path, git) is never asked for.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from latefuse.tracking import words

Record = dict[str, Any]
LIMITS = {"metrics": 800, "params": 90, "tags": 90}
IDENTITY = "latefuse.identity"
SPOOL = "latefuse.spool"
SENT = "latefuse.sent"
_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "5",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}
_RETRY_LATER = {408, 425, 429}


class Away(Exception):
    """The server can't be reached, is too slow or wants other credentials: keep the records, try again later."""


class Refused(Exception):
    """The server has understood and will never take this record."""


class Door:
    """One MLflow server. Every method raises only `Away` or `Refused`."""

    def __init__(self, uri: str, artifacts: Path | None = None) -> None:
        """uri: a tracking URI. artifacts: where a local database keeps its files."""
        self.uri = uri
        self.ready = threading.Event()  # mlflow is imported: from here on waiting is for the server
        self._artifacts = artifacts
        self._client: Any = None

    def open(self, header: Record) -> str:
        """The run of this spool: the adopted one, the one this spool made before, or a new one.

        A run of the same identity that still says RUNNING was left by an attempt that died: it is closed as FAILED.
        A pipeline's run is shared by all who know its identity, so it is adopted instead.
        """
        if header.get("run_id"):
            return self._call("get_run", header["run_id"]).info.run_id
        experiment = self._experiment(header["experiment"])
        known = self._search(experiment, header["identity"])
        if header["shared"]:
            return self._shared(experiment, header, known)
        for run in known:
            if run.data.tags.get(SPOOL) == header["spool"]:
                return run.info.run_id
        for run in known:
            if run.info.status == "RUNNING":
                self._call(
                    "set_tag",
                    run.info.run_id,
                    "latefuse.closed",
                    "left open by an attempt that died",
                )
                self._call("set_terminated", run.info.run_id, status="FAILED")
        return self._create(experiment, header, attempt=len(known) + 1)

    def send(self, run_id: str, spool: str, records: list[Record]) -> None:
        """Deliver records in order; the last number delivered is written into the run in the same request."""
        batch: dict[str, list[Any]] = {kind: [] for kind in LIMITS}
        last = 0
        for record in records:
            kind = record["kind"]
            if kind in LIMITS:
                if len(batch[kind]) + len(record["values"]) > LIMITS[kind]:
                    batch = self._flush(run_id, spool, batch, last)
                batch[kind] += _entities(record)
            else:
                batch = self._flush(run_id, spool, batch, last)
                self._single(run_id, record)
            last = record["n"]
        self._flush(run_id, spool, batch, last)

    def sent(self, run_id: str, spool: str) -> int:
        """The number of the last record of `spool` that the run holds."""
        return int(self._call("get_run", run_id).data.tags.get(f"{SENT}.{spool}", 0))

    def tagged(self, tags: Mapping[str, str]) -> list[Any]:
        """The runs of all experiments that carry these tags, newest first."""
        experiments = [str(one.experiment_id) for one in self._call("search_experiments")]
        query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        return list(self._call("search_runs", experiments, filter_string=query, order_by=["start_time DESC"]))

    def text(self, run_id: str, path: str) -> str:
        """A text file among the artifacts of a run."""
        with tempfile.TemporaryDirectory() as folder:
            return Path(self._call("download_artifacts", run_id, path, folder)).read_text(encoding="utf-8")

    def close_children(self, parent: str, status: str) -> None:
        """Give the runs below `parent` that still say RUNNING an end."""
        info = self._call("get_run", parent).info
        query = f"tags.`mlflow.parentRunId` = '{parent}' and attributes.status = 'RUNNING'"
        for run in self._call("search_runs", [info.experiment_id], filter_string=query):
            self._call("set_terminated", run.info.run_id, status=status)

    def _flush(self, run_id: str, spool: str, batch: dict[str, list[Any]], last: int) -> dict[str, list[Any]]:
        from mlflow.entities import RunTag

        if any(batch.values()):
            tags = [*batch["tags"], RunTag(f"{SENT}.{spool}", str(last))]
            self._call(
                "log_batch",
                run_id,
                metrics=batch["metrics"],
                params=batch["params"],
                tags=tags,
            )
        return {kind: [] for kind in LIMITS}

    def _single(self, run_id: str, record: Record) -> None:
        if record["kind"] == "artifact":
            self._artifact(run_id, Path(record["path"]), record["folder"])
        elif record["kind"] == "dataset":
            self._dataset(run_id, record)
        else:
            self._call("set_terminated", run_id, status=record["status"], end_time=record["t"])

    def _artifact(self, run_id: str, path: Path, folder: str) -> None:
        if not path.exists():
            raise Refused(f"{words.scrub(str(path))} no longer exists")
        with tempfile.TemporaryDirectory() as scratch:
            for file, sub in words.files(path):
                clean = words.scrubbed_copy(file, Path(scratch))
                self._call(
                    "log_artifact",
                    run_id,
                    str(clean),
                    "/".join(p for p in (folder, sub) if p) or None,
                )

    def _dataset(self, run_id: str, record: Record) -> None:
        from mlflow.entities import Dataset, DatasetInput

        source = words.scrub(record["source"])
        entity = Dataset(record["name"], record["digest"][:36], "local", source)
        self._call("log_inputs", run_id, [DatasetInput(dataset=entity, tags=[])])

    def _experiment(self, name: str) -> str:
        found = self._call("get_experiment_by_name", name)
        if found is None:
            try:
                location = (self._artifacts / words.slug(name)).absolute().as_uri() if self._artifacts else None
                return str(self._call("create_experiment", name, artifact_location=location))
            except Refused:
                found = self._call("get_experiment_by_name", name)
        if found is None or found.lifecycle_stage != "active":
            raise Refused(f"experiment {name!r} is deleted: restore it, or set MLFLOW_EXPERIMENT_NAME to another")
        return str(found.experiment_id)

    def _search(self, experiment: str, identity: str) -> list[Any]:
        query = f"tags.`{IDENTITY}` = '{identity}'"
        return list(
            self._call(
                "search_runs",
                [experiment],
                filter_string=query,
                order_by=["start_time ASC"],
            )
        )

    def _shared(self, experiment: str, header: Record, known: list[Any]) -> str:
        if known:
            return known[0].info.run_id
        made = self._create(experiment, header, attempt=1)
        first = self._search(experiment, header["identity"])[0].info.run_id
        if first != made:
            self._call("delete_run", made)
        return first

    def _create(self, experiment: str, header: Record, attempt: int) -> str:
        tags = {
            IDENTITY: header["identity"],
            SPOOL: header["spool"],
            **header["tags"],
            "latefuse.attempt": str(attempt),
        }
        parent = header.get("parent")
        if not parent and header.get("parent_header"):
            parent = self.open(header["parent_header"])
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = self._call(
            "create_run",
            experiment,
            start_time=header["t"],
            tags=tags,
            run_name=header["name"],
        )
        return run.info.run_id

    def _call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return getattr(self._connected(), method)(*args, **kwargs)
        except MlflowException as error:
            status = error.get_http_status_code()
            text = words.scrub(str(error)).splitlines()[0][:300]
            client_error = 400 <= status < 500 and status not in _RETRY_LATER | {
                401,
                403,
            }
            raise (Refused if client_error else Away)(text) from None
        except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not fail a step
            raise Away(words.scrub(f"{type(error).__name__}: {error}")[:300]) from None

    def _connected(self) -> Any:
        if self._client is None:
            for name, value in _SETTINGS.items():
                os.environ.setdefault(name, value)
            import logging

            try:
                import mlflow
            finally:
                self.ready.set()
            for noisy in ("mlflow", "alembic"):
                logging.getLogger(noisy).setLevel(logging.WARNING)
            self._client = mlflow.MlflowClient(tracking_uri=self.uri)
        return self._client


def _entities(record: Record) -> Iterable[Any]:
    from mlflow.entities import Metric, Param, RunTag

    values = record["values"].items()
    if record["kind"] == "metrics":
        return [Metric(key, float(value), record["t"], record["step"] or 0) for key, value in values]
    return [(Param if record["kind"] == "params" else RunTag)(key, value) for key, value in values]

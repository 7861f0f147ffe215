"""The one door to MLflow.

A step gets a `Tracker` and tells it parameters, metrics, tags and files. What it tells is written to a spool file
beside the step's outputs first and sent from there by a background thread, so a dead or slow server never holds a step
up; what could not be sent is replayed later, exactly once (`replay`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from latefuse.tracking.read import Measured

__all__ = ["Null", "Tracker", "measured", "pipeline_run", "replay", "step_run"]


class Tracker(Protocol):
    """What a step may say about itself. No call blocks on the server and none raises because of it."""

    @property
    def run_id(self) -> str | None:
        """The id of the MLflow run, or None where there is none (yet); waits a bounded time for it."""

    def params(self, values: Mapping[str, Any]) -> None:
        """Nested mappings become dotted names; a value is logged once."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers under the fixed names, for instance `train/loss` at optimiser step `step`."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Short texts by which runs are found and grouped."""

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file or a folder of files, stored under `folder` of the run."""

    def dataset(self, name: str, digest: str, source: str) -> None:
        """The data that the step has read, by name and fingerprint; nothing of it is loaded."""


class Null:
    """A tracker that forgets everything: for tests, for other ranks than 0, for use without tracking."""

    run_id: str | None = None

    def params(self, values: Mapping[str, Any]) -> None:
        """Forget."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Forget."""

    def tags(self, values: Mapping[str, Any]) -> None:
        """Forget."""

    def artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Forget."""

    def dataset(self, name: str, digest: str, source: str) -> None:
        """Forget."""


@contextmanager
def step_run(step: str, config_digest: str, out: Path, node: str | None = None) -> Iterator[Tracker]:
    """One MLflow run for one step, child of the pipeline's run where there is one; rank 0 only.

    step: `prepare`, `finetune` ... node: the name in the graph, `finetune-image`; the step's name by default.
    out: the folder of the step's outputs; the spool file lies beside it. An exception closes the run as FAILED,
    SIGINT and SIGTERM as KILLED.
    """
    from latefuse.tracking import runs

    with runs.step_run(step, config_digest, Path(out), node or step) as tracker:
        yield tracker


@contextmanager
def pipeline_run(name: str, config_digest: str, workdir: Path) -> Iterator[Tracker]:
    """The parent run of a pipeline that runs on this machine; the steps started inside find it by environment."""
    from latefuse.tracking import runs

    with runs.pipeline_run(name, config_digest, Path(workdir)) as tracker:
        yield tracker


def replay(folder: Path, unfinished: str = "FAILED") -> dict[str, int | None]:
    """Send what earlier runs could not: {spool file: records still kept} for every spool file under `folder`.

    None stands for a spool whose process still runs and sends it itself. Lines that can't be read count as kept.
    unfinished: how a run is ended that its process had no time to end.
    """
    from latefuse.tracking import runs

    return runs.replay(Path(folder), unfinished)


def measured(pipeline: str, settings: str | None = None) -> Measured | None:
    """What `evaluate` has measured in a pipeline's run, as MLflow has it; see `latefuse.tracking.read.measured`."""
    from latefuse.tracking import read

    return read.measured(pipeline, settings)

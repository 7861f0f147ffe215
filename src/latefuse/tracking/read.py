"""What a pipeline's runs have left in MLflow, for those who wait elsewhere than where they ran."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from latefuse.tracking import runs
from latefuse.tracking.door import IDENTITY, Away, Door, Refused

TABLE = "evaluation/table.txt"
SHOWN = 20


@dataclass(frozen=True)
class Measured:
    """What `evaluate` has measured. own: by the run that was asked for, not by an earlier one of the same settings.

    table: its text. numbers: those least deep in the tree of names, where the table's file can't be had.
    """

    run_id: str
    own: bool
    table: str
    numbers: Mapping[str, float]


def measured(pipeline: str, settings: str | None = None) -> Measured | None:
    """The evaluation of a pipeline's run, by the identity that its steps write; None where MLflow has none.

    settings: the digest of the evaluation's configuration; where the run itself has measured nothing, since its
    evaluation came from a cache, the newest finished run of the same settings is taken. Raises LookupError, with what
    is wrong, where MLflow does not answer.
    """
    door = runs.door()
    try:
        parents = door.tagged({IDENTITY: f"pipeline/{pipeline}"})
        below = [{"mlflow.parentRunId": one.info.run_id, "latefuse.node": "evaluate"} for one in parents]
        found = [run for tags in below for run in door.tagged(tags)]
        own = bool(found)
        if not own and settings:
            found = door.tagged({"latefuse.node": "evaluate", "latefuse.config": settings})
        ended = next((run for run in found if run.info.status == "FINISHED"), None)
        return _read(door, ended, own) if ended is not None else None
    except (Away, Refused) as error:
        raise LookupError(str(error)) from None


def _read(door: Door, run: Any, own: bool) -> Measured:
    numbers = {name: value for name, value in run.data.metrics.items() if name.startswith("eval/")}
    shown = sorted(numbers, key=lambda name: (name.count("/"), name))[:SHOWN]
    try:
        table = door.text(run.info.run_id, TABLE).rstrip()
    except (Away, Refused, OSError):  # the store of files may be out of reach from here
        table = ""
    return Measured(run.info.run_id, own, table, {name: numbers[name] for name in shown})

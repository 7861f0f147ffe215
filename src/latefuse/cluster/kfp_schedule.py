"""Runs that Kubeflow starts by the clock: made, replaced, stopped. A name stands for one of them in an experiment."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from latefuse.cluster.kfp_cron import Cron
from latefuse.cluster.submit import Server, SubmitError, experiment_id

PAGE = 100
# Kubeflow writes the time into the parameter at each start, so that `prepare` looks at the data every time; what comes
# after it is keyed by the fingerprint of what it finds, and is taken from the cache where nothing has changed.
EACH_TIME = "[[ScheduledTime]]"


@dataclass(frozen=True)
class Schedule:
    """What is to be started, and when. uploaded: ids of the pipeline and its version."""

    name: str
    cron: Cron
    uploaded: tuple[str, str]
    arguments: Mapping[str, str]
    service_account: str | None = None


def check_free(server: Server, name: str, experiment: str) -> None:
    """Raise SubmitError where the experiment has a recurring run of that name, before anything is uploaded for one."""
    if there := _there(server, name, experiment):
        raise SubmitError(
            f"experiment {experiment!r} has a recurring run {name!r} already ({', '.join(there)}): replace it with "
            "REPLACE=1 (--replace), or take another NAME=..."
        )


def schedule(server: Server, made: Schedule, experiment: str) -> tuple[str, list[str]]:
    """Make the recurring run: one at a time, without catching up on what was missed. Returns its id, and those of the
    same name whose place it has taken: they go when it is there. Raises SubmitError."""
    there = _there(server, made.name, experiment)
    group = experiment_id(server, experiment)
    with server.asked(f"pipeline {made.uploaded[0]} or experiment {experiment!r}") as kfp:
        new = kfp.create_recurring_run(
            experiment_id=group,
            job_name=made.name,
            cron_expression=made.cron.text,
            max_concurrency=1,
            no_catchup=True,
            params={**made.arguments, "prepare_source": f"{made.arguments['prepare_source']} {EACH_TIME}"},
            pipeline_id=made.uploaded[0],
            version_id=made.uploaded[1],
            service_account=made.service_account,
        )
    for old in there:
        with server.asked(f"recurring run {old}") as kfp:
            kfp.delete_recurring_run(old)
    return str(new.recurring_run_id), there


def stop(server: Server, name: str, experiment: str, delete: bool) -> list[str]:
    """Disable or delete the recurring runs of that name; returns their ids. Raises SubmitError where there is none."""
    there = _there(server, name, experiment)
    if not there:
        raise SubmitError(f"experiment {experiment!r} has no recurring run {name!r}: say NAME=... and EXPERIMENT=...")
    for one in there:
        with server.asked(f"recurring run {one}") as kfp:
            (kfp.delete_recurring_run if delete else kfp.disable_recurring_run)(one)
    return there


def _there(server: Server, name: str, experiment: str) -> list[str]:
    """The ids of the recurring runs of that name; none where there is no such experiment."""
    wanted = {"predicates": [{"operation": 1, "key": "display_name", "stringValue": name}]}
    try:
        with server.asked(f"experiment {experiment!r}") as kfp:
            group = kfp.get_experiment(experiment_name=experiment, namespace=server.namespace).experiment_id
    except ValueError:  # of the client, for a name that no experiment has
        return []
    with server.asked(f"recurring run {name!r}") as kfp:
        answer = kfp.list_recurring_runs(page_size=PAGE, experiment_id=group, filter=json.dumps(wanted))
    return [str(one.recurring_run_id) for one in answer.recurring_runs or ()]

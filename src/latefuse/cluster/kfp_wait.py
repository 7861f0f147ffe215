"""Watch a run on a cluster: a line whenever a step changes its state, and at the end what it was good for."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from latefuse.cluster.kfp_steps import Step, failed, steps
from latefuse.cluster.submit import Server, SubmitError

ENDED = frozenset({"SUCCEEDED", "FAILED", "SKIPPED", "CANCELED", "ERROR"})
PAUSE_S = 5.0
STUMBLES = 5


@dataclass(frozen=True)
class Ended:
    """How a run has ended. error: what the API says of the run as a whole."""

    state: str
    steps: tuple[Step, ...] = ()
    error: str = ""


def wait(server: Server, run_id: str, timeout_s: float, say: Callable[[str], None] | None = None) -> Ended:
    """Wait until the run has ended; `say` gets a line for every step that has changed.

    A server that stumbles for a moment is asked again. `kfp.Client.wait_for_run_completion` would wait for ever on a
    cancelled run. Raises SubmitError when the time is over, which ends the waiting and not the run.
    """
    end = time.monotonic() + timeout_s
    stumbles, told = 0, dict[str, str]()
    while True:
        try:
            with server.asked(f"run {run_id}") as kfp:
                run = kfp.get_run(run_id)
            stumbles = 0
        except SubmitError as error:
            stumbles += 1
            if stumbles > STUMBLES:
                raise SubmitError(f"{error} What became of the run is not known; {again(server, run_id)}") from None
            run = None
        if run is not None:
            found = steps((run.run_details and run.run_details.task_details) or ())
            for step in found:
                if say is not None and told.get(step.name) != step.words():
                    told[step.name] = step.words()
                    say(step.words())
            state = str(run.state or "").upper()
            if state in ENDED:
                reason = str(run.error.message or "") if run.error else ""
                return Ended(state, tuple(found), " ".join(reason.split())[:500])
        if time.monotonic() > end:
            raise SubmitError(f"run {run_id} goes on, but {timeout_s:.0f} s are over; {again(server, run_id)}")
        time.sleep(PAUSE_S)


def follow(server: Server, run_id: str, timeout_s: float, table: Callable[[bool], str]) -> int:
    """`wait`, told on the terminal; 0 for a run that has succeeded, 130 where Ctrl-C left it alone, else 1.

    table: the text of the metrics table, given whether `evaluate` came from the cache.
    """
    try:
        ended = wait(server, run_id, timeout_s, lambda line: print(f"{time.strftime('%H:%M:%S')}  {line}", flush=True))
    except KeyboardInterrupt:
        print(f"\nrun {run_id} goes on, nothing was cancelled; {again(server, run_id)}", flush=True)
        return 130
    print(f"run {run_id}: {ended.state}", flush=True)
    if ended.state == "SUCCEEDED":
        cached = any(step.cached for step in ended.steps if step.name == "evaluate")
        print(table(cached), flush=True)
        return 0
    for line in why(server, ended):
        print(line, flush=True)
    return 1


def why(server: Server, ended: Ended) -> list[str]:
    """Which steps failed and where their logs are; for a run that did not succeed."""
    lines = [f"the run itself: {ended.error}"] if ended.error else []
    for step in failed(ended.steps):
        lines.append(f"{step.name} has failed: {step.error or 'the API does not say why, its log does'}")
        if step.pod:
            where = server.namespace or server.installed
            lines.append(f"  kubectl --namespace {where} logs {step.pod} --all-containers")
    if not lines and ended.state == "FAILED":
        lines.append("no step is named as the one that failed: look at the run's page")
    return lines


def again(server: Server, run_id: str) -> str:
    """How to look at a run that goes on."""
    return (
        f"look again with: latefuse watch {run_id} {server.options()}\n  or at {server.link(f'runs/details/{run_id}')}"
    )

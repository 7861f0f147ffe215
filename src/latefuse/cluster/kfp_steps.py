"""The steps of a run as people know them, out of what the API tells of it: the nodes of an Argo workflow.

Each step is three of them: `prepare-driver` looks into the cache, `prepare` is the step, `executor` (and with retries
`executor(0)`, `executor(1)`) its pods. An executor that was skipped is a step that came from the cache.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DRIVER = "-driver"
ENDED = frozenset({"SUCCEEDED", "SKIPPED", "FAILED", "CANCELED"})
_POD = re.compile(r"executor(\((?P<attempt>\d+)\))?$|retry-")
_OWN = re.compile(r"root$|driver$|executor(\(\d+\))?$|retry-")
_NUMBER = re.compile(r"(\d+)$")


@dataclass(frozen=True)
class Step:
    """One step. state: the API's word. cached: skipped, since the cache had its outputs. seconds: from start to end.

    attempt: from 1. error: what the API tells of it, often nothing. pod: whose log says more.
    """

    name: str
    state: str
    cached: bool = False
    seconds: float | None = None
    attempt: int = 1
    error: str = ""
    pod: str = ""

    def words(self) -> str:
        """Name, state, and what there is to say of it, on one line."""
        told = self.state
        if self.cached:
            told += " (cached)"
        elif self.attempt > 1 and self.state != "PENDING":
            told += f" (attempt {self.attempt})"
        if self.seconds is not None and self.state in ("SUCCEEDED", "FAILED", "CANCELED"):
            told += f" after {duration(self.seconds)}"
        return f"{self.name:<24}  {told}" + (f": {self.error}" if self.error else "")


def steps(details: Sequence[Any]) -> list[Step]:
    """The steps that have begun, by their start; details: `run_details.task_details` of a run."""
    known = {key: one for one in details for key in (one.task_id, _number(one.pod_name)) if key}
    drivers = {_name(one).removesuffix(DRIVER): one for one in details if _name(one).endswith(DRIVER)}
    found: dict[str, Step] = {}
    for one in sorted(details, key=_began):
        name = _name(one)
        if not _OWN.match(name) and not name.endswith(DRIVER) and name != one.pod_name:
            found[name] = _step(one, list(_pods(one, known)), drivers.get(name))
    for name, driver in drivers.items():
        if name not in found and name != "root":
            found[name] = _of_driver(name, driver)
    return [one for one in found.values() if one.state]


def _step(one: Any, pods: Sequence[Any], driver: Any) -> Step:
    state = _state(one)
    if state == "" and driver is not None:  # left out by Argo, since its driver has failed or has not ended
        return _of_driver(_name(one), driver)
    attempts = [int(found["attempt"]) for pod in pods if (found := _POD.match(_name(pod))) and found["attempt"]]
    cached = state == "SKIPPED" or (state == "SUCCEEDED" and any(_state(pod) == "SKIPPED" for pod in pods))
    last = max(pods, key=lambda pod: (_name(pod) if _POD.match(_name(pod)) else "", _began(pod)), default=one)
    return Step(
        _name(one),
        "SKIPPED" if cached else state,
        cached,
        _seconds(one),
        max(attempts, default=0) + 1,
        next((text for node in (one, last) if (text := _error(node))), "") if state == "FAILED" else "",
        str(last.pod_name or ""),
    )


def _of_driver(name: str, driver: Any) -> Step:
    """A step whose driver is all that there is of it so far."""
    state = _state(driver)
    if state not in ("FAILED", "CANCELED"):
        return Step(name, "PENDING")
    error = _error(driver) or "its driver has failed before the step could start"
    return Step(name, state, False, _seconds(driver), 1, error, str(driver.pod_name or ""))


def _pods(one: Any, known: Mapping[str, Any]) -> Iterator[Any]:
    """What belongs to a step below it. Argo names its children by id, which ends in the number of their pods."""
    for child in one.child_tasks or ():
        node = known.get(child.task_id or "") or known.get(_number(child.pod_name))
        if node is not None and _POD.match(_name(node)):
            yield node
            yield from _pods(node, known)


def failed(found: Iterable[Step]) -> list[Step]:
    """The steps that have failed."""
    return [one for one in found if one.state == "FAILED"]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `1 h 5 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _name(one: Any) -> str:
    return str(one.display_name or one.task_id or "")


def _state(one: Any) -> str:
    state = str(one.state or "").upper()
    return "" if state.endswith("UNSPECIFIED") else state


def _error(one: Any) -> str:
    """What is told of a failure: of the node itself, else the last one in its history."""
    told = [one.error, *(past.error for past in reversed(one.state_history or ()))]
    return next((" ".join(str(error.message).split())[:500] for error in told if error and error.message), "")


def _number(name: str | None) -> str:
    found = _NUMBER.search(name or "")
    return found[1] if found else ""


def _began(one: Any) -> float:
    """Seconds since the epoch; nodes without a start come last. Argo's zero is the year 1."""
    began = one.start_time or one.create_time
    return float(began.timestamp()) if began is not None and began.year > 1970 else float("inf")


def _seconds(one: Any) -> float | None:
    if one.start_time is None or one.end_time is None or min(one.start_time.year, one.end_time.year) <= 1970:
        return None
    return max(0.0, float((one.end_time - one.start_time).total_seconds()))

"""The last words of a run: the table of the arms, the times, and where to look next."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from latefuse import places


def closing_words(done: dict[str, Any]) -> str:
    """done: what `cluster.local.run` returns."""
    folder: Path | None = done["evaluate"]
    lines = [""]
    if folder and (folder / "table.txt").exists():
        lines += [(folder / "table.txt").read_text(encoding="utf-8").rstrip(), ""]
    nodes = done["nodes"].values()
    cached = sum(node.status == "cached" for node in nodes)
    lines.append(f"{len(nodes)} steps, {cached} of them from the cache, {done['seconds']:.0f} s.")
    if folder and (folder / "report.html").exists():
        lines.append(f"Report:     {_short(folder / 'report.html')}")
    lines.append(f"Outputs:    {_short(done['latest'])}   (of the newest run of this recipe, one folder a step)")
    lines.append(f"MLflow run: {done['run_id'] or 'not sent yet: `latefuse replay` sends it'}")
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        lines.append(f"All runs:   make mlflow-ui   (database: {_short(places.home() / 'mlflow.db')})")
    return "\n".join(lines)


def table_of_run(run_id: str, page: str, settings: str | None = None, cached: bool = False) -> str:
    """The table of the arms of a run on a cluster, out of MLflow; where it can't be had, where to look for it.

    page: the address of the run. settings: the digest of its evaluation, by which an earlier run's table is found that
    the cache has handed on (`cached`).
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    there = f"the table of the arms is in {page}, step evaluate, artifact report"
    if not uri:
        return f"{there}; with MLFLOW_TRACKING_URI set as for the steps it would stand here"
    from latefuse import tracking

    try:
        found = tracking.measured(run_id, settings if cached else None)
    except LookupError as error:
        return f"MLflow does not answer ({error}); {there}"
    if found is None:
        why = "evaluate came from the cache" if cached else "was the server away when the steps ran?"
        return f"MLflow has no evaluation of this run ({why}); {there}"
    lines = ["", found.table or "\n".join(f"{name:<48} {value:.4f}" for name, value in found.numbers.items()), ""]
    if not found.table:
        lines.append(f"Its files can't be read from here: {there}.")
    if not found.own:
        lines.append("evaluate came from the cache: measured by the newest run with the same settings.")
    return "\n".join([*lines, f"MLflow run: {found.run_id}"])


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

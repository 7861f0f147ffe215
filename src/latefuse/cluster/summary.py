"""The last words of a local run: the table of the arms, the times, and where to look next."""

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


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)

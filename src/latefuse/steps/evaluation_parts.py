"""What the evaluations of arms under several seeds share: which adapters there are, how to repeat it, what is told."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from latefuse import usage
from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.report import provenance
from latefuse.models.adapters import read_card
from latefuse.models.backbone import Backbone, load_placed
from latefuse.tracking import Tracker
from latefuse.training.features import Features

Adapters = dict[tuple[int, str], Path]
S = TypeVar("S")


def adapters_of(finetuned: Sequence[Path], tasks: Mapping[str, Task], data: Dataset) -> Adapters:
    """(seed, arm) -> the folder of its adapter. tasks: the main arm first.

    Raises DataError for an adapter of no arm, and where the main arm has none.
    """
    name, found = next(iter(tasks)), Adapters()
    for path in finetuned:
        card = read_card(path / "adapter", data.fingerprint)
        if card.arm not in tasks:
            raise DataError(f"{path}: an adapter of {card.arm!r}, which is no arm of this recipe: {', '.join(tasks)}")
        found[card.seed, card.arm] = path / "adapter"
    if not any(arm == name for _, arm in found):
        raise DataError(f"no adapter of the task {name!r} among {[str(path) for path in finetuned]}")
    return found


def opened(
    sources: Callable[..., S],
    evaluation: Evaluation,
    tasks: Mapping[str, Task],
    dataset: Path,
    backbone: Path,
    finetuned: Sequence[Path],
    cache: Path | None,
) -> S:
    """Backbone and adapters, ready to be measured. sources: their class. Raises DataError as `adapters_of` does."""
    data, base = Dataset(dataset), load_placed(backbone)
    features = Features(base, data.media, cache / "features" if cache else None)
    return sources(base, features, data, next(iter(tasks)), tasks, adapters_of(finetuned, tasks, data), evaluation)


def result_of(folder: Path) -> dict[str, Any]:
    """What a finetune step left."""
    found: dict[str, Any] = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    return found


def bootstrap_of(evaluation: Evaluation) -> Bootstrap:
    """How intervals are drawn."""
    return Bootstrap(evaluation.bootstrap, evaluation.confidence, evaluation.min_interval_rows)


def repeat(
    data: Dataset, backbone: Backbone, tasks: Mapping[str, Task], evaluation: Evaluation, seeds: Iterable[int]
) -> dict[str, str]:
    """Name -> text: all that a run depends on."""
    return {
        "dataset fingerprint": data.fingerprint,
        "backbone": f"{backbone.name} {backbone.revision or ''} {backbone.digest}".replace("  ", " "),
        "arms": "; ".join(f"{name} {task.digest}" for name, task in tasks.items()),
        "evaluation": evaluation.digest,
        "seeds": ", ".join(dict.fromkeys(map(str, seeds))),
        "versions": provenance.versions(),
    }


def finish(
    told: Mapping[str, Any],
    metrics: Mapping[str, float],
    finding: str,
    data: Dataset,
    backbone: Backbone,
    files: Sequence[str],
    tracker: Tracker,
    out: Path,
    began: float,
) -> dict[str, Any]:
    """Tell the tracker in one batch, write the result, say in one line what was found. told: arms and counts."""
    cost = {"wall_s": time.perf_counter() - began, **usage.peaks()}
    inputs = {"dataset": data.fingerprint, "backbone": backbone.digest}
    result = {
        "step": "evaluate", **told, "metrics": len(metrics), "inputs": inputs, **cost, "run_id": tracker.run_id
    }  # fmt: skip
    tracker.dataset(data.path.name, data.fingerprint, str(data.manifest.get("source", "unknown")))
    tracker.metrics({**metrics, **{f"sys/{name}": value for name, value in cost.items()}})
    for name in files:
        tracker.artifact(out / name, "evaluation")
    (out / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    print(f"evaluate: {len(told['arms'])} arms in {cost['wall_s']:.0f} s. {finding}".rstrip())
    return result

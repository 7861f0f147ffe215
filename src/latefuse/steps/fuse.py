"""Separate adapters in, fused models out: merged by weight and proved, mixed by output, all weights from validation."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from latefuse import usage
from latefuse.config import Task
from latefuse.config_fusion import Fusion, MergeMethod
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.fusion import late
from latefuse.fusion.changes import Change, FusionError, added, base_weights
from latefuse.fusion.folders import read, save_merged
from latefuse.fusion.probe import Probe, acting, attachable, prove_logits
from latefuse.fusion.proof import Merge, prove_weights, store
from latefuse.fusion.rows import SPLIT, training_rows, validation_rows
from latefuse.fusion.search import Candidate, choose
from latefuse.fusion.weights import merge
from latefuse.models.adapter_files import PEFT_CONFIG
from latefuse.models.adapters import AdapterCard, active, detach, read_card
from latefuse.models.adapters import load as load_adapter
from latefuse.models.backbone import Backbone, load_placed
from latefuse.tasks.instruct import Example, nll
from latefuse.tracking import Tracker
from latefuse.training.features import Features

PROBE_ROWS = 2


@dataclass(frozen=True)
class Material:
    """What every merge of one seed is made of and tried on.

    rows: per task the validation rows on which weights are chosen. probe: per task some rows of the proof on logits.
    """

    fusion: Fusion
    seed: int
    backbone: Backbone
    base: Mapping[str, Tensor]
    changes: list[Change]
    rows: dict[str, list[Example]]
    probe: list[list[Example]]
    features: Features
    card: dict[str, Any]


def run(
    fusion: Fusion,
    tasks: Mapping[str, Task],
    dataset: Path,
    backbone: Path,
    adapters: Sequence[Path],
    seed: int,
    out: Path,
    tracker: Tracker,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Fuse the tasks' adapters of one seed; returns the result that also lies in `out/result.json`.

    adapters: output folders of `finetune` (or adapter folders); those of other arms and seeds are passed over. Writes
    `out/<method>/` with its `proof.json` for every merge method and `out/late.json`. Raises FusionError when an adapter
    is missing or of another backbone, and when a proof does not hold.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    data = Dataset(dataset)
    folders, skipped = _chosen(adapters, tasks, seed, data.fingerprint)
    material = _material(fusion, tasks, data, backbone, folders, seed, cache)
    chosen = _search(material)
    _attach(material, folders)
    merges = {method: _merge(material, method, choice, out / method) for method, choice in chosen.items()}
    fused = _late(material, tasks, data, out)
    result = {
        "step": "fuse",
        "seed": seed,
        "tasks": list(tasks),
        "passed_over": skipped,
        "split": SPLIT,
        "search_rows": {name: len(rows) for name, rows in material.rows.items()},
        "merges": merges,
        "late": fused,
        "inputs": {"dataset": data.fingerprint, "backbone": material.backbone.digest, "adapters": sorted(folders)},
        "wall_s": time.perf_counter() - began,
        **usage.peaks(),
        "run_id": tracker.run_id,
    }
    _tell(tracker, data, result, out)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(_summary(result))
    return result


def _chosen(
    folders: Sequence[Path], tasks: Mapping[str, Task], seed: int, fingerprint: str
) -> tuple[dict[str, Path], list[str]]:
    """The adapter of each task under this seed, in the recipe's order, and the names of what was passed over."""
    found: dict[str, Path] = {}
    skipped = []
    for path in folders:
        folder = path if (path / PEFT_CONFIG).exists() else path / "adapter"
        card = read_card(folder, fingerprint)
        if card.arm not in tasks or card.seed != seed:
            skipped.append(f"{card.arm} (seed {card.seed})")
        elif card.arm in found:
            raise FusionError(f"{folder} and {found[card.arm]}: two adapters of task {card.arm!r} under seed {seed}")
        else:
            found[card.arm] = folder
    missing = [name for name in tasks if name not in found]
    if missing:
        raise FusionError(f"no adapter of {', '.join(missing)} under seed {seed} among {[str(f) for f in folders]}")
    return {name: found[name] for name in tasks}, skipped


def _material(
    fusion: Fusion,
    tasks: Mapping[str, Task],
    data: Dataset,
    path: Path,
    folders: Mapping[str, Path],
    seed: int,
    cache: Path | None,
) -> Material:
    """The bare backbone, what each adapter changes in it, validation rows, features."""
    backbone = load_placed(path)
    base = base_weights(backbone.model)
    changes = [read(folder, base, name) for name, folder in folders.items()]
    for name, folder in folders.items():
        load_adapter(backbone, folder, name)  # refuses an adapter of another backbone before anything is spent on it
        detach(backbone)
    rows = {name: validation_rows(data, task, backbone, fusion.search_rows) for name, task in tasks.items()}
    probe = [part[:PROBE_ROWS] or training_rows(data, tasks[name], backbone, PROBE_ROWS) for name, part in rows.items()]
    features = Features(backbone, data.media, cache / "features" if cache else None)
    features.warm((ref for part in (*rows.values(), *probe) for row in part for ref in row.media), progress=False)
    card = {
        "task": "+".join(tasks),
        "modality": tuple(dict.fromkeys(task.single for task in tasks.values())),
        "seed": seed,
        "backbone_digest": backbone.digest,
        "config_digest": fusion.digest,
        "data_fingerprint": data.fingerprint,
        "total_parameters": sum(weight.numel() for weight in base.values()),
    }
    return Material(fusion, seed, backbone, base, changes, rows, probe, features, card)


@dataclass(frozen=True)
class Choice:
    """The weights of one merge, the candidates tried for it and why these."""

    weights: tuple[float, ...]
    tried: list[Candidate]
    reason: str


def _recipe(material: Material, method: MergeMethod, weights: tuple[float, ...]) -> Merge:
    return Merge(method, weights, material.fusion.density, material.fusion.rank, material.seed)


def _search(material: Material) -> dict[MergeMethod, Choice]:
    """The weights of every method."""
    count, methods = len(material.changes), material.fusion.methods
    if count == 1:
        return {method: Choice((1.0,), [], "a single adapter is merged as it is") for method in methods}
    if not any(material.rows.values()):
        reason = f"no row in split {SPLIT!r}: equal weights"
        return {method: Choice((1.0 / count,) * count, [], reason) for method in methods}
    evaluate = partial(_evaluate, material)
    found = choose(evaluate, methods, count, material.fusion.grid, material.fusion.candidates)
    reason = f"mean answer NLL on split {SPLIT!r}"
    return {method: Choice(best.weights, tried, reason) for method, (best, tried) in found.items()}


def _evaluate(material: Material, method: MergeMethod, weights: tuple[float, ...]) -> dict[str, float]:
    """What a candidate costs each task: the merge is put on the weights of the bare backbone and taken off again."""
    with added(material.backbone.model, _recipe(material, method, weights).run(material.changes)):
        return {name: _mean_nll(material, rows) for name, rows in material.rows.items() if rows}


def _attach(material: Material, folders: Mapping[str, Path]) -> None:
    """All adapters under their tasks' names, where PEFT can hold them side by side: what merges are compared with."""
    if attachable(material.changes):
        for name, folder in folders.items():
            load_adapter(material.backbone, folder, name)


def _merge(material: Material, method: MergeMethod, choice: Choice, folder: Path) -> dict[str, Any]:
    """Merge, save, prove. Returns what the result says of it."""
    fusion, changes = material.fusion, material.changes
    chosen = _recipe(material, method, choice.weights)
    change, energy = merge(method, changes, choice.weights, fusion.density, fusion.rank, material.seed)
    as_lora = save_merged(folder, change, material.base, _card(material, method, change, choice))
    on_weights = prove_weights(folder, chosen, changes, material.base, fusion.tolerance)
    probe = Probe(material.backbone, material.probe, material.features)
    on_logits, facts = prove_logits(probe, folder, chosen, changes, fusion.tolerance)
    if energy:
        facts |= {"retained_energy": energy.total, "retained_by_module": energy.modules}
    names = [change.name for change in changes]
    proof = store(folder, chosen, on_weights + on_logits, {**facts, "adapters": names, "dense": not as_lora})
    return {
        "weights": dict(zip(names, choice.weights, strict=True)),
        "chosen_by": choice.reason,
        "candidates": [{"weights": list(c.weights), "nll": c.nll, "loss": c.loss} for c in choice.tried],
        "dense": not as_lora,
        "worst_error": max(check["error"] for check in proof["checks"]),
        **({"retained_energy": energy.total} if energy else {}),
    }


def _mean_nll(material: Material, rows: list[Example]) -> float:
    """Nats per answer token."""
    total = float(nll(material.backbone, rows, features=material.features).sum())
    return total / sum(row.learned for row in rows)


def _card(material: Material, method: str, change: Change, choice: Choice) -> dict[str, Any]:
    losses = [candidate.loss for candidate in choice.tried if candidate.weights == choice.weights]
    numbers = [*(a.numel() + b.numel() for a, b in change.low.values()), *(d.numel() for d in change.dense.values())]
    return AdapterCard(
        **material.card,
        arm=f"separate+merge-{method}",
        metrics={"valid_nll": losses[0]} if losses else {},
        target_modules=tuple(sorted(change.low)),
        modules_to_save=change.whole,
        parameters=sum(numbers),
    ).model_dump(mode="json")


def _late(material: Material, tasks: Mapping[str, Task], data: Dataset, out: Path) -> dict[str, Any]:
    """Learn the weights of both mixtures of outputs on validation and write `late.json`, or say there why not."""
    settings, names = material.fusion.late, list(tasks)
    fused: dict[str, Any] = {"skipped": "fusion.late.enabled is false"}
    same: dict[str, Any] = dict(fused)
    changes = {change.name: change for change in material.changes}

    def alone(name: str | None) -> AbstractContextManager[None]:
        return active(material.backbone, None) if name is None else acting(material.backbone, changes[name])

    if settings.enabled:
        try:
            rows = late.shared(data, tasks, SPLIT, material.backbone, settings.max_rows)
            material.features.warm(
                (ref for part in rows.rows.values() for row in part if row for ref in row.media), progress=False
            )
            fused = late.learn_fused(material.backbone, rows, alone, material.features, settings.steps)
        except (late.NotShared, DataError) as reason:
            fused = {"skipped": str(reason)}
        pooled = [row for part in material.rows.values() for row in part]
        if len(names) < 2 or not pooled:
            same = {"skipped": "one adapter alone" if pooled else f"no row in split {SPLIT!r}"}
        else:
            same = late.learn_same_input(material.backbone, pooled, names, alone, material.features, settings.steps)
    found = {"split": SPLIT, "fused": fused, "same_input": same}
    (out / "late.json").write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    return found


def _tell(tracker: Tracker, data: Dataset, result: Mapping[str, Any], out: Path) -> None:
    tracker.dataset(data.path.name, data.fingerprint, str(data.manifest.get("source", "unknown")))
    metrics: dict[str, float] = {"sys/wall_s": result["wall_s"], "sys/peak_rss_gib": result["peak_rss_gib"]}
    for method, said in result["merges"].items():
        metrics[f"eval/merge_error/{method}"] = said["worst_error"]
        if said["candidates"]:
            metrics[f"eval/valid_nll/{method}"] = min(candidate["loss"] for candidate in said["candidates"])
        if "retained_energy" in said:
            metrics[f"eval/retained_energy/{method}"] = said["retained_energy"]
        tracker.artifact(out / method / "proof.json", f"fusion/{method}")
    for name in ("fused", "same_input"):
        if "nll_after" in result["late"][name]:
            metrics[f"eval/valid_nll/late_{name}"] = result["late"][name]["nll_after"]
    tracker.metrics(metrics)
    tracker.artifact(out / "late.json", "fusion")


def _summary(result: Mapping[str, Any]) -> str:
    merges = "; ".join(
        f"{method} {' '.join(f'{weight:g}' for weight in said['weights'].values())} (error {said['worst_error']:.0e})"
        for method, said in result["merges"].items()
    )
    late_said = result["late"]["fused"]
    outputs = late_said.get("skipped") or f"NLL {late_said['nll_before']:.3f} -> {late_said['nll_after']:.3f}"
    return f"fuse: {', '.join(result['tasks'])}: {merges}; late fusion: {outputs}; {result['wall_s']:.1f} s"

"""Adapters and merges in, findings out: every arm on the test split beside its controls, and the report."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl

from latefuse import usage
from latefuse.config import Evaluation, Task
from latefuse.config_fusion import Fusion
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.evaluation import arms as named
from latefuse.evaluation import report
from latefuse.evaluation.answers import Bench, closed_lists
from latefuse.evaluation.cost import costs
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.measure import Finished, Measured, Plan, Sources, spread
from latefuse.evaluation.metrics import METRICS
from latefuse.evaluation.report import gallery, pictures
from latefuse.evaluation.report.build import headline
from latefuse.evaluation.report.provenance import versions
from latefuse.evaluation.scores import NO_SEED, ORACLE, ScoreTable, copy_lines
from latefuse.evaluation.summary import Summary, flat_metrics, summarise
from latefuse.evaluation.terminal import table
from latefuse.evaluation.workers import measure_all
from latefuse.fusion import late
from latefuse.models.adapters import read_card
from latefuse.models.backbone import load_placed
from latefuse.prompts import MediaRef
from latefuse.steps import evaluate_ranking, evaluate_recommending, evaluate_vectors, evaluate_verdicts
from latefuse.tasks import get
from latefuse.tasks.instruct import Example
from latefuse.tracking import Tracker
from latefuse.training.features import Features

DESCRIPTION = "Each modality fine-tuned on its own, merged and fused in several ways, beside its controls."
MEASURED_BY = {
    "embed": evaluate_vectors.run,
    "judge": evaluate_verdicts.run,
    "rank": evaluate_ranking.run,
    "personalise": evaluate_recommending.run,
}
FILES = ("report.html", "table.txt", "metrics.json", "gallery.json", "scores.parquet", "predictions.parquet")


def run(
    evaluation: Evaluation,
    tasks: Mapping[str, Task],
    fusion: Fusion,
    dataset: Path,
    backbone: Path,
    finetuned: Sequence[Path],
    fused: Sequence[Path],
    out: Path,
    tracker: Tracker,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure all arms of all seeds; returns the result that also lies in `out/result.json`.

    tasks: of one kind; of an embedding task and of a judge also its arms. finetuned, fused: output folders of those
    steps. Writes FILES into `out`. Reads the test split only, and validation for the weights of the controls' mixtures.
    """
    kind = next(iter(tasks.values())).kind
    if kind in MEASURED_BY:
        return MEASURED_BY[kind](evaluation, tasks, dataset, backbone, finetuned, out, tracker, cache)
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    trained, merged = [_result(path) for path in finetuned], [_result(path) for path in fused]
    again = partial(_sources, evaluation, tasks, fusion, dataset, backbone, list(finetuned), list(fused), cache)
    sources = again()
    data, plan, seeds = sources.dataset, sources.plan, list(sources.seeds.values())
    with ThreadPoolExecutor(1) as beside:
        reachable = beside.submit(_oracle, plan, data)
        measured = Measured.joined([*measure_all(sources, again, evaluation.workers), reachable.result()])
    arms = _arms(plan, seeds)
    scores = _scores(measured, arms)
    how = Bootstrap(evaluation.bootstrap, evaluation.confidence, evaluation.min_interval_rows)
    summary = summarise(scores, arms, how)
    metrics = flat_metrics(summary)
    predictions = measured.predictions()
    scores.write(out / "scores.parquet")
    predictions.write_parquet(out / "predictions.parquet")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "table.txt").write_text(table(summary, evaluation.confidence), encoding="utf-8")
    cards = _cards(plan, data, predictions, arms)
    (out / "gallery.json").write_text(json.dumps([asdict(card) for card in cards]) + "\n", encoding="utf-8")
    shown = report.Report(
        title=f"Separate or mixed? {data.manifest.get('source', data.path.name)}: {', '.join(tasks)}",
        description=DESCRIPTION,
        summary=summary,
        cards=cards,
        manifest=data.manifest,
        costs=costs(trained),
        fused=merged,
        facts=_facts(plan, seeds, began),
        repeat=_repeat(plan, data, seeds, tasks),
        confidence=evaluation.confidence,
        fewest=evaluation.min_interval_rows,
        side=evaluation.side_rows,
    )
    (out / "report.html").write_text(report.build(shown), encoding="utf-8")
    return _finish(plan, data, summary, metrics, tracker, out, began)


def _sources(
    evaluation: Evaluation,
    tasks: Mapping[str, Task],
    fusion: Fusion,
    dataset: Path,
    backbone: Path,
    finetuned: Sequence[Path],
    fused: Sequence[Path],
    cache: Path | None,
) -> Sources:
    """Backbone, test rows and adapters, ready to be measured."""
    data = Dataset(dataset)
    seeds = {one.seed: one for one in _finished(finetuned, fused, tasks, fusion, data.fingerprint)}
    return Sources(_plan(evaluation, tasks, fusion, data, backbone, cache), data, seeds)


def _result(folder: Path) -> dict[str, Any]:
    path = folder / "result.json"
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; hand over the output folder of a finished step") from None
    return found


def _finished(
    finetuned: Iterable[Path], fused: Iterable[Path], tasks: Mapping[str, Task], fusion: Fusion, fingerprint: str
) -> list[Finished]:
    """What every seed left behind, by seed; adapters that belong to no task and no control are refused."""
    folders: dict[int, dict[str, Path]] = {}
    for path in finetuned:
        card = read_card(path / "adapter", fingerprint)
        if card.arm not in tasks and card.arm not in (named.MIXED, named.WIDE):
            raise DataError(f"{path}: an adapter of {card.arm!r}, which is no task of this recipe: {', '.join(tasks)}")
        folders.setdefault(card.seed, {})[card.arm] = path / "adapter"
    merges: dict[int, tuple[dict[str, Path], dict[str, Any]]] = {}
    for path in fused:
        methods: dict[str, Path] = {method: path / method for method in fusion.methods if (path / method).is_dir()}
        merges[int(_result(path)["seed"])] = (methods, json.loads((path / "late.json").read_text(encoding="utf-8")))
    strangers = sorted(set(merges) - set(folders))
    if strangers:
        raise DataError(f"fused adapters of seed {strangers[0]}, but no finetuned ones of that seed were handed over")
    order = [*tasks, named.MIXED, named.WIDE]
    return [
        Finished(seed, {name: found[name] for name in order if name in found}, *merges.get(seed, ({}, {})))
        for seed, found in sorted(folders.items())
    ]


def _plan(
    evaluation: Evaluation, tasks: Mapping[str, Task], fusion: Fusion, data: Dataset, path: Path, cache: Path | None
) -> Plan:
    """Backbone, test rows of every task, items with several modalities; all media encoded once."""
    backbone = load_placed(path)
    features = Features(backbone, data.media, cache / "features" if cache else None)
    bench = Bench(backbone, features, evaluation, closed_lists(data, backbone))
    rows = {
        name: spread(get(task.kind).examples(data, task, "test", backbone), evaluation.max_rows)
        for name, task in tasks.items()
    }
    shared: dict[str, late.Shared | None] = {"test": None, "valid": None}
    if fusion.late.enabled:
        for split in shared:
            most = evaluation.max_rows if split == "test" else fusion.late.max_rows
            try:
                shared[split] = late.shared(data, tasks, split, backbone, most)
            except (late.NotShared, DataError) as reason:
                print(f"evaluate: no late fusion of several modalities on split {split!r}: {reason}")
    features.warm(_media(rows, shared.values()), progress=True)
    return Plan(bench, tasks, rows, shared["test"], shared["valid"], evaluation, fusion)


def _media(rows: Mapping[str, Sequence[Example]], shared: Iterable[late.Shared | None]) -> Iterable[MediaRef]:
    for part in rows.values():
        yield from (ref for row in part for ref in row.media)
    for one in shared:
        for views in one.rows.values() if one else ():
            yield from (ref for row in views if row is not None for ref in row.media)
    yield from (MediaRef(modality, "constant:128") for modality in ("image", "video"))


def _arms(plan: Plan, seeds: Sequence[Finished]) -> list[named.Arm]:
    trained = {name for one in seeds for name in one.adapters}
    merges = dict.fromkeys(method for one in seeds for method in one.merges)
    same = any("weights" in one.late.get("same_input", {}) for one in seeds)
    return named.arms(plan.tasks, trained, merges, plan.fused is not None, same)


def _scores(measured: Measured, arms: Sequence[named.Arm]) -> ScoreTable:
    """What was measured, and the routed arm put together from its adapters."""
    frame = measured.scores.table().frame
    routed = next((arm for arm in arms if arm.name == named.ROUTE), None)
    if routed is not None:
        frame = pl.concat([frame, copy_lines(frame, named.ROUTE, routed.sources)])
    return ScoreTable(frame)


def _oracle(plan: Plan, data: Dataset) -> Measured:
    """The best reachable score of every row, as lines of an arm of its own; nothing where the source has no oracle."""
    measured = Measured()
    if data.manifest.get("source") != "demo":
        return measured
    from latefuse.data.demo.oracle import oracle, oracle_fused

    frames = plan.bench.backbone.frames
    wanted = {row.row for rows in plan.rows.values() for row in rows}
    table = [row for row in data.rows("conversations", "test") if row["id"] in wanted]
    best = oracle(data.path, table, frames)
    for task, rows in plan.rows.items():
        for row in rows:
            key = (ORACLE, NO_SEED, "full", task, row.topic, row.row, row.item, row.modality, "")
            measured.scores.add(key, {m: (value, 1) for m, value in best.get(row.row, {}).items() if m in METRICS})
    if plan.fused is not None:
        for item, found in oracle_fused(data.path, plan.fused.items, frames).items():
            key = (ORACLE, NO_SEED, "full", named.FUSED, plan.fused.topic, item, item, "image", "")
            measured.scores.add(key, {metric: (value, 1) for metric, value in found.items() if metric in METRICS})
    return measured


def _cards(plan: Plan, data: Dataset, predictions: pl.DataFrame, arms: Sequence[named.Arm]) -> list[gallery.Card]:
    rows = {row.row: _shown([row]) for part in plan.rows.values() for row in part}
    if plan.fused is not None:
        for number, item in enumerate(plan.fused.items):
            rows[item] = _shown([view for part in plan.fused.rows.values() if (view := part[number]) is not None])

    def show(modality: str, path: str) -> str | None:
        if not path:
            return None
        file = data.media(path)
        return pictures.clip(file, plan.bench.backbone.frames) if modality == "video" else pictures.image(file)

    return gallery.cards(predictions, arms, rows, plan.evaluation.examples, show)


def _shown(rows: Sequence[Example]) -> dict[str, Any]:
    """What a card shows of a row, or of all rows of one item: media, the last question, the truth."""
    asked = next((row for row in rows if row.modality == "text"), rows[0])
    question = asked.turns[-2]["text"].replace("<image>", "").replace("<video>", "").strip()
    media = [(ref.modality, ref.path) for row in rows for ref in row.media]
    return {"question": question, "media": media, "truth": rows[0].truth}


def _facts(plan: Plan, seeds: Sequence[Finished], began: float) -> dict[str, str]:
    backbone = plan.bench.backbone
    return {
        "backbone": backbone.name,
        "tasks": ", ".join(n if n == task.single else f"{n} ({task.single})" for n, task in plan.tasks.items()),
        "seeds": ", ".join(str(one.seed) for one in seeds),
        "test rows": ", ".join(f"{name} {len(rows)}" for name, rows in plan.rows.items()),
        "measured in": f"{time.perf_counter() - began:.0f} s",
    }


def _repeat(plan: Plan, data: Dataset, seeds: Sequence[Finished], tasks: Mapping[str, Task]) -> dict[str, str]:
    backbone = plan.bench.backbone
    return {
        "dataset fingerprint": data.fingerprint,
        "backbone": f"{backbone.name} {backbone.revision or ''} {backbone.digest}".replace("  ", " "),
        "tasks": "; ".join(f"{name} {task.digest}" for name, task in tasks.items()),
        "evaluation, fusion": f"{plan.evaluation.digest}, {plan.fusion.digest}",
        "seeds": ", ".join(str(one.seed) for one in seeds),
        "one adapter alone": "latefuse step finetune --help",
        "versions": versions(),
    }


def _finish(
    plan: Plan, data: Dataset, summary: Summary, metrics: Mapping[str, float], tracker: Tracker, out: Path, began: float
) -> dict[str, Any]:
    """Tell the tracker in one batch, write the result, say in one line what was found."""
    costs_of_this = {
        "wall_s": time.perf_counter() - began,
        **usage.peaks(),
    }
    result = {
        "step": "evaluate",
        "arms": [arm.name for arm in summary.arms],
        "rows": {name: len(rows) for name, rows in plan.rows.items()},
        "fused_items": len(plan.fused.items) if plan.fused else 0,
        "metrics": len(metrics),
        "inputs": {"dataset": data.fingerprint, "backbone": plan.bench.backbone.digest},
        **costs_of_this,
        "run_id": tracker.run_id,
    }
    tracker.dataset(data.path.name, data.fingerprint, str(data.manifest.get("source", "unknown")))
    tracker.metrics({**metrics, **{f"sys/{name}": value for name, value in costs_of_this.items()}})
    for name in FILES:
        tracker.artifact(out / name, "evaluation")
    (out / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    found = headline(summary)
    print(
        f"evaluate: {len(summary.arms)} arms in {costs_of_this['wall_s']:.0f} s. {found.text if found else ''}".rstrip()
    )
    return result

"""Embedding adapters in, findings out: every arm on one pool beside floors and knock-outs, the index, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset
from latefuse.evaluation import embeddings, pool
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.arms_summary import ArmsSummary, flat_metrics, metric_names, summarise, table_text
from latefuse.evaluation.cost import costs
from latefuse.evaluation.embeddings import Found, Sources
from latefuse.evaluation.report import neighbours
from latefuse.evaluation.report import retrieval as page
from latefuse.evaluation.retrieval_verdict import findings, lifts_over_text
from latefuse.evaluation.saliency_picture import picture
from latefuse.evaluation.scores import ScoreTable
from latefuse.evaluation.workers import measure_all
from latefuse.models import embedder
from latefuse.models.backbone import load_placed
from latefuse.serving import index
from latefuse.steps.evaluation_parts import adapters_of, bootstrap_of, finish, repeat, result_of
from latefuse.tracking import Tracker
from latefuse.training.features import Features

FILES = ("report.html", "table.txt", "metrics.json", "scores.parquet", "saliency.svg", "saliency.json")


def run(
    evaluation: Evaluation,
    tasks: Mapping[str, Task],
    dataset: Path,
    backbone: Path,
    finetuned: Sequence[Path],
    out: Path,
    tracker: Tracker,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Measure all arms of all seeds on the test pairs; returns the result that also lies in `out/result.json`.

    tasks: the main arm first, its variants behind it. finetuned: output folders of that step. Writes FILES and, of the
    main arm under the first seed, `vectors/` and a flat index into `out`.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    again = partial(_sources, evaluation, tasks, dataset, backbone, list(finetuned), cache)
    sources = again()
    sources.features.warm((ref for item in sources.pool.items for ref in item.media), progress=True)
    units = sources.units()
    measured = dict(zip(units, measure_all(sources, again, evaluation.workers), strict=True))
    scores = _scores(sources, measured)
    summary = _summary(sources, scores)
    controls = _controls(sources, scores, summary)
    metrics = flat_metrics(summary)
    scores.write(out / "scores.parquet")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    (out / "table.txt").write_text(table_text(summary, evaluation.confidence), encoding="utf-8")
    flows = _flows(measured, out)
    lead = sources.lead
    _export(sources, lead, measured[lead], out)
    report = page.RetrievalReport(
        title=f"More like this: {sources.dataset.manifest.get('source', dataset.name)}",
        summary=summary,
        cards=neighbours.cards(sources, measured[lead].vectors),
        flows=flows,
        no_flows="No arm has a language model whose attention weights can be read.",
        manifest=sources.dataset.manifest,
        costs=costs([result_of(path) for path in finetuned]),
        facts=_facts(sources, measured, began),
        repeat=repeat(sources.dataset, sources.backbone, sources.arms, evaluation, (s for s, _ in sources.adapters)),
        description="Items as vectors: what pictures, clips and words are worth for finding what belongs together.",
        confidence=evaluation.confidence,
        fewest=evaluation.min_interval_rows,
        slice_notes=pool.SLICES,
        **controls,
    )
    (out / "report.html").write_text(page.build(report), encoding="utf-8")
    found = findings(summary, **controls)
    told = {
        "arms": [arm.name for arm in summary.arms], "queries": summary.rows, "pool": summary.pool,
        "left_out": sources.pool.left_out,
    }  # fmt: skip
    said = found[0].text if found else ""
    return finish(told, metrics, said, sources.dataset, sources.backbone, FILES, tracker, out, began)


def _sources(
    evaluation: Evaluation,
    tasks: Mapping[str, Task],
    dataset: Path,
    backbone: Path,
    finetuned: Sequence[Path],
    cache: Path | None,
) -> Sources:
    """Backbone, pool and adapters, ready to be measured. Raises DataError as `adapters_of` does."""
    data, base = Dataset(dataset), load_placed(backbone)
    name, task = next(iter(tasks.items()))
    found = adapters_of(finetuned, tasks, data)
    features = Features(base, data.media, cache / "features" if cache else None)
    return Sources(base, features, data, name, tasks, found, evaluation, pool.build(data, task, evaluation))


def _scores(sources: Sources, measured: Mapping[Unit, Found]) -> ScoreTable:
    ks = sources.evaluation.retrieval.ks
    modality = "+".join(sources.task.modality)
    best = embeddings.oracle(sources.dataset, sources.pool, sources.name, modality, ks)
    return ScoreTable(pl.concat([part.table().frame for part in (*(f.scores for f in measured.values()), best)]))


def _summary(sources: Sources, scores: ScoreTable) -> ArmsSummary:
    return summarise(
        scores,
        sources.name,
        embeddings.arms_of(sources),
        metric_names(sources.evaluation.retrieval.ks),
        sources.pool.slices,
        f"{{rows}} queries in a pool of {sources.pool.size:,}",
        bootstrap_of(sources.evaluation),
        sources.pool.size,
        prior=any(sources.evaluation.retrieval.prior),
    )


def _controls(sources: Sources, scores: ScoreTable, summary: ArmsSummary) -> dict[str, Any]:
    """The arms that findings are told by: trained on shuffled media, and reading words alone."""
    arms = sources.arms.items()
    shuffled = [name for name, task in arms if _but_for_shuffling(task) == sources.task and task != sources.task]
    words = next((name for name, task in arms if task.modality == ("text",)), "")
    slices, how = sources.pool.slices, bootstrap_of(sources.evaluation)
    lifts = lifts_over_text(scores, sources.name, summary.headline, shuffled, words, slices, how)
    return {"shuffled_arms": shuffled, "text_arm": words, "lifts": lifts}


def _but_for_shuffling(task: Task) -> Task:
    """The task with every item's own media: its control differs from it in nothing else."""
    settings = task.embed.model_copy(update={"shuffled": ()}) if task.embed is not None else None
    return task.model_copy(update={"embed": settings})


def _flows(measured: Mapping[Unit, Found], out: Path) -> str:
    """Saliency by layer and arm as a picture, also as a file; empty where no arm has a language model."""
    flows: dict[str, torch.Tensor] = {
        unit.source: found.flow for unit, found in measured.items() if found.flow is not None
    }
    drawn = picture(flows) if flows else ""
    (out / "saliency.svg").write_text(drawn, encoding="utf-8")
    told = {
        arm: [dict(zip(("S_v", "S_t", "S_o"), row, strict=True)) for row in flow.tolist()]
        for arm, flow in flows.items()
    }
    (out / "saliency.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return drawn


def _export(sources: Sources, lead: Unit, found: Found, out: Path) -> None:
    """The vectors of the pool and their index, bound to the adapter that made them."""
    folder = sources.adapters[lead.seed, lead.source]
    header = index.Header(
        adapter=embedder.digest(folder),
        backbone=sources.backbone.digest,
        dataset=sources.dataset.fingerprint,
        dim=sources.task.embed.dim if sources.task.embed else 0,
    )
    ids = [item.id for item in sources.pool.items]
    vectors = found.vectors["full"].numpy()
    index.write_vectors(out, [(ids, vectors)], lambda rows: rows, header)
    index.build(out, header)


def _facts(sources: Sources, measured: Mapping[Unit, Found], began: float) -> dict[str, str]:
    seeds = dict.fromkeys(str(seed) for seed, _ in sources.adapters)
    settings = sources.task.embed
    assert settings is not None
    found = {
        "backbone": sources.backbone.name,
        "arms": ", ".join(sources.arms),
        "seeds": ", ".join(seeds),
        "held out": {"item": "whole items", "pair": "pairs"}[settings.scheme]
        + (", which ask for known ones" if sources.evaluation.retrieval.targets == "known" else ""),
        "queries, pool": f"{len(sources.pool.query):,}, {sources.pool.size:,}",
        "measured in": f"{time.perf_counter() - began:.0f} s",
    }
    weights = [f"{unit} {one.prior:g}" for unit, one in measured.items() if unit.source != "popularity" and one.prior]
    if weights:
        found["weight of popularity"] = "; ".join(weights)
    if sources.pool.left_out:
        found["items without a field to read"] = f"{sources.pool.left_out:,}, left out of the pool"
    return found

"""Judges in, findings out: every arm on the same test rows beside floors and knock-outs, the report."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latefuse.config import Evaluation, Task
from latefuse.config_judge import ABSTAIN, NOT_RELEVANT, RELEVANT
from latefuse.data.errors import DataError
from latefuse.evaluation import judging, rulings
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.arms_summary import FULL, ArmsSummary, MeasuredArm, flat_metrics, summarise, table_text
from latefuse.evaluation.calibration import calibration_error, perfect_calibration_error, reliability
from latefuse.evaluation.cost import costs
from latefuse.evaluation.judge_verdict import Calibrated, findings
from latefuse.evaluation.judging import Found, Sources
from latefuse.evaluation.report import pictures
from latefuse.evaluation.report import verdicts as page
from latefuse.evaluation.scores import ScoreTable
from latefuse.evaluation.verdict_values import METRICS, PAIRS
from latefuse.evaluation.workers import measure_all
from latefuse.fusion.rows import evenly
from latefuse.prompts import MediaRef
from latefuse.steps.evaluation_parts import bootstrap_of, finish, opened, repeat, result_of
from latefuse.tracking import Tracker

FILES = ("report.html", "table.txt", "metrics.json", "scores.parquet", "predictions.parquet", "rulings.json")
BINS = 10


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
    """Measure all arms of all seeds on the test judgements; returns the result that also lies in `out/result.json`.

    tasks: the main arm first, its variants behind it. finetuned: output folders of that step. Writes FILES into `out`.
    Calibration, threshold and band of every arm are chosen on validation rows, and only applied to test rows.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    again = partial(opened, Sources, evaluation, tasks, dataset, backbone, list(finetuned), cache)
    sources = again()
    sources.features.warm((MediaRef("image", row["image"]) for row in _shown(sources)), progress=True)
    measured = dict(zip(sources.units(), measure_all(sources, again, evaluation.workers), strict=True))
    scores = ScoreTable(pl.concat([found.scores.table().frame for found in measured.values()]))
    predictions = pl.DataFrame([row for found in measured.values() for row in found.predictions])
    summary = _summary(sources, scores)
    calibrated = _calibrated(measured)
    metrics = flat_metrics(summary) | _calibration_metrics(calibrated, sources.name)
    lead = measured[sources.lead]
    scores.write(out / "scores.parquet")
    predictions.write_parquet(out / "predictions.parquet")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    chosen = (
        (unit.source, unit.seed, task, one) for unit, found in measured.items() for task, one in found.rulings.items()
    )
    rulings.write(chosen, out / "rulings.json")
    (out / "table.txt").write_text(table_text(summary, evaluation.confidence, METRICS + PAIRS), encoding="utf-8")
    blind = [name for name, task in tasks.items() if len(task.modality) == 1 < len(sources.task.modality)]
    report = page.VerdictReport(
        title=f"Does the picture fit the text? {sources.dataset.manifest.get('source', dataset.name)}",
        summary=summary,
        blind_arms=blind,
        calibrated=calibrated,
        bins=_bins(lead),
        rulings=lead.rulings,
        freely=lead.freely,
        stressed=lead.stressed,
        speeds=_speeds(measured),
        cards=_cards(sources, measured),
        manifest=sources.dataset.manifest,
        costs=costs([result_of(path) for path in finetuned]),
        facts=_facts(sources, measured, began),
        repeat=repeat(sources.dataset, sources.backbone, sources.arms, evaluation, (s for s, _ in sources.adapters)),
        description="A picture, a text and a rule: relevant or not, how sure, and what each side is worth.",
        confidence=evaluation.confidence,
        fewest=evaluation.min_interval_rows,
    )
    (out / "report.html").write_text(page.build(report), encoding="utf-8")
    said = findings(summary, blind, calibrated, lead.freely, lead.stressed)
    told = {
        "arms": [arm.name for arm in summary.arms], "rows": summary.rows,
        "left_out": {str(unit): found.left_out for unit, found in measured.items() if any(found.left_out.values())},
    }  # fmt: skip
    return finish(told, metrics, said[0].text, sources.dataset, sources.backbone, FILES, tracker, out, began)


def _shown(sources: Sources) -> list[dict[str, Any]]:
    """All rows whose picture is looked at: those that are asked and, as demonstrations, those of training."""
    known = sources.dataset.rows("judgements", "train", where=sources.task.where)
    return [*sources.rows("valid"), *sources.rows("test"), *known]


def _summary(sources: Sources, scores: ScoreTable) -> ArmsSummary:
    """Metrics in order: the headline first, then what is told of all rows, then kinds of negatives and tasks."""
    found = scores.distinct("metric", arm=sources.name, condition=FULL)
    if not found:
        raise DataError(
            f"{sources.dataset.path}: every test judgement is longer than train.max_tokens, now "
            f"{sources.task.train.max_tokens}: there is nothing to measure"
        )
    metrics = [*(name for name in METRICS + PAIRS if name in found), *(name for name in found if "/" in name)]
    tasks = {row["task"] for row in sources.rows("test")}
    about = f"{{rows}} judgements by {len(tasks):,} rule{'s' if len(tasks) > 1 else ''}"
    return summarise(
        scores, sources.name, judging.arms_of(sources), metrics, {}, about, bootstrap_of(sources.evaluation)
    )


def _calibrated(measured: Mapping[Unit, Found]) -> dict[str, Calibrated]:
    """Of each arm the calibration error on its test rows beside that of a perfect model, the mean over seeds."""
    found: dict[str, list[Calibrated]] = defaultdict(list)
    for unit, one in measured.items():
        probabilities = np.array([row["probability"] for row in one.predictions])
        if len(probabilities) and len(set(probabilities)) > 1:
            labels = [row["label"] for row in one.predictions]
            error = calibration_error(probabilities, labels, BINS)
            perfect = perfect_calibration_error(probabilities, BINS)
            found[unit.source].append(Calibrated(error, *perfect, len(labels)))
    return {arm: _mean(seeds) for arm, seeds in found.items()}


def _mean(seeds: Sequence[Calibrated]) -> Calibrated:
    names = ("error", "perfect", "low", "high")
    means: dict[str, Any] = {name: float(np.mean([getattr(one, name) for one in seeds])) for name in names}
    return replace(seeds[0], **means)


def _calibration_metrics(calibrated: Mapping[str, Calibrated], main: str) -> dict[str, float]:
    flat = {f"eval/calibration_error/{arm}": one.error for arm, one in calibrated.items()}
    if main in calibrated:
        flat |= {
            "eval/calibration_error": calibrated[main].error,
            "eval/calibration_error/perfect": calibrated[main].perfect,
        }
    return flat


def _bins(lead: Found) -> list[Any]:
    rows = lead.predictions
    return reliability([row["probability"] for row in rows], [row["label"] for row in rows], BINS) if rows else []


def _speeds(measured: Mapping[Unit, Found]) -> dict[str, float]:
    """Verdicts a second, the mean over seeds."""
    found = defaultdict(list)
    for unit, one in measured.items():
        if one.speed:
            found[unit.source].append(one.speed)
    return {arm: float(np.mean(speeds)) for arm, speeds in found.items()}


def _cards(sources: Sources, measured: Mapping[Unit, Found]) -> list[page.VerdictCard]:
    """Some test rows with what every arm says, each under its lowest seed."""
    first: dict[str, Unit] = {}
    for unit in measured:
        if unit.source not in first or unit.seed < first[unit.source].seed:
            first[unit.source] = unit
    groups = {arm.name: arm for arm in judging.arms_of(sources)}
    said = {name: {row["id"]: row for row in measured[unit].predictions} for name, unit in first.items()}
    rows = {row["id"]: row for row in sources.rows("test")}
    ids = [key for key in said[sources.name] if key in rows]
    found = []
    for key in (ids[number] for number in evenly(len(ids), sources.evaluation.examples)):
        row = rows[key]
        answers = [_answer(groups[name], one[key]) for name, one in said.items() if key in one]
        shown = pictures.image(sources.dataset.media(row["image"])) if row["image"] else None
        words = RELEVANT if row["label"] else NOT_RELEVANT
        about = (row["id"], row["task"] or "", row["instruction"], row["text"] or "", words, row["negative"] or "")
        order = sorted(answers, key=lambda one: ("main", "control", "floor").index(one.group))
        found.append(page.VerdictCard(*about, shown, order, measured[sources.lead].rationales.get(key, "")))
    return found


def _answer(arm: MeasuredArm, row: Mapping[str, Any]) -> page.Answer:
    right = None if row["verdict"] == ABSTAIN else (row["verdict"] == RELEVANT) == row["label"]
    return page.Answer(arm.label, arm.group, row["verdict"], row["probability"], right)


def _facts(sources: Sources, measured: Mapping[Unit, Found], began: float) -> dict[str, str]:
    settings = sources.task.judge
    assert settings is not None
    fixed = "the same for all rows of a rule" if settings.fixed else "drawn for each row"
    found = {
        "backbone": sources.backbone.name,
        "arms": ", ".join(sources.arms),
        "seeds": ", ".join(dict.fromkeys(str(seed) for seed, _ in sources.adapters)),
        "demonstrations": f"{settings.demos}, {fixed}" if settings.demos else "none",
        "test rows": f"{len(sources.rows('test')):,}",
        "measured in": f"{time.perf_counter() - began:.0f} s",
    }
    refused = {str(unit): one.left_out["test"] for unit, one in measured.items() if one.left_out.get("test")}
    if refused:
        found["rows too long to be asked"] = "; ".join(f"{unit} {count:,}" for unit, count in refused.items())
    return found

"""Rankers in, findings out: every arm on the same test rows beside floors and plain models, the report."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latefuse.config import Evaluation, Task
from latefuse.evaluation import money, rank_metrics, ranking, rulings
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.arms_summary import table_text
from latefuse.evaluation.calibration import Floats, calibration_error, perfect_calibration_error, reliability
from latefuse.evaluation.cost import costs
from latefuse.evaluation.judge_verdict import Calibrated
from latefuse.evaluation.rank_floors import LOGISTIC, POPULARITY
from latefuse.evaluation.rank_summary import RankSummary, flat, summarise
from latefuse.evaluation.rank_values import BINS, order_names
from latefuse.evaluation.rank_verdict import Sure, findings, roles
from latefuse.evaluation.ranking import Found, Rows, Sources
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.report import ranking as page
from latefuse.evaluation.workers import measure_all
from latefuse.steps.evaluation_parts import bootstrap_of, finish, opened, repeat, result_of
from latefuse.tracking import Tracker

FILES = ("report.html", "table.txt", "metrics.json", "predictions.parquet", "rulings.json", "offers.json")
Measured = dict[Unit, Found]


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
    """Measure all arms of all seeds on the test rows; returns the result that also lies in `out/result.json`.

    tasks: the main arm first, its variants behind it. finetuned: output folders of that step. Writes FILES into `out`.
    Calibration and thresholds of every arm are chosen on validation rows, and only applied to test rows.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    again = partial(opened, Sources, evaluation, tasks, dataset, backbone, list(finetuned), cache)
    sources = again()
    test, how = sources.rows("test"), evaluation.ranking
    test.store.warm(sources.features, progress=True)
    measured = dict(zip(sources.units(), measure_all(sources, again, evaluation.workers), strict=True))
    summary, sure = _summary(sources, measured, test), _sure(measured, test)
    metrics = _contributions(sources, summary) | flat(summary, how) | _sure_metrics(sure, sources.name)
    _predictions(measured, test).write_parquet(out / "predictions.parquet")
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    chosen = ((unit.source, unit.seed, sources.name, found.ruling) for unit, found in measured.items())
    rulings.write(chosen, out / "rulings.json")
    offers = [{"arm": unit.source, "seed": unit.seed, **asdict(found.offer)} for unit, found in measured.items()]
    (out / "offers.json").write_text(json.dumps(offers, indent=1) + "\n", encoding="utf-8")
    (out / "table.txt").write_text(table_text(summary, evaluation.confidence, order_names(how)), encoding="utf-8")
    report = _report(sources, measured, test, summary, sure, began)
    report = replace(report, costs=costs([result_of(path) for path in finetuned]))
    (out / "report.html").write_text(page.build(report), encoding="utf-8")
    said = findings(summary, report.part, sure, how)
    left_out = {str(unit): found.left_out for unit, found in measured.items() if found.left_out}
    told = {"arms": [arm.name for arm in summary.arms], "rows": summary.rows, "left_out": left_out}
    return finish(told, metrics, said[0].text, sources.dataset, sources.backbone, FILES, tracker, out, began)


def _by_arm(measured: Measured) -> dict[str, list[Found]]:
    """The findings of each arm, seeds in order."""
    found: dict[str, list[Found]] = defaultdict(list)
    for unit in sorted(measured, key=lambda unit: unit.seed):
        found[unit.source].append(measured[unit])
    return found


def _summary(sources: Sources, measured: Measured, test: Rows) -> RankSummary:
    found = _by_arm(measured)
    main = found[sources.name]
    knocked = {condition: [one.knocked[condition] for one in main] for condition in main[0].knocked}
    return summarise(
        sources.name,
        ranking.arms_of(sources),
        {arm: [one.answers for one in seeds] for arm, seeds in found.items()},
        knocked,
        test.labels,
        ranking.slices(test),
        Redraw(test.users, bootstrap_of(sources.evaluation)),
        sources.evaluation.ranking,
    )


def _sure(measured: Measured, test: Rows) -> dict[str, Sure]:
    """Of each arm whose probabilities differ between rows how right they are, the mean over seeds."""
    found = {}
    for arm, seeds in _by_arm(measured).items():
        each = [_calibrated(one.answers.probability, test) for one in seeds if np.ptp(one.answers.probability)]
        if each:
            error, perfect, low, high = np.mean(each, axis=0).tolist()
            raws = [one.answers.raw for one in seeds if one.answers.raw is not None]
            raw = float(np.mean([calibration_error(one, test.labels, BINS) for one in raws])) if raws else None
            expected = float(np.mean([one.answers.probability.mean() for one in seeds]))
            calibrated = Calibrated(error, perfect, low, high, len(test))
            found[arm] = Sure(calibrated, raw, expected, float(test.labels.mean()))
    return found


def _calibrated(probability: Floats, test: Rows) -> tuple[float, ...]:
    """The error, and that of a perfect model with its 95% bounds."""
    return calibration_error(probability, test.labels, BINS), *perfect_calibration_error(probability, BINS)


def _contributions(sources: Sources, summary: RankSummary) -> dict[str, float]:
    """What true media are worth over another item's, by the arms trained on those; a knock-out goes before."""
    lines, found = summary.lines[summary.headline], {}
    for arm, task in sources.arms.items():
        swapped = ranking.rank_of(task).shuffled
        if swapped and arm in lines and (ahead := lines[arm].behind) is not None:
            found[f"eval/contribution/{'-'.join(swapped)}"] = ahead.value
    return found


def _sure_metrics(sure: Mapping[str, Sure], main: str) -> dict[str, float]:
    flat_ = {f"eval/expected_likes/{arm}": one.expected for arm, one in sure.items()}
    if main in sure:
        one = sure[main]
        flat_ |= {"eval/expected_likes": one.expected, "eval/calibration_error/perfect": one.calibrated.perfect}
        flat_["eval/share_liked"] = one.share
    return flat_


def _predictions(measured: Measured, test: Rows) -> pl.DataFrame:
    """A line for each arm, seed and test row, from which every number can be made again."""
    rows = pl.DataFrame(
        {
            "id": test.names, "user": test.users, "item": test.items, "label": test.labels,
            "cold_user": test.cold_user, "cold_item": test.cold_item,
            **{f"no {source}": gone for source, gone in test.absent.items()},
        }
    )  # fmt: skip
    parts = []
    for unit, found in measured.items():
        said = found.answers
        told = {"score": said.scores, "probability": said.probability, "liked": said.said, "offered": said.offered}
        who = {"arm": pl.lit(unit.source), "seed": pl.lit(unit.seed)}
        parts.append(rows.with_columns(**who, **{name: pl.Series(column) for name, column in told.items()}))
    return pl.concat(parts)


def _report(
    sources: Sources, measured: Measured, test: Rows, summary: RankSummary, sure: Mapping[str, Sure], began: float
) -> page.RankReport:
    lead, how, evaluation = measured[sources.lead], sources.evaluation.ranking, sources.evaluation
    said, truth, part = lead.answers, test.labels, roles(sources.arms)
    wrong = (~truth & said.said, truth & ~said.said)
    confusion = page.Confusion(*(int(c.sum()) for c in (truth & said.said, *wrong, ~truth & ~said.said)))
    return page.RankReport(
        title=f"Will this user like this item? {sources.dataset.manifest.get('source', sources.dataset.path.name)}",
        description="Ids, words and pictures in one ranker: what each of them is worth, how sure it is, what it pays.",
        summary=summary,
        how=how,
        part=part,
        sure=sure,
        bins=reliability(said.probability, truth, BINS),
        ruling=lead.ruling,
        offer=lead.offer,
        confusion=confusion,
        counts=_counts(sources, test),
        drawn=_drawn(measured, test, [sources.name, *part.less, *part.shuffled, LOGISTIC, POPULARITY], sources),
        everything=money.PER * float(money.values(truth, how.gain, how.loss).mean()),
        speeds={arm: float(np.mean([one.speed for one in seeds])) for arm, seeds in _by_arm(measured).items()
                if seeds[0].speed},
        manifest=sources.dataset.manifest,
        facts=_facts(sources, test, summary, began),
        repeat=repeat(sources.dataset, sources.backbone, sources.arms, evaluation, (s for s, _ in sources.adapters)),
        confidence=evaluation.confidence,
        fewest=evaluation.min_interval_rows,
    )  # fmt: skip


def _counts(sources: Sources, test: Rows) -> list[page.Count]:
    """Rows by label of every split and of the slices of the test."""
    found = []
    for split in ranking.SPLITS:
        labels = sources.rows(split).labels
        found.append(page.Count(split, len(labels), int(labels.sum())))
    for name, rows in ranking.slices(test).items():
        found.append(page.Count(f"test, {name}", len(rows), int(test.labels[rows].sum())))
    return found


def _drawn(measured: Measured, test: Rows, arms: Iterable[str], sources: Sources) -> list[page.ArmCurves]:
    """The curves of some arms, each under its lowest seed."""
    found, how = [], sources.evaluation.ranking
    seeds = {unit.source: one for unit, one in sorted(measured.items(), key=lambda pair: -pair[0].seed)}
    for arm in (arm for arm in arms if arm in seeds):
        said = seeds[arm].answers
        order = rank_metrics.ordered(test.labels, said.scores)
        one = rank_metrics.curve(order, np.ones((1, len(test)), np.int64))
        hits, alarms = one.hits[0], one.alarms[0]
        _, share, value = money.value_curve(said.probability, test.labels, how.gain, how.loss)
        worth = money.values(test.labels, how.gain, how.loss) * said.offered
        chosen = float(said.offered.mean()), money.PER * float(worth.mean())
        others, likes = max(alarms[-1], 1), max(hits[-1], 1)
        found.append(page.ArmCurves(arm, alarms / others, hits / likes, hits / (hits + alarms), share, value, chosen))
    return found


def _facts(sources: Sources, test: Rows, summary: RankSummary, began: float) -> dict[str, str]:
    return {
        "backbone": sources.backbone.name,
        "arms": ", ".join(sources.arms),
        "seeds": ", ".join(dict.fromkeys(str(seed) for seed, _ in sources.adapters)),
        "test rows": f"{len(test):,} of {summary.users:,} users",
        "liked": f"{test.labels.mean():.1%}",
        "measured in": f"{time.perf_counter() - began:.0f} s",
    }

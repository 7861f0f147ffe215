"""Personalised prompts in, findings out: every arm on the same questions beside floors and probes, the report."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latefuse.config import Evaluation, Task
from latefuse.data import leaks
from latefuse.data.demo.journey import hit_rate
from latefuse.data.demo.oracle import next_dish
from latefuse.data.errors import DataError
from latefuse.evaluation import explanations, next_item, recommending
from latefuse.evaluation.arm_sources import Unit
from latefuse.evaluation.arms_summary import table_text
from latefuse.evaluation.cost import costs
from latefuse.evaluation.personal_summary import PersonalSummary, between, flat, lifts_over_text, summarise
from latefuse.evaluation.personal_verdict import explained, free, next_items, renumbered, unseen
from latefuse.evaluation.recommending import Asked, Found, Sources
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.report import personal as page
from latefuse.evaluation.report import pictures
from latefuse.evaluation.sums import Sums
from latefuse.evaluation.verdict import Sentence
from latefuse.evaluation.workers import measure_all
from latefuse.fusion.rows import evenly
from latefuse.prompts.personal import family, family_of
from latefuse.steps.evaluation_parts import bootstrap_of, finish, opened, repeat, result_of
from latefuse.tracking import Tracker

FILES = ("report.html", "table.txt", "metrics.json", "predictions.parquet", "candidates.parquet")
TITLES = {"sequential": "What comes next", "direct": "Which of the candidates", "explanation": "Why"}
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
    """Measure all arms of all seeds on the test split; returns the result that also lies in `out/result.json`.

    tasks: the main arm first, its variants behind it. finetuned: output folders of that step. Writes FILES into `out`.
    Epochs of controls are chosen on validation rows; the main question is the first template, seen in training.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    again = partial(opened, Sources, evaluation, tasks, dataset, backbone, list(finetuned), cache)
    sources = again()
    sources.desk(sources.name)
    measured = dict(zip(sources.units(), measure_all(sources, again, evaluation.workers), strict=True))
    asked = {template: sources.question(template) for template in sources.templates}
    summaries = {template: _summary(sources, measured, one) for template, one in asked.items()}
    main = next(iter(summaries))
    metrics = flat(summaries[main])
    for template, summary in summaries.items():
        metrics |= flat(summary, template) if template != main else {}
    metrics |= {f"eval/users_per_s/{unit.source}": found.speed for unit, found in measured.items() if found.speed}
    metrics |= {f"eval/free_beams/{name}": value for name, value in _free(sources, measured).items()}
    (out / "metrics.json").write_text(json.dumps(metrics, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    pl.concat(_predictions(sources, measured, asked)).write_parquet(out / "predictions.parquet")
    _candidates(sources, asked).write_parquet(out / "candidates.parquet")
    texts = [f"{_title(one)}\n{table_text(summaries[one], evaluation.confidence, None)}" for one in summaries]
    (out / "table.txt").write_text("\n".join(texts), encoding="utf-8")
    shown = [
        page.Asked(_title(one), summary, _findings(sources, measured, summaries, asked[one]))
        for one, summary in summaries.items()
    ]
    report = page.PersonalReport(
        title=f"What next, and why? {sources.dataset.manifest.get('source', sources.dataset.path.name)}",
        description="Items as numbers and pictures in the prompts of one frozen language model: what each is worth.",
        asked=shown,
        rows=_examples(sources, measured, asked),
        skipped=sources.skipped,
        manifest=sources.dataset.manifest,
        costs=costs([result_of(path) for path in finetuned]),
        facts={
            "prompts audited": _audited(sources, asked),
            "prompts shortened": _shortened(measured[sources.lead].told),
            **_facts(sources, summaries[main], began),
        },
        repeat=repeat(sources.dataset, sources.backbone, sources.arms, evaluation, (s for s, _ in sources.adapters)),
        confidence=evaluation.confidence,
        fewest=evaluation.min_interval_rows,
    )
    (out / "report.html").write_text(page.build(report), encoding="utf-8")
    told = {"arms": [arm.name for arm in summaries[main].arms], "rows": summaries[main].rows}
    said = shown[0].findings[0].text
    return finish(told, metrics, said, sources.dataset, sources.backbone, FILES, tracker, out, began)


def _title(template: str) -> str:
    one = family(family_of(template))
    return f"{TITLES[one.family]} ({template}, {'seen in training' if template in one.trained else 'unseen'})"


def _by_arm(measured: Measured, template: str) -> dict[str, list[Mapping[str, Sums]]]:
    """What each arm answered to a template, seeds in order."""
    found: dict[str, list[Mapping[str, Sums]]] = {}
    for unit in sorted(measured, key=lambda unit: unit.seed):
        if template in measured[unit].asked:
            found.setdefault(unit.source, []).append(measured[unit].asked[template])
    return found


def _free(sources: Sources, measured: Measured) -> dict[str, float]:
    """The control of the search, mean over seeds; nothing where it was not measured."""
    found = [one.free for unit, one in measured.items() if unit.source == sources.name and one.free]
    return {name: float(np.mean([one[name] for one in found])) for name in (found[0] if found else ())}


def _audited(sources: Sources, asked: Mapping[str, Asked]) -> str:
    """Whether a history of the main arm holds its target or what is held out: of an epoch, and of all questions.

    Raises DataError where one does.
    """
    source = sources.desk(sources.name).source
    rows = [source.train(0), *(one.rows.columns for one in asked.values())]
    begin, end, place = (np.concatenate([getattr(one, name) for one in rows]) for name in ("begin", "end", "place"))
    events = place >= 0
    finding = leaks.prompt_order(begin[events], end[events], place[events], source.found.split)
    if not finding.passed:
        raise DataError(f"{sources.dataset.path}: {finding.detail}, of {finding.checked:,}; prepare it again")
    return f"{finding.checked:,} histories of training and test; none holds its target, anything later or held out"


def _shortened(told: Mapping[str, int]) -> str:
    """What the main arm's prompts leave out."""
    cut, short = told.get("cut", 0), told.get("shortened", 0)
    return f"of {told['prompts']:,}, {cut:,} without the oldest of their history, {short:,} with words cut by a limit"


def _redraw(sources: Sources, one: Asked) -> Redraw:
    return Redraw(one.user, bootstrap_of(sources.evaluation))


def _slices(sources: Sources, one: Asked) -> dict[str, Any]:
    if one.question is None:
        return {}
    desk = sources.desk(sources.name)
    found = desk.source.found
    trained = np.bincount(found.item[found.split == 0], minlength=len(found.items))
    return next_item.slices(one.question, trained, desk.pictured.numpy())


def _summary(sources: Sources, measured: Measured, one: Asked) -> PersonalSummary:
    """All estimates of one template."""
    kind, oracle, pool = family_of(one.template), dict[str, float](), 0.0
    if one.lists is None:
        metrics = list(explanations.METRICS)
        fields = [one.rows.desk.source.fields(one.rows.columns, at) for at in range(len(one.item))]
        true = [row.text for row in fields]
        best = explanations.measures(true, true, [row.feature for row in fields])
        oracle = {metric: best[metric].value for metric in explanations.AGAINST_BOILERPLATE}
    else:
        sample = next_item.sampled(one.lists.shape[1])
        metrics = next_item.names(protocol=sample)
        if kind == "sequential":
            metrics = [*next_item.names(), *metrics]
            oracle, pool = _oracle(sources, one), _pool(sources, one)
    arms = [arm for arm in recommending.arms_of(sources) if arm.name in _by_arm(measured, one.template)]
    return summarise(
        sources.name,
        arms,
        _by_arm(measured, one.template),
        metrics,
        _slices(sources, one),
        _redraw(sources, one),
        oracle=oracle,
        pool=pool,
    )


def _pool(sources: Sources, one: Asked) -> float:
    """Among how many items a user's next one is searched: those not in the history, by the harmonic mean over users, so
    that k of it is what an order drawn by lot finds."""
    assert one.question is not None
    pairs = np.stack([one.question.history.row_of, one.question.history.indices])
    had = np.bincount(np.unique(pairs, axis=1)[0], minlength=len(one.user))
    return float(1 / np.mean(1 / np.maximum(len(sources.desk(sources.name).items) - had, 1)))


def _oracle(sources: Sources, one: Asked) -> dict[str, float]:
    """The hit rates of who knows the chances that the demo drew by; nothing on other data."""
    data, desk = sources.dataset, sources.desk(sources.name)
    if "users" not in data.tables or one.question is None:
        return {}
    seen = np.zeros((len(one.user), len(desk.items)), bool)
    seen[one.question.history.row_of, one.question.history.indices] = True
    last = one.question.history.last(1)[:, 0]
    try:
        chances = next_dish(data, [desk.source.found.users[user] for user in one.user], last, seen)
    except DataError:
        return {}
    return {f"hr_at_{k}": hit_rate(chances, k) for k in next_item.KS}


def _findings(
    sources: Sources, measured: Measured, summaries: Mapping[str, PersonalSummary], one: Asked
) -> list[Sentence]:
    """The sentences of one template; an unseen one has what it costs in front."""
    summary, kind = summaries[one.template], family(family_of(one.template))
    shuffled = [arm for arm, task in sources.arms.items() if recommending.settings_of(task).shuffled]
    found = _by_arm(measured, one.template)
    if kind.family == "explanation":
        said = explained(summary)
    else:
        words = next((arm for arm, task in sources.arms.items() if task.modality == ("text",)), "text-only")
        lifts = lifts_over_text(found, summary.headline, shuffled, words, _slices(sources, one), _redraw(sources, one))
        said = [*next_items(summary, shuffled, words, lifts), *renumbered(summary, _renumbered(sources, found))]
    if one.template == kind.seen and kind.family == "sequential" and (shares := _free(sources, measured)):
        said = [*said, free(shares, recommending.TOP)]
    if one.template == kind.unseen and np.array_equal(one.user, sources.question(kind.seen).user):
        metric = summary.headline
        asked = [seed[metric] for seed in _by_arm(measured, kind.seen)[sources.name]]
        here = [seed[metric] for seed in found[sources.name]]
        said = [unseen(summary, one.template, between(asked, here, _redraw(sources, one))), *said]
    return said


def _renumbered(sources: Sources, measured: Collection[str]) -> list[str]:
    """The arms that differ from the main one in the numbers of items alone."""

    def unnumbered(arm: str) -> Task:
        task = sources.arms[arm]
        how = recommending.settings_of(task).model_copy(update={"ids_seed": None})
        return task.model_copy(update={"personalise": how})

    others = (arm for arm in sources.arms if arm != sources.name and arm in measured)
    return [arm for arm in others if unnumbered(arm) == unnumbered(sources.name)]


def _predictions(sources: Sources, measured: Measured, asked: Mapping[str, Asked]) -> Iterator[pl.DataFrame]:
    """A line for each arm, seed, template and row: what was answered."""
    desk = sources.desk(sources.name)
    items, users = [row["id"] for row in desk.items], desk.source.found.users
    for unit, found in measured.items():
        for template, one in asked.items():
            top, said = found.top.get(template), found.written.get(template)
            if top is None and said is None:
                continue
            count = len(one.item)
            named = [[items[code] for code in row if code >= 0] for row in top] if top is not None else [[]] * count
            yield pl.DataFrame(
                {
                    "arm": [unit.source] * count, "seed": [unit.seed] * count, "template": [template] * count,
                    "user": [users[code] for code in one.user], "item": [items[code] for code in one.item],
                    "top": named, "written": said or [""] * count,
                },
                schema_overrides={"top": pl.List(pl.String)},
            )  # fmt: skip


def _candidates(sources: Sources, asked: Mapping[str, Asked]) -> pl.DataFrame:
    """The stored candidates of each question that has some."""
    desk = sources.desk(sources.name)
    items, users = [row["id"] for row in desk.items], desk.source.found.users
    return pl.DataFrame(
        [
            {"template": name, "user": users[user], "item": items[item], "candidates": [items[one] for one in row]}
            for name, some in asked.items() if some.lists is not None
            for user, item, row in zip(some.user, some.item, some.lists, strict=True)
        ],
        schema={"template": pl.String, "user": pl.String, "item": pl.String, "candidates": pl.List(pl.String)},
    )  # fmt: skip


def _examples(sources: Sources, measured: Measured, asked: Mapping[str, Asked]) -> list[dict[str, Any]]:
    """Some questions of the main template with what the main arm answered under its lowest seed, and why."""
    desk, lead = sources.desk(sources.name), measured[sources.lead]
    main = next(iter(asked.values()))
    assert main.question is not None
    why = next((one for one in asked.values() if one.lists is None), None)
    found = []
    for at in evenly(len(main.item), sources.evaluation.examples):
        top, user = lead.top[main.template][at], int(main.user[at])
        row: dict[str, Any] = {
            "user": desk.source.found.users[user],
            "history": [_item(sources, code) for code in main.question.history[at][-5:]],
            "truth": _item(sources, main.item[at]),
            "top": [_item(sources, code) for code in top[:5] if code >= 0],
        }
        place = np.flatnonzero(top == main.item[at])
        row |= {"place": int(place[0]) + 1} if len(place) else {}
        if why is not None and len(same := np.flatnonzero(why.user == user)):
            fields = why.rows.desk.source.fields(why.rows.columns, int(same[0]))
            said = lead.written[why.template][int(same[0])]
            row |= {"feature": fields.feature, "written": said, "true": fields.text}
        found.append(row)
    return found


def _item(sources: Sources, code: int) -> dict[str, Any]:
    row = sources.desk(sources.name).items[int(code)]
    shown = pictures.image(sources.dataset.media(row["images"][0])) if row["images"] else None
    return {"id": row["id"], "title": row["title"], **({"picture": shown} if shown else {})}


def _facts(sources: Sources, summary: PersonalSummary, began: float) -> dict[str, str]:
    return {
        "backbone": sources.backbone.name,
        "arms": ", ".join(sources.arms),
        "seeds": ", ".join(dict.fromkeys(str(seed) for seed, _ in sources.adapters)),
        "questions": summary.about,
        "items": f"{len(sources.desk(sources.name).items):,}",
        "measured in": f"{time.perf_counter() - began:.0f} s",
    }

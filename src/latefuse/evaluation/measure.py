"""Every source on every task's test rows, once: scores per row and what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from latefuse.config import Evaluation, Fusion, Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.evaluation import arms, neglect
from latefuse.evaluation.answers import Answer, Bench, answer_alone, answer_mixed
from latefuse.evaluation.fused import Acting, answer_fused, learned_weights
from latefuse.evaluation.grammar import learned_grammar
from latefuse.evaluation.metrics import kind_of
from latefuse.evaluation.scores import NO_SEED, Scores
from latefuse.fusion.changes import base_weights
from latefuse.fusion.folders import apply_dense, read
from latefuse.fusion.late import Shared
from latefuse.fusion.probe import acting, attachable
from latefuse.models import adapters
from latefuse.models.backbone import Backbone
from latefuse.prompts import Splicer
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example

ABSENT = "absent"
GRAMMAR_ROWS = 2_000


@dataclass(frozen=True)
class Finished:
    """What one seed left behind. adapters: job -> folder; merges: method -> folder; late: late.json of `fuse`."""

    seed: int
    adapters: Mapping[str, Path]
    merges: Mapping[str, Path] = field(default_factory=dict)
    late: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Measured:
    """The results: score lines and predictions."""

    scores: Scores = field(default_factory=Scores)
    said: list[dict[str, Any]] = field(default_factory=list)

    def record(
        self, arm: str, seed: int, condition: str, task: str, rows: Sequence[Example], answers: Sequence[Answer]
    ) -> None:
        """The answers of one source to some rows of a task under one condition."""
        for row, said in zip(rows, answers, strict=True):
            missing = ABSENT if any(not path for path in (ref.path for ref in row.media)) else ""
            key = (arm, seed, condition, task, row.topic, row.row, row.item, row.modality)
            self.scores.add((*key, missing if condition == "full" else ""), said.scores)
            names = ("arm", "seed", "condition", "task", "topic", "row", "item", "modality")
            line = dict(zip(names, key, strict=True))
            self.said.append(line | {"answer": said.text, "reference": row.answer, "rank": said.rank, "top": said.top})

    def predictions(self) -> pl.DataFrame:
        """One line per arm, seed, condition and row."""
        return pl.DataFrame(self.said, infer_schema_length=None)


@dataclass(frozen=True)
class Plan:
    """What is measured: the test rows of every task, the items with several modalities, and the settings."""

    bench: Bench
    tasks: Mapping[str, Task]
    rows: Mapping[str, list[Example]]
    fused: Shared | None
    valid: Shared | None
    evaluation: Evaluation
    fusion: Fusion

    def some(self, rows: list[Example]) -> list[Example]:
        """The rows of a task that side measurements see."""
        return spread(rows, self.evaluation.side_rows)


def spread(rows: list[Example], most: int | None) -> list[Example]:
    """All rows, or `most` of them evenly spread over the stored order."""
    if most is None or len(rows) <= most:
        return rows
    return [rows[place] for place in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def measure(plan: Plan, dataset: Dataset, seeds: Iterable[Finished], said: Callable[[str], None]) -> Measured:
    """All sources of all seeds. The bare backbone has no seed and is run once."""
    found = Measured()
    backbone = plan.bench.backbone
    said(arms.ZERO)
    _everywhere(plan, found, arms.ZERO, NO_SEED, lambda: adapters.active(backbone, None))
    _with_grammar(plan, found, dataset)
    _fused(plan, found, arms.ZERO, NO_SEED, None, lambda name: adapters.active(backbone, None))
    for finished in seeds:
        acting = _attached(backbone, finished)
        _single_adapters(plan, found, finished, acting, said)
        _late(plan, found, finished, acting, said)
        for method, folder in finished.merges.items():
            said(f"{arms.merge_name(method)}, seed {finished.seed}")
            _everywhere(plan, found, arms.merge_name(method), finished.seed, _merged(plan.bench, folder))
        adapters.detach(backbone)
    return found


def _attached(backbone: Backbone, finished: Finished) -> Acting:
    """All adapters of a seed, side by side where PEFT can hold them so, else each put on the weights for its turn."""
    base = base_weights(backbone.model)
    changes = {name: read(folder, base, name) for name, folder in finished.adapters.items()}
    for name, folder in finished.adapters.items():
        adapters.load(backbone, folder, name)
        if not attachable(list(changes.values())):
            adapters.detach(backbone)

    def acts(name: str | None) -> AbstractContextManager[None]:
        return adapters.active(backbone, None) if name is None else acting(backbone, changes[name])

    return acts


def _single_adapters(
    plan: Plan, found: Measured, finished: Finished, acting: Acting, said: Callable[[str], None]
) -> None:
    """Each adapter on every task's rows, and knocked out on its own: what routing and the off-modality check need."""
    for name in finished.adapters:
        source = arms.only(name) if name in plan.tasks else name
        said(f"{source}, seed {finished.seed}")
        switched = partial(acting, name)
        own = [name] if name in plan.tasks else list(plan.tasks)
        for task, rows in plan.rows.items():
            part = rows if task in own else plan.some(rows)
            found.record(source, finished.seed, "full", task, part, answer_alone(plan.bench, part, switched))
        if name != arms.WIDE:
            _knocked_out(plan, found, source, finished.seed, switched, own)
        if name in (arms.MIXED, arms.WIDE):
            _fused(plan, found, name, finished.seed, name, acting)


def _merged(bench: Bench, folder: Path) -> Callable[[], AbstractContextManager[None]]:
    @contextmanager
    def switched() -> Any:
        with ExitStack() as stack:
            stack.enter_context(adapters.active(bench.backbone, None))
            stack.enter_context(apply_dense(bench.backbone, folder))
            yield

    return switched


def _everywhere(
    plan: Plan, found: Measured, source: str, seed: int, switched: Callable[[], AbstractContextManager[Any]]
) -> None:
    for task, rows in plan.rows.items():
        found.record(source, seed, "full", task, rows, answer_alone(plan.bench, rows, switched))


def _with_grammar(plan: Plan, found: Measured, dataset: Dataset) -> None:
    """Zero-shot once more where texts are written, held to the word order of the training answers."""
    splicer = Splicer.of(plan.bench.backbone)
    for task, rows in plan.rows.items():
        answers = _held_to_grammar(plan, dataset, task, rows, splicer)
        if answers:
            found.record(arms.GRAMMAR, NO_SEED, "full", task, *answers)


def _held_to_grammar(
    plan: Plan, dataset: Dataset, task: str, rows: Sequence[Example], splicer: Splicer
) -> tuple[list[Example], list[Answer]] | None:
    """The rows of a task that are written, and the bare backbone's answers under their topic's grammar; or None."""
    written = [row for row in rows if kind_of(row.truth) != "name"]
    backbone = plan.bench.backbone
    kept: list[Example] = []
    answers: list[Answer] = []
    for topic in dict.fromkeys(row.topic for row in written):
        part = [row for row in written if row.topic == topic]
        where = {"modality": plan.tasks[task].modality, "topic": topic}
        told = dataset.rows("conversations", "train", where=where)[:GRAMMAR_ROWS]
        if told:
            allowed = learned_grammar(splicer.answer_ids(row["turns"][-1]["text"]) for row in told)
            kept += part
            answers += answer_alone(plan.bench, part, lambda: adapters.active(backbone, None), allowed)
    return (kept, answers) if kept else None


def _knocked_out(
    plan: Plan,
    found: Measured,
    source: str,
    seed: int,
    switched: Callable[[], AbstractContextManager[Any]],
    tasks: Sequence[str],
) -> None:
    """Every knock-out on the tasks; of the mixed control only the one that tells content from memory."""
    for task in tasks:
        rows = plan.some(plan.rows[task])
        for modality in neglect.modalities_of(rows):
            for kind in plan.evaluation.knockouts:
                if kind == "shuffled" and not neglect.can_shuffle(rows, modality):
                    continue
                if source == arms.MIXED and kind != "shuffled":
                    continue
                changed = neglect.KNOCK_OUTS[kind](rows, modality, max(seed, 0))
                if modality == "text":
                    changed = [instruct.rewrite(row, plan.bench.backbone) for row in changed]
                answers = answer_alone(plan.bench, changed, switched)
                found.record(source, seed, f"{kind}:{modality}", task, rows, answers)


def _late(plan: Plan, found: Measured, finished: Finished, acting: Acting, said: Callable[[str], None]) -> None:
    """Late fusion of the separate adapters: on items with several modalities, and on one and the same input."""
    own = {name: name for name in plan.tasks if name in finished.adapters}
    weights = finished.late.get("fused", {}).get("weights")
    if plan.fused is not None and weights and all(task in own for task in plan.fused.members.values()):
        said(f"{arms.LATE}, seed {finished.seed}")
        most = plan.evaluation.side_rows or len(plan.fused.items)
        _record_fused(plan, found, arms.LATE, finished.seed, dict(plan.fused.members), acting, weights, most)
    same = finished.late.get("same_input", {}).get("weights")
    if same and plan.bench.backbone.peft is None:
        said(f"{arms.SAME}, seed {finished.seed}: left out, these adapters can't be attached side by side")
    elif same and len(own) > 1:
        said(f"{arms.SAME}, seed {finished.seed}")
        for task, every in plan.rows.items():
            rows = plan.some(every)
            answers = answer_mixed(plan.bench, rows, list(same), torch.tensor(list(same.values())))
            found.record(arms.SAME, finished.seed, "full", task, rows, answers)


def _fused(plan: Plan, found: Measured, arm: str, seed: int, adapter: str | None, acting: Acting) -> None:
    """A control on the items with several modalities: one set of weights answers for all of them."""
    if plan.fused is None or plan.valid is None:
        return
    members: dict[Modality, str | None] = dict.fromkeys(plan.fused.rows, adapter)
    weights = learned_weights(plan.bench, plan.valid, adapter, acting, plan.fusion.late)
    _record_fused(plan, found, arm, seed, members, acting, weights, 0)


def _record_fused(
    plan: Plan,
    found: Measured,
    arm: str,
    seed: int,
    members: Mapping[Modality, str | None],
    acting: Acting,
    weights: Mapping[str, float],
    knock_outs: int,
) -> None:
    fused = plan.fused
    if fused is None or any(modality not in weights for modality in fused.rows):
        return
    by_condition = answer_fused(plan.bench, fused, members, acting, weights, knock_outs, max(seed, 0))
    for condition, (numbers, answers) in by_condition.items():
        rows = [_fused_row(fused, number) for number in numbers]
        found.record(arm, seed, condition, arms.FUSED, rows, answers)


def _fused_row(fused: Shared, number: int) -> Example:
    """One row for the item, under the item's own id: its media are those of all its rows."""
    shown = [rows[number] for rows in fused.rows.values()]
    row = next(row for row in shown if row is not None)
    media = tuple(ref for one in shown if one is not None for ref in one.media)
    return replace(row, row=fused.items[number], item=fused.items[number], media=media, modality=row.modality)

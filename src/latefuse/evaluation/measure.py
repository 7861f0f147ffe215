"""Every source on every task's test rows, once: scores per row and what was said."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import torch

from latefuse.config import Evaluation, Modality, Task
from latefuse.config_fusion import Fusion
from latefuse.data.dataset import Dataset
from latefuse.evaluation import arms, neglect
from latefuse.evaluation.answers import Answer, Bench, answer_alone, answer_mixed
from latefuse.evaluation.fused import answer_fused, learned_weights
from latefuse.evaluation.grammar import learned_grammar
from latefuse.evaluation.metrics import kind_of
from latefuse.evaluation.scores import NO_SEED, Scores
from latefuse.fusion.changes import base_weights
from latefuse.fusion.folders import apply_dense, read
from latefuse.fusion.late import Acting, Shared
from latefuse.fusion.probe import acting, attachable
from latefuse.fusion.rows import evenly
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

    @classmethod
    def joined(cls, parts: Iterable[Measured]) -> Measured:
        """Several of them as one, in order."""
        whole = cls()
        for part in parts:
            whole.scores.lines += part.scores.lines
            whole.said += part.said
        return whole

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

    @property
    def mixed_rows(self) -> int | None:
        """How many rows answer where each is asked of several adapters: half as many as beside one adapter."""
        return self.evaluation.side_rows and max(self.evaluation.side_rows // 2, 1)


def spread(rows: list[Example], most: int | None) -> list[Example]:
    """All rows, or `most` of them evenly spread over the stored order of every topic, in stored order."""
    by_topic = sorted(range(len(rows)), key=lambda number: (rows[number].topic, number))
    return [rows[number] for number in sorted(by_topic[place] for place in evenly(len(rows), most))]


@dataclass(frozen=True)
class Unit:
    """What is measured in one go: one source under one seed.

    source: arms.ZERO, arms.LATE, arms.SAME, the name of an adapter or of a merge.
    """

    seed: int
    source: str

    def __str__(self) -> str:
        return self.source if self.seed == NO_SEED else f"{self.source}, seed {self.seed}"


@dataclass
class Sources:
    """All sources of all seeds over one plan. The bare backbone has no seed and is measured once."""

    plan: Plan
    dataset: Dataset
    seeds: Mapping[int, Finished]
    _attached: tuple[int, Acting] | None = None

    def units(self) -> list[Unit]:
        """Everything there is to measure, what is long in front."""
        late = [Unit(seed, arm) for seed in self.seeds for arm in (arms.LATE, arms.SAME)]
        alone = [Unit(seed, name) for seed, one in self.seeds.items() for name in one.adapters]
        merged = [Unit(seed, arms.merge_name(method)) for seed, one in self.seeds.items() for method in one.merges]
        return [*late, Unit(NO_SEED, arms.ZERO), *alone, *merged]

    def measure(self, unit: Unit) -> Measured:
        """One unit on the test rows."""
        plan, found, backbone = self.plan, Measured(), self.plan.bench.backbone
        if unit.source == arms.ZERO:
            bare = partial(adapters.active, backbone, None)
            _everywhere(plan, found, arms.ZERO, NO_SEED, bare)
            _with_grammar(plan, found, self.dataset)
            _fused(plan, found, arms.ZERO, NO_SEED, None, lambda name: bare())
            return found
        finished, acting = self.seeds[unit.seed], self._acting(unit.seed)
        if unit.source in finished.adapters:
            _single_adapter(plan, found, finished.seed, unit.source, acting)
        elif unit.source == arms.LATE:
            _late(plan, found, finished, acting)
        elif unit.source == arms.SAME:
            _same_input(plan, found, finished)
        else:
            folders = {arms.merge_name(method): folder for method, folder in finished.merges.items()}
            _everywhere(plan, found, unit.source, finished.seed, _merged(plan.bench, folders[unit.source]))
        return found

    def _acting(self, seed: int) -> Acting:
        """The adapters of a seed, attached; those of the seed before are taken off."""
        if self._attached is None or self._attached[0] != seed:
            adapters.detach(self.plan.bench.backbone)
            self._attached = (seed, _attached(self.plan.bench.backbone, self.seeds[seed]))
        return self._attached[1]


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


def _single_adapter(plan: Plan, found: Measured, seed: int, name: str, acting: Acting) -> None:
    """An adapter on every task's rows, and knocked out on its own: what routing and the off-modality check need."""
    source = arms.only(name) if name in plan.tasks else name
    switched = partial(acting, name)
    own = [name] if name in plan.tasks else list(plan.tasks)
    for task, rows in plan.rows.items():
        part = rows if task in own else plan.some(rows)
        found.record(source, seed, "full", task, part, answer_alone(plan.bench, part, switched))
    if name != arms.WIDE:
        _knocked_out(plan, found, source, seed, switched, own)
    if name in (arms.MIXED, arms.WIDE):
        _fused(plan, found, name, seed, name, acting)


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
        where = {"modality": plan.tasks[task].single, "topic": topic}
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


def _late(plan: Plan, found: Measured, finished: Finished, acting: Acting) -> None:
    """Late fusion of the separate adapters on items with several modalities, each seeing its own."""
    weights = finished.late.get("fused", {}).get("weights")
    own = [task for task in plan.tasks if task in finished.adapters]
    if plan.fused is not None and weights and all(task in own for task in plan.fused.members.values()):
        most = plan.mixed_rows or len(plan.fused.items)
        _record_fused(plan, found, arms.LATE, finished.seed, dict(plan.fused.members), acting, weights, most)


def _same_input(plan: Plan, found: Measured, finished: Finished) -> None:
    """Outputs of the separate adapters mixed on one and the same input: an arm of its own."""
    same = finished.late.get("same_input", {}).get("weights")
    if not same or len(same) < 2:
        return
    if plan.bench.backbone.peft is None:
        print(f"evaluate: {arms.SAME}, seed {finished.seed}: left out, these adapters can't be attached side by side")
        return
    for task, every in plan.rows.items():
        rows = spread(every, plan.mixed_rows)
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

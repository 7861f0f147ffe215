"""The arms as data: which trained thing answers the rows of which task.

A *source* is one set of weights (the bare backbone, an adapter, a merge) or one mixture of outputs; it is run once on
every task. An arm only says whose answers count where, so no answer is computed twice.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

Group = Literal["control", "separate", "merge", "late", "off"]

ZERO, MIXED, WIDE, ROUTE = "zero-shot", "mixed", "mixed-wide", "separate+route"
LATE, SAME = "separate+late-fused", "separate+late-same-input"
GRAMMAR = "zero-shot+grammar"
FUSED = "fused"  # the task of naming an item from its photo, clip and text, each seen by its own adapter


@dataclass(frozen=True)
class Arm:
    """One line of the table. `sources` maps a task to the source whose answers count there."""

    name: str
    label: str
    meaning: str
    group: Group
    sources: Mapping[str, str]

    @property
    def slug(self) -> str:
        """The name as it may stand in a metric's name."""
        return slug(self.name)


def slug(name: str) -> str:
    """A name as it may stand in a metric's name: trackers refuse '+'."""
    return name.replace("+", "-")


def merge_name(method: str) -> str:
    """The arm of a merge method, 'separate+merge-ties'."""
    return f"separate+merge-{method}"


def only(task: str) -> str:
    """The source that is one task's adapter alone, also run on the other tasks' rows."""
    return f"only-{task}"


_MERGE_MEANING = {
    "concat": "the weight changes added up exactly, weights chosen on validation",
    "ties": "small changes trimmed, signs elected, agreeing changes averaged",
    "dare": "changes dropped at random and rescaled, then added up",
    "svd": "the sum of the changes, cut back to a given rank",
}


def arms(
    tasks: Iterable[str], trained: Iterable[str], merges: Iterable[str], late: bool, same_input: bool
) -> list[Arm]:
    """The arms that can be measured, in the order of the table.

    tasks: names of the recipe's tasks. trained: names of finished finetune jobs. merges: finished merge methods.
    late: whether items exist that have several modalities. same_input: whether outputs on one input are mixed.
    """
    tasks, trained = list(tasks), set(trained)
    everywhere = [*tasks, FUSED] if late else tasks

    def all_from(source: str) -> dict[str, str]:
        return dict.fromkeys(everywhere, source)

    found = [
        Arm(ZERO, "zero-shot", "the bare backbone", "control", all_from(ZERO)),
        Arm(
            GRAMMAR,
            "zero-shot, same grammar",
            "the backbone, made to write in the trained format",
            "control",
            dict.fromkeys(tasks, GRAMMAR),
        ),
    ]
    if MIXED in trained:
        found.append(Arm(MIXED, "mixed", "one adapter on all data, equal tokens", "control", all_from(MIXED)))
    if WIDE in trained:
        found.append(Arm(WIDE, "mixed, wide", "one adapter on all data, equal parameters", "control", all_from(WIDE)))
    alone = [task for task in tasks if task in trained]
    if alone:
        routed = {task: only(task) for task in alone}
        found.append(Arm(ROUTE, "separate + route", "each row goes to its own modality's adapter", "separate", routed))
    for method in merges:
        name = merge_name(method)
        found.append(
            Arm(
                name,
                f"separate + merge ({method})",
                _MERGE_MEANING.get(method, "weights merged"),
                "merge",
                dict.fromkeys(tasks, name),
            )
        )
    if late and alone:
        found.append(
            Arm(
                LATE,
                "separate + late-fused",
                "each adapter sees its own modality, outputs mixed",
                "late",
                {FUSED: LATE},
            )
        )
    if same_input and len(alone) > 1:
        found.append(
            Arm(
                SAME,
                "separate + mixed outputs, same input",
                "all adapters see the same row, outputs mixed",
                "late",
                dict.fromkeys(tasks, SAME),
            )
        )
    off = "one adapter on every task's rows: the off-modality check"
    if len(tasks) > 1:
        found += [
            Arm(only(task), f"only the {task} adapter", off, "off", dict.fromkeys(tasks, only(task))) for task in alone
        ]
    return found

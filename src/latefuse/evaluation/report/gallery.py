"""What each arm said beside the truth, for a few test rows drawn by seed: not picked by hand."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from latefuse.evaluation.arms import FUSED, GRAMMAR, Arm
from latefuse.evaluation.generation import true_recipe
from latefuse.evaluation.metrics import kind_of
from latefuse.evaluation.recipe_text import Ingredient, parse_recipe
from latefuse.models.name_search import TOP


@dataclass(frozen=True)
class Chip:
    """One ingredient: `right`, `amount` (named, with another amount), `wrong` (not in the dish) or `missed`."""

    text: str
    state: str


@dataclass(frozen=True)
class Said:
    """One arm's answer. right: None where it is not simply right or wrong. steps: of a recipe."""

    label: str
    group: str
    text: str
    right: bool | None
    chips: list[Chip] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Card:
    """One row: its media, its question, the truth, and the answers."""

    task: str
    row: str
    media: list[tuple[str, str | None]]
    question: str
    truth: str
    answers: list[Said]
    chips: list[Chip] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)


Show = Callable[[str, str], str | None]


def cards(
    predictions: pl.DataFrame,
    arms: Sequence[Arm],
    rows: Mapping[str, Mapping[str, Any]],
    most: int,
    show: Show,
    seed: int = 0,
) -> list[Card]:
    """At most `most` cards, spread over the tasks.

    rows: conversation row (or item, for the fused task) -> {question, media: [(modality, path)], truth}. show:
    (modality, path) -> data URI, None where it can't be shown.
    """
    shown = [arm for arm in arms if arm.group in ("control", "separate", "merge", "late")]
    full = predictions.filter(pl.col("condition") == "full")
    tasks = full["task"].unique(maintain_order=True).to_list()
    found = []
    for task in tasks:
        part = full.filter(pl.col("task") == task)
        names = sorted(set(part["row"].to_list()) & set(rows))
        random.Random(f"{seed}/{task}").shuffle(names)
        for name in names[: max(most // max(len(tasks), 1), 1)]:
            answers = part.filter(pl.col("row") == name).sort("seed")
            found.append(_card(task, name, rows[name], answers, shown, show))
    return found


def _card(task: str, name: str, row: Mapping[str, Any], answers: pl.DataFrame, arms: Sequence[Arm], show: Show) -> Card:
    truth = row["truth"]
    kind = kind_of(truth)
    told: dict[str, dict[str, Any]] = {}
    for line in answers.iter_rows(named=True):
        told.setdefault(line["arm"], line)
    reference = next(iter(told.values()))["reference"]
    said = [_said(arm, told[source], kind, truth) for arm in arms if (source := arm.sources.get(task)) in told]
    media = [(modality, show(modality, path)) for modality, path in row["media"]]
    question = "" if task == FUSED and any(uri for _, uri in media) else str(row["question"])
    if kind == "recipe":
        recipe = true_recipe(truth["recipe"])
        chips = [Chip(_written(one), "right") for one in recipe.ingredients]
        return Card(task, name, media, question, "", said, chips, list(recipe.steps))
    return Card(task, name, media, question, str(truth.get(kind) or reference), said)


def _place(rank: int | None) -> str:
    """Where the true name stands; a rank past the first TOP is only a bound."""
    if not rank:
        return ""
    return f"truth ranked {rank + 1}" if rank < TOP else f"truth not among the first {TOP}"


def _said(arm: Arm, line: Mapping[str, Any], kind: str, truth: Mapping[str, Any]) -> Said:
    text = line["answer"] or ""
    if kind == "name":
        return Said(arm.label, arm.group, text, line["rank"] == 0, note=_place(line["rank"]))
    if kind == "answer":
        from latefuse.evaluation.classification import exact_match

        return Said(arm.label, arm.group, text or "(nothing)", exact_match(text, str(truth["answer"]))[0] == 1)
    if kind == "recipe":
        recipe = parse_recipe(text)
        if recipe.ingredients and (recipe.steps or arm.name == GRAMMAR):
            chips = _chips(recipe.ingredients, true_recipe(truth["recipe"]).ingredients)
            return Said(arm.label, arm.group, "", None, chips, list(recipe.steps))
    return Said(arm.label, arm.group, text[:400] or "(nothing)", None)


def _chips(said: Sequence[Ingredient], true: Sequence[Ingredient]) -> list[Chip]:
    wanted = {one.name: one for one in true}
    chips = []
    for one in said:
        other = wanted.get(one.name)
        same = other is not None and (one.amount, one.unit) == (other.amount, other.unit)
        chips.append(Chip(_written(one), "wrong" if other is None else "right" if same else "amount"))
    named = {one.name for one in said}
    return chips + [Chip(_written(one), "missed") for one in true if one.name not in named]


def _written(one: Ingredient) -> str:
    amount = "" if one.amount is None else f"{one.amount:g} "
    return f"{amount}{one.unit} {one.name}".replace("  ", " ").strip() if amount else one.name

"""Late fusion of outputs on items that have several modalities: each adapter sees its own, the next-token
log-probabilities are mixed, and names are ranked by what comes out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from latefuse.config import Modality
from latefuse.config_fusion import LateFusion
from latefuse.evaluation.answers import Answer, Bench, ranked_answer
from latefuse.evaluation.neglect import can_shuffle, shuffled
from latefuse.fusion.late import Acting, Shared, learn_fused
from latefuse.fusion.rows import evenly
from latefuse.models.backbone import Backbone
from latefuse.models.name_search import Switched, Walk, search
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example


def learned_weights(
    bench: Bench, valid: Shared, name: str | None, acting: Acting, settings: LateFusion
) -> dict[str, float]:
    """Weights of a control's mixture, in which one adapter answers for every modality; learned as the others' are."""
    found = learn_fused(bench.backbone, valid, lambda task: acting(name), bench.features, settings.steps)
    weights: dict[str, float] = found["weights"]
    return weights


def answer_fused(
    bench: Bench,
    fused: Shared,
    adapters: Mapping[Modality, str | None],
    acting: Acting,
    weights: Mapping[str, float],
    knock_outs: int,
    seed: int = 0,
) -> dict[str, tuple[list[int], list[Answer]]]:
    """Condition -> (numbers of the items that have it, their answers), condition `full` first.

    knock_outs: on how many of the items also `absent:<modality>`, `alone:<modality>` and `shuffled:<modality>`.
    """
    knock_out = knock_outs > 0
    closed = bench.lists["name", fused.topic]
    truths = torch.tensor([closed.number(name) for name in fused.truths])
    knocked = set(evenly(len(fused.items), knock_outs))
    swapped = {
        m: rows
        for m in fused.rows
        if knock_out and (rows := shuffled_views(bench.backbone, fused, m, seed)) is not None
    }
    conditions = _conditions(list(fused.rows), list(swapped), knock_out)
    answers: dict[str, tuple[list[int], list[Answer]]] = {condition: ([], []) for condition in conditions}
    size = max(bench.settings.batch_size // len(conditions), 1)
    shares = torch.tensor([weights[modality] for modality in fused.rows])
    for start in range(0, len(fused.items), size):
        numbers = list(range(start, min(start + size, len(fused.items))))
        asked = [(name, n) for name in conditions for n in numbers if name == "full" or n in knocked]
        views = [
            _View.of(bench, fused.rows[m], swapped.get(m), numbers, partial(acting, adapters[m])) for m in fused.rows
        ]
        places = torch.tensor([view.places(m, asked, conditions) for m, view in zip(fused.rows, views, strict=True)])
        kept = (places >= 0).any(dim=0)
        asked = [one for one, flag in zip(asked, kept.tolist(), strict=True) if flag]
        wanted = truths[[number for _, number in asked]]
        found = search([view.walk for view in views], closed.tree, wanted, shares, places[:, kept])
        for (name, number), rank, top in zip(asked, found.rank.tolist(), found.top.tolist(), strict=True):
            answers[name][0].append(number)
            answers[name][1].append(ranked_answer("name", rank, closed.named(top)))
    return {name: found for name, found in answers.items() if found[0]}


@dataclass(frozen=True)
class _View:
    """One modality of a few items: its prompts, first each item's own, then the shuffled ones. own: item -> place."""

    walk: Walk
    own: dict[int, int]

    @classmethod
    def of(
        cls,
        bench: Bench,
        rows: Sequence[Example | None],
        swapped: Sequence[Example | None] | None,
        numbers: Sequence[int],
        switched: Switched,
    ) -> _View:
        there = [number for number in numbers if rows[number] is not None]
        shown = [row for one in (rows, swapped) if one for n in there if (row := one[n]) is not None]
        any_row = [row for row in rows if row is not None][
            :1
        ]  # never read: where no item of the batch has the modality
        prompts = instruct.prompt_batch(bench.backbone, shown or any_row, bench.features)
        with torch.no_grad():
            walk = Walk(bench.backbone, prompts, switched)
        return cls(walk, {number: place for place, number in enumerate(there)})

    def places(
        self, modality: Modality, asked: Sequence[tuple[str, int]], conditions: Mapping[str, Sequence[Modality]]
    ) -> list[int]:
        """Which prompt answers for each (condition, item) asked; -1 where the modality takes no part."""
        return [
            self.own[number] + len(self.own) * (name == f"shuffled:{modality}")
            if modality in conditions[name] and number in self.own
            else -1
            for name, number in asked
        ]


def _conditions(
    modalities: Sequence[Modality], swapped: Sequence[Modality], knock_out: bool
) -> dict[str, list[Modality]]:
    """Condition -> whose outputs are mixed under it; the others' weight goes to those, as with a missing medium."""
    found = {"full": list(modalities)}
    if knock_out:
        found |= {f"absent:{m}": [other for other in modalities if other != m] for m in modalities}
        found |= {f"alone:{m}": [m] for m in modalities}
        found |= {f"shuffled:{m}": list(modalities) for m in swapped}
    return found


def shuffled_views(backbone: Backbone, fused: Shared, modality: Modality, seed: int) -> list[Example | None] | None:
    """The rows of a modality, each with what another item shows or says; None where there are too few items."""
    rows = fused.rows[modality]
    there = [row for row in rows if row is not None]
    if not can_shuffle(there, modality):
        return None
    waiting = iter([instruct.rewrite(row, backbone) for row in shuffled(there, modality, seed)])
    return [None if row is None else next(waiting) for row in rows]

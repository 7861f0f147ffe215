"""Late fusion of outputs on items that have several modalities: each adapter sees its own, the next-token
log-probabilities are mixed, and names are ranked by what comes out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial

import torch
from torch import Tensor

from latefuse.config import LateFusion, Modality
from latefuse.evaluation.answers import TOP, Answer, Bench, node_table
from latefuse.evaluation.classification import naming_scores, ranks
from latefuse.evaluation.neglect import can_shuffle, shuffled
from latefuse.fusion.late import Shared, learn_fused
from latefuse.fusion.scores import mix
from latefuse.models.closed_list import Trie
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example

Acting = Callable[[str | None], AbstractContextManager[None]]  # switches one adapter on; None: the bare backbone


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
    knock_out: bool,
    seed: int = 0,
) -> dict[str, tuple[list[int], list[Answer]]]:
    """Condition -> (numbers of the items that have it, their answers), condition `full` first.

    With knock_out also `absent:<modality>`, `alone:<modality>` and `shuffled:<modality>`.
    """
    closed = bench.lists["name", fused.topic]
    tree = instruct.trie(closed.names, bench.backbone)
    modalities = list(fused.rows)
    shares = torch.tensor([weights[modality] for modality in modalities])
    others = {m: _shuffle(fused, m, seed) for m in modalities} if knock_out else {}
    totals: dict[str, dict[int, Tensor]] = {}
    size = max(bench.settings.batch_size // 8, 1)
    for start in range(0, len(fused.items), size):
        numbers = range(start, min(start + size, len(fused.items)))
        own = {m: _table(bench, fused.rows[m], numbers, tree, partial(acting, adapters[m])) for m in modalities}
        swapped = {
            m: _table(bench, rows, numbers, tree, partial(acting, adapters[m]))
            for m, rows in others.items()
            if rows is not None
        }
        for condition, kept in _conditions(modalities, list(swapped), knock_out).items():
            chosen = [swapped[m] if condition == f"shuffled:{m}" else own[m] for m in modalities]
            present = torch.stack([there & (m in kept) for m, (_, there) in zip(modalities, chosen, strict=True)])
            here = present.any(dim=0)
            if bool(here.any()):
                log_probs = torch.stack([found for found, _ in chosen])[:, here]
                mixed = mix(log_probs, shares, present[:, here].unsqueeze(-1).expand(log_probs.shape[:-1]))
                answered = [number for number, flag in zip(numbers, here.tolist(), strict=True) if flag]
                totals.setdefault(condition, {}).update(zip(answered, tree.sum(mixed), strict=True))
    truths = [closed.place[name.strip()] for name in fused.truths]
    return {condition: _ranked(found, truths, closed.names) for condition, found in totals.items()}


Table = tuple[Tensor, Tensor]


def _table(
    bench: Bench,
    rows: Sequence[Example | None],
    numbers: range,
    tree: Trie,
    switched: Callable[[], AbstractContextManager[None]],
) -> Table:
    """Log-probabilities (b, nodes, V) and which rows are there (b,); what stands in an absent row is never read."""
    there = torch.tensor([rows[number] is not None for number in numbers])
    part = [row for number in numbers if (row := rows[number]) is not None]
    if not part:
        vocabulary = bench.backbone.model.get_output_embeddings().weight.shape[0]
        return torch.zeros(len(numbers), len(tree.inner), vocabulary), there
    with switched():
        found = node_table(bench, part, tree)
    table = found.new_zeros(len(numbers), *found.shape[1:])
    table[there] = found
    return table, there


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


def _shuffle(fused: Shared, modality: Modality, seed: int) -> list[Example | None] | None:
    """The rows of a modality, each with what another item shows; None where there are too few items."""
    rows = fused.rows[modality]
    there = [row for row in rows if row is not None]
    if not can_shuffle(there, modality):
        return None
    waiting = iter(shuffled(there, modality, seed))
    return [None if row is None else next(waiting) for row in rows]


def _ranked(found: Mapping[int, Tensor], truths: Sequence[int], names: Sequence[str]) -> tuple[list[int], list[Answer]]:
    numbers = sorted(found)
    scores = torch.stack([found[number] for number in numbers])
    order = scores.topk(min(TOP, len(names)), dim=1).indices.tolist()
    places = ranks(scores.double().numpy(), torch.tensor([truths[number] for number in numbers]).numpy())
    answers = [
        Answer(names[best[0]], [names[k] for k in best], int(rank), naming_scores(int(rank)))
        for best, rank in zip(order, places, strict=True)
    ]
    return numbers, answers

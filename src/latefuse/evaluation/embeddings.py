"""Every arm of an embedding task on one pool: as it is, with modalities knocked out, beside floors without training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor

from latefuse.config import Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.data.demo.oracle import same_look
from latefuse.evaluation import floors, neglect, retrieval, zero_shot
from latefuse.evaluation.arm_sources import ArmSources, Unit
from latefuse.evaluation.arms_summary import FULL, MeasuredArm
from latefuse.evaluation.pool import Pool
from latefuse.evaluation.prior import Ask, best_weight, log_counts, with_prior
from latefuse.evaluation.saliency import flow_of_pairs
from latefuse.evaluation.scores import NO_SEED, ORACLE, Scores
from latefuse.fusion.rows import evenly
from latefuse.models import embedder
from latefuse.prompts.items import Item
from latefuse.tasks import embed, item_vectors
from latefuse.tasks.catalogue import SHUFFLE_SEED, with_shuffled
from latefuse.tasks.views import words_of

CONTROL_KNOCKOUTS = ("shuffled",)
"""Of the arms beside the main one: what tells content from memory, and each modality alone."""


@dataclass
class Found:
    """What one unit gave: score lines, vectors of the pool by condition where a page shows them, saliency flow, and the
    weight that popularity has beside its cosines.
    """

    scores: Scores = field(default_factory=Scores)
    prior: float = 0.0
    vectors: dict[str, Tensor] = field(default_factory=dict)
    flow: Tensor | None = None


@dataclass
class Sources(ArmSources):
    """Everything that is measured, on one pool: floors once, trained arms under every seed."""

    pool: Pool

    def units(self) -> list[Unit]:
        """Trained arms first."""
        return self.units_beside(self.floors())

    def measure(self, unit: Unit) -> Found:
        """One unit."""
        found = Found()
        if unit.seed == NO_SEED:
            ask = self.floors()[unit.source]()
            found.prior = self._weight(ask)
            self._record(found, unit, FULL, ask)
            return found
        task = self.arms[unit.source]
        embedder.load(self.backbone, self.adapters[unit.seed, unit.source])
        items = shown_to(task, self.pool.items)
        knockouts = self.evaluation.knockouts if unit.source == self.name else CONTROL_KNOCKOUTS
        for condition, changed in conditions(task, items, knockouts, max(unit.seed, 0)).items():
            vectors = self._vectors(changed)
            ask = partial(_cosines, vectors)
            if condition == FULL:
                found.prior = self._weight(ask)
            self._record(found, unit, condition, ask)
            if unit == self.lead and condition in (FULL, "only:text", "only:image"):
                found.vectors[condition] = vectors
        if unit.seed == self.lead.seed:
            found.flow = flow_of_pairs(self.backbone, self._pairs(items), self.features)
        return found

    def _pairs(self, items: Sequence[Item]) -> list[embed.Pair]:
        """Some test pairs, evenly spread: what saliency is measured on."""
        pool = self.pool
        numbers = evenly(len(pool.target), self.evaluation.retrieval.saliency_items // 2)
        queries, targets = pool.query[pool.query_of].tolist(), pool.target.tolist()
        return [embed.pair(items[queries[number]], items[targets[number]]) for number in numbers]

    def _vectors(self, items: Sequence[Item]) -> Tensor:
        item_vectors.warm_items(items, self.backbone, self.features, progress=False)
        size = self.evaluation.batch_size
        return item_vectors.vectors(self.backbone, items, features=self.features, batch_size=size)

    def _weight(self, ask: Ask) -> float:
        """How much popularity counts beside these scores: as the recipe says, or what the valid pairs show."""
        how, pool = self.evaluation.retrieval, self.pool
        if pool.valid is None:
            return how.prior[0]
        return best_weight(ask, pool.valid, log_counts(pool.train, len(pool.items)), how.prior, how.ks[0])

    def _record(self, found: Found, unit: Unit, condition: str, ask: Ask) -> None:
        """Ranks of all targets, as lines of every query."""
        pool, ks = self.pool, self.evaluation.retrieval.ks
        score = with_prior(ask(pool.query), found.prior * log_counts(pool.train, len(pool.items)))
        ranks = retrieval.ranks(score, pool.target, pool.query_of, pool.excluded, pool.allowed)
        values = retrieval.retrieval_scores(ranks, pool.query_of, len(pool.query), ks)
        for number, query in enumerate(pool.ids()):
            key = (unit.source, unit.seed, condition, self.name, "", query, query, "+".join(self.task.modality), "")
            found.scores.add(key, {metric: (float(column[number]), 1) for metric, column in values.items()})

    def floors(self) -> dict[str, Callable[[], Ask]]:
        """Floor -> what makes it. Learned from the training pairs, or not at all."""
        pool, named = self.pool, self.evaluation.retrieval.sentence_encoder
        pairs, n = pool.train, len(pool.items)
        counts = torch.bincount(pairs.flatten(), minlength=n)
        found: dict[str, Callable[[], Ask]] = {
            "popularity": lambda: lambda query: floors.popularity(counts, len(query)),
            "co-occurrence": lambda: partial(floors.cooccurrence, pairs, n),
        }
        if "text" in self.task.modality:
            found["zero-shot words"] = partial(self._zero_shot, "text")
        if "image" in self.task.modality:
            found["zero-shot picture"] = partial(self._zero_shot, "image")
        if named:
            found["sentence encoder"] = partial(self._sentences, named)
        return found

    def _zero_shot(self, modality: Modality) -> Ask:
        """Cosine of what the frozen backbone makes of words, or of the tower's pooled features; no training at all."""
        embedder.unload(self.backbone)
        items, backbone = self.pool.items, self.backbone
        if modality == "text":
            return partial(floors.cosine, zero_shot.words(backbone, self.task, items, self.features))
        return partial(floors.cosine, zero_shot.media(items, modality, self.features))

    def _sentences(self, name: str) -> Ask:
        return partial(floors.cosine, floors.sentences(name, [words_of(item) for item in self.pool.items]))


def _cosines(vectors: Tensor, query: Tensor) -> retrieval.Scorer:
    """Vectors (N, D) of unit length; query: (Q,) places."""
    return retrieval.dot(vectors[query], vectors)


def shown_to(task: Task, items: Sequence[Item]) -> list[Item]:
    """The pool as an arm sees it: the control with shuffled media has other media in training and here alike."""
    assert task.embed is not None
    shown = list(items)
    for modality in task.embed.shuffled:
        shown = with_shuffled(shown, modality, SHUFFLE_SEED)
    return shown


def conditions(task: Task, items: Sequence[Item], knockouts: Iterable[str], seed: int) -> dict[str, list[Item]]:
    """Condition -> the pool under it: everything there, one modality only, one modality knocked out.

    With two modalities, one absent is the other one only, and is measured once.
    """
    found = {FULL: list(items)}
    if len(task.modality) < 2:
        return found
    found |= {f"only:{modality}": neglect.only(items, modality) for modality in task.modality}
    for kind in knockouts:
        for modality in task.modality if kind != "absent" or len(task.modality) > 2 else ():
            if kind != "shuffled" or neglect.can_shuffle(items, modality):
                found[f"{kind}:{modality}"] = neglect.KNOCK_OUTS[kind](items, modality, seed)
    return found


def arms_of(sources: Sources) -> list[MeasuredArm]:
    """Floors, controls, and the main arm, with words for what each of them is."""
    return sources.told({name: FLOORS[name] for name in sources.floors()}, meaning)


FLOORS = {
    "popularity": "how many training pairs an item stands in; nothing of the query",
    "co-occurrence": "partners of the query in the training pairs, then partners of its partners; no content",
    "zero-shot words": "cosine of what the frozen backbone makes of the words",
    "zero-shot picture": "cosine of the frozen tower's pooled features",
    "sentence encoder": "cosine of a sentence encoder's vectors of title, topics and text",
}


def meaning(task: Task) -> str:
    """An arm in a few words, from its settings alone."""
    assert task.embed is not None
    settings, media = task.embed, [modality for modality in task.modality if modality != "text"]
    prompt = {"basic": "one compressed token", "micl": "mICL", "none": "words alone in the encoder"}[settings.prompt]
    parts = ["reads " + " and ".join(task.modality), prompt]
    if media:
        parts.append("with the late-fusion gate" if settings.gate else "no gate")
    if settings.shuffled:
        parts.append(f"{' and '.join(settings.shuffled)} of another item, in training as well")
    return "; ".join(parts)


def oracle(dataset: Dataset, pool: Pool, task: str, modality: str, ks: Sequence[int]) -> Scores:
    """The best reachable recall of every query of the generated kitchen, where items of one look belong together.

    Nothing tells items of one look apart: of g of them in the pool, k found at random hold the target with k / g.
    """
    found = Scores()
    if dataset.manifest.get("source") != "demo" or "reviews" in dataset.tables:  # looks decide where nobody reviews
        return found
    told = {row["id"]: row for row in dataset.rows("items")}
    codes = same_look([told[item.id] for item in pool.items])
    for number, query in enumerate(pool.ids()):
        alike = pool.allowed & torch.from_numpy(codes == codes[int(pool.query[number])])
        alike[pool.excluded[1][pool.excluded[0] == number]] = False
        reach = {f"recall_at_{k}": (min(1.0, k / max(int(alike.sum()), 1)), 1) for k in ks}
        found.add((ORACLE, NO_SEED, FULL, task, "", query, query, modality, ""), reach)
    return found

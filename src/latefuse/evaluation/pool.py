"""What is searched and what for: the pool of items, the test pairs as queries and targets, the slices of queries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor

from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.evaluation.retrieval import lower_third, one_pair_each
from latefuse.fusion.rows import evenly
from latefuse.prompts.items import Item
from latefuse.tasks.catalogue import catalogue, readable

SLICES = {
    "short-query": "queries whose words are in the shortest third of the pool",
    "short-target": "targets whose words are in the shortest third of the pool",
    "warm": "query and target stand in pairs of the training split: their identity can be learned by heart",
    "cold": "query or target stands in no pair of the training split: only content can help",
    "absent": "query or target lacks a modality that the arm reads",
}


@dataclass(frozen=True)
class Questions:
    """What is asked of the items of a pool: query (Q,), target (P,), places of items; query_of: (P,) the number of the
    query that a target belongs to. allowed: (N,) bool, what may be found. excluded: (2, E) numbers of queries and what
    each may not find: itself, and its partners in training, which are known.
    """

    query: Tensor
    target: Tensor
    query_of: Tensor
    allowed: Tensor
    excluded: Tensor


@dataclass(frozen=True)
class Pool(Questions):
    """What the test split asks of items: everything that can be read, in stored order.

    train: (pairs, 2) places of the training pairs. slices: name -> ids of queries. valid: what the valid split asks,
    None where nothing is chosen by it. left_out: items without any modality that the arm reads.
    """

    items: list[Item]
    train: Tensor
    slices: Mapping[str, list[str]]
    valid: Questions | None = None
    left_out: int = 0

    @property
    def size(self) -> int:
        """How many items can be found."""
        return int(self.allowed.sum())

    def ids(self) -> list[str]:
        """The ids of the queries, in order."""
        return [self.items[place].id for place in self.query.tolist()]


def build(dataset: Dataset, task: Task, evaluation: Evaluation) -> Pool:
    """The pool of a task's test split. Raises DataError where it is empty, or where no test pair is left.

    So it does without a valid pair, where weights of the popularity prior are to be chosen by them.
    """
    assert task.embed is not None
    plain = task.model_copy(update={"embed": task.embed.model_copy(update={"shuffled": ()})})
    every = catalogue(dataset, plain)
    items = [item for item in every if readable(item, task.modality)]
    if not items:
        raise DataError(f"{dataset.path}: no item has any of {', '.join(task.modality)}: there is nothing to search")
    place = {item.id: number for number, item in enumerate(items)}
    train = np.stack(_pairs(dataset, "train", task.embed.scheme, place)[:2], axis=1)
    test = _questions(dataset, "test", task.embed.scheme, evaluation, place, train)
    valid = None
    if len(evaluation.retrieval.prior) > 1:
        valid = _questions(dataset, "valid", task.embed.scheme, evaluation, place, train)
    slices = _slices(items, task, test.query.numpy(), test.target.numpy(), test.query_of.numpy(), train)
    return Pool(
        **vars(test),
        items=items,
        train=torch.from_numpy(train),
        slices=slices,
        valid=valid,
        left_out=len(every) - len(items),
    )


def _questions(
    dataset: Dataset, split: str, scheme: str, evaluation: Evaluation, place: Mapping[str, int], train: np.ndarray
) -> Questions:
    how, of = evaluation.retrieval, "train" if evaluation.retrieval.targets == "known" else split
    a, b, weight = _pairs(dataset, split, scheme, place, of)
    if not len(a):
        asked = f"in split {split!r}" if of == split else f"from split {split!r} to known items"
        raise DataError(f"{dataset.path}: no pair {asked} of scheme {scheme!r}: nothing to search for")
    if how.pairs == "one":
        kept = one_pair_each(a.tolist(), b.tolist(), weight.tolist())
        a, b = a[kept], b[kept]
    every_query = np.unique(a)
    query, query_of = np.unique(a, return_inverse=True)
    few = np.isin(query_of, evenly(len(query), evaluation.max_rows))
    query, query_of = np.unique(a[few], return_inverse=True)
    b = b[few]
    allowed = np.ones(len(place), bool)
    if how.pool == "split":
        inside = _held_by(dataset, of)
        allowed = np.array([name in inside for name in place])
    if how.pairs == "one":
        allowed[every_query] = False
    allowed[b] = True
    known = _known(query, b, query_of, train, len(place))
    return Questions(*(torch.from_numpy(one) for one in (query, b, query_of, allowed, known)))


def _held_by(dataset: Dataset, split: str) -> set[str]:
    """The ids of the items of a split."""
    return set(dataset.table("items", split, "item", columns=["id"])["id"].to_pylist())


def _pairs(
    dataset: Dataset, split: str, scheme: str, place: Mapping[str, int], to: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(a, b, weight) of the pairs of a split whose items are both in the pool, as places.

    to: another split of items that b is of; such pairs link two splits and are stored as in none.
    """
    columns = ["a", "b", "weight"]
    if to is None or to == split:
        table = dataset.table("pairs", split, scheme, columns=columns)
    else:
        table = dataset.table("pairs", columns=columns)
        inside = [pc.is_in(table[end], pa.array(_held_by(dataset, one))) for end, one in (("a", split), ("b", to))]
        table = table.filter(pc.and_(*inside))
    found = [(place.get(a, -1), place.get(b, -1)) for a, b in zip(*(table[c].to_pylist() for c in "ab"), strict=True)]
    ends = np.array(found, np.int64).reshape(-1, 2)
    known = (ends >= 0).all(axis=1)
    return ends[known, 0], ends[known, 1], table["weight"].to_numpy()[known]


def _known(query: np.ndarray, target: np.ndarray, query_of: np.ndarray, train: np.ndarray, n: int) -> np.ndarray:
    """(2, E) numbers of queries and places of themselves and of their training partners, targets aside."""
    number = np.full(n, -1)
    number[query] = np.arange(len(query))
    ends = np.concatenate([np.stack([query, query], axis=1), train, train[:, ::-1]])
    keys = np.unique((number[ends[:, 0]] * n + ends[:, 1])[number[ends[:, 0]] >= 0])
    keys = np.setdiff1d(keys, query_of * n + target)
    return np.stack([keys // n, keys % n])


def _slices(
    items: Sequence[Item], task: Task, query: np.ndarray, target: np.ndarray, query_of: np.ndarray, train: np.ndarray
) -> dict[str, list[str]]:
    """Ids of the queries of every slice of SLICES that is neither empty nor, but for the cold one, everything."""
    short, _ = lower_third(np.array([len(item.title) + len(item.text) for item in items]))
    seen = np.zeros(len(items), bool)
    seen[train.ravel()] = True
    lacking = np.array([not all(readable(item, (modality,)) for modality in task.modality) for item in items])

    def by_target(flags: np.ndarray) -> np.ndarray:
        """(Q,) whether any target of the query is flagged."""
        out = np.zeros(len(query), bool)
        np.logical_or.at(out, query_of, flags[target])
        return out

    cold = ~seen[query] | by_target(~seen)
    masks = {
        "short-query": short[query],
        "short-target": by_target(short),
        "warm": ~cold,
        "cold": cold,
        "absent": lacking[query] | by_target(lacking),
    }
    ids = np.array([items[place].id for place in query], dtype=object)
    return {
        name: ids[mask].tolist() for name, mask in masks.items() if mask.any() and (name == "cold" or not mask.all())
    }

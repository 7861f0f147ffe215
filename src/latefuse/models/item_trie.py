"""A catalogue as a prefix trie in arrays: what may follow what has been written, for many beams at once.

Every item is a sequence of tokens with its end token. Nodes are numbered level by level, and those of a level in the
lexicographic order of what they spell. So the children of a node are a range of numbers, and the items below a node are
a range in the order of the sequences: how many of them a row may still name is a difference of two places in its sorted
list, whatever the size of the catalogue. `closed_list.Trie` is for names that are all scored behind each prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[Any]
Codes = Sequence[Any]  # one sequence of item codes a row: lists, or an array or tensor (B, m)


class Edges(NamedTuple):
    """What may follow some nodes. parent: (E,) place among the nodes asked about; token, child: (E,)."""

    parent: Tensor
    token: Tensor
    child: Tensor


@dataclass(frozen=True)
class ItemTrie:
    """n items, m nodes; node 0 is the root. The rank of an item is its place in the lexicographic order of sequences.

    token: (m,) what leads to a node, -1 at the root. first: (m + 1,) the children of node k are first[k]:first[k + 1].
    low, high: (m,) the items below a node are those of rank low:high. items: (n,) item code of each rank; rank: (n,)
    the way back. longest: tokens of the longest sequence.
    """

    token: Tensor
    first: Tensor
    low: Tensor
    high: Tensor
    items: Tensor
    rank: Tensor
    longest: int

    def __len__(self) -> int:
        return len(self.items)

    def to(self, device: torch.device | str) -> ItemTrie:
        """The same on another device."""
        return replace(
            self,
            token=self.token.to(device),
            first=self.first.to(device),
            low=self.low.to(device),
            high=self.high.to(device),
            items=self.items.to(device),
            rank=self.rank.to(device),
        )

    def edges(self, nodes: Tensor) -> Edges:
        """All that may follow `nodes` (M,), in the order of the nodes and by token within each."""
        begin = self.first[nodes]
        count = self.first[nodes + 1] - begin
        parent = torch.repeat_interleave(count)
        before = count.cumsum(0) - count
        child = torch.arange(len(parent), device=nodes.device) + (begin - before)[parent]
        return Edges(parent, self.token[child], child)

    def is_leaf(self, nodes: Tensor) -> Tensor:
        """Bool of the same shape: whether a node ends an item."""
        return self.first[nodes] == self.first[nodes + 1]

    def item(self, leaves: Tensor) -> Tensor:
        """Item codes of leaves, of the same shape."""
        return self.items[self.low[leaves]]

    def find(self, tokens: Tensor) -> Tensor:
        """(M,) the item that each row of tokens (M, T) spells, -1 for none; what stands behind an end is not read."""
        node = torch.zeros(len(tokens), dtype=torch.long, device=tokens.device)
        lost = torch.zeros_like(node, dtype=torch.bool)
        keys, base = self._keys
        for column in tokens.T:
            going = ~lost & ~self.is_leaf(node)
            asked = node * base + column.clamp(-1, base - 2) + 1
            place = torch.searchsorted(keys, asked).clamp(max=len(keys) - 1)
            known = keys[place] == asked
            lost = lost | (going & ~known)
            node = torch.where(going & known, place + 1, node)
        return torch.where(lost | ~self.is_leaf(node), -1, self.item(node))

    def alternatives(self, tokens: Tensor) -> Tensor:
        """(E, 3) row, place and token: all that may stand at each place of sequences (M, T), given what stands before.

        A sequence that leaves the trie, or has ended, has no alternatives from there on.
        """
        rows = torch.arange(len(tokens), device=tokens.device)
        node, found = torch.zeros_like(rows), []
        for place in range(tokens.shape[1]):
            may = self.edges(node)
            found.append(torch.stack([rows[may.parent], torch.full_like(may.parent, place), may.token], dim=1))
            went = may.token == tokens[rows, place][may.parent]
            rows, node = rows[may.parent[went]], may.child[went]
        return torch.cat(found)

    @cached_property
    def _keys(self) -> tuple[Tensor, int]:
        """Parent and token of every node but the root as one rising number, and what a parent counts for in it."""
        base = int(self.token.max()) + 3
        parent = torch.repeat_interleave(self.first.diff())
        return parent * base + self.token[1:] + 1, base


def build(sequences: Sequence[Sequence[int]]) -> ItemTrie:
    """The trie of a catalogue: item code k is written as sequences[k], its end token last; tokens are at least 0.

    Raises ValueError for no items, for an empty sequence, a negative token, two items with one sequence, and an item
    whose sequence is the beginning of another's.
    """
    rows, lengths = _table(sequences)
    order = np.lexsort(rows.T[::-1])
    rows, lengths = rows[order], lengths[order]
    shared = _shared(rows, lengths, order)
    # Per node, level by level: its token, the items below it, and how many children it has.
    token, low, high = [np.array([-1])], [np.array([0])], [np.array([len(rows)])]
    children, starts = [], np.array([0])
    for depth in range(1, rows.shape[1] + 1):
        bounds = np.flatnonzero(shared < depth)
        long = lengths[bounds] >= depth
        begin, end = bounds[long], np.append(bounds[1:], len(rows))[long]
        above = np.searchsorted(starts, begin, side="right") - 1
        children.append(np.bincount(above, minlength=len(starts)))
        token.append(rows[begin, depth - 1])
        low.append(begin)
        high.append(end)
        starts = begin
    children.append(np.zeros(len(starts), np.int64))
    first = 1 + np.append(0, np.concatenate(children).cumsum())
    rank = np.empty_like(order)
    rank[order] = np.arange(len(order))
    return ItemTrie(
        token=_tensor(np.concatenate(token)),
        first=_tensor(first),
        low=_tensor(np.concatenate(low)),
        high=_tensor(np.concatenate(high)),
        items=_tensor(order),
        rank=_tensor(rank),
        longest=rows.shape[1],
    )


def _tensor(array: Array) -> Tensor:
    return torch.from_numpy(array.astype(np.int64))


def _table(sequences: Sequence[Sequence[int]]) -> tuple[Array, Array]:
    """The sequences as rows (n, longest), -1 behind the end of each, and their lengths (n,)."""
    lengths = np.fromiter(map(len, sequences), np.int64, len(sequences))
    if not len(lengths):
        raise ValueError("a trie without items: give it the token sequence of each item")
    if not lengths.all():
        raise ValueError(f"item {int(lengths.argmin())} has no tokens: write it with its end token")
    flat = np.fromiter(chain.from_iterable(sequences), np.int64, int(lengths.sum()))
    if flat.min() < 0:
        item = int(np.searchsorted(lengths.cumsum(), int(np.argmax(flat < 0)), side="right"))
        raise ValueError(f"item {item} has a negative token: leave out what pads its sequence")
    # Narrow numbers sort several times faster.
    rows = np.full((len(lengths), int(lengths.max())), -1, np.int32 if flat.max() < 2**31 else np.int64)
    rows[np.arange(rows.shape[1]) < lengths[:, None]] = flat
    return rows, lengths


def _shared(rows: Array, lengths: Array, order: Array) -> Array:
    """(n,) how many tokens each sorted row has in common with the one before it; -1 for the first."""
    differs = rows[1:] != rows[:-1]
    same = ~differs.any(axis=1)
    if same.any():
        one, other = sorted(order[int(same.argmax()) :][:2].tolist())
        raise ValueError(f"items {one} and {other} have the same tokens: their names must differ")
    shared = np.append(-1, differs.argmax(axis=1))
    inside = np.flatnonzero(shared[1:] == lengths[:-1])
    if len(inside):
        one, other = order[inside[0]], order[inside[0] + 1]
        raise ValueError(f"item {one} is the beginning of item {other}: end both in an end token")
    return shared


@dataclass(frozen=True)
class Allowed:
    """Which items each of some rows may name.

    keys: the listed items of all rows, as row * n + rank, rising; None where every row may name all. listed: whether
    the list is what a row may name, or what it may not.
    """

    trie: ItemTrie
    rows: int
    keys: Tensor | None
    listed: bool

    def live(self, rows: Tensor, nodes: Tensor) -> Tensor:
        """How many items below each node the row of that node may name; all of one shape."""
        return self._count(rows, self.trie.low[nodes], self.trie.high[nodes])

    def names(self, rows: Tensor, items: Tensor) -> Tensor:
        """Whether each row may name the item of that code; all of one shape."""
        rank = self.trie.rank[items]
        return self._count(rows, rank, rank + 1) > 0

    def _count(self, rows: Tensor, low: Tensor, high: Tensor) -> Tensor:
        if self.keys is None:
            return high - low
        before = rows * len(self.trie)
        within = torch.searchsorted(self.keys, before + high) - torch.searchsorted(self.keys, before + low)
        return within if self.listed else high - low - within


def allowed(trie: ItemTrie, rows: int, never: Codes | None = None, only: Codes | None = None) -> Allowed:
    """What each of some rows may name: all items, or its own in `only`, and in either case none of its in `never`.

    never, only: item codes of each row, in any order, repeated or not; an empty list is a list of none. Raises
    ValueError where there are not as many lists as rows, and for a code that is not in the catalogue.
    """
    forbidden = None if never is None else _listed(trie, rows, never, "never")
    if only is None:
        return Allowed(trie, rows, forbidden, False)
    named = _listed(trie, rows, only, "only")
    if forbidden is not None:
        named = named[~torch.isin(named, forbidden, assume_unique=True)]
    return Allowed(trie, rows, named, True)


def _listed(trie: ItemTrie, rows: int, lists: Codes, which: str) -> Tensor:
    """Each row's items as rising keys, every one once."""
    if len(lists) != rows:
        raise ValueError(f"{len(lists)} lists of items in `{which}` for {rows} rows: give one a row")
    parts = [torch.as_tensor(codes, dtype=torch.long, device=trie.rank.device) for codes in lists]
    items = torch.cat([*parts, trie.rank.new_zeros(0)])
    row = torch.repeat_interleave(torch.tensor([len(part) for part in parts], device=items.device))
    wrong = ((items < 0) | (items >= len(trie))).nonzero()
    if len(wrong):
        at = int(wrong[0])
        raise ValueError(
            f"row {int(row[at])} of `{which}` names item {int(items[at])}, and the catalogue holds {len(trie)}"
        )
    return torch.unique(row * len(trie) + trie.rank[items])

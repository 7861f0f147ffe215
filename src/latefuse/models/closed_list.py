"""A closed list of names as a trie of tokens, and what a model thinks of every node of it behind each prompt.

All names behind one prompt share the prompt's key-value cache, and names that begin alike share their beginning: every
distinct node is computed once, as one sequence with a tree mask (a node sees the prompt, its ancestors and itself).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from latefuse.models.backbone import Backbone, MediaBatch

CHUNK = 96


@dataclass(frozen=True)
class Prompts:
    """A batch of prompts, padded on the left. input_ids, attention_mask: (B, P)."""

    input_ids: Tensor
    attention_mask: Tensor
    media: MediaBatch | None


@dataclass(frozen=True)
class Trie:
    """Names as paths from the root (node 0) to an end node.

    tokens, parents, depths: per node. ends: the end node of each name, in the order of the names. A node that has
    children is an *inner* node: only those need a distribution.
    """

    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    depths: tuple[int, ...]
    ends: tuple[int, ...]
    children: dict[int, dict[int, int]] = field(repr=False)

    @cached_property
    def inner(self) -> list[int]:
        """The nodes with children, depth first; the root is the first."""
        order, waiting = [], [0]
        while waiting:
            node = waiting.pop()
            if self.children[node]:
                order.append(node)
                waiting += reversed(self.children[node].values())
        return order

    @cached_property
    def edges(self) -> tuple[Tensor, Tensor]:
        """Of every node but the root: the place of its parent in `inner`, and its token; both (nodes - 1,)."""
        place = {node: k for k, node in enumerate(self.inner)}
        return torch.tensor([place[parent] for parent in self.parents[1:]]), torch.tensor(self.tokens[1:])

    @cached_property
    def levels(self) -> list[Tensor]:
        """The nodes of each depth from 1 on."""
        deepest = max(self.depths)
        return [torch.tensor([n for n, d in enumerate(self.depths) if d == depth]) for depth in range(1, deepest + 1)]

    def along(self, edges: Tensor) -> Tensor:
        """Sums along the names. edges: (B, nodes - 1) log-probabilities of every node given its parent; (B, names)."""
        totals = torch.cat([edges.new_zeros(edges.shape[0], 1), edges], dim=1)
        parents = torch.tensor(self.parents)
        for level in self.levels:
            totals[:, level] = totals[:, level] + totals[:, parents[level]]
        return totals[:, torch.tensor(self.ends)]

    def sum(self, log_probs: Tensor) -> Tensor:
        """Log-likelihood of every name, (B, names), from log_probs (B, inner nodes, V)."""
        rows, tokens = self.edges
        return self.along(log_probs[:, rows, tokens])

    def allowed(self, generated: Sequence[int]) -> list[int]:
        """The tokens that may follow `generated` so that it stays a beginning of a name; none behind a whole name."""
        node = 0
        for token in generated:
            if token not in self.children[node]:
                return []
            node = self.children[node][token]
        return list(self.children[node])


def build_trie(names: Sequence[Sequence[int]]) -> Trie:
    """names: token ids of each, the end token last. Raises ValueError on an empty list, an empty or a repeated name."""
    tokens, parents, depths = [-1], [-1], [0]
    children: dict[int, dict[int, int]] = {0: {}}
    ends = []
    for number, name in enumerate(names):
        node = 0
        for token in name:
            if token not in children[node]:
                children[node][token] = len(tokens)
                tokens.append(token)
                parents.append(node)
                depths.append(depths[node] + 1)
                children[len(tokens) - 1] = {}
            node = children[node][token]
        if node == 0 or node in ends:
            raise ValueError(f"name {number} of the closed list is empty or stands there twice")
        ends.append(node)
    if not ends:
        raise ValueError("a closed list without names")
    inside = next((k for k, end in enumerate(ends) if children[end]), None)
    if inside is not None:
        raise ValueError(f"name {inside} of the closed list is the beginning of another: end them in an end token")
    return Trie(tuple(tokens), tuple(parents), tuple(depths), tuple(ends), children)


@torch.no_grad()
def node_hidden(backbone: Backbone, prompts: Prompts, trie: Trie, chunk: int = CHUNK) -> Iterator[tuple[slice, Tensor]]:
    """Hidden states from which the next token at each inner node is predicted, piece by piece.

    Yields a slice of `trie.inner` and its states (B, nodes, d). One pass over the prompts, then one over each `chunk`
    of nodes (with the few ancestors that lie before it) on top of the prompts' cache.
    """
    mask = prompts.attention_mask
    cache = DynamicCache()
    hidden = backbone.hidden(prompts.input_ids, mask, prompts.media, past_key_values=cache)
    yield slice(0, 1), hidden[:, -1:]
    lengths = mask.sum(dim=1)
    for start in range(1, len(trie.inner), chunk):
        own = trie.inner[start : start + chunk]
        nodes = [*_ancestors(trie, own[0]), *own]
        ids = torch.tensor([trie.tokens[node] for node in nodes], device=mask.device).expand(len(mask), -1)
        depths = torch.tensor([trie.depths[node] for node in nodes], device=mask.device)
        positions = lengths.unsqueeze(1) + depths - 1
        states = backbone.hidden(
            ids, tree_mask(trie, nodes, mask, backbone.model.dtype), position_ids=positions, past_key_values=cache
        )
        cache.crop(-len(nodes))
        yield slice(start, start + len(own)), states[:, -len(own) :]


def tree_mask(trie: Trie, nodes: Sequence[int], prompt_mask: Tensor, dtype: torch.dtype) -> Tensor:
    """Additive attention mask (B, 1, nodes, P + nodes): a node sees its row's prompt, its ancestors and itself."""
    place = {node: k for k, node in enumerate(nodes)}
    sees = torch.zeros(len(nodes), len(nodes), dtype=torch.bool)
    for k, node in enumerate(nodes):
        for seen in [*_ancestors(trie, node), node]:
            sees[k, place[seen]] = True
    rows = len(prompt_mask)
    whole = torch.cat(
        [
            prompt_mask.bool()[:, None, None, :].expand(rows, 1, len(nodes), -1),
            sees.to(prompt_mask.device)[None, None].expand(rows, 1, -1, -1),
        ],
        dim=-1,
    )
    return torch.zeros(whole.shape, dtype=dtype, device=whole.device).masked_fill(~whole, torch.finfo(dtype).min)


def _ancestors(trie: Trie, node: int) -> list[int]:
    """From the root's child down to the parent; the root itself is the prompt."""
    path = []
    while (node := trie.parents[node]) > 0:
        path.append(node)
    return path[::-1]

"""The rank of a name in a closed list, exactly, without scoring the whole list.

A name's log-likelihood only falls as it grows, so a beginning that already scores below the true name can hold no name
above it. The search goes down the trie level by level and keeps the best beginnings of every row; the best one dropped
is the bound up to which the answer is certain. Rows for which it is not are searched again, wider, and the few that
are left once more: the true name's score is known by then, and every beginning above it is followed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from latefuse.fusion.scores import mix
from latefuse.models.backbone import Backbone
from latefuse.models.closed_list import Prompts, Trie

TOP = 5
BEAM = 12
WIDER = 6
SLACK = 1e-3  # nats; what two ways of adding up one score may differ by
MOST_BYTES = 2**29
Switched = Callable[[], AbstractContextManager[None]]


@dataclass(frozen=True)
class Ladder:
    """A trie as tables, one a depth.

    children, tokens: (nodes, most children), -1 where there is none; children are numbered among the nodes of the next
    depth. ends: (nodes,) the name that ends in a node, else -1. paths: (names, depths) the node of each name at each
    depth, -1 behind its end.
    """

    children: list[Tensor]
    tokens: list[Tensor]
    ends: list[Tensor]
    paths: Tensor

    @property
    def widest(self) -> int:
        """The beam at which nothing is ever dropped."""
        return max(len(ends) for ends in self.ends)


def ladder(trie: Trie) -> Ladder:
    """The tables of a trie."""
    depths = [[n for n, d in enumerate(trie.depths) if d == depth] for depth in range(max(trie.depths) + 1)]
    place = {node: k for nodes in depths for k, node in enumerate(nodes)}
    names = {end: name for name, end in enumerate(trie.ends)}
    children, tokens, ends = [], [], []
    for nodes in depths:
        most = max((len(trie.children[node]) for node in nodes), default=0)
        child, token = torch.full((len(nodes), most), -1), torch.full((len(nodes), most), -1)
        for k, node in enumerate(nodes):
            for column, (word, below) in enumerate(trie.children[node].items()):
                child[k, column], token[k, column] = place[below], word
        children.append(child)
        tokens.append(token)
        ends.append(torch.tensor([names.get(node, -1) for node in nodes]))
    paths = torch.full((len(trie.ends), len(depths)), -1)
    for name, end in enumerate(trie.ends):
        node = end
        while node >= 0:
            paths[name, trie.depths[node]] = place[node]
            node = trie.parents[node]
    return Ladder(children, tokens, ends, paths)


@dataclass(frozen=True)
class Ranked:
    """rank: (B,) how many names score at least as high as the true one; exact below TOP, from there on a lower bound.
    top: (B, <= TOP) the best names found, best first, -1 behind the last."""

    rank: Tensor
    top: Tensor


class Walk:
    """One member's way down: prompts in a cache, nodes of the trie appended level by level."""

    def __init__(self, backbone: Backbone, prompts: Prompts, switched: Switched) -> None:
        self.backbone, self.switched = backbone, switched
        self.cache = DynamicCache()
        self.mask = prompts.attention_mask
        with switched():
            hidden = backbone.hidden(prompts.input_ids, self.mask, prompts.media, past_key_values=self.cache)
            self.first = self._log_probs(hidden[:, -1:])

    def at(self, rows: Tensor) -> Walk:
        """The same way for other rows, (B,) numbers of this one's, each as often as it is asked for."""
        copy = object.__new__(Walk)
        copy.backbone, copy.switched = self.backbone, self.switched
        copy.cache = DynamicCache()
        for number, layer in enumerate(self.cache.layers):
            keys, values = layer.keys, layer.values
            copy.cache.update(keys[rows.to(keys.device)], values[rows.to(values.device)], number)
        copy.mask, copy.first = self.mask[rows.to(self.mask.device)], self.first[rows]
        return copy

    def step(self, tokens: Tensor, sees: Tensor, depth: int) -> Tensor:
        """Log-probabilities (B, K, V) behind the nodes (B, K) of one depth. sees: (B, K, nodes so far) bool."""
        device, dtype = self.mask.device, self.backbone.model.dtype
        rows, nodes = tokens.shape
        if not rows:
            return self.first.new_zeros(0, nodes, self.first.shape[-1])
        whole = torch.cat([self.mask.bool()[:, None].expand(-1, nodes, -1), sees.to(device)], dim=-1).unsqueeze(1)
        mask = torch.zeros(whole.shape, dtype=dtype, device=device).masked_fill(~whole, torch.finfo(dtype).min)
        positions = (self.mask.sum(dim=1, keepdim=True) + depth - 1).expand(rows, nodes)
        with self.switched():
            hidden = self.backbone.hidden(tokens.to(device), mask, position_ids=positions, past_key_values=self.cache)
            return self._log_probs(hidden)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self.backbone.logits(hidden).float(), dim=-1).cpu()


@torch.no_grad()
def search(
    members: Sequence[Walk],
    tree: Ladder,
    truths: Tensor,
    weights: Tensor | None = None,
    places: Tensor | None = None,
    beam: int = BEAM,
) -> Ranked:
    """Ranks of the true names under one member, or under the mixture of several.

    truths: (B,) numbers of the true names. weights: (members,), needed for several. places: (members, B) which of its
    prompts a member answers a row with, -1 where it takes no part; by default the row's own number.
    """
    if places is None:
        places = torch.arange(len(truths)).expand(len(members), -1)
    rank, top, certain, own = _search(members, tree, truths, weights, places, beam)
    bytes_of_row = members[0].first.shape[-1] * 4 * tree.widest
    for wider in (beam * WIDER, None):
        for again in _some((~certain).nonzero()[:, 0], max(1, MOST_BYTES // bytes_of_row)):
            floor = own[again] - SLACK
            found = _search(members, tree, truths[again], weights, places[:, again], wider, floor)
            rank[again], top[again], certain[again] = found[:3]
    return Ranked(rank, top)


def _some(rows: Tensor, most: int) -> Sequence[Tensor]:
    return rows.split(most) if len(rows) else ()


@dataclass(frozen=True)
class _Mixture:
    """The members on their way down together, each with the rows in which it takes part."""

    walks: list[Walk]
    rows: list[Tensor]
    present: Tensor
    weights: Tensor | None

    @classmethod
    def of(cls, members: Sequence[Walk], places: Tensor, weights: Tensor | None) -> _Mixture:
        rows = [(own >= 0).nonzero()[:, 0] for own in places]
        walks = [walk.at(own[here]) for walk, own, here in zip(members, places, rows, strict=True)]
        return cls(walks, rows, places >= 0, weights)

    def first(self) -> Tensor:
        """Log-probabilities (B, 1, V) of a name's first token."""
        return self._mixed([walk.first for walk in self.walks])

    def step(self, tokens: Tensor, sees: Tensor, depth: int) -> Tensor:
        """Log-probabilities (B, K, V) behind the nodes of one depth."""
        pairs = zip(self.walks, self.rows, strict=True)
        return self._mixed([walk.step(tokens[rows], sees[rows], depth) for walk, rows in pairs])

    def _mixed(self, found: Sequence[Tensor]) -> Tensor:
        if self.weights is None:
            return found[0]
        shape = (len(found), self.present.shape[1], *found[0].shape[1:])
        stacked = found[0].new_zeros(shape)
        for number, (rows, log_probs) in enumerate(zip(self.rows, found, strict=True)):
            stacked[number, rows] = log_probs
        return mix(stacked, self.weights, self.present.unsqueeze(-1).expand(shape[:-1]))


def _search(
    members: Sequence[Walk],
    tree: Ladder,
    truths: Tensor,
    weights: Tensor | None,
    places: Tensor,
    beam: int | None,
    floor: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Rank, best names, whether the rank is certain, and the true name's score.

    Followed are the best `beam` beginnings of every row, of those that score above its `floor` (B,).
    """
    rows = len(truths)
    nodes, scores = torch.zeros(rows, 1, dtype=torch.long), torch.zeros(rows, 1)
    mixture = _Mixture.of(members, places, weights)
    log_probs = mixture.first()
    sees = torch.zeros(rows, 1, 0, dtype=torch.bool)
    bound, own = torch.full((rows,), -torch.inf), torch.full((rows,), -torch.inf)
    best, names = torch.full((rows, TOP + 1), -torch.inf), torch.full((rows, TOP + 1), -1)
    for depth in range(1, len(tree.ends)):
        children = tree.children[depth - 1][nodes]
        words = tree.tokens[depth - 1][nodes].clamp(min=0)
        grown = (scores.unsqueeze(-1) + log_probs.gather(2, words)).masked_fill(children < 0, -torch.inf).flatten(1)
        children, words = children.flatten(1), words.flatten(1)
        ends = torch.where(children >= 0, tree.ends[depth][children.clamp(min=0)], -1)
        own = torch.maximum(own, grown.masked_fill(ends != truths[:, None], -torch.inf).amax(dim=1))
        whole = torch.cat([best, grown.masked_fill(ends < 0, -torch.inf)], dim=1)
        best, chosen = whole.topk(TOP + 1, dim=1)
        names = torch.cat([names, ends], dim=1).gather(1, chosen)
        going = grown.masked_fill((ends >= 0) | (children < 0), -torch.inf)
        if floor is not None:
            going = going.masked_fill(going < floor[:, None], -torch.inf)
        width = min(int((going != -torch.inf).sum(dim=1).max()), beam or going.shape[1])
        forced = going.masked_fill(children == tree.paths[truths, depth][:, None], torch.inf)
        forced = forced.masked_fill(going == -torch.inf, -torch.inf)
        kept = forced.topk(width, dim=1).indices
        dropped = going.scatter(1, kept, -torch.inf)
        bound = torch.maximum(bound, dropped.amax(dim=1))
        scores, parents = going.gather(1, kept), kept // tree.children[depth - 1].shape[1]
        if depth + 1 == len(tree.ends) or bool((scores == -torch.inf).all()):
            break
        nodes, tokens = children.gather(1, kept).clamp(min=0), words.gather(1, kept)
        above = sees.gather(1, parents.unsqueeze(-1).expand(-1, -1, sees.shape[-1]))
        sees = torch.cat([above, torch.eye(width, dtype=torch.bool).expand(rows, -1, -1)], dim=-1)
        log_probs = mixture.step(tokens, sees, depth)
    above_own = ((best >= own[:, None]) & (names != truths[:, None]) & (names >= 0)).sum(dim=1)
    if bool(own.isnan().any()):
        raise ValueError("a name's score is not a number; check the adapter's weights for NaN")
    certain = (bound < own) | (above_own >= TOP) | torch.tensor(beam is None or beam >= tree.widest)
    top = names[:, :TOP].masked_fill(best[:, :TOP] == -torch.inf, -1)
    return above_own, top, certain, own

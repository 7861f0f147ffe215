"""The trie in arrays against sets of prefixes."""

from __future__ import annotations

import random

import pytest
import torch

from latefuse.models.item_trie import ItemTrie, allowed, build

Sequences = list[list[int]]


@pytest.fixture
def sequences() -> Sequences:
    """300 items of one to five tokens in no order, each with its end token 1."""
    draw = random.Random(0)
    found = sorted({tuple(draw.choices(range(5, 11), k=draw.randint(1, 5))) for _ in range(900)})
    draw.shuffle(found)
    return [[*one, 1] for one in found[:300]]


def _prefixes(sequences: Sequences) -> dict[tuple[int, ...], set[int]]:
    """The items below every beginning."""
    below: dict[tuple[int, ...], set[int]] = {}
    for item, sequence in enumerate(sequences):
        for end in range(len(sequence) + 1):
            below.setdefault(tuple(sequence[:end]), set()).add(item)
    return below


def _spelled(trie: ItemTrie) -> dict[int, tuple[int, ...]]:
    """What every node spells, by asking for the edges of all nodes of a level at once."""
    spelled, nodes = {0: ()}, torch.zeros(1, dtype=torch.long)
    while len(nodes):
        edges = trie.edges(nodes)
        for parent, token, child in zip(*(one.tolist() for one in edges), strict=True):
            spelled[child] = (*spelled[int(nodes[parent])], token)
        nodes = edges.child
    return spelled


def test_nodes_are_the_beginnings_of_items(sequences: Sequences) -> None:
    trie, below = build(sequences), _prefixes(sequences)
    spelled = _spelled(trie)
    assert sorted(spelled.values()) == sorted(below)
    assert len(spelled) == len(trie.token)
    assert trie.longest == max(map(len, sequences))
    nodes = torch.tensor(sorted(spelled))
    leaves = trie.is_leaf(nodes)
    for node, leaf in zip(nodes.tolist(), leaves.tolist(), strict=True):
        here = below[spelled[node]]
        assert {int(one) for one in trie.items[trie.low[node] : trie.high[node]]} == here
        assert leaf == (list(spelled[node]) in sequences)
        if leaf:
            assert {int(trie.item(torch.tensor(node)))} == here


def test_edges_of_nodes_in_any_order_and_again(sequences: Sequences) -> None:
    trie, below = build(sequences), _prefixes(sequences)
    spelled = _spelled(trie)
    nodes = torch.randint(0, len(trie.token), (40,), generator=torch.Generator().manual_seed(0))
    nodes[7] = nodes[3]
    edges = trie.edges(nodes)
    expected = [
        (place, prefix[-1], prefix)
        for place, node in enumerate(nodes.tolist())
        for prefix in sorted(below)
        if prefix and prefix[:-1] == spelled[node]
    ]
    found = zip(edges.parent.tolist(), edges.token.tolist(), (spelled[n] for n in edges.child.tolist()), strict=True)
    assert list(found) == expected


def test_items_are_found_by_their_tokens(sequences: Sequences) -> None:
    trie = build(sequences)
    table = torch.zeros(len(sequences), trie.longest + 2, dtype=torch.long)
    for row, sequence in zip(table, sequences, strict=True):
        row[: len(sequence)] = torch.tensor(sequence)
    assert trie.find(table).tolist() == list(range(len(sequences)))
    changed = table.clone()
    changed[:, 0] = 10_000
    changed[0, 0] = -1
    assert (trie.find(changed) == -1).all()
    lengths = torch.tensor([len(one) for one in sequences])
    assert (trie.find(table[:, :2]) >= 0).tolist() == (lengths <= 2).tolist()


@pytest.mark.parametrize("sequences", [[[7]], [[3], [2], [9]], [[4, 4, 4, 4, 4, 4, 1], [4, 1], [1]]])
def test_small_catalogues(sequences: Sequences) -> None:
    trie = build(sequences)
    table = torch.tensor([[*one, *[0] * (7 - len(one))] for one in sequences])
    assert trie.find(table).tolist() == list(range(len(sequences)))
    assert sorted(_spelled(trie).values()) == sorted(_prefixes(sequences))


@pytest.mark.parametrize(
    ("sequences", "told"),
    [
        ([], "without items"),
        ([[2, 1], []], "item 1 has no tokens"),
        ([[2, 1], [3, 1], [2, 1]], "items 0 and 2 have the same tokens"),
        ([[2, 5, 1], [3, 1], [2, 5]], "item 2 is the beginning of item 0"),
        ([[2, 1], [3, -1]], "item 1 has a negative token"),
    ],
)
def test_what_is_no_catalogue_is_refused(sequences: Sequences, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        build(sequences)


@pytest.mark.parametrize("which", ["all", "never", "only", "both"])
def test_live_items_below_every_node_of_every_row(sequences: Sequences, which: str) -> None:
    trie, below, draw = build(sequences), _prefixes(sequences), random.Random(1)
    spelled = _spelled(trie)
    every = set(range(len(sequences)))
    never = [draw.choices(range(300), k=size) for size in (0, 1, 250, 40)]
    only = [draw.choices(range(300), k=size) for size in (100, 0, 30, 1)]
    lists = {
        "never": never if which in ("never", "both") else None,
        "only": only if which in ("only", "both") else None,
    }
    may = allowed(trie, 4, **lists)
    nodes = torch.arange(len(trie.token))
    for row in range(4):
        named = (set(only[row]) if lists["only"] else every) - (set(never[row]) if lists["never"] else set())
        live = may.live(torch.full_like(nodes, row), nodes)
        assert live.tolist() == [len(below[spelled[node]] & named) for node in nodes.tolist()]
        items = torch.tensor(sorted(every))
        assert may.names(torch.full_like(items, row), items).tolist() == [item in named for item in sorted(every)]


def test_lists_may_be_a_matrix(sequences: Sequences) -> None:
    trie, lists = build(sequences), torch.randint(0, 300, (3, 20))
    rows, nodes = torch.arange(3)[:, None], torch.arange(len(trie.token)).expand(3, -1)
    rows = rows.expand_as(nodes)
    ways = [allowed(trie, 3, only=one).live(rows, nodes) for one in (lists, lists.numpy(), lists.tolist())]
    assert (ways[0] == ways[1]).all()
    assert (ways[0] == ways[2]).all()


def test_lists_that_do_not_fit_are_refused(sequences: Sequences) -> None:
    trie = build(sequences)
    with pytest.raises(ValueError, match="2 lists of items in `never` for 3 rows"):
        allowed(trie, 3, never=[[1], [2]])
    with pytest.raises(ValueError, match="row 1 of `only` names item 300, and the catalogue holds 300"):
        allowed(trie, 2, only=[[1], [2, 300]])


def test_the_alternatives_of_each_place_are_the_ways_to_go_on(sequences: Sequences) -> None:
    trie, below = build(sequences), _prefixes(sequences)
    lost = [sequences[2][0], 99, 99]
    asked = [*sequences[:40], lost]
    longest = max(map(len, asked))
    rows = torch.tensor([[*one, *[-100] * (longest - len(one))] for one in asked])
    found = {tuple(one) for one in trie.alternatives(rows).tolist()}
    assert found == {
        (row, place, beginning[-1])
        for row, one in enumerate(asked)
        for place in range(len(one))
        for beginning in below
        if len(beginning) == place + 1 and beginning[:-1] == tuple(one[:place])
    }

"""Which rows stand together in which step: by length and modality, the same for any number of processes."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain

import torch
from torch import Tensor

WINDOW = 16


def plan(
    lengths: Sequence[int],
    groups: Sequence[str],
    steps: int,
    batch_size: int,
    seed: int,
    parts: int = 1,
    part_tokens: int | None = None,
) -> list[list[int]]:
    """`steps` lists of row numbers, each of one group and of similar lengths, longest last.

    lengths, groups: tokens and modality of every row; each group gets steps in proportion to its rows. Rows are taken
    epoch by epoch, shuffled by `seed`. parts: into how many micro-batches a step is cut later (accumulation times
    processes). part_tokens: the most tokens, padding included, that one micro-batch may hold; a step then has fewer
    rows. Raises ValueError without rows.
    """
    if not lengths:
        raise ValueError("no rows to make batches of")
    members: dict[str, list[int]] = defaultdict(list)
    for row, group in enumerate(groups):
        members[group].append(row)
    share = apportion({group: len(rows) for group, rows in sorted(members.items())}, steps)
    plans = {
        group: _one_group(members[group], lengths, count, batch_size, f"{seed}/{group}", parts, part_tokens)
        for group, count in share.items()
    }
    return [rows for _, rows in interleave(plans, seed)]


def _one_group(
    rows: Sequence[int],
    lengths: Sequence[int],
    steps: int,
    batch_size: int,
    seed: str,
    parts: int,
    part_tokens: int | None,
) -> list[list[int]]:
    """Windows of shuffled rows, sorted by length inside and cut into steps, the steps shuffled."""
    rng = random.Random(seed)
    endless = _epochs(rows, rng)
    made: list[list[int]] = []
    pool: list[int] = []
    while len(made) < steps:
        wanted = min(WINDOW, steps - len(made)) * batch_size
        pool += [next(endless) for _ in range(wanted - len(pool))]
        chunks, pool = _cut(sorted(pool, key=lambda row: (lengths[row], row)), lengths, batch_size, parts, part_tokens)
        rng.shuffle(chunks)
        made += chunks
    return made[:steps]


def _cut(
    window: list[int], lengths: Sequence[int], batch_size: int, parts: int, part_tokens: int | None
) -> tuple[list[list[int]], list[int]]:
    """A sorted window as steps, from its longest rows down, and the few rows that are left for the next window."""
    chunks: list[list[int]] = []
    while len(window) >= parts:
        each = batch_size // parts
        if part_tokens is not None:
            each = max(1, min(each, part_tokens // lengths[window[-1]]))
        size = min(each, len(window) // parts) * parts
        chunks.append(window[-size:])
        window = window[:-size]
    return chunks, window


def _epochs(rows: Sequence[int], rng: random.Random) -> Iterator[int]:
    while True:
        yield from rng.sample(rows, len(rows))


def shuffled_steps(rows: int, steps: int, batch_size: int, seed: int) -> list[list[int]]:
    """`steps` lists of `batch_size` row numbers, epoch by epoch, shuffled by `seed`; no row twice in a list."""
    rng, made, pool = random.Random(seed), list[list[int]](), list[int]()
    while len(made) < steps:
        if len(pool) < batch_size:
            held = set(pool)
            pool += [row for row in rng.sample(range(rows), rows) if row not in held]
        made.append(pool[:batch_size])
        pool = pool[batch_size:]
    return made


def apportion(sizes: Mapping[str, int], total: int) -> dict[str, int]:
    """`total` split in proportion to `sizes` by largest remainders; names break ties."""
    whole = sum(sizes.values())
    exact = {name: total * size / whole for name, size in sizes.items()}
    share = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(sizes, key=lambda name: (share[name] - exact[name], name))
    for name in by_remainder[: total - sum(share.values())]:
        share[name] += 1
    return share


def interleave(plans: Mapping[str, Sequence[list[int]]], seed: int) -> list[tuple[str, list[int]]]:
    """All steps of all plans, each plan in its own order, in an order of plans shuffled by `seed`.

    The mixed arm is the separate arms' own steps in one run: the same rows, the same number of tokens.
    """
    names = list(chain.from_iterable([name] * len(steps) for name, steps in sorted(plans.items())))
    random.Random(f"{seed}/interleave").shuffle(names)
    waiting = {name: iter(steps) for name, steps in plans.items()}
    return [(name, next(waiting[name])) for name in names]


def micro_batches(rows: Sequence[int], parts: int) -> list[list[int]]:
    """One step's rows as `parts` micro-batches of equal size; neighbours in length stay together."""
    if len(rows) % parts:
        raise ValueError(f"{len(rows)} rows can't be cut into {parts} equal micro-batches")
    size = len(rows) // parts
    return [list(rows[start : start + size]) for start in range(0, len(rows), size)]


def by_length(lengths: Sequence[int], groups: Sequence[str], batch_size: int) -> list[list[int]]:
    """Row numbers in batches of one group and similar lengths, longest first, each row once: for inference."""
    order = sorted(range(len(lengths)), key=lambda row: (groups[row], -lengths[row], row))
    batches: list[list[int]] = []
    for row in order:
        if batches and len(batches[-1]) < batch_size and groups[batches[-1][0]] == groups[row]:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


def pad(rows: Sequence[Sequence[int]], value: int, left: bool = False) -> Tensor:
    """Rows of ids as one (B, longest) tensor, filled up with `value` on the right, or on the left."""
    longest = max(len(row) for row in rows)
    fill = [[value] * (longest - len(row)) for row in rows]
    whole = [[*empty, *row] if left else [*row, *empty] for row, empty in zip(rows, fill, strict=True)]
    return torch.tensor(whole, dtype=torch.long)

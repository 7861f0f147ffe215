"""Tasks: what is learned and how. One file a kind, each with the same parts in the same order.

`attach(backbone, tasks, seed, chosen)` and `save(backbone, folder, card)`: what learns. `select(dataset, task, split,
backbone)` and `steps(rows, train, seed, parts)`: from what, in which order. `collate(rows, backbone, features)`,
`loss(backbone, batch)`, `nll(backbone, rows)`: the objective. Then what it answers: texts or vectors. A new kind is one
file here, one line in the registry and its name in `latefuse.config.Kind`.
"""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

from latefuse.sections import nearest

KINDS = {
    "instruct": "latefuse.tasks.instruct",
    "embed": "latefuse.tasks.embed",
    "judge": "latefuse.tasks.judge",
    "rank": "latefuse.tasks.rank",
    "personalise": "latefuse.tasks.personalise",
}


def get(kind: str) -> ModuleType:
    """The module of a kind. Raises ValueError with the nearest known kind."""
    if kind not in KINDS:
        raise ValueError(f"no task of kind {kind!r}{nearest(kind, KINDS)}")
    return import_module(KINDS[kind])

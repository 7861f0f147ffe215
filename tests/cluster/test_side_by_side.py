"""Nodes that do not wait for each other run side by side, through the real `kfp.local`."""

import random

from latefuse.cluster.side_by_side import most_awaited


def followers(needs, name):
    """Brute force: everything that waits for a node, near or far."""
    near = {other for other, wanted in needs.items() if name in wanted}
    return near.union(*(followers(needs, other) for other in near)) if near else set()


def test_nodes_that_most_others_wait_for_come_first():
    rng = random.Random(0)
    for _ in range(50):
        names = [f"n{k}" for k in range(rng.randint(1, 9))]
        needs = {name: {other for other in names[:k] if rng.random() < 0.4} for k, name in enumerate(names)}
        expected = sorted(names, key=lambda name: (-len(followers(needs, name)), name))
        assert most_awaited(needs) == expected


def test_the_graph_of_the_project_starts_what_fuse_waits_for_before_the_controls():
    needs = {
        "prepare": set(),
        "backbone": set(),
        "finetune-image": {"prepare", "backbone"},
        "finetune-mixed": {"prepare", "backbone"},
        "finetune-text": {"prepare", "backbone"},
        "fuse": {"finetune-image", "finetune-text"},
        "evaluate": {"fuse", "finetune-mixed", "finetune-image", "finetune-text"},
    }
    order = ["backbone", "prepare", "finetune-image", "finetune-text", "finetune-mixed", "fuse", "evaluate"]
    assert most_awaited(needs) == order

"""Component `prepare_merge`: the shards of `prepare` to one dataset."""

from typing import List  # noqa: UP035

from kfp.dsl import Dataset, Input, Output


def prepare_merge(
    config: str,
    source: str,
    inputs: str,
    shards: Input[List[Dataset]],  # noqa: UP006
    out: Output[Dataset],
) -> str:
    """Decide what needs all rows (splits, leaks, numbers) and write the dataset; returns its fingerprint."""
    from latefuse.cluster import node

    return node.prepare_merge(config, [shard.path for shard in shards], out.path)

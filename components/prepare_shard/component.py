"""Component `prepare_shard`: one of N equal parts of `prepare`."""

from kfp.dsl import Dataset, Output


def prepare_shard(config: str, source: str, shard: int, shards: int, out: Output[Dataset]) -> str:
    """Read all, check and store the part of this shard; returns the fingerprint of what it wrote."""
    from latefuse.cluster import node

    return node.prepare_shard(config, shard, shards, out.path, source=source)

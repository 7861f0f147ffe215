"""Component `embed_shard`: the vectors of one of N equal parts of a catalogue."""

from kfp.dsl import Dataset, Input, Model, Output


def embed_shard(
    config: str,
    source: str,
    inputs: str,
    shard: int,
    shards: int,
    dataset: Input[Dataset],
    backbone: Input[Model],
    adapter: Input[Model],
    out: Output[Dataset],
) -> str:
    """Embed every so many-th part of the catalogue; returns the fingerprint of what it wrote."""
    from latefuse.cluster import node

    given = (dataset.path, backbone.path, adapter.path)
    return node.embed_shard(config, *given, shard, shards, out.path, source=source)

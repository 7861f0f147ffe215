"""Component `embed`: the shards of a catalogue's vectors to one index."""

from typing import List  # noqa: UP035 - the spelling that the compiler of Kubeflow Pipelines reads

from kfp.dsl import Dataset, Input, Output


def embed(
    config: str,
    source: str,
    inputs: str,
    shards: Input[List[Dataset]],  # noqa: UP006 - see the import
    out: Output[Dataset],
) -> str:
    """Put the vectors of all shards together and index them; returns their fingerprint."""
    from latefuse.cluster import node

    return node.embed(config, [shard.path for shard in shards], out.path)

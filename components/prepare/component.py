"""Component `prepare`: raw data to a dataset."""

from kfp.dsl import Dataset, Output


def prepare(config: str, source: str, out: Output[Dataset]) -> str:
    """Read, check, split and store the data; returns the dataset's fingerprint."""
    from latefuse.cluster import node

    return node.prepare(config, out.path)

"""Component `finetune`: one adapter, for one arm and one seed."""

from kfp.dsl import Dataset, Input, Model, Output


def finetune(
    name: str,
    config: str,
    source: str,
    inputs: str,
    dataset: Input[Dataset],
    backbone: Input[Model],
    out: Output[Model],
) -> str:
    """Train one adapter on the frozen backbone; returns the adapter's fingerprint."""
    from latefuse.cluster import node

    return node.finetune(config, dataset.path, backbone.path, out.path, node=name, source=source)

"""Component `backbone`: the frozen model, built or fetched once."""

from kfp.dsl import Model, Output


def backbone(config: str, source: str, out: Output[Model]) -> str:
    """Build the demo base, or fetch and pin a named backbone; returns its digest."""
    from latefuse.cluster import node

    return node.backbone(config, out.path)

"""Component `fuse`: the adapters of one seed become one model."""

from typing import List  # noqa: UP035 - the spelling that the compiler of Kubeflow Pipelines reads

from kfp.dsl import Dataset, Input, Model, Output


def fuse(
    name: str,
    config: str,
    source: str,
    inputs: str,
    dataset: Input[Dataset],
    backbone: Input[Model],
    adapters: Input[List[Model]],  # noqa: UP006 - see the import
    out: Output[Model],
) -> str:
    """Merge the separate adapters in each way the recipe names; returns the fingerprint of what came out."""
    from latefuse.cluster import node

    return node.fuse(config, dataset.path, backbone.path, [adapter.path for adapter in adapters], out.path, node=name)

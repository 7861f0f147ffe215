"""Component `evaluate`: every arm beside its controls."""

from typing import List  # noqa: UP035 - the spelling that the compiler of Kubeflow Pipelines reads

from kfp.dsl import HTML, Artifact, Dataset, Input, Metrics, Model, Output


def evaluate(
    config: str,
    source: str,
    inputs: str,
    dataset: Input[Dataset],
    backbone: Input[Model],
    finetuned: Input[List[Model]],  # noqa: UP006 - see the import
    fused: Input[List[Model]],  # noqa: UP006 - see the import
    out: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
) -> str:
    """Measure all arms on the test split and write the report; returns the fingerprint of the scores."""
    from latefuse.cluster import node

    trained, merged = [one.path for one in finetuned], [one.path for one in fused]
    done = node.evaluate(config, dataset.path, backbone.path, trained, merged, out.path)
    node.publish(out.path, report, metrics)
    return done

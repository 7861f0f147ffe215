"""A pipeline with the shape of the real one (lists, names, artifacts) and steps of a few milliseconds."""

import os
from typing import Any, List  # noqa: UP035

from kfp import dsl
from kfp.dsl import HTML, Artifact, Input, Metrics, Model, Output

from latefuse.cluster.graph import node


def small(name: str, config: str, source: str, inputs: str, out: Output[Model]) -> str:
    import small_steps

    return small_steps.write(config, out.path, name)


def gather(
    config: str,
    source: str,
    inputs: str,
    finetuned: Input[List[Model]],  # noqa: UP006
    out: Output[Artifact],
    report: Output[HTML],
    metrics: Output[Metrics],
) -> str:
    """All of them."""
    import small_steps

    from latefuse.cluster import node

    assert all(__import__("pathlib").Path(one.path, "made.json").exists() for one in finetuned)
    done = small_steps.write(config, out.path, "evaluate", "evaluate")
    node.publish(out.path, report, metrics)
    return done


def builder(texts: dict[str, str]) -> Any:
    """A function like `pipelines.late_fusion.build`; texts: {task: settings as JSON}, with one for evaluate."""

    def build(config: Any) -> Any:
        @dsl.pipeline(name="latefuse-small")
        def pipeline(
            prepare_source: str,
            backbone_source: str,
            finetune_source: str,
            fuse_source: str,
            embed_source: str,
            evaluate_source: str,
        ) -> None:
            arms = [
                node(small, f"finetune-{key}", name=f"finetune-{key}", config=text, source=finetune_source, inputs="x")
                for key, text in texts.items()
                if key != "evaluate"
            ]
            if retries := int(os.environ.get("SMALL_RETRIES", 0)):
                arms[0].set_retry(retries, backoff_duration="30s")
            stamp = " ".join(str(arm.outputs["Output"]) for arm in arms)
            lists = {"finetuned": [arm.outputs["out"] for arm in arms]}
            node(gather, "evaluate", config=texts["evaluate"], source=evaluate_source, inputs=stamp, **lists)

        return pipeline

    return build

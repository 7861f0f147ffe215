"""The graph: prepare and backbone, one `finetune` node per arm and seed, `fuse` per seed, one `evaluate`.

A recipe with a `catalogue` has it embedded by as many nodes as the profile has `shards`, and `embed` merges them; with
more than one shard `prepare` is a merge as well. Unrolled from the recipe, so that the UI shows
`finetune-image`, `finetune-video`, `finetune-text` by name. Parameters of a node are the slice of the recipe that it
reads, the digest of its source and the fingerprints of what goes in: together they are the key of its cache. Who runs
it and where is the profile's matter.
"""

from typing import Any

from kfp import dsl

from components.backbone.component import backbone
from components.embed.component import embed
from components.embed_shard.component import embed_shard
from components.evaluate.component import evaluate
from components.finetune.component import finetune
from components.fuse.component import fuse
from components.prepare.component import prepare
from components.prepare_merge.component import prepare_merge
from components.prepare_shard.component import prepare_shard
from latefuse.cluster.graph import node
from latefuse.cluster.node import EvaluateConfig, FuseConfig, node_name
from latefuse.cluster.place import place
from latefuse.config import Config
from latefuse.data.sources import elsewhere
from latefuse.sections import Section


def build(config: Config) -> Any:
    """The pipeline object of one recipe under one profile; compiled, submitted and run locally alike."""
    recipe, jobs = config.recipe, config.jobs()

    @dsl.pipeline(name=f"latefuse-{recipe.name}", description=recipe.description or None)
    def late_fusion(
        prepare_source: str,
        backbone_source: str,
        finetune_source: str,
        fuse_source: str,
        embed_source: str,
        evaluate_source: str,
        image: str = config.profile.default.image or "",
    ) -> None:
        data = _prepared(config, prepare_source, image)
        base = node(backbone, "backbone", config=_text(recipe.backbone), source=backbone_source)
        given = {"dataset": data.outputs["out"], "backbone": base.outputs["out"]}
        stamp = f"{data.outputs['Output']} {base.outputs['Output']}"
        place(data, "prepare", config, image)
        place(base, "backbone", config, image)

        trained: dict[tuple[str, int], Any] = {}
        for job in jobs:
            name = node_name(job, recipe.seeds)
            task = node(finetune, name, name=name, config=_text(job), source=finetune_source, inputs=stamp, **given)
            trained[job.name, job.seed] = place(task, "finetune", config, image)

        fused: list[Any] = []
        for seed in recipe.seeds if len(recipe.tasks) > 1 else ():
            name = "fuse" if len(recipe.seeds) == 1 else f"fuse-s{seed}"
            part = _text(FuseConfig(fusion=recipe.fusion, tasks=recipe.tasks, seed=seed))
            alone = [trained[task, seed] for task in recipe.tasks]
            lists = {"adapters": [task.outputs["out"] for task in alone], "inputs": _stamps(stamp, alone)}
            task = node(fuse, name, name=name, config=part, source=fuse_source, **lists, **given)
            fused.append(place(task, "fuse", config, image))

        if recipe.catalogue is not None:
            arm = trained[recipe.catalogue.arm or next(iter(recipe.tasks)), recipe.seeds[0]]
            _embedded(config, embed_source, image, _stamps(stamp, [arm]), adapter=arm.outputs["out"], **given)

        arms = list(trained.values())
        task = node(
            evaluate,
            "evaluate",
            config=_text(EvaluateConfig(evaluation=recipe.evaluation, tasks=recipe.variants(), fusion=recipe.fusion)),
            source=evaluate_source,
            inputs=_stamps(stamp, arms + fused),
            finetuned=[task.outputs["out"] for task in arms],
            fused=[task.outputs["out"] for task in fused],
            **given,
        )
        place(task, "evaluate", config, image)

    return late_fusion


def _prepared(config: Config, source: Any, image: Any) -> Any:
    """The task `prepare`: alone, or as the merge of its shards. Who reads the raw files does so anew in each run where
    they are not here to be looked at; what comes after is keyed by the fingerprint of what was found."""
    given = {"config": _text(config.recipe.data), "source": source}
    count, known = config.profile.shards, not elsewhere(config.recipe.data)
    if count == 1:
        return node(prepare, "prepare", **given).set_caching_options(known)
    parts = [node(prepare_shard, f"prepare-shard-{i}", shard=i, shards=count, **given) for i in range(count)]
    for part in parts:
        place(part.set_caching_options(known), "prepare", config, image)
    stamps = " ".join(str(part.outputs["Output"]) for part in parts)
    return node(prepare_merge, "prepare", inputs=stamps, shards=[part.outputs["out"] for part in parts], **given)


def _embedded(config: Config, source: Any, image: Any, stamp: str, **given: Any) -> None:
    """The tasks of the catalogue: its shards, and `embed`, which merges them and reads no model."""
    count, text = config.profile.shards, _text(config.recipe.catalogue)
    said = {"config": text, "source": source}
    parts = [
        node(embed_shard, f"embed-shard-{i}", shard=i, shards=count, inputs=stamp, **said, **given)
        for i in range(count)
    ]
    for part in parts:
        place(part, "embed", config, image)
    stamps = " ".join(str(part.outputs["Output"]) for part in parts)
    task = node(embed, "embed", inputs=stamps, shards=[part.outputs["out"] for part in parts], **said)
    place(task, "prepare", config, image)


def _text(section: Section) -> str:
    return section.model_dump_json(exclude_defaults=True)


def _stamps(first: str, tasks: list[Any]) -> str:
    return " ".join([first, *(str(task.outputs["Output"]) for task in tasks)])

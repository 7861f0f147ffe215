"""What a run would take, told before anything is started: graph, machines, memory, hours, money, and what is missing.

Offline: the pipeline is compiled, nothing is fetched, no cluster is asked unless one is given.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from latefuse.cluster import durations
from latefuse.cluster.backbone_shapes import backbone_shapes
from latefuse.cluster.durations import Duration, Machine
from latefuse.cluster.fits import OPENING, Fit, fit, media_tokens, opened, unsplit
from latefuse.cluster.images import by_tag, refusal, resolved
from latefuse.cluster.memory import GIB
from latefuse.cluster.needs import Need, needs
from latefuse.cluster.node import node_name
from latefuse.cluster.place import check_supported
from latefuse.cluster.shapes import Shapes, UnknownShapes, UntoldShapes
from latefuse.config import Config
from latefuse.config_prices import Prices
from latefuse.config_profile import Resources, Step
from latefuse.sections import ConfigError

IR_BYTES = 100_000
UNTOLD = {"rank", "personalise"}
_COMMIT = re.compile(r"^[0-9a-f]{40}$")


@dataclass(frozen=True)
class Node:
    """One node of the graph. nodes: machines that work on it. money: at best and at worst."""

    name: str
    step: Step
    after: tuple[str, ...]
    image: str | None
    resources: Resources
    nodes: int
    duration: Duration
    money: tuple[float, float]


@dataclass
class Plan:
    """All that is told. table: rows of a task's table, where known. kept: bytes of frozen features by task.

    notes: worth knowing; problems: why not to start.
    """

    config: Config
    prices: Prices
    shapes: Shapes | None
    nodes: list[Node]
    table: int | None = None
    fits: list[Fit] = field(default_factory=list)
    kept: dict[str, int] = field(default_factory=dict)
    needs: list[Need] = field(default_factory=list)
    ir_bytes: int = 0
    notes: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    @property
    def elapsed(self) -> tuple[float, float]:
        """Seconds from the first node to the last: at best with room for all that may run at a time, at worst one
        after the other."""
        ends: dict[str, float] = {}
        for node in self.nodes:
            ends[node.name] = node.duration.low + max((ends[name] for name in node.after), default=0.0)
        return max(ends.values()), sum(node.duration.high for node in self.nodes)


def make_plan(
    config: Config,
    prices: Prices,
    compiled: Callable[[Config], tuple[dict[str, Any], int]],
    allow_tags: bool = False,
    table: int | None = None,
) -> Plan:
    """compiled: gives the pipeline's specification and its size in bytes, as they would be sent. table: rows of a
    task's table; without it every row that training reads counts as another one.

    Raises ConfigError for a profile that can't be compiled.
    """
    check_supported(config.profile)
    config = config.model_copy(update={"profile": resolved(config.profile)})
    spec, size = compiled(config)
    plan = Plan(config, prices, None, [], table, ir_bytes=size, needs=needs(config.profile))
    gpus = any(config.profile.resources(step).gpu for step in durations.STEPS)
    kinds = {job.kind for job in config.jobs()}
    try:
        if untold := sorted(kinds & UNTOLD):
            raise UntoldShapes(f"memory and work of a task of kind {untold[0]} are not told in advance")
        plan.shapes = backbone_shapes(config.recipe.backbone)
        _ = [media_tokens(task, plan.shapes, 1) for task in config.recipe.variants().values()]
    except UnknownShapes as error:
        plan.shapes = None
        (plan.problems if gpus and not isinstance(error, UntoldShapes) else plan.notes).append(str(error))
    plan.nodes = _nodes(plan, spec)
    wrong = _unknown_gpus(plan)
    if plan.shapes is not None and not wrong:
        _memory(plan, plan.shapes)
    else:
        world = config.profile.nodes * config.profile.processes
        for name, task in config.recipe.variants().items():
            plan.problems += unsplit(name, task, world)
    _look_over(plan, allow_tags)
    return plan


def _nodes(plan: Plan, spec: Mapping[str, Any]) -> list[Node]:
    """The tasks of the compiled pipeline in an order in which they can run."""
    tasks = spec["root"]["dag"]["tasks"]
    waiting = {name: tuple(sorted(task.get("dependentTasks", ()))) for name, task in tasks.items()}
    ordered: list[str] = []
    while waiting:
        ready = [name for name, after in waiting.items() if set(after) <= set(ordered)]
        ordered += ready
        for name in ready:
            del waiting[name]
    jobs = {node_name(job, plan.config.recipe.seeds): job for job in plan.config.jobs()}
    made = []
    for name in ordered:
        step = durations.step_of(name)
        after = tuple(sorted(tasks[name].get("dependentTasks", ())))
        # The graph puts the merge of vectors, which reads no model, where `prepare` runs.
        resources = plan.config.profile.resources("prepare" if name == "embed" else step)
        nodes = plan.config.profile.nodes if step == "finetune" else 1
        duration = _duration(plan, name, step, jobs.get(name))
        made.append(
            Node(
                name, step, after, resources.image, resources, nodes, duration, _money(plan, resources, nodes, duration)
            )
        )
    return made


def _duration(plan: Plan, name: str, step: Step, job: Any) -> Duration:
    config, prices, shapes = plan.config, plan.prices, plan.shapes
    start = prices.start_s.value if config.profile.default.image else 7.0
    if step == "backbone":
        return durations.backbone(config, shapes, prices).plus(start)
    try:
        on = _machine(plan, step)
    except ConfigError:
        return Duration(start, start, "not told: the GPU is unknown")
    if step == "prepare":
        sharded = durations.prepare_shard if name != "prepare" else durations.prepare_merge
        reckon = sharded if config.profile.shards > 1 else durations.prepare
        return reckon(config, prices, on, plan.table).plus(start)
    if name == "embed":
        return durations.embed(config, prices, plan.table).plus(start)
    if shapes is None:
        return Duration(start, start, "not told")
    start += durations.moved(shapes, config, prices)
    if step == "finetune":
        return durations.finetune(job, config, shapes, prices, on, plan.table).plus(start)
    if step == "embed":
        return durations.embed_shard(config, shapes, prices, on, plan.table).plus(start)
    measured = durations.fuse if step == "fuse" else durations.evaluate
    return measured(config, shapes, prices, on).plus(start)


def _machine(plan: Plan, step: Step) -> Machine:
    profile, resources = plan.config.profile, plan.config.profile.resources(step)
    count = resources.gpu * (profile.nodes if step == "finetune" else 1)
    here = max(1.0, (os.cpu_count() or 1) / profile.side_by_side)
    return durations.machine(resources, plan.prices, here, count, durations.half(step, plan.config))


def _money(plan: Plan, resources: Resources, nodes: int, duration: Duration) -> tuple[float, float]:
    """A GPU's price holds its share of the machine; a machine of one's own costs nothing here."""
    if not plan.config.profile.default.image:
        return 0.0, 0.0
    if resources.gpu:
        kind = plan.prices.gpus.get(resources.gpu_kind or "")
        hour = resources.gpu * kind.hour.value if kind else 0.0
    else:
        hour = durations.cores_of(resources, 1.0) * plan.prices.core_hour.value
    return nodes * hour * duration.low / 3600, nodes * hour * duration.high / 3600


def _memory(plan: Plan, shapes: Shapes) -> None:
    config, first = plan.config, plan.config.recipe.seeds[0]
    for job in config.jobs():
        if job.seed == first:
            plan.fits.append(fit(job, f"finetune-{job.name}", config, shapes, plan.prices))
    size = 4 if config.profile.precision == "float32" else 2
    for name, task in config.recipe.tasks.items():
        learns = "tower" in task.adapter.on
        if shapes.tower is not None and task.train.feature_cache and not learns:
            frames = config.recipe.backbone.frames
            tokens = sum(shapes.encoded(modality, frames) for modality in task.modality)
            plan.kept[name] = durations.media_read(task, plan.table) * tokens * shapes.seen * size
    plan.problems += [problem for one in plan.fits for problem in one.problems]
    for step in dict.fromkeys(node.step for node in plan.nodes if node.step in OPENING and node.name != "embed"):
        plan.problems += opened(step, config, shapes, plan.prices)


def _unknown_gpus(plan: Plan) -> bool:
    wrong = []
    for step in durations.STEPS:
        resources = plan.config.profile.resources(step)
        try:
            if resources.gpu:
                plan.prices.gpu(resources.gpu_kind)
        except ConfigError as error:
            wrong.append(f"{step}: {error}")
    plan.problems += wrong
    return bool(wrong)


def _look_over(plan: Plan, allow_tags: bool) -> None:
    """Images, time-outs, revisions, sizes."""
    profile, backbone = plan.config.profile, plan.config.recipe.backbone
    if profile.default.image:
        (plan.notes if allow_tags else plan.problems).extend(map(refusal, by_tag(profile)))
    for node in plan.nodes:
        limit, taken = node.resources.timeout_s, node.duration
        if profile.default.image and limit and taken.high > limit:
            sure = taken.low > limit
            (plan.problems if sure else plan.notes).append(
                f"{node.name} {'takes' if sure else 'may take'} {(taken.low if sure else taken.high) / 3600:.1f} h, "
                f"its timeout_s allows {limit / 3600:.1f}"
            )
        if node.resources.gpu > 1 and not node.resources.shm:
            plan.problems.append(
                f"{node.name}: {node.resources.gpu} GPUs without shm: 64 MiB of /dev/shm end in a crash"
            )
    if "/" in backbone.name and not Path(backbone.name).is_dir() and not _COMMIT.match(backbone.revision or ""):
        plan.notes.append(f"backbone.revision {backbone.revision!r} is no commit: the run can't be repeated for sure")
    for name, task in plan.config.recipe.variants().items():
        if plan.fits and (task.adapter.dora or task.adapter.language_full):
            plan.notes.append(f"tasks.{name}: memory is told for LoRA; DoRA and language_full take more than that")
    if plan.ir_bytes > IR_BYTES:
        plan.notes.append(f"the compiled pipeline has {plan.ir_bytes / 1000:.0f} kB; large ones make Kubeflow slow")
    for name, size in plan.kept.items():
        budget = plan.config.recipe.tasks[name].train.feature_cache_gib
        if size > budget * GIB:
            plan.notes.append(
                f"tasks.{name}: features of all its media take up to {size / GIB:.1f} GiB, train.feature_cache_gib "
                f"holds {budget:g}: the rest is encoded again at each use"
            )

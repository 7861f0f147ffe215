"""Whether what a node holds of the backbone fits on its GPU and in its machine's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from latefuse.cluster.kept import FULL, Load
from latefuse.cluster.memory import CONTEXT, GIB, SLACK, Memory, Zero, estimate
from latefuse.cluster.shapes import Language, Shapes, Trained, trained
from latefuse.config import AdapterConfig, Config, Job, Task
from latefuse.config_prices import Prices
from latefuse.config_profile import Resources, Step

OPENING = ("fuse", "embed", "evaluate")
"""Steps beside `finetune` that open the backbone."""
FUSED = 32
"""Rows that `fuse` reads at a time."""
_UNITS = {"": 1, "m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12, "P": 1e15, "E": 1e18}
_UNITS |= {f"{unit}i": 1024.0**power for power, unit in enumerate("KMGTPE", start=1)}


def quantity(text: str) -> float:
    """A Kubernetes quantity as a number: `512Gi` in bytes, `500m` in cores."""
    digits = text.rstrip("imkKMGTPE")
    return float(digits) * _UNITS[text[len(digits) :]]


@dataclass(frozen=True)
class Fit:
    """One process of a node. needed, room: bytes on its GPU, or in its pod's memory; room None: this machine's own."""

    node: str
    load: Load
    learns: Trained
    memory: Memory
    needed: int
    room: int | None
    problems: list[str] = field(default_factory=list)


def fit(job: Job, node: str, config: Config, shapes: Shapes, prices: Prices) -> Fit:
    """Memory of one process of a job at its worst: every row as long as it may be, all its words learned."""
    profile, resources = config.profile, config.profile.resources("finetune")
    world = profile.nodes * profile.processes
    adapter, modalities = adapter_of(job.tasks), modalities_of(job.tasks)
    zero = Zero.of(job.deepspeed if isinstance(job.deepspeed, Mapping) else None)
    problems: list[str] = []
    made: list[tuple[Load, Memory]] = []
    for name, task in job.tasks.items():
        load, wrong = load_of(name, task, shapes, config.recipe.backbone.frames, world)
        problems += wrong
        memory = estimate(
            shapes, adapter, modalities, load, job.precision, zero, world, task.train.gradient_checkpointing,
            gpu=resources.gpu > 0,
        )  # fmt: skip
        made.append((load, memory))
    load, memory = max(made, key=lambda pair: pair[1].total)
    needed, room = memory.on_gpu(world), None
    if resources.gpu:
        room = round(prices.gpu(resources.gpu_kind).memory_gib.value * GIB)
        problems += _gpu(needed, room, resources)
        problems += _host(memory, profile.processes, job, shapes, resources)
    else:
        needed = memory.total + round(prices.import_gib.value * GIB)
        if resources.memory and profile.default.image:
            room = round(quantity(resources.memory) / profile.processes)
            if needed > room:
                problems.append(
                    f"a process needs {needed / GIB:.1f} GiB, steps.finetune.memory gives it {room / GIB:.1f}"
                )
    told = [f"{node}: {problem}" for problem in dict.fromkeys(problems)]
    return Fit(node, load, trained(shapes, adapter, modalities), memory, needed, room, told)


def kept_a_token(language: Language) -> int:
    """Numbers that a token's keys and values are, in all layers."""
    return 2 * language.layers * language.key


def opened(step: Step, config: Config, shapes: Shapes, prices: Prices) -> list[str]:
    """What is wrong with the memory of a step that measures, fuses or embeds, if anything: it opens the backbone in
    float32, in the pod's memory first, and reads a batch of the longest rows, whose keys and values stay where answers
    are written.
    """
    profile, told, catalogue = config.profile, config.recipe.evaluation, config.recipe.catalogue
    resources, language = profile.resources(step), shapes.language
    rows = {"fuse": FUSED, "evaluate": told.batch_size, "embed": catalogue.batch_size if catalogue else 0}[step]
    weights, batch = FULL * shapes.parameters, 0
    for task in config.recipe.variants().values():
        load, _ = load_of(step, task, shapes, config.recipe.backbone.frames, 1)
        writes = step == "evaluate" and task.kind == "instruct"
        kept = kept_a_token(language) * (load.tokens + told.max_new_tokens) if writes else 0
        passing = load.tokens * (3 * language.intermediate + 2 * language.hidden)
        batch = max(batch, FULL * rows * (kept + passing + (load.learned or 1) * language.vocabulary))
    problems = []
    if resources.gpu:
        needed, room = CONTEXT + round((weights + batch) * (1 + SLACK)), prices.gpu(resources.gpu_kind).memory_gib.value
        if needed > room * GIB:
            problems.append(
                f"{step}: the backbone in float32 and a batch of {rows} rows need {needed / GIB:.1f} GiB, a "
                f"{resources.gpu_kind} has {room:.1f}: a smaller batch_size of it, or a larger GPU"
            )
    here = weights + (0 if resources.gpu else batch) + round(prices.import_gib.value * GIB)
    if resources.memory and profile.default.image and here > quantity(resources.memory):
        problems.append(
            f"{step}: {'reading the backbone' if resources.gpu else 'the backbone and a batch'} in float32 takes "
            f"{here / GIB:.1f} GiB, steps.{step}.memory is {resources.memory}"
        )
    return problems


def unsplit(name: str, task: Task, world: int) -> list[str]:
    """What is wrong with a batch that does not split over accumulation and processes, if anything."""
    train, parts = task.train, task.train.accumulation * world
    if train.batch_size % parts == 0:
        return []
    return [
        f"tasks.{name}.train.batch_size={train.batch_size} can't be split into accumulation={train.accumulation} "
        f"x {world} process(es): choose a multiple of {parts}"
    ]


def load_of(name: str, task: Task, shapes: Shapes, frames: int, world: int) -> tuple[Load, list[str]]:
    """What one process holds of a task at a time, and what is wrong with it."""
    train, problems = task.train, unsplit(name, task, world)
    parts = train.accumulation * world
    media, tokens = media_tokens(task, shapes, frames), train.max_tokens
    if task.embed is not None:
        tokens = media + task.embed.budget.tokens
    elif media >= tokens:
        problems.append(
            f"tasks.{name}: its media take {media:,} tokens and train.max_tokens={tokens:,} leaves no room for words: "
            f"set it to {media + 256:,} or more"
        )
        tokens = media + 1
    rows = max(1, train.batch_size // parts)
    if train.batch_tokens is not None:
        rows = max(1, min(rows, train.batch_tokens // tokens))
    if task.embed is not None:
        rows = min(2 * rows, task.embed.chunk or 2 * rows)
    encoded = sum(shapes.encoded(modality, frames) for modality in task.modality)
    learned = {"instruct": tokens - media, "judge": 1}.get(task.kind, 0)
    return Load(rows, tokens, learned, media, encoded), problems


def media_tokens(task: Task, shapes: Shapes, frames: int) -> int:
    """Tokens of one medium of each modality. Raises UnknownShapes for one that the backbone does not read."""
    return sum(shapes.tokens(modality, frames) for modality in task.modality)


def adapter_of(tasks: Mapping[str, Task]) -> AdapterConfig:
    """The one adapter of several tasks, as `tasks.answering.attach` makes it: the widest, on the union of roles."""
    several = [task.adapter for task in tasks.values()]
    on = tuple(dict.fromkeys(role for adapter in several for role in adapter.on))
    whole = any(adapter.bridge_full for adapter in several)
    return max(several, key=lambda adapter: adapter.r).model_copy(update={"on": on, "bridge_full": whole})


def modalities_of(tasks: Mapping[str, Task]) -> tuple[str, ...]:
    """Each modality once, in the order of the tasks."""
    return tuple(dict.fromkeys(modality for task in tasks.values() for modality in task.modality))


def _gpu(needed: int, room: int, resources: Resources) -> list[str]:
    if needed <= room:
        return []
    return [
        f"a process needs {needed / GIB:.1f} GiB, a {resources.gpu_kind} has {room / GIB:.1f}: a smaller batch_size or "
        "more accumulation, train.gradient_checkpointing, ZeRO-3, more GPUs, or a larger one"
    ]


def _host(memory: Memory, processes: int, job: Job, shapes: Shapes, resources: Resources) -> list[str]:
    """Every process reads the whole backbone into the machine's memory before it goes to its GPU."""
    if not resources.memory:
        return []
    size = 4 if job.precision == "float32" else 2
    needed, room = processes * (size * shapes.parameters + memory.host), quantity(resources.memory)
    if needed <= room:
        return []
    return [
        f"{processes} processes read {needed / GIB:.0f} GiB of weights into memory, steps.finetune.memory is "
        f"{resources.memory}"
    ]

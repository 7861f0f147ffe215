"""How long each step takes, as a range: operations over the machine's peak times the share of it that is reached."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import get_args

from latefuse.cluster import work
from latefuse.cluster.fits import adapter_of, media_tokens, modalities_of, quantity
from latefuse.cluster.shapes import Shapes, trained
from latefuse.config import Config, Job, Task
from latefuse.config_prices import Prices
from latefuse.config_profile import Resources, Step
from latefuse.training.store import DECODERS

DEMO = "demo"
STORING = 16
"""Media that `prepare` decodes at a time, at most."""
STEPS: tuple[Step, ...] = get_args(Step)


@dataclass(frozen=True)
class Duration:
    """Seconds at best and at worst, and what takes them."""

    low: float
    high: float
    why: str

    def plus(self, seconds: float) -> Duration:
        """With a start before it."""
        return Duration(self.low + seconds, self.high + seconds, self.why)


@dataclass(frozen=True)
class Machine:
    """What a step computes on. peak: operations/s; cores: of its pod; gb_s: bytes/s of GPU memory or 0."""

    peak: float
    cores: float
    gb_s: float = 0.0


def machine(resources: Resources, prices: Prices, cores: float, count: int, half: bool) -> Machine:
    """count: GPUs over all nodes. half: whether in half precision. cores: where the profile names none."""
    own = cores_of(resources, cores)
    if not resources.gpu:
        return Machine(own * prices.core_gflops.value * 1e9, own)
    gpu = prices.gpu(resources.gpu_kind)
    tflops = gpu.tflops if half else gpu.tflops_float32
    return Machine(count * tflops.value * 1e12, own, gpu.gb_s.value * 1e9)


def cores_of(resources: Resources, otherwise: float) -> float:
    """Cores of a step's pod."""
    return quantity(resources.cpu) if resources.cpu else otherwise


def step_of(node: str) -> Step:
    """The step that a node of the graph runs: `finetune` of `finetune-image-s1`."""
    return next(step for step in STEPS if node.partition("-")[0] == step)


def rows_read(task: Task) -> int:
    """Rows that the training of a task reads; the same row again counts again."""
    return task.train.max_steps * task.train.batch_size


def media_read(task: Task, rows: int | None) -> int:
    """Rows whose media are decoded and encoded: each once where features are kept, else at every use."""
    kept = rows is not None and task.train.feature_cache and "tower" not in task.adapter.on
    return min(rows_read(task), rows) if kept and rows is not None else rows_read(task)


def finetune(
    job: Job, config: Config, shapes: Shapes, prices: Prices, on: Machine, table: int | None = None
) -> Duration:
    """Training, towers and the decoding of media. table: rows of a task's table, as many as are read unless known."""
    frames, flops, tokens, decode, steps = config.recipe.backbone.frames, 0.0, 0, 0.0, 0
    drawn = config.recipe.data.source == DEMO  # its media are of a few pixels
    learns = trained(shapes, adapter_of(job.tasks), modalities_of(job.tasks)).numbers
    for task in job.tasks.values():
        rows, media, length, learned = rows_read(task), *sizes(task, shapes, frames, prices)
        times = 2 if task.kind == "embed" else 1
        again = task.train.gradient_checkpointing
        flops += times * rows * work.training(shapes, length, learned, media, learns, again)
        seen = times * media_read(task, table)
        flops += seen * sum(work.encoding(shapes, modality, frames) for modality in task.modality)
        tokens += times * rows * length
        decode += 0.0 if drawn else seen * _decode_s(task, prices)
        steps += task.train.max_steps
    profile = config.profile
    width = profile.nodes * min(on.cores, DECODERS * profile.processes)
    aside = decode / width + (0 if on.gb_s else steps * prices.optimiser_step_s.value)
    why = (
        f"{steps:,} steps, {_short(tokens)} tokens, {_short(flops)} operations, {decode / 3600:.1f} core-h of decoding "
        f"on {width:g} cores"
    )
    return Duration(*_range(flops, on, prices, aside), why)


def prepare(config: Config, prices: Prices, on: Machine, table: int | None = None) -> Duration:
    """Rows are read, checked and split by one process, media are decoded to their end beside one another."""
    return _prepared(config, prices, on, table, 1, 1)


def prepare_shard(config: Config, prices: Prices, on: Machine, table: int | None = None) -> Duration:
    """One of N: every row is read past it, one in N is checked, and its share of the media."""
    return _prepared(config, prices, on, table, config.profile.shards, config.profile.shards)


def prepare_merge(config: Config, prices: Prices, on: Machine, table: int | None = None) -> Duration:
    """All rows meet in one process; media stay as the shards have stored them."""
    return _prepared(config, prices, on, table, 1, 0)


def _prepared(config: Config, prices: Prices, on: Machine, table: int | None, rows_in: int, media_in: int) -> Duration:
    """One row in rows_in and one medium in media_in, 0 for none."""
    each = {name: table or rows_read(task) for name, task in config.recipe.tasks.items()}
    rows, media = sum(each.values()) / rows_in, 0.0
    if media_in and config.recipe.data.source != DEMO:
        took = {"image": prices.stored_picture_ms.value / 1e3, "video": prices.clip_s.value}
        tasks = config.recipe.tasks
        media = sum(each[name] * took.get(kind, 0.0) for name in each for kind in tasks[name].modality) / media_in
    width = min(on.cores, STORING)
    seconds = rows * prices.row_us.value / 1e6 + media / width
    told = f"{_short(rows)} rows{'' if table else ' at most'}, one core"
    return Duration(seconds, seconds, told + (f"; {media / 3600:.1f} core-h of media on {width:g}" if media else ""))


def embed_shard(config: Config, shapes: Shapes, prices: Prices, on: Machine, table: int | None = None) -> Duration:
    """One of N parts of the catalogue through towers and language model; its media are decoded."""
    arm, frames = config.recipe.catalogue.arm if config.recipe.catalogue else None, config.recipe.backbone.frames
    task = config.recipe.variants()[arm or next(iter(config.recipe.tasks))]
    items = (table or rows_read(task)) / config.profile.shards
    media, length, _ = sizes(task, shapes, frames, prices)
    flops = items * (
        work.forward(shapes, length, 1, media) + sum(work.encoding(shapes, kind, frames) for kind in task.modality)
    )
    decode = 0.0 if config.recipe.data.source == DEMO else items * _decode_s(task, prices)
    told = f"{_short(items)} items{'' if table else ' at most'}, {_short(flops)} operations"
    return Duration(*_range(flops, on, prices, decode / min(on.cores, DECODERS)), told)


def embed(config: Config, prices: Prices, table: int | None = None) -> Duration:
    """Vectors of all shards are copied and indexed; no model is read."""
    rows = table or max(rows_read(task) for task in config.recipe.variants().values())
    seconds = rows * prices.row_us.value / 1e6
    return Duration(seconds, seconds, f"{_short(rows)} vectors, one core")


def moved(shapes: Shapes | None, config: Config, prices: Prices) -> float:
    """Seconds until a pod has the backbone, which comes in half precision through the object store; none here."""
    if shapes is None or not config.profile.default.image or config.recipe.backbone.name == DEMO:
        return 0.0
    return 2 * shapes.parameters / (prices.download_mb_s.value * 1e6)


def backbone(config: Config, shapes: Shapes | None, prices: Prices) -> Duration:
    """The demo base is trained, a named one fetched once."""
    if config.recipe.backbone.name == DEMO:
        return Duration(prices.demo_base_s.value, prices.demo_base_s.value, "the demo base is pre-trained")
    if shapes is None:
        return Duration(0, 0, "not told")
    size = 2 * shapes.parameters
    seconds = size / (prices.download_mb_s.value * 1e6)
    return Duration(seconds, 2 * seconds, f"{size / 1e9:.1f} GB fetched once")


def fuse(config: Config, shapes: Shapes, prices: Prices, on: Machine) -> Duration:
    """Candidates of every merge on the search rows, log-probabilities for late fusion."""
    fusion, frames = config.recipe.fusion, config.recipe.backbone.frames
    tried = fusion.candidates + max(0, len(fusion.methods) - 1) * fusion.candidates / 2
    late = fusion.late.max_rows * (1 + len(config.recipe.tasks)) if fusion.late.enabled else 0
    rows = tried * fusion.search_rows + late
    flops = 0.0
    for task in config.recipe.tasks.values():
        media, length, learned = sizes(task, shapes, frames, prices)
        flops += rows * work.forward(shapes, length, learned, media)
    return Duration(*_range(flops, on, prices), f"{rows:,.0f} forward passes a task")


def evaluate(config: Config, shapes: Shapes, prices: Prices, on: Machine) -> Duration:
    """Every arm answers every test row; knock-outs and adapters off their task answer the side rows."""
    recipe, told = config.recipe, config.recipe.evaluation
    rows = told.max_rows or round(prices.evaluated_rows.value)
    side = min(rows, told.side_rows or rows)
    arms = 1 + len(config.jobs()) + (len(recipe.fusion.methods) + 1 if len(recipe.tasks) > 1 else 0)
    answers = arms * (rows + len(told.knockouts) * side)
    low = high = 0.0
    for task in recipe.tasks.values():
        media, length, _ = sizes(task, shapes, recipe.backbone.frames, prices)
        new = told.max_new_tokens if task.kind == "instruct" else 0
        flops = answers * (work.forward(shapes, length, 1, media) + new * work.forward(shapes, 1, 1))
        best, worst = _range(flops, on, prices)
        if on.gb_s:  # every new token of a batch reads all weights once
            read = answers / told.batch_size * new * 4 * shapes.parameters / on.gb_s
            best, worst = best + read / prices.bandwidth_share.high, worst + read / prices.bandwidth_share.low
        low, high = low + best, high + worst
    return Duration(low, high, f"{arms} arms, {answers:,} answers a task")


def sizes(task: Task, shapes: Shapes, frames: int, prices: Prices) -> tuple[int, int, int]:
    """Tokens of a row's media, of the row, and of what is learned of it, as they are expected."""
    media = media_tokens(task, shapes, frames)
    expected = media + round(prices.text_tokens.value)
    longest = task.train.max_tokens if task.embed is None else media + task.embed.budget.tokens
    length = max(media + 1, min(expected, longest))
    learned = {"instruct": min(round(prices.answer_tokens.value), length - media), "judge": 1}.get(task.kind, 0)
    return media, length, learned


def half(step: Step, config: Config) -> bool:
    """Training has the precision of the profile; fusing and measuring are done in float32."""
    return step == "finetune" and config.profile.precision != "float32"


def _decode_s(task: Task, prices: Prices) -> float:
    """Core-seconds that the media of a row take."""
    each: Mapping[str, float] = {"image": prices.picture_ms.value / 1e3, "video": prices.clip_s.value, "text": 0.0}
    return sum(each[modality] for modality in task.modality)


def _range(flops: float, on: Machine, prices: Prices, aside: float = 0.0) -> tuple[float, float]:
    return (
        flops / (on.peak * prices.utilisation.high) + aside,
        flops / (on.peak * prices.utilisation.low) + aside,
    )


def _short(number: float) -> str:
    """1.2 M, 3.4 G, 5.6 T ..."""
    for power, unit in ((18, "E"), (15, "P"), (12, "T"), (9, "G"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {unit}"
    return f"{number:.0f}"

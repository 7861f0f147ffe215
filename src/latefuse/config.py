"""The one schema of a configuration: recipe, profile and what follows from them, checked and frozen.

Nothing heavy is imported here: `latefuse --help` and pipeline compilation both load this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from latefuse.config_data import Data
from latefuse.config_fusion import Fusion
from latefuse.config_judge import Judge, Verdicts
from latefuse.config_personal import Personalise, Recommending
from latefuse.config_profile import Launcher, Profile
from latefuse.config_rank import Rank, Ranking
from latefuse.config_vectors import Catalogue, Embed, Retrieval
from latefuse.config_zero import must_spread, spread
from latefuse.sections import Section, Share, checked, merged

Modality = Literal["image", "video", "text"]
MODALITIES: tuple[Modality, ...] = ("image", "video", "text")
# The keys of tasks.KINDS; were that imported here, every step would depend on the code of every task.
Kind = Literal["instruct", "embed", "judge", "rank", "personalise"]
Role = Literal["language", "bridge", "tower"]
# The table that a kind learns from, and its own section, as they are unless the recipe says more.
OF_KIND: dict[str, dict[str, Any]] = {
    "embed": {"table": "pairs", "embed": {}},
    "judge": {"table": "judgements", "judge": {}},
    "rank": {"table": "events", "rank": {}},
    "personalise": {"table": "events", "personalise": {}},
}
# The split schemes that a kind can be held out by: the recipe's, where it is one of them.
SCHEMES = {"embed": ("item", "pair"), "rank": ("time", "loo")}
CONTROLS = ("mixed", "mixed-wide")
FLOORS = (
    "popularity", "co-occurrence", "zero-shot words", "zero-shot picture", "sentence encoder", "majority", "zero-shot",
    "linear map", "dual encoder", "logistic", "trees",
)  # fmt: skip


class BackboneConfig(Section):
    """A backbone by name: `demo`, a local folder, or a hub name with a revision."""

    name: str = "demo"
    revision: str | None = None
    frames: int = Field(8, ge=1)
    options: dict[str, Any] = {}


class AdapterConfig(Section):
    """What is trained. `on` names the roles whose linears carry LoRA; `bridge_full` trains the bridge whole.

    language_full trains the language model whole instead of by LoRA (tasks of kind embed).
    """

    method: Literal["lora"] = "lora"
    r: int = Field(16, ge=1)
    alpha: float = Field(32, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    rslora: bool = False
    dora: bool = False
    on: tuple[Role, ...] = ("language", "bridge")
    bridge_full: bool = False
    language_full: bool = False


class Train(Section):
    """One optimisation: how long, how fast, how often it is saved and logged.

    batch_size counts the rows of one optimiser step over all processes. batch_tokens bounds the padded tokens that one
    process holds at a time, where long rows would not fit; None for no bound.
    """

    max_steps: int = Field(200, ge=1)
    batch_size: int = Field(16, ge=1)
    accumulation: int = Field(1, ge=1)
    lr: float = Field(2e-3, gt=0)
    warmup: Share = 0.05
    schedule: Literal["linear", "cosine", "constant", "constant_then_linear"] = "linear"
    weight_decay: float = Field(0.0, ge=0)
    max_grad_norm: float = Field(1.0, gt=0)
    max_tokens: int = Field(512, ge=8)
    batch_tokens: int | None = Field(None, ge=8)
    save_every: int = Field(100, ge=1)
    log_every: int = Field(10, ge=1)
    feature_cache: bool = True
    feature_cache_gib: float = Field(8.0, ge=0)
    gradient_checkpointing: bool = False


class Task(Section):
    """A kind over one table for one modality or, where it embeds items, for several.

    `where` keeps the rows whose column has that value. modality may be given as one word; a ranker may do without.
    """

    kind: Kind = "instruct"
    modality: tuple[Modality, ...]
    table: Literal["conversations", "pairs", "judgements", "events", "reviews"] = "conversations"
    where: dict[str, str] = {}
    adapter: AdapterConfig = AdapterConfig()
    train: Train = Train()
    embed: Embed | None = None
    judge: Judge | None = None
    rank: Rank | None = None
    personalise: Personalise | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_its_kind(cls, raw: Any) -> Any:
        """One word as a list; the section and the table that a kind has by default."""
        if not isinstance(raw, Mapping):
            return raw
        kind = raw.get("kind")
        own: dict[str, Any] = OF_KIND.get(kind, {}) if isinstance(kind, str) else {}
        modality = raw.get("modality")
        return {**own, **raw, **({"modality": (modality,)} if isinstance(modality, str) else {})}

    @model_validator(mode="after")
    def _fits_its_kind(self) -> Self:
        if len(set(self.modality)) != len(self.modality):
            raise ValueError(f"modality {list(self.modality)}: each one once")
        if not self.modality and self.kind != "rank":
            raise ValueError("modality: at least one of image, video, text")
        if self.kind == "instruct" and len(self.modality) > 1:
            raise ValueError("a task of kind instruct has one modality")
        for section in ("embed", "judge", "rank", "personalise"):
            if (getattr(self, section) is not None) != (self.kind == section):
                raise ValueError(f"a section {section} belongs to a task of kind {section}, and to no other")
        table = OF_KIND.get(self.kind, {}).get("table", self.table)
        if self.table not in (table, "reviews" if self.kind == "rank" else table):
            raise ValueError(f"a task of kind {self.kind} learns from the table {table}")
        if self.kind in ("judge", "rank", "personalise") and "video" in self.modality:
            raise ValueError(f"a task of kind {self.kind} reads image, text or both")
        if self.personalise is not None and ("image" in self.modality) != (self.personalise.k > 0):
            raise ValueError("personalise.k counts visual tokens: above 0 with image among the modalities, else 0")
        return self

    @property
    def single(self) -> Modality:
        """The modality of a task that has one."""
        return self.modality[0]


class Evaluation(Section):
    """What is measured, on how many rows, with how many bootstrap draws.

    max_rows: rows a task, evenly spread over its topics; side_rows: of those, for what stands beside the arms:
    knock-outs, adapters off their task, and, half as many, outputs mixed. None for all of them. workers: processes that
    measure side by side, each with a backbone of its own.
    """

    max_rows: int | None = Field(None, ge=1)
    batch_size: int = Field(64, ge=1)
    max_new_tokens: int = Field(96, ge=1)
    bootstrap: int = Field(2_000, ge=1)
    confidence: float = Field(0.95, gt=0, lt=1)
    knockouts: tuple[Literal["absent", "constant", "noise", "shuffled"], ...] = ("absent", "constant", "shuffled")
    min_interval_rows: int = Field(50, ge=1)
    examples: int = Field(12, ge=0)
    side_rows: int | None = Field(80, ge=1)
    workers: int = Field(1, ge=1)
    retrieval: Retrieval = Retrieval()
    verdicts: Verdicts = Verdicts()
    ranking: Ranking = Ranking()
    recommending: Recommending = Recommending()


class Recipe(Section):
    """One YAML: data, backbone, tasks, fusion, evaluation. `adapter` and `train` are defaults for every task.

    arms: variants of the one task of a recipe, each what it changes of that task; they run beside it. catalogue: all
    items as vectors, where the task is of kind embed.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    description: str = ""
    seeds: tuple[int, ...] = (0,)
    data: Data
    backbone: BackboneConfig = BackboneConfig()
    adapter: dict[str, Any] = {}
    train: dict[str, Any] = {}
    tasks: dict[str, Task] = Field(min_length=1)
    arms: dict[str, dict[str, Any]] = {}
    fusion: Fusion = Fusion()
    evaluation: Evaluation = Evaluation()
    catalogue: Catalogue | None = None

    @model_validator(mode="before")
    @classmethod
    def _spread_defaults(cls, raw: Any) -> Any:
        if not isinstance(raw, Mapping) or not isinstance(raw.get("tasks"), Mapping):
            return raw
        tasks = {
            name: {**task, **{part: {**raw.get(part, {}), **task.get(part, {})} for part in ("adapter", "train")}}
            if isinstance(task, Mapping)
            else task
            for name, task in raw["tasks"].items()
        }
        scheme = raw["data"].get("splits", {}).get("scheme") if isinstance(raw.get("data"), Mapping) else None
        for name, task in tasks.items():
            kind = task.get("kind") if isinstance(task, Mapping) else None
            if kind in SCHEMES and scheme in SCHEMES[kind]:
                tasks[name] = {**task, kind: {"scheme": scheme, **(task.get(kind) or {})}}
        return {**raw, "tasks": tasks}

    @model_validator(mode="after")
    def _arms_fit(self) -> Self:
        if len({task.kind for task in self.tasks.values()}) > 1:
            raise ValueError("tasks of different kinds: one recipe has tasks of one kind")
        if self.arms and len(self.tasks) > 1:
            raise ValueError("arms are variants of a recipe's only task, this one has several tasks")
        taken = sorted(set(self.arms) & {*self.tasks, *CONTROLS, *FLOORS, "oracle"})
        if taken:
            raise ValueError(f"arms.{taken[0]}: the name is taken")
        schemes = {task.embed.scheme for task in self.variants().values() if task.embed is not None}
        if self.evaluation.retrieval.targets == "known" and schemes - {"item"}:
            raise ValueError("evaluation.retrieval.targets: known ones need held-out items, data.splits.scheme=item")
        if self.catalogue is not None:
            self.catalogue.check([*self.tasks, *self.arms], [task.kind for task in self.tasks.values()])
        return self

    def variants(self) -> dict[str, Task]:
        """The only task of a recipe under its own name and, under theirs, its arms. Raises ConfigError."""
        base = next(iter(self.tasks.values())).model_dump(mode="json")
        return {
            **self.tasks,
            **{name: checked(Task, merged(base, changes), f"arms.{name}") for name, changes in self.arms.items()},
        }

    @field_validator("seeds")
    @classmethod
    def _distinct_seeds(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if not seeds or len(set(seeds)) != len(seeds):
            raise ValueError("seeds must be a non-empty list of distinct integers")
        return seeds


class Job(Section):
    """One `finetune` node: an arm (one task alone, or the mix of all) under one seed."""

    name: str
    seed: int
    tasks: dict[str, Task]
    launcher: Launcher = "none"
    nodes: int = 1
    processes: int = 1
    threads: int | None = None
    deepspeed: str | dict[str, Any] | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    stall_s: float = 900

    @model_validator(mode="after")
    def _can_be_spread(self) -> Self:
        for task in self.tasks.values():
            must_spread(task, self.deepspeed)
        return self

    @property
    def kind(self) -> Kind:
        """What its tasks learn: tasks of one recipe are of one kind."""
        return next(iter(self.tasks.values())).kind

    @property
    def mixed(self) -> bool:
        """Whether one adapter learns all tasks together: the control arms."""
        return self.name in CONTROLS


class Config(Section):
    """The resolved configuration of one run."""

    recipe: Recipe
    profile: Profile

    def jobs(self) -> list[Job]:
        """The finetune nodes: each task or arm alone and, with two tasks or more, the two mixed controls, per seed.

        `mixed` has the rank of one task (equal tokens), `mixed-wide` the sum of the ranks (equal parameters).
        """
        tasks = self.recipe.tasks
        alone = {name: spread(task, self.profile.deepspeed) for name, task in self.recipe.variants().items()}
        arms: dict[str, dict[str, Task]] = {name: {name: task} for name, task in alone.items()}
        if len(tasks) > 1 and all(task.kind == "instruct" for task in tasks.values()):
            arms["mixed"] = dict(tasks)
            arms["mixed-wide"] = {name: _widened(task, len(tasks)) for name, task in tasks.items()}
        shared = self.profile.model_dump(
            include={"launcher", "nodes", "processes", "threads", "deepspeed", "precision"}
        )
        shared["stall_s"] = self.profile.trainjob.stall_s
        return [
            Job(name=arm, seed=seed, tasks=part, **shared) for seed in self.recipe.seeds for arm, part in arms.items()
        ]


def _widened(task: Task, times: int) -> Task:
    adapter = task.adapter
    wide = adapter.model_copy(update={"r": adapter.r * times, "alpha": adapter.alpha * times})
    return task.model_copy(update={"adapter": wide})

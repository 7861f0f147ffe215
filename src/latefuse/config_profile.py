"""What a profile says of where and how big a recipe runs; part of the one schema in `config`."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from latefuse.config_trainjob import Nodes
from latefuse.config_zero import generated
from latefuse.sections import Section

Step = Literal["prepare", "backbone", "finetune", "fuse", "embed", "evaluate"]
Launcher = Literal["none", "torchrun", "deepspeed", "trainjob"]
# Kubernetes' own rules: quantities, DNS-1123 names, names of variables, keys of labels and of secrets.
Quantity = Annotated[str, Field(pattern=r"^[0-9]+(\.[0-9]+)?(m|k|[MGTPE]|[KMGTPE]i)?$")]
Name = Annotated[str, Field(pattern=r"^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$")]
Key = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,253}$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
MountPath = Annotated[str, Field(pattern=r"^/[^:]+$")]
_SECRET = re.compile(r"(?i)(token|passwo?r?d|secret|credential|cookie|api_?key|access_?key|private_?key)")


def _no_secrets(env: dict[str, str]) -> dict[str, str]:
    named = sorted(name for name in env if _SECRET.search(name))
    if named:
        raise ValueError(f"{named[0]} looks like a secret, and all of env is readable in the pipeline: name it under "
                         "`secrets`, as {name of the secret: {key in it: " + named[0] + "}}")  # fmt: skip
    return env


class Toleration(Section):
    """A taint that a step's pod may stand on; an empty key with `Exists` is any taint."""

    key: str | None = None
    operator: Literal["Equal", "Exists"] = "Equal"
    value: str | None = None
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    seconds: int | None = Field(None, ge=0)

    @model_validator(mode="after")
    def _means_something(self) -> Self:
        if self.operator == "Exists" and self.value is not None:
            raise ValueError("a toleration with operator Exists has no value")
        if not self.key and self.operator != "Exists":
            raise ValueError("a toleration without key needs operator Exists")
        return self


class Security(Section):
    """Who runs in the container; user, group: ids, any by default. non_root: it is not started as root."""

    non_root: bool = True
    user: int | None = Field(None, ge=1)
    group: int | None = Field(None, ge=0)


class Resources(Section):
    """What one step gets on a cluster; ignored where the pipeline runs on one machine.

    gpu_kind: a name in configs/prices.yaml, which says its memory, speed and price; which nodes have it is told by
    node_selector. gpu_resource: what the cluster calls a GPU. backoff_s: seconds before the first retry, each further
    one waits backoff_factor times longer, at most backoff_max_s. shm: size of /dev/shm. volumes: mount path -> claim.
    secrets, config_maps: name -> {key in it: environment variable}, so that no value stands here. pull_secrets: names
    of secrets that pull the image.
    """

    image: str | None = None
    cpu: Quantity | None = None
    memory: Quantity | None = None
    gpu: int = Field(0, ge=0)
    gpu_kind: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    retries: int = Field(0, ge=0)
    backoff_s: int = Field(10, ge=0)
    backoff_factor: float = Field(2.0, ge=1)
    backoff_max_s: int = Field(600, ge=1)
    timeout_s: int | None = Field(None, ge=1)
    node_selector: dict[str, str] = {}
    tolerations: tuple[Toleration, ...] = ()
    shm: Quantity | None = None
    volumes: dict[MountPath, Name] = {}
    secrets: dict[Name, dict[Key, Variable]] = {}
    config_maps: dict[Name, dict[Key, Variable]] = {}
    pull_secrets: tuple[Name, ...] = ()
    service_account: Name | None = None
    security: Security = Security()
    env: Annotated[dict[Variable, str], AfterValidator(_no_secrets)] = {}


class Profile(Section):
    """One YAML: where and how big a recipe runs.

    processes: of one node. nodes: more than one needs the launcher `trainjob`, under which a Kubeflow TrainJob trains
    on what steps.finetune says while the pipeline's own node waits on what `driver` says. deepspeed: `{stage: 2}`, from
    which `config_zero` makes the file, a file of one's own, or what stands in it. `recipe` overrides keys of any recipe
    (more seeds), `lengthen` multiplies the steps of every task.
    `side_by_side` is how many nodes a local run has at work at a time; they share the cores. `shards`: `prepare`
    and `embed` as so many nodes, each with an equal part, and one that merges them; what comes out is the same.
    """

    name: str
    launcher: Launcher = "none"
    nodes: int = Field(1, ge=1)
    processes: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)
    side_by_side: int = Field(1, ge=1)
    shards: int = Field(1, ge=1, le=64)
    deepspeed: Annotated[str | dict[str, Any] | None, BeforeValidator(generated)] = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    default: Resources = Resources()
    steps: dict[Step, Resources] = {}
    driver: Resources = Resources()
    trainjob: Nodes = Nodes()
    recipe: dict[str, Any] = {}
    lengthen: float = Field(1, gt=0)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.nodes > 1 and self.launcher != "trainjob":
            raise ValueError(f"nodes: {self.nodes} need launcher: trainjob")
        if self.processes > 1 and self.launcher == "none":
            raise ValueError(f"processes: {self.processes} need a launcher: torchrun, deepspeed or trainjob")
        gpus = self.resources("finetune").gpu
        if gpus and gpus != self.processes:
            raise ValueError(f"steps.finetune.gpu: {gpus}, but processes: {self.processes}; each process has one GPU")
        return self

    def resources(self, step: Step) -> Resources:
        """What `step` gets: the defaults, and over them what the profile says about that step alone."""
        return self._over_default(self.steps.get(step))

    def placed(self, step: Step) -> Resources:
        """What the pipeline's own node of `step` gets: where a TrainJob trains, that node only waits for it."""
        waits = step == "finetune" and self.launcher == "trainjob"
        return self._over_default(self.driver) if waits else self.resources(step)

    def _over_default(self, own: Resources | None) -> Resources:
        return (
            self.default.model_copy(update={key: getattr(own, key) for key in own.model_fields_set})
            if own
            else self.default
        )

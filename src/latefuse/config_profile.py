"""What a profile says of where and how big a recipe runs; part of the one schema in `config`."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from latefuse.sections import Section

Step = Literal["prepare", "backbone", "finetune", "fuse", "evaluate"]


class Resources(Section):
    """What one step gets on a cluster; ignored where the pipeline runs on one machine."""

    image: str | None = None
    cpu: str | None = None
    memory: str | None = None
    gpu: int = Field(0, ge=0)
    gpu_kind: str | None = None
    retries: int = Field(0, ge=0)
    timeout_s: int | None = None
    node_selector: dict[str, str] = {}
    tolerations: tuple[dict[str, str], ...] = ()
    shm: str | None = None
    volumes: dict[str, str] = {}
    secrets: tuple[str, ...] = ()
    config_maps: tuple[str, ...] = ()
    service_account: str | None = None
    env: dict[str, str] = {}


class Profile(Section):
    """One YAML: where and how big a recipe runs.

    `recipe` overrides keys of any recipe (more seeds), `lengthen` multiplies the steps of every task. `side_by_side`
    is how many nodes a local run has at work at a time; they share the cores.
    """

    name: str
    launcher: Literal["none", "torchrun", "deepspeed"] = "none"
    processes: int = Field(1, ge=1)
    threads: int | None = Field(None, ge=1)
    side_by_side: int = Field(1, ge=1)
    deepspeed: str | None = None
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    default: Resources = Resources()
    steps: dict[Step, Resources] = {}
    recipe: dict[str, Any] = {}
    lengthen: float = Field(1, gt=0)

    def resources(self, step: Step) -> Resources:
        """What `step` gets: the defaults, and over them what the profile says about that step alone."""
        own = self.steps.get(step)
        return self.default.model_copy(update=own.model_dump(exclude_unset=True)) if own else self.default

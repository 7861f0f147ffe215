"""How many processes train, what each of them holds, and what DeepSpeed is told."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from latefuse.config import Job, Train
from latefuse.errors import UserError

PRECISIONS = {"float32": None, "bfloat16": "bf16", "float16": "fp16"}


class TrainingError(UserError, RuntimeError):
    """A training that can't start, or must stop; the message names the rows or keys and what to do."""


@dataclass(frozen=True)
class World:
    """The processes that train together, as torchrun tells them."""

    size: int = 1
    rank: int = 0

    @classmethod
    def of_environment(cls) -> World:
        """From RANK and WORLD_SIZE; one process where they are not set."""
        return cls(int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("RANK", 0)))

    @property
    def first(self) -> bool:
        """Whether this process writes files and talks to the tracker."""
        return self.rank == 0

    def wait(self) -> None:
        """Return when every process is here."""
        if self.size > 1 and torch.distributed.is_initialized():
            torch.distributed.barrier()


def micro_batch(train: Train, world: int) -> int:
    """Rows that one process holds at a time: batch = micro x accumulation x processes. Raises TrainingError."""
    parts = train.accumulation * world
    if train.batch_size % parts:
        raise TrainingError(
            f"train.batch_size={train.batch_size} is no micro-batch x accumulation={train.accumulation} x {world} "
            f"process(es): choose a multiple of {parts}"
        )
    return train.batch_size // parts


def deepspeed_config(source: str | Path | Mapping[str, Any], job: Job, train: Train, world: int) -> dict[str, Any]:
    """The DeepSpeed JSON of a profile with batch and precision of the job filled in, written out in full.

    source: a path or its content. A key that says otherwise than the job is an error, "auto" or an absent one is filled
    in. An optimiser in the file is refused: the Trainer makes torch's AdamW, which needs no compiler.
    """
    raw = dict(source) if isinstance(source, Mapping) else _read(Path(source))
    if "optimizer" in raw or "scheduler" in raw:
        raise TrainingError(f"deepspeed: leave 'optimizer' and 'scheduler' out of {source}: they come from train")
    filled = {
        **raw,
        "train_batch_size": train.batch_size,
        "train_micro_batch_size_per_gpu": micro_batch(train, world),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.max_grad_norm,
        "zero_allow_untested_optimizer": True,
    }
    for precision, key in PRECISIONS.items():
        if key is not None:
            filled[key] = {**raw.get(key, {}), "enabled": precision == job.precision}
    if "offload_optimizer" in raw.get("zero_optimization", {}):
        filled["zero_force_ds_cpu_optimizer"] = False
    for key, value in filled.items():
        said = raw.get(key, "auto")
        said = said.get("enabled", "auto") if isinstance(said, Mapping) else said
        value = value.get("enabled") if isinstance(value, Mapping) else value
        if said != "auto" and said != value and key != "zero_allow_untested_optimizer":
            raise TrainingError(f"deepspeed: {key} is {said!r} in {source}, the job says {value!r}: write 'auto' there")
    return _without_auto(filled)


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise TrainingError(f"deepspeed: {path}: no such file") from None
    except ValueError as error:
        raise TrainingError(f"deepspeed: {path}: not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise TrainingError(f"deepspeed: {path}: expected an object, found {type(raw).__name__}")
    return raw


def _without_auto(raw: Mapping[str, Any]) -> dict[str, Any]:
    """What is still "auto" is left to DeepSpeed's own defaults by leaving it out."""
    kept = {key: value for key, value in raw.items() if value != "auto"}
    return {key: _without_auto(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


def prepare_process(job: Job) -> None:
    """Threads, and DeepSpeed without its compiler on a machine without GPU."""
    if job.threads:
        torch.set_num_threads(job.threads)
    if torch.cuda.is_available():
        return
    os.environ.setdefault("DS_ACCELERATOR", "cpu")  # accelerate imports DeepSpeed wherever it is, and that would warn
    if job.deepspeed:
        import deepspeed

        # Its shared-memory op is compiled at the first start; a kill meanwhile leaves a lock that hangs all later runs.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False


def is_sharded(model: nn.Module) -> bool:
    """Whether DeepSpeed's ZeRO-3 has spread the weights, so that a process holds only pieces of them."""
    return any(hasattr(parameter, "ds_id") for parameter in model.parameters())


@contextmanager
def gathered(trained: Sequence[Tensor]) -> Iterator[None]:
    """Inside, these weights are whole in every process."""
    spread = [parameter for parameter in trained if hasattr(parameter, "ds_id")]
    if not spread:
        yield
        return
    import deepspeed

    with deepspeed.zero.GatheredParameters(spread):
        yield

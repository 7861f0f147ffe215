"""What a profile says of DeepSpeed in two words, and the file that DeepSpeed reads, made from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from latefuse.sections import Section

if TYPE_CHECKING:
    from latefuse.config import Task


class ZeroAsked(Section):
    """stage: 1 spreads the optimiser's state over the processes, 2 the gradients too, 3 the weights too.

    offload: the optimiser's state lies in the machine's memory, and under stage 3 the weights do. bucket: numbers that
    are sent at a time.
    """

    stage: Literal[1, 2, 3]
    offload: bool = False
    bucket: int = Field(50_000_000, ge=1)


def zero_file(asked: ZeroAsked) -> dict[str, Any]:
    """The DeepSpeed file; batch, clipping and precision are "auto": `deepspeed_config` takes them from the job."""
    zero: dict[str, Any] = {"stage": asked.stage, "overlap_comm": True, "contiguous_gradients": True}
    zero["reduce_bucket_size"] = asked.bucket
    on_host = {"device": "cpu", "pin_memory": True}
    if asked.offload:
        zero["offload_optimizer"] = on_host
    if asked.stage == 3:
        zero |= {"stage3_gather_16bit_weights_on_model_save": False, "stage3_param_persistence_threshold": 100_000}
        zero |= {"offload_param": on_host} if asked.offload else {}
    batch = ("train_batch_size", "train_micro_batch_size_per_gpu", "gradient_accumulation_steps", "gradient_clipping")
    precision = {name: {"enabled": "auto"} for name in ("bf16", "fp16")}
    return {"zero_optimization": zero, **dict.fromkeys(batch, "auto"), **precision}


def generated(said: Any) -> Any:
    """`deepspeed` of a profile as the content of a file where it is {stage: ..}; anything else as it is."""
    if not isinstance(said, Mapping) or not ({"stage", "offload", "bucket"} & set(said)):
        return said
    return zero_file(ZeroAsked.model_validate(said))


def spread(task: Task, deepspeed: Any) -> Task:
    """The task as it learns under `deepspeed` of a profile: a ranker that leaves it open has dense gradients there."""
    if deepspeed is None or task.rank is None or task.rank.sparse is not None:
        return task
    return task.model_copy(update={"rank": task.rank.model_copy(update={"sparse": False})})


def must_spread(task: Task, deepspeed: Any) -> None:
    """Raise ValueError for a task that can't learn under what a DeepSpeed file's content asks for."""
    zero = deepspeed.get("zero_optimization", {}) if isinstance(deepspeed, Mapping) else {}
    if task.rank is not None and task.rank.sparse is not False and deepspeed is not None:
        raise ValueError("DeepSpeed has no sparse gradients: leave rank.sparse out, or say false")
    if task.embed is not None and task.embed.chunk is not None and zero.get("stage") == 3:
        raise ValueError("embed.chunk works out gradients by hand, for weights that are whole, and ZeRO-3 spreads "
                         "them: take deepspeed: {stage: 2}, or leave embed.chunk out")  # fmt: skip

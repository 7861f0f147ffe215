"""How much memory one training process holds, as pure functions of shapes: exact for weights, gradients and optimiser.

How ZeRO spreads the state over processes: Rajbhandari et al., arXiv 1910.02054, section 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from latefuse.cluster.kept import FULL, Load, Precision, Saved, saved, size
from latefuse.cluster.shapes import Shapes, Trained, trained
from latefuse.config import AdapterConfig

GIB = 2**30
LIVE = 1_000_000_000
"""Weights that ZeRO-3 holds gathered at a time unless told otherwise (stage3_max_live_parameters)."""
BUCKET = 500_000_000
"""Numbers in one of ZeRO's buckets unless told otherwise (reduce_bucket_size)."""
CONTEXT = 3 * GIB // 4
"""CUDA's own context with its libraries loaded; assumed."""
COLLECTIVES = GIB // 2
"""Buffers of NCCL, for more than one process; assumed."""
SLACK = 0.05
"""Share of what is allocated that lies between the blocks of the allocator; assumed."""


@dataclass(frozen=True)
class Zero:
    """What a DeepSpeed file says of its memory. stage None: plain processes, torch's own mixed precision."""

    stage: int | None = None
    offload: bool = False
    bucket: int = BUCKET
    twice: bool = False
    live: int = LIVE

    @classmethod
    def of(cls, content: Mapping[str, Any] | None) -> Zero:
        """content: the file."""
        if content is None:
            return cls()
        said = content.get("zero_optimization", {})
        stage = int(said.get("stage", 0))
        return cls(
            stage,
            said.get("offload_optimizer", {}).get("device", "none") != "none",
            int(said.get("reduce_bucket_size", BUCKET)),
            bool(said.get("overlap_comm", stage == 3)),
            int(said.get("stage3_max_live_parameters", LIVE)),
        )


@dataclass(frozen=True)
class Memory:
    """Bytes of one process. saved: what is kept for the backward pass; passing: the greatest that comes and goes beside
    it; host: of those that lie in the machine's memory and not on the GPU."""

    weights: int
    adapter: int
    gradients: int
    optimiser: int
    buffers: int
    saved: int
    passing: int
    host: int = 0

    @property
    def total(self) -> int:
        """All of it at its greatest, but for what a GPU takes for itself."""
        parts = (self.weights, self.adapter, self.gradients, self.optimiser, self.buffers, self.saved, self.passing)
        return sum(parts) - self.host

    def on_gpu(self, world: int) -> int:
        """The same with CUDA's context, the buffers of collectives, and gaps between blocks."""
        return CONTEXT + (COLLECTIVES if world > 1 else 0) + round(self.total * (1 + SLACK))


def estimate(
    shapes: Shapes,
    adapter: AdapterConfig,
    modalities: tuple[str, ...],
    load: Load,
    precision: Precision = "float32",
    zero: Zero | None = None,
    world: int = 1,
    checkpointing: bool = False,
    gpu: bool = True,
) -> Memory:
    """Memory of one of `world` processes that train an adapter on `modalities`, at the end of a forward pass."""
    zero = zero or Zero()
    learns = trained(shapes, adapter, modalities)
    kept = saved(shapes, adapter, modalities, load, precision, zero.stage is not None, gpu)
    layers = shapes.language.layers
    passing = _passing(shapes, load, size(precision))
    if checkpointing:
        inputs = layers * load.rows * load.tokens * shapes.language.hidden * size(precision)
        one = ceil(kept.layers / layers)
        kept, passing = (
            Saved(inputs, kept.tower, kept.bridge, kept.head),
            max(passing, one + _layer_passing(shapes, load, size(precision))),
        )
    return Memory(**state(shapes.parameters, learns, precision, zero, world), saved=kept.total, passing=passing)


def state(base: int, learns: Trained, precision: Precision, zero: Zero, world: int) -> dict[str, int]:
    """Bytes of weights, adapter, gradients, optimiser and buffers of one process; AdamW.

    Without DeepSpeed LoRA is in float32, a whole bridge in the precision of the base (PEFT), and DDP copies gradients
    into buckets. DeepSpeed trains in the precision of the base, with a float32 copy beside it.
    """
    n, e = learns.numbers, size(precision)
    if zero.stage is None:
        own = FULL * (n - learns.whole) + e * learns.whole
        steps = FULL * learns.tensors
        buckets = own if world > 1 else 0
        return {
            "weights": e * base, "adapter": own, "gradients": own, "optimiser": 2 * own + steps, "buffers": buckets,
        }  # fmt: skip
    part = ceil(n / world)
    spread = zero.stage == 3
    gradients = e * (n if zero.stage < 2 else part)
    optimiser = 3 * FULL * (n if zero.stage < 1 else part)
    live = e * min(base, zero.live) if spread else 0
    return {
        "weights": e * (ceil(base / world) if spread else base),
        "adapter": e * (part if spread else n),
        "gradients": gradients,
        "optimiser": optimiser,
        "buffers": e * zero.bucket * (2 if zero.twice else 1) + live,
        "host": optimiser + gradients if zero.offload else 0,
    }


def _passing(shapes: Shapes, load: Load, e: int) -> int:
    """The greater of what logits and the widest layer need while they go backwards."""
    logits = 2 * load.rows * load.learned * shapes.language.vocabulary * FULL
    return max(logits, _layer_passing(shapes, load, e))


def _layer_passing(shapes: Shapes, load: Load, e: int) -> int:
    """Gradients of a layer's widest four tensors."""
    return 4 * load.rows * load.tokens * shapes.language.intermediate * e

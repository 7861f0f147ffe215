"""The contrastive objective: InfoNCE over the rows of all processes, and gradient caching for batches past memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

Views = dict[str, Tensor]
BLOCK = 256
"""Rows whose logits are held at a time."""


def row_losses(
    rows: Tensor,
    columns: Tensor,
    own: Tensor,
    partner: Tensor,
    masked: Tensor,
    scale: Tensor,
    log_q: Tensor | float = 0.0,
) -> Tensor:
    """Cross-entropy in nats of every row's partner among the columns: (n,).

    rows: (n, D), columns: (N, D), both of unit length. own, partner: (n,) the column of the row itself, which is never
    a candidate, and of its partner. masked: (n, N) bool, columns that are no negatives; the partner always stays.
    log_q: (N,) how likely each column was drawn, taken off its score (Yi et al., RecSys 2019, section 3).
    """
    logits = rows @ columns.T * scale - log_q
    gone = masked.clone()
    gone[torch.arange(len(rows)), own] = True
    gone[torch.arange(len(rows)), partner] = False
    return F.cross_entropy(logits.masked_fill(gone, float("-inf")), partner, reduction="none")


def view_loss(
    vectors: Tensor,
    content: Tensor,
    there: Tensor,
    scale: Tensor,
    sizes: Sequence[int],
    log_q: Tensor | None = None,
    alone: bool = False,
) -> Tensor:
    """The mean InfoNCE loss of a view over the rows of all processes, as this process's share of it: a scalar.

    Every row is a query, its partner among all other rows what it asks for (NoteLLM-2, arXiv 2405.16789, section 4.4).
    vectors: (2B, D) this process's rows, queries first, then their targets. content: (2B,) equal for rows that show the
    same: copies of a row, and of its partner, are no negatives. there: (2B,) bool, rows whose view exists; the others
    are neither rows nor negatives. scale: scalar, 1 / temperature. sizes: prefixes of the vector that are trained
    (Matryoshka, arXiv 2205.13147), D among them; their losses are averaged. log_q: (2B,) see `row_losses`. The shares
    of all processes sum to the mean over all their rows, and so do their gradients, since vectors are gathered with
    gradient. alone: whether this process's rows are all there are, for a loss that every process works out by itself.
    """
    vectors = vectors if vectors.dtype == torch.float64 else vectors.float()
    half, world, rank = len(vectors) // 2, *((1, 0) if alone else _world())
    columns, contents, exist = vectors, content, there
    if world > 1:
        columns, contents, exist = gather(vectors), _gathered(content), _gathered(there)
    own = torch.arange(len(vectors), device=vectors.device) + rank * len(vectors)
    partner = own + torch.where(torch.arange(len(own), device=own.device) < half, half, -half)
    counts = there & exist[partner]
    total = counts.sum().float()
    if world > 1:
        dist.all_reduce(total)
    drawn = 0.0 if log_q is None else log_q if world == 1 else _gathered(log_q)

    def lost(some: Tensor, size: int) -> Tensor:
        """The summed losses of some rows, by their numbers."""
        masked = (content[some, None] == contents[None, :]) | ~exist[None, :]
        masked |= contents[partner[some], None] == contents[None, :]  # a copy of the partner is no negative either
        units, others = (F.normalize(part[:, :size], dim=-1) for part in (vectors[some], columns))
        return row_losses(units, others, own[some], partner[some], masked, scale, drawn).sum()

    with torch.autocast(vectors.device.type, enabled=False):  # half precision is too coarse for logits of 20 and more
        blocks = counts.nonzero()[:, 0].split(BLOCK)
        losses = [torch.stack([_forgotten(lost, some, size) for some in blocks]).sum() for size in sizes]
    return torch.stack(losses).mean() / total.clamp(min=1)


def _forgotten(lost: Callable[[Tensor, int], Tensor], some: Tensor, size: int) -> Tensor:
    """The same, a full block computed again in the backward pass: of all logits at most one part of a block is kept."""
    if len(some) < BLOCK:
        return lost(some, size)
    value: Tensor = checkpoint(lost, some, size, use_reentrant=False, preserve_rng_state=False)
    return value


def gather(vectors: Tensor) -> Tensor:
    """The rows of all processes, rank by rank, with gradient: (n, D) -> (world * n, D)."""
    if _world()[0] == 1:
        return vectors
    gathered: Tensor = _Gather.apply(vectors)
    return gathered


class _Gather(torch.autograd.Function):
    """All processes need each row's gradient from everywhere: it is summed over them, and each takes its own rows."""

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        ctx.rows = len(vectors)
        return _gathered(vectors)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        gradient = gradient.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(gradient)
        start = dist.get_rank() * ctx.rows
        return gradient[start : start + ctx.rows]


def _gathered(values: Tensor) -> Tensor:
    world, _ = _world()
    if world == 1:
        return values
    sent = values.to(torch.uint8) if values.dtype == torch.bool else values
    parts = [torch.empty_like(sent) for _ in range(world)]
    dist.all_gather(parts, sent.contiguous())
    return torch.cat(parts).to(values.dtype)


def _world() -> tuple[int, int]:
    """(processes, this one's number)."""
    if dist.is_available() and dist.is_initialized():
        return dist.get_world_size(), dist.get_rank()
    return 1, 0


def cached(
    encode: Callable[[Any], Views],
    chunks: Sequence[Any],
    objective: Callable[[Views], Tensor],
    parameters: Sequence[Tensor],
) -> Tensor:
    """The objective over all chunks with the activations of one: gradient caching (GradCache, arXiv 2101.06983).

    encode: a chunk -> view -> (rows, D), twice for each chunk under the same random state. objective: the views of all
    chunks one after the other -> a scalar. parameters: what is trained. The gradient is worked out here and handed
    over by the result's own backward, once for each parameter, so that DDP and DeepSpeed (to ZeRO-2) see a plain loss.
    """
    states, outputs = [], []
    with torch.no_grad():
        for chunk in chunks:
            states.append(_random_state())
            outputs.append(encode(chunk))
    leaves = {view: torch.cat([out[view] for out in outputs]).requires_grad_() for view in outputs[0]}
    with torch.enable_grad():
        value = objective(leaves)
    wanted = [*leaves.values(), *parameters]
    found = torch.autograd.grad(value, wanted, allow_unused=True)
    at_leaves = dict(zip(leaves, found, strict=False))
    sums = [_or_zero(gradient, p) for gradient, p in zip(found[len(leaves) :], parameters, strict=True)]
    start = 0
    for chunk, state, out in zip(chunks, states, outputs, strict=True):
        stop = start + len(next(iter(out.values())))
        _add_chunk(
            encode, chunk, state, {v: g[start:stop] for v, g in at_leaves.items() if g is not None}, parameters, sums
        )
        start = stop
    result: Tensor = _Given.apply(value.detach(), sums, *parameters)
    return result


def _add_chunk(
    encode: Callable[[Any], Views],
    chunk: Any,
    state: Mapping[str, Any],
    gradients: Mapping[str, Tensor],
    parameters: Sequence[Tensor],
    sums: list[Tensor],
) -> None:
    """Encode a chunk once more, now with gradient, and add what its rows give each parameter."""
    with torch.random.fork_rng(devices=list(state["cuda"])), torch.enable_grad():
        torch.set_rng_state(state["cpu"])
        for device, one in state["cuda"].items():
            torch.cuda.set_rng_state(one, device)
        out = encode(chunk)
    reached = [(out[view], gradient) for view, gradient in gradients.items() if out[view].requires_grad]
    if not reached:
        return
    found = torch.autograd.grad([o for o, _ in reached], parameters, [g for _, g in reached], allow_unused=True)
    for total, gradient in zip(sums, found, strict=True):
        if gradient is not None:
            total += gradient


def _random_state() -> dict[str, Any]:
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {"cpu": torch.get_rng_state(), "cuda": {device: torch.cuda.get_rng_state(device) for device in devices}}


def _or_zero(gradient: Tensor | None, parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if gradient is None else gradient.clone()


class _Given(torch.autograd.Function):
    """A value whose gradient for each parameter is known already."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, gradients: list[Tensor], *parameters: Tensor) -> Tensor:
        ctx.gradients = gradients
        return value.clone()

    @staticmethod
    def backward(ctx: Any, outer: Tensor) -> Any:
        return (None, None, *(outer * gradient for gradient in ctx.gradients))

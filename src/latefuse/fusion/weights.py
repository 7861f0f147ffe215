"""Merging adapters by their weight changes, per layer: the whole of a merge is a function of tensors.

Every function takes the adapters' changes and one weight each, and does not care in which order they come. A weight of
zero leaves an adapter out, so weights (1, 0, 0) give adapter 1 (DARE, TIES: at density 1; SVD: at the full rank).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from latefuse.config_fusion import MergeMethod
from latefuse.fusion.changes import Change, FusionError, added, base_weights, inside
from latefuse.fusion.folders import apply_dense, delta, read, save_merged

__all__ = [
    "Change", "Energy", "FusionError", "added", "apply_dense", "base_weights", "concat", "dare", "dare_mask", "delta",
    "merge", "read", "save_merged", "svd", "ties", "ties_layer",
]  # fmt: skip


@dataclass(frozen=True)
class Energy:
    """How much of the squared norm of a merge its truncation kept: in total and per module, shares of 1."""

    total: float
    modules: dict[str, float]


def concat(changes: Sequence[Change], weights: Sequence[float]) -> Change:
    """The weighted sum of the changes, exactly: `B A = sum_i w_i B_i A_i` by stacking the factors; the ranks add up.

    Modules that one of the adapters changes densely (DoRA, trained whole) are summed densely. Raises FusionError.
    """
    members = _canonical(changes, weights)
    whole = tuple(sorted({module for change, _ in members for module in change.whole}))
    merged = Change("concat", whole=whole)
    for parameter in _parameters(members):
        module = parameter.removesuffix(".weight")
        factors = _factors(members, parameter)
        if factors is None or inside(parameter, whole):
            merged.dense[parameter] = _sum(members, parameter)
        else:
            merged.low[module] = factors
            merged.ranks[module] = factors[0].shape[0]
    return merged


def ties(changes: Sequence[Change], weights: Sequence[float], density: float) -> Change:
    """TIES on every changed parameter (Yadav et al. 2023, arXiv 2306.01708); see `ties_layer`. Dense."""
    members = _canonical(changes, weights)
    if any(weight < 0 for _, weight in members):
        raise FusionError(f"TIES takes a weighted mean: no weight may be negative, got {list(weights)}")
    merged = Change("ties")
    for parameter in _parameters(members):
        touching = [(change[parameter], weight) for change, weight in members if change.get(parameter) is not None]
        kept, given = zip(*touching, strict=True)
        merged.dense[parameter] = ties_layer(torch.stack(kept), torch.tensor(given), density)
    return merged


def ties_layer(deltas: Tensor, weights: Tensor, density: float) -> Tensor:
    """Trim, elect signs, disjoint mean, of one parameter.

    deltas: (N, ...) changes. weights: (N,) > 0. density: share of entries that each change keeps, the largest by size
    (entries as large as the smallest kept one stay too). The elected sign of an entry is that of the weighted sum of
    what was kept; the result is the weighted mean of the kept entries of that sign, times the sum of the weights
    (the paper's lambda): where all signs agree and nothing is trimmed, TIES is the weighted sum. Summed in float64, so
    that no elected sign hangs on the order of summation.
    """
    _check_density(density)
    count = deltas[0].numel()
    keep = max(1, int(np.ceil(density * count)))
    sizes = deltas.abs().flatten(1)
    smallest = sizes.kthvalue(count - keep + 1, dim=1).values
    kept = torch.where(sizes >= smallest.unsqueeze(1), deltas.flatten(1), 0.0).double()
    weights = weights.double()
    weighted = kept * weights.unsqueeze(1)
    agrees = kept * weighted.sum(dim=0).sign() > 0
    agreeing_weight = (agrees * weights.unsqueeze(1)).sum(dim=0)
    mean = (weighted * agrees).sum(dim=0) / agreeing_weight.clamp(min=torch.finfo(torch.float64).tiny)
    return (mean * weights.sum()).to(deltas.dtype).reshape(deltas.shape[1:])


def dare(changes: Sequence[Change], weights: Sequence[float], density: float, seed: int = 0) -> Change:
    """DARE (Yu et al. 2024, arXiv 2311.03099): drop at random, rescale what is kept by 1/density, weighted sum. Dense.

    What is dropped depends on the seed and on the names of adapter and parameter only.
    """
    _check_density(density)
    members = _canonical(changes, weights)
    merged = Change("dare")
    for parameter in _parameters(members):
        total: Tensor | None = None
        for change, weight in members:
            found = change.get(parameter)
            if found is None:
                continue
            mask = dare_mask(found.shape, density, seed, change.name, parameter)
            part = found * mask * (weight / density)
            total = part if total is None else total + part
        assert total is not None
        merged.dense[parameter] = total
    return merged


def dare_mask(shape: Sequence[int], density: float, seed: int, adapter: str, parameter: str) -> Tensor:
    """Which entries DARE keeps: bool of the given shape, each true with probability `density`."""
    key = hashlib.sha256(f"{seed}\n{adapter}\n{parameter}".encode()).digest()
    draws = np.random.Generator(np.random.Philox(key=int.from_bytes(key[:16], "little"))).random(
        tuple(shape), np.float32
    )
    return torch.from_numpy(draws < density)


def svd(changes: Sequence[Change], weights: Sequence[float], rank: int | None = None) -> tuple[Change, Energy]:
    """The weighted sum, every matrix of it cut to its best approximation of the given rank (Eckart-Young).

    rank: None means the largest rank that one of the adapters has in that module. Vectors and modules trained whole
    stay as they are. Returns the low-rank change and the energy that the cut kept.
    """
    exact = concat(changes, weights)
    merged = Change("svd", whole=exact.whole)
    kept_energy, all_energy = 0.0, 0.0
    shares: dict[str, float] = {}
    for parameter in exact.parameters:
        module = parameter.removesuffix(".weight")
        if module not in exact.low and (inside(parameter, exact.whole) or exact[parameter].dim() != 2):
            merged.dense[parameter] = exact[parameter]
            continue
        wanted = rank or max((change.ranks.get(module, 0) for change in changes), default=0)
        if wanted < 1:
            raise FusionError(f"svd: {module} has no LoRA rank to go back to; set fusion.rank")
        left, sizes, right = _decompose(exact, module)
        wanted = min(wanted, len(sizes))
        root = sizes[:wanted].sqrt()
        merged.low[module] = ((root.unsqueeze(1) * right[:wanted]).float(), (left[:, :wanted] * root).float())
        merged.ranks[module] = wanted
        kept, every = float(sizes[:wanted].square().sum()), float(sizes.square().sum())
        shares[module] = kept / every if every else 1.0
        kept_energy, all_energy = kept_energy + kept, all_energy + every
    return merged, Energy(kept_energy / all_energy if all_energy else 1.0, shares)


def merge(
    method: MergeMethod,
    changes: Sequence[Change],
    weights: Sequence[float],
    density: float,
    rank: int | None,
    seed: int,
) -> tuple[Change, Energy | None]:
    """One of the four merges by name; the energy is None where nothing is cut off."""
    if method == "svd":
        return svd(changes, weights, rank)
    if method == "ties":
        return ties(changes, weights, density), None
    if method == "dare":
        return dare(changes, weights, density, seed), None
    return concat(changes, weights), None


def _canonical(changes: Sequence[Change], weights: Sequence[float]) -> list[tuple[Change, float]]:
    """The members with a weight, by name: one order of summation whatever order they came in."""
    names = [change.name for change in changes]
    if len(names) != len(weights) or len(set(names)) != len(names):
        raise FusionError(f"expected one weight for each of several distinct adapters, got {names} and {list(weights)}")
    if not all(np.isfinite(weights)) or not any(weights):
        raise FusionError(f"weights {list(weights)}: expected finite numbers, at least one of them not zero")
    pairs = [(change, float(weight)) for change, weight in zip(changes, weights, strict=True) if weight]
    return sorted(pairs, key=lambda pair: pair[0].name)


def _parameters(members: list[tuple[Change, float]]) -> Iterator[str]:
    """The names of all parameters that a member changes; shapes must agree."""
    for parameter in sorted({name for change, _ in members for name in change.parameters}):
        shapes = {change.name: change.shape(parameter) for change, _ in members if change.shape(parameter)}
        if len(set(shapes.values())) > 1:
            raise FusionError(f"{parameter} has several shapes, {shapes}: the adapters are of different backbones")
        yield parameter


def _factors(members: list[tuple[Change, float]], parameter: str) -> tuple[Tensor, Tensor] | None:
    """Stacked (A, B) of the weighted sum, or None where a member's change is dense."""
    if any(parameter in change.dense for change, _ in members):
        return None
    module = parameter.removesuffix(".weight")
    parts = [(*change.low[module], weight) for change, weight in members if module in change.low]
    return torch.cat([down for down, _, _ in parts]), torch.cat([up * weight for _, up, weight in parts], dim=1)


def _sum(members: list[tuple[Change, float]], parameter: str) -> Tensor:
    parts = [change[parameter] * weight for change, weight in members if change.get(parameter) is not None]
    return torch.stack(parts).sum(dim=0)


def _decompose(change: Change, module: str) -> tuple[Tensor, Tensor, Tensor]:
    """Singular vectors and values (U, S, Vh) of one module's change, from its factors where it has them.

    In float64: two close singular values turn float32's noise into a visible turn of the vectors.
    """
    if module not in change.low:
        return torch.linalg.svd(change[f"{module}.weight"].double(), full_matrices=False)
    down, up = change.low[module]
    left, left_core = torch.linalg.qr(up.double())
    right, right_core = torch.linalg.qr(down.double().T)
    inner_left, sizes, inner_right = torch.linalg.svd(left_core @ right_core.T, full_matrices=False)
    return left @ inner_left, sizes, inner_right @ right.T


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise FusionError(f"fusion.density {density}: expected a share above 0, up to 1")

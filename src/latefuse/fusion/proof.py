"""The proof that ends every merge: what the saved folder yields, against a dense reference computed another way."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latefuse.config_fusion import MergeMethod
from latefuse.fusion.changes import Change, FusionError, inside
from latefuse.fusion.folders import read, save_merged
from latefuse.fusion.weights import dare_mask, merge

PROOF = "proof.json"
_FULL_RANK = 2**31
_SMALL_MATRIX = 512
_FLOAT32_ROUNDING = 2.0**-23


class ProofError(FusionError):
    """A merge whose saved folder is not what it claims to be; the proof that says so is stored beside it."""


@dataclass(frozen=True)
class Merge:
    """What was merged and how. density: TIES and DARE; rank: SVD (None: each module's own); seed: DARE."""

    method: MergeMethod
    weights: tuple[float, ...]
    density: float = 1.0
    rank: int | None = None
    seed: int = 0

    def run(self, changes: Sequence[Change]) -> Change:
        """The merged change."""
        return merge(self.method, changes, self.weights, self.density, self.rank, self.seed)[0]

    @property
    def exact(self) -> Merge:
        """The same merge with nothing dropped or cut: density 1, full rank."""
        return replace(self, density=1.0, rank=_FULL_RANK)

    @property
    def is_exact(self) -> bool:
        """Whether this merge claims to be the weighted sum of the changes."""
        return self.method == "concat" or (self.method == "dare" and self.density == 1)


@dataclass(frozen=True)
class Check:
    """One claim of a proof: a relative error (Frobenius norms) and where it is largest; it holds up to `limit`."""

    claim: str
    error: float
    limit: float
    where: str = ""

    @property
    def holds(self) -> bool:
        """False also for a NaN error."""
        return self.error <= self.limit


def reference(merge: Merge, changes: Sequence[Change]) -> Callable[[str], Tensor]:
    """The merged change of a parameter in float64, element by element on the dense changes: slow, plain, no factors."""

    def compute(parameter: str) -> Tensor:
        pairs = [(c, w) for c, w in zip(changes, merge.weights, strict=True) if w and c.get(parameter) is not None]
        dense = [_dense64(change, parameter) * weight for change, weight in pairs]
        if merge.method == "concat":
            return torch.stack(dense).sum(dim=0)
        if merge.method == "dare":
            kept = [
                dare_mask(part.shape, merge.density, merge.seed, change.name, parameter)
                for part, (change, _) in zip(dense, pairs, strict=True)
            ]
            return torch.stack([part * mask / merge.density for part, mask in zip(dense, kept, strict=True)]).sum(dim=0)
        if merge.method == "ties":
            return _ties_reference([change[parameter] for change, _ in pairs], [w for _, w in pairs], merge.density)
        total = torch.stack(dense).sum(dim=0)
        if total.dim() != 2 or any(inside(parameter, change.whole) for change in changes):
            return total
        module = parameter.removesuffix(".weight")
        rank = merge.rank or max(change.ranks.get(module, 0) for change in changes)
        low = all(module in change.low for change, _ in pairs)
        return _cut(total, rank, sum(change.ranks[module] for change, _ in pairs) if low else None)

    return compute


def prove_weights(
    folder: Path, merged: Merge, changes: Sequence[Change], base: Mapping[str, Tensor], tolerance: float
) -> list[Check]:
    """The claims on the weight changes: of the folder as it is read back, of single adapters, of the exact settings."""
    saved = read(folder, base)
    names = sorted(
        {name for change, weight in zip(changes, merged.weights, strict=True) if weight for name in change.parameters}
    )
    if saved.parameters != names:
        odd = sorted(set(saved.parameters) ^ set(names))
        raise ProofError(f"{folder}: {len(odd)} weights are missing from it or too many in it, the first is {odd[0]!r}")
    checks = [
        _compare(
            "the saved folder, read back, is its dense reference", saved, reference(merged, changes), base, tolerance
        )
    ]
    alone = [_compare("", _round_trip(change, merged, base), change.__getitem__, base, tolerance) for change in changes]
    checks.append(replace(max(alone, key=_badness), claim="one adapter alone, nothing dropped or cut, is itself"))
    if merged.method == "ties":
        aligned = [_aligned(change, changes[0]) for change in changes]
        claim = "with agreeing signs and density 1 it is the weighted sum"
    else:
        aligned, claim = list(changes), "with nothing dropped or cut it is the weighted sum"
    total = reference(Merge("concat", merged.weights), aligned)
    checks.append(_compare(claim, merged.exact.run(aligned), total, base, tolerance))
    return checks


def compare_logits(claim: str, found: Tensor, expected: Tensor, tolerance: float) -> Check:
    """One claim on the logits of a probe batch."""
    return Check(claim, _relative(found.double(), expected.double()), tolerance, "probe batch")


def store(folder: Path, merged: Merge, checks: Sequence[Check], facts: Mapping[str, Any]) -> dict[str, Any]:
    """Write `proof.json` beside the merged adapter and return it. Raises ProofError when a claim does not hold."""
    proof = {
        **asdict(merged), **facts,
        "holds": all(check.holds for check in checks),
        "checks": [{**asdict(check), "holds": check.holds} for check in checks],
    }  # fmt: skip
    (folder / PROOF).write_text(json.dumps(proof, indent=1) + "\n", encoding="utf-8")
    broken = [
        f"{c.claim}: relative error {c.error:.2e} above {c.limit:.0e} at {c.where}" for c in checks if not c.holds
    ]
    if broken:
        raise ProofError(f"{folder}: the {merged.method} merge is wrong; " + "; ".join(broken))
    return proof


def _compare(
    claim: str, found: Change, expected: Callable[[str], Tensor], base: Mapping[str, Tensor], tolerance: float
) -> Check:
    """The worst relative error over all parameters.

    PEFT stores the new value of a module trained whole, not its change: one rounding of that value is not an error.
    """
    worst = Check(claim, 0.0, tolerance)
    for parameter in found.parameters:
        rounding = 0.0
        if inside(parameter, found.whole):
            rounding = _FLOAT32_ROUNDING * float(base[parameter].detach().double().norm())
        error = _relative(found[parameter].double(), expected(parameter).double(), rounding)
        worst = max(worst, Check(claim, error, tolerance, parameter), key=_badness)
    return worst


def _badness(check: Check) -> float:
    return check.error if check.error == check.error else float("inf")


def _relative(found: Tensor, expected: Tensor, rounding: float = 0.0) -> float:
    """|found - expected| / |expected|, beyond a rounding; 0 for two zeros, infinite where only the expected is zero."""
    gap = float((found - expected).norm())
    if gap <= rounding:
        return 0.0
    size = float(expected.norm())
    return (gap - rounding) / size if size else float("inf")


def _round_trip(change: Change, merged: Merge, base: Mapping[str, Tensor]) -> Change:
    """One adapter merged alone at the exact settings, saved and read again."""
    alone = replace(merged.exact, weights=(1.0,)).run([change])
    with tempfile.TemporaryDirectory() as folder:
        save_merged(folder, alone, base, {})
        return read(folder, base)


def _aligned(change: Change, pattern: Change) -> Change:
    """The change with the signs of another one (positive where that one is silent or zero)."""
    dense = {}
    for parameter in change.parameters:
        signs = pattern.get(parameter)
        sizes = change[parameter].abs()
        dense[parameter] = sizes if signs is None else torch.where(signs < 0, -sizes, sizes)
    return Change(change.name, dense=dense)


def _dense64(change: Change, parameter: str) -> Tensor:
    if parameter in change.dense:
        return change.dense[parameter].double()
    down, up = change.low[parameter.removesuffix(".weight")]
    return up.double() @ down.double()


def _ties_reference(deltas: list[Tensor], weights: list[float], density: float) -> Tensor:
    """TIES by sorting and by counting positive and negative mass apart."""
    positive, negative = (
        torch.zeros_like(deltas[0], dtype=torch.float64),
        torch.zeros_like(deltas[0], dtype=torch.float64),
    )
    positive_weight, negative_weight = torch.zeros_like(positive), torch.zeros_like(positive)
    for delta, weight in zip(deltas, weights, strict=True):
        keep = max(1, -int(-density * delta.numel() // 1))
        smallest = delta.abs().flatten().sort(descending=True).values[keep - 1]
        kept = torch.where(delta.abs() >= smallest, delta, 0.0).double()
        positive += weight * kept.clamp(min=0)
        negative += weight * kept.clamp(max=0)
        positive_weight += weight * (kept > 0)
        negative_weight += weight * (kept < 0)
    up = torch.where(positive_weight > 0, positive / positive_weight, 0.0)
    down = torch.where(negative_weight > 0, negative / negative_weight, 0.0)
    balance = positive + negative
    return torch.where(balance > 0, up, torch.where(balance < 0, down, 0.0)) * sum(weights)


def _cut(matrix: Tensor, rank: int, known_rank: int | None) -> Tensor:
    """The best approximation of a float64 matrix of the given rank, from the matrix alone.

    A large matrix of known low rank is first projected on its range, found with random probes (Halko et al. 2011,
    exact where there are more probes than the rank).
    """
    basis = None
    if known_rank is not None and min(matrix.shape) > max(_SMALL_MATRIX, known_rank + 8):
        probes = torch.randn(
            matrix.shape[1], known_rank + 8, dtype=matrix.dtype, generator=torch.Generator().manual_seed(0)
        )
        basis = torch.linalg.qr(matrix @ probes)[0]
        matrix = basis.T @ matrix
    left, sizes, right = torch.linalg.svd(matrix, full_matrices=False)
    cut = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    return cut if basis is None else basis @ cut

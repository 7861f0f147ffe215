"""Our merges against PEFT's `add_weighted_adapter`: how far each is from the weighted sum of the weight changes.

    python benchmarks/merge_error.py [--size 256] [--rank 16]

Three adapters with weights 1, 0.6 and 0.3 on two linears. Prints the relative error (Frobenius norm) of the change that
a merged folder, or PEFT's merged adapter, makes. Nothing is dropped (density 1) or cut off (full rank), so that every
method but TIES, which elects signs, should be exact. Also how long each took. Fails where concat, DARE or SVD of ours
is off by 1e-4 or more.
"""

from __future__ import annotations

import argparse
import copy
import sys
import tempfile
import time
from pathlib import Path

import peft
import torch
from torch import Tensor, nn

from latefuse.config_fusion import MergeMethod
from latefuse.fusion.changes import base_weights
from latefuse.fusion.folders import delta, read, save_merged
from latefuse.fusion.weights import merge

NAMES, WEIGHTS = ("image", "video", "text"), (1.0, 0.6, 0.3)
METHODS: dict[MergeMethod, str] = {"concat": "cat", "svd": "svd", "dare": "dare_linear", "ties": "ties"}


def main() -> int:
    """Print the table; 1 when a merge of ours that should be exact is not."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rank", type=int, default=16)
    args = parser.parse_args()
    worst = 0.0
    print(f"{'adapters':<9}{'method':<9}{'ours':>10}{'PEFT':>10}{'ours s':>9}{'PEFT s':>9}")
    for kind in ("LoRA", "rsLoRA"):
        with tempfile.TemporaryDirectory() as root:
            model, base = adapters(Path(root), args.size, args.rank, kind == "rsLoRA")
            exact = summed(Path(root))
            for method, theirs in METHODS.items():
                ours, took = run_ours(method, Path(root), base, 3 * args.rank)
                peers, peer_took = run_peft(theirs, model, 3 * args.rank)
                errors = error(ours, exact), error(peers, exact)
                print(f"{kind:<9}{method:<9}{errors[0]:>10.1e}{errors[1]:>10.1e}{took:>9.2f}{peer_took:>9.2f}")
                worst = worst if method == "ties" else max(worst, errors[0])
    return int(worst >= 1e-4)


def adapters(root: Path, size: int, rank: int, rslora: bool) -> tuple[peft.PeftModel, nn.Module]:
    """Three saved adapters with random weights, all attached to one model, and the bare model."""
    torch.manual_seed(0)
    base = nn.Sequential(nn.Linear(size, 2 * size), nn.Linear(2 * size, size))
    model = None
    for name in NAMES:
        config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, use_rslora=rslora, target_modules=["0", "1"])
        if model is None:
            model = peft.get_peft_model(copy.deepcopy(base), config, adapter_name=name)
        else:
            model.add_adapter(name, config)
    assert model is not None
    for parameter_name, parameter in model.named_parameters():
        if "lora_B" in parameter_name:
            parameter.data = torch.randn_like(parameter) / rank
    model.save_pretrained(root)
    return model, base


def summed(root: Path) -> dict[str, Tensor]:
    """The weighted sum of the changes in float64."""
    parts = [(delta(root / name), weight) for name, weight in zip(NAMES, WEIGHTS, strict=True)]
    return {name: torch.stack([d[name].double() * w for d, w in parts]).sum(dim=0) for name in parts[0][0]}


def run_ours(method: MergeMethod, root: Path, base: nn.Module, rank: int) -> tuple[dict[str, Tensor], float]:
    """The change that the saved folder makes, and the seconds from reading to saving."""
    start = time.perf_counter()
    changes = [read(root / name) for name in NAMES]
    change, _ = merge(method, changes, WEIGHTS, density=1.0, rank=rank, seed=0)
    save_merged(root / "merged", change, base_weights(base), {})
    return delta(root / "merged"), time.perf_counter() - start


def run_peft(method: str, model: peft.PeftModel, rank: int) -> tuple[dict[str, Tensor], float]:
    """The change that PEFT's merged adapter makes, and the seconds."""
    start = time.perf_counter()
    density = {"density": 1.0} if method in ("ties", "dare_linear") else {}
    options = {"svd_rank": rank} if method == "svd" else density
    model.add_weighted_adapter(list(NAMES), list(WEIGHTS), "merged", combination_type=method, **options)
    took = time.perf_counter() - start
    layers = {name: model.base_model.model[int(name)] for name in ("0", "1")}
    found = {f"{name}.weight": layer.get_delta_weight("merged").detach() for name, layer in layers.items()}
    model.delete_adapter("merged")
    return found, took


def error(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """The larger of the layers' relative errors."""
    return max(float((found[name].double() - want).norm() / want.norm()) for name, want in expected.items())


if __name__ == "__main__":
    sys.exit(main())

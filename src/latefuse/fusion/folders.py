"""Adapter folders: PEFT's own LoRA format read and written, and the dense one for what LoRA can't hold."""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latefuse.fusion.changes import Change, FusionError, added, base_weights, inside
from latefuse.models.adapter_files import CARD, PEFT_CONFIG, PREFIX, WEIGHTS

DENSE_WEIGHTS = "delta.safetensors"
_LORA = re.compile(r"^(?P<module>.+)\.(?P<part>lora_A|lora_B|lora_magnitude_vector)(\.weight)?$")
# Settings whose adapter is no change of one weight of the backbone as it is on disk.
_REFUSED: dict[str, str] = {
    "fan_in_fan_out": "transposed (Conv1D) layers are not supported",
    "lora_bias": "a bias on lora_B is not supported",
    "trainable_token_indices": "single trained token rows are not supported",
    "target_parameters": "LoRA on bare parameters is not supported",
    "layer_replication": "replicated layers are not in the backbone",
    "alora_invocation_tokens": "an activated LoRA depends on the input and is no change of a weight",
    "use_qalora": "a quantised LoRA is not supported",
    "megatron_config": "Megatron layers are not supported",
}
_INITS_THAT_KEEP_THE_BASE = (True, False, "gaussian", "eva", "orthogonal")


def delta(folder: str | Path, base: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weight changes of an adapter folder: parameter name -> float32 tensor of the parameter's shape.

    base: the backbone's parameters by name (`base_weights(model)`); needed for DoRA, biases and modules trained whole,
    of which PEFT stores the new value and not the change. Raises FusionError.
    """
    change = read(folder, base)
    return {parameter: change[parameter] for parameter in change.parameters}


def read(folder: str | Path, base: Mapping[str, Tensor] | None = None, name: str | None = None) -> Change:
    """An adapter folder, PEFT's LoRA format or our dense one, as a Change named `name` (else as its folder)."""
    folder = Path(folder)
    if (folder / DENSE_WEIGHTS).exists():
        tensors = _tensors(folder / DENSE_WEIGHTS)
        return Change(name or folder.name, dense={key: tensor.float() for key, tensor in tensors.items()})
    config = read_json(folder / PEFT_CONFIG)
    _refuse(config, folder)
    tensors = _tensors(folder / WEIGHTS)
    low: dict[str, dict[str, Tensor]] = {}
    plain: dict[str, Tensor] = {}
    for key, tensor in tensors.items():
        if not key.startswith(PREFIX):
            raise FusionError(f"{folder / WEIGHTS}: {key!r} is not a tensor of a PEFT model ({PREFIX}...)")
        key = key.removeprefix(PREFIX).replace(".base_layer.", ".")
        match = _LORA.match(key)
        if match:
            low.setdefault(match["module"], {})[match["part"]] = tensor.float()
        elif "lora_" in key:
            raise FusionError(f"{folder / WEIGHTS}: {key!r} is a kind of LoRA that can't be merged; only linears can")
        else:
            plain[key] = tensor.float()
    change = Change(name or folder.name, whole=_whole_modules(config, plain))
    for module, parts in low.items():
        _add_low(change, module, parts, config, base, folder)
    for key, tensor in plain.items():
        change.dense[key] = tensor - _base(base, key, tensor.shape, folder)
    return change


@contextlib.contextmanager
def apply_dense(backbone: Any, folder: str | Path, weight: float = 1.0) -> Iterator[None]:
    """Inside the context a folder (dense or PEFT) is on the backbone, `weight` times; afterwards it is exactly undone.

    backbone: a Backbone or a bare module. Raises FusionError when the folder was merged for another backbone.
    """
    folder = Path(folder)
    card = read_json(folder / CARD) if (folder / CARD).exists() else {}
    expected, digest = card.get("backbone_digest"), getattr(backbone, "digest", None)
    if expected and digest and expected != digest:
        raise FusionError(f"{folder}: merged for backbone {expected[:12]}, this one is {digest[:12]}")
    model = backbone if isinstance(backbone, nn.Module) else backbone.model
    with added(model, read(folder, base_weights(model)), weight):
        yield


def save_merged(folder: str | Path, change: Change, base: Mapping[str, Tensor], card: Mapping[str, Any]) -> bool:
    """Write a change and its card: as a LoRA folder that plain PEFT loads, or as dense changes. True for the former.

    A LoRA folder can hold low-rank changes and modules trained whole; anything else (DoRA, biases, TIES, DARE) makes
    the folder dense: `delta.safetensors`, and `"dense": true` in `adapter.json`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (PEFT_CONFIG, WEIGHTS, DENSE_WEIGHTS):  # of an earlier merge, perhaps of the other format
        (folder / name).unlink(missing_ok=True)
    as_lora = bool(change.low) and all(inside(parameter, change.whole) for parameter in change.dense)
    if as_lora:
        _save_lora(folder, change, base)
    else:
        save_file({name: change[name].contiguous() for name in change.parameters}, folder / DENSE_WEIGHTS)
    text = json.dumps({**card, "dense": not as_lora}, indent=1, sort_keys=True)
    (folder / CARD).write_text(text + "\n", encoding="utf-8")
    return as_lora


def _save_lora(folder: Path, change: Change, base: Mapping[str, Tensor]) -> None:
    tensors: dict[str, Tensor] = {}
    for module, (down, up) in change.low.items():
        tensors[f"{PREFIX}{module}.lora_A.weight"] = down.contiguous()
        tensors[f"{PREFIX}{module}.lora_B.weight"] = up.contiguous()
    for parameter, tensor in change.dense.items():
        tensors[PREFIX + parameter] = (_base(base, parameter, tensor.shape, folder) + tensor).contiguous()
    ranks = {module: change.low[module][0].shape[0] for module in sorted(change.low)}
    usual = Counter(ranks.values()).most_common(1)[0][0]
    # Anchored: PEFT matches a pattern as a suffix, and one module's name may end with another's.
    other = {f"^{re.escape(module)}": rank for module, rank in ranks.items() if rank != usual}
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": None, "inference_mode": True,
        "r": usual, "lora_alpha": usual, "rank_pattern": other, "alpha_pattern": other, "lora_dropout": 0.0,
        "target_modules": list(ranks), "modules_to_save": list(change.whole) or None, "bias": "none",
        "use_rslora": False, "use_dora": False, "fan_in_fan_out": False, "init_lora_weights": True,
    }  # fmt: skip
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / PEFT_CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


def _add_low(
    change: Change,
    module: str,
    parts: dict[str, Tensor],
    config: dict[str, Any],
    base: Mapping[str, Tensor] | None,
    folder: Path,
) -> None:
    down, up = parts.get("lora_A"), parts.get("lora_B")
    if down is None or up is None or down.dim() != 2 or up.dim() != 2 or down.shape[0] != up.shape[1]:
        raise FusionError(f"{folder}: {module} has no matching pair of 2-dimensional lora_A and lora_B")
    rank = _pattern(config.get("rank_pattern"), module, config["r"])
    if rank != down.shape[0]:
        raise FusionError(f"{folder}: {module} has rank {down.shape[0]}, its configuration says {rank}")
    alpha = _pattern(config.get("alpha_pattern"), module, config["lora_alpha"])
    up = up * (alpha / math.sqrt(rank) if config.get("use_rslora") else alpha / rank)
    change.ranks[module] = down.shape[0]
    magnitude = parts.get("lora_magnitude_vector")
    if magnitude is None:
        change.low[module] = (down, up)
        return
    weight = _base(base, f"{module}.weight", torch.Size((up.shape[0], down.shape[1])), folder)
    turned = weight + up @ down
    change.dense[f"{module}.weight"] = magnitude.reshape(-1, 1) * turned / turned.norm(dim=1, keepdim=True) - weight


def _pattern(patterns: dict[str, Any] | None, module: str, default: float) -> float:
    """PEFT's rule: the first pattern that matches the end of the module's name, at a dot."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def _refuse(config: dict[str, Any], folder: Path) -> None:
    if config.get("peft_type") != "LORA":
        raise FusionError(
            f"{folder / PEFT_CONFIG}: peft_type {config.get('peft_type')!r} can't be merged, only LORA can"
        )
    for key, reason in _REFUSED.items():
        if config.get(key):
            raise FusionError(f"{folder / PEFT_CONFIG}: {key} is set: {reason}")
    if config.get("init_lora_weights", True) not in _INITS_THAT_KEEP_THE_BASE:
        raise FusionError(
            f"{folder / PEFT_CONFIG}: init_lora_weights {config['init_lora_weights']!r} changes the backbone itself; "
            "convert the adapter with PEFT's save_pretrained(path_initial_model_for_weight_conversion=...) first"
        )


def _whole_modules(config: dict[str, Any], plain: Mapping[str, Tensor]) -> tuple[str, ...]:
    """The full names of PEFT's `modules_to_save` (which are suffixes), from the parameters they brought."""
    found = set()
    for suffix in config.get("modules_to_save") or ():
        for parameter in plain:
            match = re.match(rf"^((.*\.)?{re.escape(suffix)})\.", parameter)
            if match:
                found.add(match[1])
    return tuple(sorted(found))


def _base(base: Mapping[str, Tensor] | None, name: str, shape: torch.Size, folder: Path) -> Tensor:
    if base is None or name not in base:
        raise FusionError(f"{folder}: the change of {name} needs the backbone's weight; pass base=base_weights(model)")
    if base[name].shape != shape:
        raise FusionError(f"{folder}: {name} is {tuple(shape)} here and {tuple(base[name].shape)} in the backbone")
    return base[name].detach().float().cpu()


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object of an adapter folder. Raises FusionError."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FusionError(f"{path}: no such file; an adapter folder holds {PEFT_CONFIG} or {DENSE_WEIGHTS}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise FusionError(f"{path}: not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise FusionError(f"{path}: expected a JSON object")
    return found


def _tensors(path: Path) -> dict[str, Tensor]:
    try:
        tensors = load_file(path)
    except FileNotFoundError:
        raise FusionError(f"{path}: no such file; the adapter was not saved completely") from None
    except SafetensorError as error:
        raise FusionError(f"{path}: not a whole safetensors file: {error}") from None
    bad = [name for name, tensor in tensors.items() if not tensor.numel() or not bool(torch.isfinite(tensor).all())]
    if bad or not tensors:
        raise FusionError(f"{path}: {bad[0] if bad else 'no tensor'} is empty or not finite; train the adapter again")
    return tensors

"""Adapters: what is trained on a frozen backbone, attached, saved, loaded and switched.

PEFT does the arithmetic and its folder format is kept, so a saved adapter also loads in plain PEFT. What PEFT leaves
open is closed here: target modules are full names, every tensor must land, and an adapter is bound to its backbone.
"""

from __future__ import annotations

import copy
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from latefuse.config import AdapterConfig, Modality
from latefuse.models.backbone import Backbone

CARD = "adapter.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


class AdapterError(RuntimeError):
    """An adapter that can't be made, saved or loaded; the message names the tensor or file and what to do."""


class AdapterCard(BaseModel):
    """What an adapter is, beside PEFT's own files. `modality` may be given as one word."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: Literal[1] = 1
    task: str
    kind: str = "instruct"
    modality: tuple[Modality, ...]
    arm: str
    seed: int
    backbone_digest: str
    config_digest: str
    data_fingerprint: str
    metrics: dict[str, float] = {}
    target_modules: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    parameters: int = 0
    total_parameters: int = 0
    dense: bool = False

    @field_validator("modality", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def read_card(folder: str | Path) -> AdapterCard:
    """The card of a saved adapter. Raises AdapterError when it is missing or malformed."""
    path = Path(folder) / CARD
    try:
        return AdapterCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; an adapter of latefuse has its card there") from None
    except (ValidationError, ValueError) as error:
        raise AdapterError(f"{path}: not an adapter card: {error}") from error


def target_modules(backbone: Backbone, adapter: AdapterConfig, modality: str | Iterable[str]) -> list[str]:
    """Full names of the linears that carry LoRA: text touches the language model only, a tower is its modality's own."""
    modalities = [modality] if isinstance(modality, str) else list(modality)
    unknown = [m for m in modalities if m not in backbone.modalities]
    if unknown or not modalities:
        raise AdapterError(f"backbone {backbone.name!r} reads {', '.join(backbone.modalities)}, not {unknown or 'nothing'}")
    media = [m for m in modalities if m != "text"]
    parts, roles = backbone.parts(), []
    for role in adapter.on:
        if role == "language":
            roles.append("language")
        elif role == "bridge" and media and not adapter.bridge_full:
            roles.append("bridge")
        elif role == "tower":
            roles += [f"tower.{m}" for m in media]
    names = list(dict.fromkeys(name for role in roles for name in parts[role]))
    if not names:
        raise AdapterError(f"adapter.on={list(adapter.on)} names no module for {modalities}: add 'language'")
    return names


def attach(
    backbone: Backbone, adapter: AdapterConfig, modality: str | Iterable[str], seed: int, name: str = "default"
) -> PeftModel:
    """Put a new adapter on the backbone and make it the active, trained one; its first weights come from `seed` alone.

    `bridge_full` trains the bridge whole (PEFT's modules_to_save) unless all modalities are text.
    """
    modalities = [modality] if isinstance(modality, str) else list(modality)
    whole = adapter.bridge_full and any(m != "text" for m in modalities)
    config = LoraConfig(
        r=adapter.r,
        lora_alpha=adapter.alpha,
        lora_dropout=adapter.dropout,
        use_rslora=adapter.rslora,
        use_dora=adapter.dora,
        target_modules=target_modules(backbone, adapter, modalities),
        modules_to_save=list(backbone.family.bridge) if whole else None,
        bias="none",
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return _add(backbone, config, name)


def _add(backbone: Backbone, config: LoraConfig, name: str) -> PeftModel:
    if backbone.peft is None:
        backbone.peft = get_peft_model(backbone.model, config, adapter_name=name)
    elif name in backbone.peft.peft_config:
        raise AdapterError(f"an adapter named {name!r} is already attached; choose another name or detach it")
    else:
        backbone.peft.add_adapter(name, config)
    backbone.peft.set_adapter(name)
    return backbone.peft


def detach(backbone: Backbone) -> None:
    """Take all adapters off; the backbone is as it was loaded."""
    if backbone.peft is not None:
        backbone.model = backbone.peft.unload()
        backbone.model.requires_grad_(False)
        backbone.peft = None


@contextmanager
def active(backbone: Backbone, names: str | Sequence[str] | None) -> Iterator[None]:
    """Inside, exactly these adapters act (their weight changes add up), or none with None; afterwards all is as before."""
    wanted = [] if names is None else [names] if isinstance(names, str) else list(names)
    peft = backbone.peft
    if peft is None:
        if wanted:
            raise AdapterError(f"no adapter {', '.join(wanted)}: nothing is attached")
        yield
        return
    unknown = [n for n in wanted if n not in peft.peft_config]
    if unknown:
        raise AdapterError(f"no adapter {', '.join(unknown)}; attached: {', '.join(peft.peft_config)}")
    if len(wanted) > 1 and any(peft.peft_config[n].modules_to_save for n in wanted):
        raise AdapterError("bridges trained whole don't add up side by side: merge them as dense changes")
    before = list(peft.base_model.active_adapters)
    trained = {p: p.requires_grad for p in backbone.model.parameters()}
    try:
        if wanted:
            peft.base_model.set_adapter(wanted)
            yield
        else:
            with peft.disable_adapter():
                yield
    finally:
        peft.base_model.set_adapter(before)
        for parameter, flag in trained.items():
            parameter.requires_grad_(flag)


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """How many parameters are trained, and how many there are without any adapter."""
    total = sum(p.numel() for n, p in model.named_parameters() if _base_name(n) is not None)
    return sum(p.numel() for p in model.parameters() if p.requires_grad), total


def module_digest(model: nn.Module) -> str:
    """SHA-256 over the base's parameters and buffers, adapters left out: equal before, during and after training."""
    whole = hashlib.sha256()
    named = {_base_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}
    for name in sorted(n for n in named if n is not None):
        whole.update(name.encode())
        whole.update(named[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def _base_name(name: str) -> str | None:
    """The name that a parameter has without adapters; None for a parameter of an adapter."""
    if re.search(r"\.(lora_\w+|modules_to_save)\.", name):
        return None
    return name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".original_module.", ".")


def gradient_norms(backbone: Backbone) -> dict[str, float]:
    """Gradient norm per part of the backbone in which something is trained; 0.0 where no gradient came."""
    squares: dict[str, float] = {}
    roles = {name: part for part, names in backbone.parts().items() for name in names}
    for name, parameter in backbone.model.named_parameters():
        if parameter.requires_grad:
            module = re.split(r"\.(?:lora_\w+|modules_to_save)\.", name)[0]
            part = roles.get(module, "bridge")
            square = 0.0 if parameter.grad is None else float(parameter.grad.float().square().sum())
            squares[part] = squares.get(part, 0.0) + square
    return {part: value**0.5 for part, value in squares.items()}


def save(peft_model: PeftModel, folder: str | Path, card: AdapterCard, name: str = "default") -> AdapterCard:
    """Write an adapter in PEFT's format with its card, read it again and check it. Returns the card as written.

    Target modules and parameter counts of the card are filled in. Raises AdapterError when a tensor is empty, not
    finite or missing, or when no weight change was learned.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = _explicit(peft_model, name)
    state = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in sorted(state.items())}
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    _write_config(folder, config)
    card = card.model_copy(
        update={
            "target_modules": tuple(config.target_modules),
            "modules_to_save": tuple(config.modules_to_save or ()),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "total_parameters": parameter_counts(peft_model)[1],
        }
    )
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    _check_saved(folder, _expected(peft_model.get_base_model(), config), trained=True)
    return card


def _explicit(peft_model: PeftModel, name: str) -> LoraConfig:
    """The adapter's configuration with the full names of what carries it: PEFT shortens long lists to suffixes."""
    config = copy.copy(peft_model.peft_config[name])
    modules = peft_model.get_base_model().named_modules()
    config.target_modules = sorted(n for n, module in modules if name in getattr(module, "lora_A", ()))
    return config


def _write_config(folder: Path, config: LoraConfig) -> None:
    """PEFT's own JSON with sorted lists (a set's order differs between processes) and without a path of this machine."""
    raw = {k: sorted(v) if isinstance(v, (set, frozenset)) else v for k, v in config.to_dict().items()}
    raw |= {"inference_mode": True, "base_model_name_or_path": None}
    (folder / PEFT_CONFIG).write_text(json.dumps(raw, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")


def _expected(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that an adapter of this configuration has on this model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in config.target_modules or ():
        linear = _linear(model, name)
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (config.r, linear.in_features)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (linear.out_features, config.r)
        if config.use_dora:
            shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (linear.out_features,)
    for name in config.modules_to_save or ():
        module = model.get_submodule(name)
        module = getattr(module, "original_module", module)
        shapes |= {f"{PREFIX}{name}.{n}": tuple(p.shape) for n, p in module.named_parameters()}
    return shapes


def _linear(model: nn.Module, name: str) -> Any:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise AdapterError(f"module {name!r} of the adapter is not in this backbone") from None
    return getattr(module, "base_layer", module)


def _check_saved(folder: Path, expected: dict[str, tuple[int, ...]], trained: bool) -> None:
    """Raise AdapterError unless the file holds exactly the expected tensors, all finite, and B is not all zero."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{path}: no such file; adapters are safetensors, pickles are never read")
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
    missing, extra = sorted(set(expected) - set(found)), sorted(set(found) - set(expected))
    wrong = [f"{k} {found[k]} not {expected[k]}" for k in sorted(set(found) & set(expected)) if found[k] != expected[k]]
    for what, names in (("missing", missing), ("left over", extra), ("of another shape", wrong)):
        if names:
            raise AdapterError(
                f"{path}: {len(names)} tensor(s) {what}: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''}; "
                "every tensor must land, so nothing was loaded"
            )
    state = load_file(path)
    broken = sorted(key for key, tensor in state.items() if tensor.numel() == 0 or not bool(tensor.isfinite().all()))
    if broken:
        raise AdapterError(f"{path}: empty or not finite: {', '.join(broken[:3])}")
    ups = [tensor for key, tensor in state.items() if key.endswith("lora_B.weight")]
    if trained and ups and not any(bool(tensor.any()) for tensor in ups):
        raise AdapterError(f"{path}: every lora_B is zero: nothing was learned (no step taken, or no gradient arrived)")


def load(backbone: Backbone, folder: str | Path, name: str = "default") -> PeftModel:
    """Attach a saved adapter, frozen, and make it active.

    Raises AdapterError, and leaves the backbone as it was, unless the adapter was made on a backbone of this digest
    and every tensor lands with none left over.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.backbone_digest != backbone.digest:
        raise AdapterError(
            f"{folder / CARD}: made on a backbone of digest {card.backbone_digest[:16]}, this one ({backbone.name}) has "
            f"{backbone.digest[:16]}; load the backbone it was trained on"
        )
    if card.dense:
        raise AdapterError(f"{folder}: a dense change of the weights, not a PEFT adapter: see fusion.weights.apply_dense")
    config = _read_config(folder)
    _check_saved(folder, _expected(backbone.model, config), trained=False)
    state = load_file(folder / WEIGHTS)
    with torch.random.fork_rng(devices=[]):
        peft = _add(backbone, config, name)
    set_peft_model_state_dict(peft, state, adapter_name=name)
    landed = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
    lost = sorted(set(state) ^ set(landed)) or [k for k in state if not torch.equal(landed[k].cpu(), state[k].to(landed[k].dtype))]
    if lost:
        raise AdapterError(f"{folder / WEIGHTS}: PEFT did not take in {', '.join(lost[:3])}: is its version supported?")
    for key, parameter in backbone.model.named_parameters():
        if _base_name(key) is None:
            parameter.requires_grad_(False)
    return peft


def _read_config(folder: Path) -> LoraConfig:
    path = folder / PEFT_CONFIG
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError) as error:
        raise AdapterError(f"{path}: no readable PEFT configuration: {error}") from error
    if raw.get("peft_type") != "LORA" or raw.get("auto_mapping") or raw.get("bias", "none") != "none":
        raise AdapterError(f"{path}: only LoRA without biases is supported, found {raw.get('peft_type')!r}")
    config = LoraConfig.from_pretrained(str(folder))
    config.inference_mode = False
    return config

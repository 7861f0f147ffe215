"""Adapters: what is trained on a frozen backbone, attached, saved, loaded and switched.

PEFT does the arithmetic and its folder format is kept, so a saved adapter also loads in plain PEFT. What PEFT leaves
open is closed here: target modules are full names, every tensor must land, and an adapter is bound to its backbone.
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model, get_peft_model_state_dict, set_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import ModulesToSaveWrapper
from safetensors.torch import load_file
from torch import Tensor, nn

from latefuse.config import AdapterConfig
from latefuse.models.adapter_files import (
    CARD,
    WEIGHTS,
    AdapterCard,
    AdapterError,
    base_name,
    check_weights,
    expected_tensors,
    read_card,
    read_config,
    write,
)
from latefuse.models.backbone import Backbone

__all__ = [
    "AdapterCard",
    "AdapterError",
    "active",
    "attach",
    "base_size",
    "detach",
    "gradient_norms",
    "kept",
    "load",
    "module_digest",
    "parameter_counts",
    "read_card",
    "remove",
    "save",
    "target_modules",
]


def target_modules(backbone: Backbone, adapter: AdapterConfig, modality: str | Iterable[str]) -> list[str]:
    """Full names of the linears that carry LoRA: text touches the language model only, a tower its own modality's."""
    modalities = [modality] if isinstance(modality, str) else list(modality)
    if "language" in adapter.on:
        backbone.must_speak()
    unknown = [m for m in modalities if m not in backbone.modalities]
    if unknown or not modalities:
        raise AdapterError(
            f"backbone {backbone.name!r} reads {', '.join(backbone.modalities)}, not {unknown or 'nothing'}"
        )
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
    backbone.tuned = None
    return backbone.peft


def detach(backbone: Backbone) -> None:
    """Take all adapters off; the backbone is as it was loaded."""
    if backbone.peft is not None:
        for module in backbone.model.modules():
            if isinstance(module, ModulesToSaveWrapper):
                module.set_adapter([])  # PEFT would leave the trained copy in the place of the original
        backbone.model = backbone.peft.unload()
        backbone.model.requires_grad_(False)
        backbone.peft = backbone.tuned = None


@contextmanager
def active(backbone: Backbone, names: str | Sequence[str] | None) -> Iterator[None]:
    """Inside, exactly these adapters act (their weight changes add up), or none; afterwards all is as before."""
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
    with kept(backbone):
        layers, _ = _tuned(backbone)
        _switch(layers, [wanted] * len(layers), trained=True)
        yield


@contextmanager
def kept(backbone: Backbone) -> Iterator[None]:
    """Afterwards the same adapters act and learn as before, whatever was switched, added or removed inside."""
    restore = _remembered(backbone)
    try:
        yield
    finally:
        restore()


def _remembered(backbone: Backbone) -> Callable[[], None]:
    """What brings back the adapters that act and learn now."""
    layers, parameters = _tuned(backbone)
    before = {id(layer): list(layer.active_adapters) for layer in layers}
    learning = [parameter for parameter in parameters if parameter.requires_grad]
    parts = (backbone.peft, backbone.peft.base_model) if backbone.peft else ()
    named = [part.active_adapter for part in parts]

    def restore() -> None:
        here, _ = _tuned(backbone)
        _switch(here, [before.get(id(layer), []) for layer in here], trained=False)
        for part, name in zip(parts, named, strict=True):
            part.active_adapter = name
        for parameter in learning:
            parameter.requires_grad_(True)

    return restore


def remove(backbone: Backbone, name: str) -> None:
    """Take one adapter off; with the last one the backbone is as it was loaded."""
    if set(backbone.peft.peft_config) == {name}:
        detach(backbone)
        return
    with kept(backbone):
        backbone.peft.delete_adapter(name)
        backbone.tuned = None


def _tuned(backbone: Backbone) -> tuple[list[Any], list[nn.Parameter]]:
    """The modules that hold adapters and their parameters; kept, for mixed decoding switches at every token."""
    if backbone.tuned is None:
        held = (BaseTunerLayer, ModulesToSaveWrapper)
        layers = [module for module in backbone.model.modules() if isinstance(module, held)]
        backbone.tuned = layers, [parameter for layer in layers for parameter in layer.parameters()]
    return backbone.tuned


def _switch(layers: Sequence[Any], wanted: Sequence[Sequence[str]], trained: bool) -> None:
    """Let exactly the wanted adapters act in each layer, and take gradients or not. PEFT's switch walks the model."""
    for layer, names in zip(layers, wanted, strict=True):
        known = (
            names if isinstance(layer, BaseTunerLayer) else [name for name in names if name in layer.modules_to_save]
        )
        layer.set_adapter(known, inference_mode=not trained)


def parameter_counts(backbone: Backbone) -> tuple[int, int]:
    """How many parameters are trained, and how many there are in all, those of adapter and head among both."""
    parts = (backbone.model,) if backbone.head is None else (backbone.model, backbone.head)
    return sum(map(_whole_size, backbone.trained())), sum(_whole_size(p) for part in parts for p in part.parameters())


def _whole_size(parameter: nn.Parameter) -> int:
    """Its numbers, also where ZeRO-3 has left a piece of them here."""
    return int(getattr(parameter, "ds_numel", parameter.numel()))


def module_digest(
    model: nn.Module,
    without: Container[str] = (),
    whole_one: Callable[[Sequence[Tensor]], AbstractContextManager[None]] = lambda one: nullcontext(),
) -> str:
    """SHA-256 over the base's parameters and buffers, adapters left out: equal before, during and after training.

    without: names of parameters that are left out as well, because they learn. whole_one: makes one whole, of which a
    process may hold only a piece.
    """
    whole = hashlib.sha256()
    named = {base_name(n): t for n, t in (*model.named_parameters(), *model.named_buffers())}
    for name in sorted(n for n in named if n is not None and n not in without):
        whole.update(name.encode())
        with whole_one([named[name]]):
            whole.update(named[name].detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return whole.hexdigest()


def gradient_norms(backbone: Backbone) -> dict[str, float]:
    """Gradient norm per part of the backbone in which something is trained; 0.0 where no gradient came."""
    squares: dict[str, float] = {}
    roles = {name: part for part, names in backbone.parts().items() for name in names}
    for name, parameter in backbone.model.named_parameters():
        if parameter.requires_grad:
            module = re.split(r"\.(?:lora_\w+|modules_to_save)\.", name)[0]
            whole = "language" if name in backbone.whole and not name.startswith(backbone.family.bridge) else "bridge"
            part = roles.get(module, whole)
            square = 0.0 if parameter.grad is None else float(numbers_of(parameter.grad).float().square().sum())
            squares[part] = squares.get(part, 0.0) + square
    if backbone.head is not None:
        squares["head"] = sum(
            float(numbers_of(p.grad).float().square().sum()) for p in backbone.head.parameters() if p.grad is not None
        )
    return {part: value**0.5 for part, value in squares.items()}


def numbers_of(gradient: Tensor) -> Tensor:
    """A gradient's numbers: of a sparse one those of the rows that it has."""
    return gradient.coalesce().values() if gradient.is_sparse else gradient


def save(peft_model: PeftModel, folder: str | Path, card: AdapterCard, name: str = "default") -> AdapterCard:
    """Write an adapter in PEFT's format with its card, read it again and check it. Returns the card as written.

    Target modules and parameter counts of the card are filled in. Raises AdapterError when a tensor is empty, not
    finite or missing, or when no weight change was learned.
    """
    config = _explicit(peft_model, name)
    state = get_peft_model_state_dict(peft_model, adapter_name=name, save_embedding_layers=False)
    card = card.model_copy(
        update={
            "target_modules": tuple(config.target_modules or ()),
            "modules_to_save": tuple(config.modules_to_save or ()),
            "parameters": sum(tensor.numel() for tensor in state.values()),
            "total_parameters": base_size(peft_model),
        }
    )
    write(Path(folder), state, config, card)
    check_weights(Path(folder), expected_tensors(peft_model.get_base_model(), config), trained=True)
    return card


def base_size(model: nn.Module) -> int:
    """How many parameters a model has without its adapters."""
    return sum(_whole_size(p) for n, p in model.named_parameters() if base_name(n) is not None)


def _explicit(peft_model: PeftModel, name: str) -> LoraConfig:
    """The adapter's configuration with the full names of what carries it: PEFT shortens long lists to suffixes."""
    config = copy.copy(peft_model.peft_config[name])
    modules = peft_model.get_base_model().named_modules()
    config.target_modules = sorted(n for n, module in modules if name in getattr(module, "lora_A", ()))
    return config


@contextmanager
def _all_or_nothing(backbone: Backbone, name: str) -> Iterator[None]:
    """Inside, the adapter `name` is added; after an error it is taken off again and what acted before acts again."""
    known = set(backbone.peft.peft_config) if backbone.peft else set()
    restore = _remembered(backbone)
    try:
        yield
    except BaseException:
        if backbone.peft is not None and name in set(backbone.peft.peft_config) - known:
            remove(backbone, name)
            restore()
        raise


def load(backbone: Backbone, folder: str | Path, name: str = "default") -> PeftModel:
    """Attach a saved adapter, frozen, and make it active.

    Raises AdapterError, and leaves the backbone as it was, unless the adapter was made on a backbone of this digest
    and every tensor lands with none left over.
    """
    folder = Path(folder)
    card = read_card(folder)
    if card.backbone_digest != backbone.digest:
        raise AdapterError(
            f"{folder / CARD}: made on a backbone of digest {card.backbone_digest[:16]}, this one "
            f"({backbone.name}) has {backbone.digest[:16]}; load the backbone it was trained on"
        )
    if card.dense:
        raise AdapterError(
            f"{folder}: a dense change of the weights, not a PEFT adapter: see fusion.weights.apply_dense"
        )
    config = read_config(folder)
    check_weights(folder, expected_tensors(backbone.model, config), trained=False)
    state = load_file(folder / WEIGHTS)
    with _all_or_nothing(backbone, name), torch.random.fork_rng(devices=[]):
        peft = _add(backbone, config, name)
        set_peft_model_state_dict(peft, state, adapter_name=name)
        landed = get_peft_model_state_dict(peft, adapter_name=name, save_embedding_layers=False)
        lost = sorted(set(state) ^ set(landed)) or [
            k for k in state if not torch.equal(landed[k].cpu(), state[k].to(landed[k].dtype))
        ]
        if lost:
            names = ", ".join(lost[:3])
            raise AdapterError(f"{folder / WEIGHTS}: PEFT did not take in {names}: is its version supported?")
    for key, parameter in backbone.model.named_parameters():
        if base_name(key) is None:
            parameter.requires_grad_(False)
    return peft

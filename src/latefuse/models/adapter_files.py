"""The files of a saved adapter: PEFT's two, and the card that binds them to a backbone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from peft import LoraConfig
from peft.utils.other import get_pattern_key
from pydantic import BaseModel, ConfigDict, ValidationError, field_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from latefuse.config import Modality
from latefuse.config_judge import Judge
from latefuse.config_personal import Personalise
from latefuse.config_rank import Inputs, Rank
from latefuse.config_vectors import Embed
from latefuse.errors import UserError

CARD = "adapter.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
PREFIX = "base_model.model."


class AdapterError(UserError, RuntimeError):
    """An adapter that can't be made, saved or loaded; the message names the tensor or file and what to do."""


class AdapterCard(BaseModel):
    """What an adapter is, beside PEFT's own files. `modality` may be given as one word. max_tokens: of the rows that it
    learned from, 0 where it is not known; where: which rows of the table those are. embed, judge, rank and its inputs,
    personalise: of that kind only."""

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
    max_tokens: int = 0
    where: dict[str, str] = {}
    embed: Embed | None = None
    judge: Judge | None = None
    rank: Rank | None = None
    inputs: Inputs | None = None
    personalise: Personalise | None = None

    @field_validator("modality", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


def base_name(name: str) -> str | None:
    """The name that a parameter has without adapters; None for a parameter of an adapter."""
    if re.search(r"\.(lora_\w+|modules_to_save)\.", name):
        return None
    return name.removeprefix(PREFIX).replace(".base_layer.", ".").replace(".original_module.", ".")


def read_card(folder: str | Path, fingerprint: str | None = None) -> AdapterCard:
    """The card of a saved adapter. Raises AdapterError when it is missing or malformed.

    fingerprint: of the dataset that the adapter is used with; one that was trained on another is refused, since rows it
    has learned may stand in this one's test split.
    """
    path = Path(folder) / CARD
    try:
        card = AdapterCard.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; an adapter of latefuse has its card there") from None
    except (ValidationError, ValueError) as error:
        raise AdapterError(f"{path}: not an adapter card: {error}") from error
    if fingerprint is not None and card.data_fingerprint != fingerprint:
        raise AdapterError(
            f"{path}: trained on dataset {card.data_fingerprint[:12]}, but this is {fingerprint[:12]}: rows it has "
            "learned may be test rows here; run finetune on this dataset"
        )
    return card


def write(folder: Path, state: Mapping[str, Tensor], config: LoraConfig, card: AdapterCard) -> None:
    """Write weights, PEFT's configuration and the card; equal inputs give equal bytes."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {key: state[key].detach().cpu().contiguous() for key in sorted(state)}
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})
    _write_config(folder, config)
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")


def write_tensors(path: Path, state: Mapping[str, Tensor]) -> int:
    """Tensors beside PEFT's own, sorted by name, read again and compared; returns how many numbers they are.

    Raises AdapterError where one is not finite, or comes back changed.
    """
    tensors = {name: state[name].detach().cpu().contiguous() for name in sorted(state)}
    broken = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if broken:
        raise AdapterError(f"{path}: not finite: {', '.join(broken[:3])}; lower train.lr")
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={"format": "pt"})
    again = load_file(path)
    changed = [name for name in tensors if name not in again or not torch.equal(again[name], tensors[name])]
    if changed:
        raise AdapterError(f"{path}: {', '.join(changed[:3])} came back changed; is the disk full?")
    return sum(tensor.numel() for tensor in tensors.values())


def load_tensors(path: Path, module: nn.Module, kind: str) -> None:
    """Put what `write_tensors` wrote into a module, frozen from then on and in evaluation mode.

    kind: of the adapter, for messages. Raises AdapterError unless every tensor lands with none left over.
    """
    try:
        state = load_file(path)
    except FileNotFoundError:
        raise AdapterError(f"{path}: no such file; an adapter of kind {kind} has its weights there") from None
    except SafetensorError as error:
        raise AdapterError(f"{path}: no readable safetensors: {error}") from None
    own = module.state_dict()
    wrong = sorted(set(own) ^ set(state)) or [name for name in own if own[name].shape != state[name].shape]
    if wrong:
        raise AdapterError(f"{path}: {len(wrong)} tensor(s) do not fit this {kind} network: {', '.join(wrong[:3])}")
    module.load_state_dict(state)
    module.eval().requires_grad_(False)


def _write_config(folder: Path, config: LoraConfig) -> None:
    """PEFT's JSON with sorted lists (a set's order differs between processes) and without a path of this machine."""
    raw = {k: sorted(v) if isinstance(v, (set, frozenset)) else v for k, v in config.to_dict().items()}
    raw |= {"inference_mode": True, "base_model_name_or_path": None}
    (folder / PEFT_CONFIG).write_text(json.dumps(raw, indent=1, sort_keys=True, default=str) + "\n", encoding="utf-8")


def expected_tensors(model: nn.Module, config: LoraConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that an adapter of this configuration has on this model."""
    shapes: dict[str, tuple[int, ...]] = {}
    for name in config.target_modules or ():
        linear = _linear(model, name)
        rank = config.rank_pattern.get(get_pattern_key(config.rank_pattern.keys(), name), config.r)
        shapes[f"{PREFIX}{name}.lora_A.weight"] = (rank, linear.in_features)
        shapes[f"{PREFIX}{name}.lora_B.weight"] = (linear.out_features, rank)
        if config.use_dora:
            shapes[f"{PREFIX}{name}.lora_magnitude_vector"] = (linear.out_features,)
    for name in config.modules_to_save or ():
        module = model.get_submodule(name)
        module = getattr(module, "original_module", module)
        for n, parameter in module.named_parameters():
            shapes[f"{PREFIX}{name}.{n}"] = tuple(getattr(parameter, "ds_shape", parameter.shape))  # ZeRO-3's own name
    return shapes


def _linear(model: nn.Module, name: str) -> Any:
    try:
        module = model.get_submodule(name)
    except AttributeError:
        raise AdapterError(f"module {name!r} of the adapter is not in this backbone") from None
    return getattr(module, "base_layer", module)


def check_weights(folder: Path, expected: dict[str, tuple[int, ...]], trained: bool) -> None:
    """Raise AdapterError unless the file holds exactly the expected tensors, all finite, and B is not all zero."""
    path = folder / WEIGHTS
    if not path.is_file():
        raise AdapterError(f"{path}: no such file; adapters are safetensors, pickles are never read")
    with safe_open(path, framework="pt") as file:
        found = {key: tuple(file.get_slice(key).get_shape()) for key in list(file.keys())}
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


def read_config(folder: Path) -> LoraConfig:
    """The PEFT configuration of a saved adapter. Raises AdapterError when it is not plain LoRA."""
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

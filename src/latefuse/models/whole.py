"""Parts of a backbone trained whole instead of by LoRA: which weights they are, saved, loaded and put back."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from latefuse.config import AdapterConfig
from latefuse.models.adapter_files import AdapterError, write_tensors
from latefuse.models.backbone import Backbone

WHOLE = "whole.safetensors"


def train_whole(backbone: Backbone, adapter: AdapterConfig, media: bool) -> list[str]:
    """Let the language model, and the bridge where media are read and `on` names it, learn whole.

    Returns the names of their parameters. Raises AdapterError on a backbone without a language model.
    """
    family = backbone.family
    parts = (*family.language, *(family.bridge if media and "bridge" in adapter.on else ()))
    if not family.language:
        raise AdapterError(f"backbone {backbone.name!r} has no language model: leave adapter.language_full out")
    names = [name for name, _ in backbone.model.named_parameters() if name.startswith(tuple(f"{p}." for p in parts))]
    for name in names:
        backbone.model.get_parameter(name).requires_grad_(True)
    backbone.whole = dict.fromkeys(names)
    return names


def save_whole(backbone: Backbone, folder: Path) -> int:
    """Write the weights that were trained whole; returns how many numbers they are. Raises AdapterError."""
    if not backbone.whole:
        return 0
    return write_tensors(folder / WHOLE, {name: backbone.model.get_parameter(name) for name in backbone.whole})


@torch.no_grad()
def load_whole(backbone: Backbone, folder: Path) -> None:
    """Put saved weights on the backbone; the old ones are kept for `put_back`. Raises AdapterError."""
    path = folder / WHOLE
    if not path.exists():
        return
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise AdapterError(f"{path}: no readable safetensors: {error}") from None
    own = dict(backbone.model.named_parameters())
    wrong = [name for name, tensor in state.items() if name not in own or own[name].shape != tensor.shape]
    if wrong:
        raise AdapterError(f"{path}: {len(wrong)} tensor(s) do not fit this backbone: {', '.join(wrong[:3])}")
    backbone.whole = {name: own[name].detach().clone() for name in state}
    for name, tensor in state.items():
        own[name].copy_(tensor)


@torch.no_grad()
def put_back(backbone: Backbone) -> None:
    """Undo `load_whole`."""
    model: nn.Module = backbone.model
    for name, old in backbone.whole.items():
        if old is not None:
            model.get_parameter(name).copy_(old)
    backbone.whole = {}

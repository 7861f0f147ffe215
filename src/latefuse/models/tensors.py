"""Reading a model folder: every tensor lands, none is left over, and nothing in the folder is executed."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import torch
import transformers

from latefuse.models.families import FAMILIES, Family
from latefuse.models.folder import FROM_FOLDER, BackboneError, must_be_complete
from latefuse.models.towers import read_transform
from latefuse.progress import no_library_bars


def family_of(folder: Path) -> Family:
    """The row of FAMILIES for a model folder. Raises BackboneError when there is none."""
    kind = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    if kind not in FAMILIES:
        raise BackboneError(f"{folder}: no family {kind!r}; known: {', '.join(FAMILIES)} (models/families.py)")
    return FAMILIES[kind]


def model_class(family: Family) -> Any:
    """The class of a family's models; importing it makes its configuration known to the library."""
    return getattr(importlib.import_module(family.module), family.model_class)


def read_model(folder: Path, family: Family, dtype: str) -> Any:
    """The model, frozen, in evaluation mode; dtype "auto" is the checkpoint's own.

    Raises BackboneError unless every tensor landed.
    """
    kind = dtype if dtype == "auto" else getattr(torch, dtype)
    with no_library_bars():
        model, info = model_class(family).from_pretrained(folder, dtype=kind, **FROM_FOLDER)
    must_be_complete(folder, info)
    return model.eval().requires_grad_(False)


def check_tensors(folder: Path) -> None:
    """Raise BackboneError unless the weights fit the architecture tensor by tensor; reads names and shapes only."""
    with no_library_bars():
        _, info = model_class(family_of(folder)).from_pretrained(folder, device_map="meta", **FROM_FOLDER)
    must_be_complete(folder, info)


def read_processor(folder: Path, family: Family, config: Any, side: int | None) -> Any:
    """The PIL image processor with the folder's own settings, or with the tower's size where it has none."""
    if not family.image_processor:
        return None
    if family.kind != "whole":
        return read_transform(folder)
    processor_class = getattr(transformers, family.image_processor)
    if any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        return processor_class.from_pretrained(folder, local_files_only=True)
    return processor_class(**family.processor_options(config, side))

"""Any vision tower of transformers as one kind: its own picture transform, its tokens, first the one that sums up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoImageProcessor
from transformers.models.auto.image_processing_auto import (
    IMAGE_PROCESSOR_MAPPING_NAMES,
    get_image_processor_class_from_name,
)

from latefuse.models.folder import BackboneError

CLS = ("cls_token", "class_token", "class_embedding")
PROBES = ((96, 64), (64, 96))


def has_cls(tower: nn.Module) -> bool:
    """Whether the tower's first token sums the picture up (ViT, CLIP, DINOv2), by the parameter it starts from."""
    return any(name.rpartition(".")[2] in CLS for name, _ in tower.named_parameters())


def look(tower: nn.Module, pixels: Tensor) -> Tensor:
    """The last hidden layer of a tower, (n, 1 + P, dv): what sums the picture up, then its P patches.

    pixels: (n, C, H, W). First stands the CLS token; for a tower without one its pooled output, or the mean of the
    patches where it has none of that width. The patches of a convolutional tower are the places of its map, row by row.
    """
    out = tower(pixels)
    states = out.last_hidden_state
    if states.dim() == 4:
        states = states.flatten(2).transpose(1, 2)
    elif has_cls(tower):
        return states
    pooled = getattr(out, "pooler_output", None)
    whole = states.mean(1) if pooled is None else pooled.flatten(1)
    if whole.shape[1] != states.shape[2]:
        whole = states.mean(1)
    return torch.cat([whole.unsqueeze(1), states], dim=1)


def transform(folder: Path, config: Any, side: int | None) -> Any:
    """The PIL image processor of a checkpoint, or the one its kind of tower has by default.

    config: the tower's. side: pixels of the square that pictures become, as the checkpoint says unless given. Raises
    BackboneError where neither the checkpoint nor the library knows a transform.
    """
    if any((folder / name).exists() for name in ("preprocessor_config.json", "processor_config.json")):
        return sized(read_transform(folder), side) if side else read_transform(folder)
    return default_transform(config, side, folder)


def read_transform(folder: Path) -> Any:
    """The PIL image processor that a folder describes."""
    return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")


def default_transform(config: Any, side: int | None = None, where: Path | str = "tower") -> Any:
    """What the library does for towers of this kind, at `side` or at the tower's own size."""
    name = IMAGE_PROCESSOR_MAPPING_NAMES.get(config.model_type.removesuffix("_vision_model"), {}).get("pil")
    found = get_image_processor_class_from_name(name) if name else None
    if found is None:
        raise BackboneError(
            f"{where}: no preprocessor_config.json, and no known picture transform for a tower of type "
            f"{config.model_type!r}: put the model's own file there"
        )
    size = side or getattr(config, "image_size", None)
    return sized(found(), size) if isinstance(size, int) else found()


def sized(processor: Any, side: int) -> Any:
    """The same transform to side x side pixels; where it cuts a centre out, that centre keeps its share."""
    options = {key: value for key, value in processor.to_dict().items() if not key.endswith("_type")}
    square = {"height": side, "width": side}
    if options.get("do_center_crop") and options.get("crop_size"):
        scale = side / options["crop_size"]["height"]
        size = {key: round(value * scale) for key, value in options["size"].items()}
        options["crop_size"] = square
    elif "crop_pct" in options:
        size = {"shortest_edge": side}  # ConvNeXt's, which cuts its share out by itself
    else:
        size = square
    return type(processor)(**{**options, "size": size})


@torch.no_grad()
def probe(tower: nn.Module, processor: Any, where: Path | str) -> tuple[int, int]:
    """(1 + P, dv) of every picture, tried with a wide one and a high one.

    Raises BackboneError where the tower can't take what the transform makes, or pictures differ in their tokens.
    """
    pictures = [Image.new("RGB", shape, (128, 128, 128)) for shape in PROBES]
    wide, high = (processor([picture], return_tensors="pt")["pixel_values"] for picture in pictures)
    if wide.dim() != 4 or wide.shape != high.shape:
        raise BackboneError(
            f"{where}: its transform makes {tuple(wide.shape)} of a wide picture, {tuple(high.shape)} of a high one: "
            "set backbone.options.side, so that every picture becomes one square"
        )
    try:
        shape = look(tower, wide).shape
    except (RuntimeError, ValueError) as error:
        raise BackboneError(
            f"{where}: the tower can't take pictures of {tuple(wide.shape[-2:])} pixels: {error}"
        ) from error
    return int(shape[1]), int(shape[2])

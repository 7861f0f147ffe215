"""Qwen-VL's part of the wiring: flat patches, three positions a token, pixels through the model's own forward.

The library lets every picture have its own resolution. Here all have `side` x `side` pixels, so that a medium takes
the same number of tokens everywhere.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from latefuse.models.wiring import count_placeholders

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone, MediaBatch

SIDE = 448
"""Pixels of a picture's side where the recipe names none."""


def options(config: Any, side: int | None) -> dict[str, Any]:
    """Qwen-VL at one resolution: side x side pixels for every picture and frame."""
    vision, side = config.vision_config, side or SIDE
    factor = vision.patch_size * vision.spatial_merge_size
    if side % factor:
        raise ValueError(f"side={side}: this backbone needs a multiple of {factor} pixels")
    return {
        "size": {"shortest_edge": side**2, "longest_edge": side**2},
        "patch_size": vision.patch_size,
        "temporal_patch_size": vision.temporal_patch_size,
        "merge_size": vision.spatial_merge_size,
    }


def grid(backbone: Backbone, modality: str) -> tuple[int, int, int]:
    """Patches in time, height and width of one medium."""
    vision = backbone.model.config.vision_config
    side = (backbone.side or SIDE) // vision.patch_size
    return (1 if modality == "image" else math.ceil(backbone.frames / vision.temporal_patch_size), side, side)


def pixels(backbone: Backbone, images: list[Image.Image], modality: str) -> Tensor:
    """Flat patches (n, patches, dim). A clip's patch holds `temporal_patch_size` frames; the last frame is repeated."""
    vision, side = backbone.model.config.vision_config, backbone.side or SIDE
    squares = [image.convert("RGB").resize((side, side), Image.Resampling.BICUBIC) for image in images]
    fixed = options(backbone.model.config, side)
    patches = backbone.processor(squares, return_tensors="pt", **fixed)["pixel_values"]
    patches = patches.reshape(len(images), -1, patches.shape[-1])
    if modality == "image":
        return patches
    span, steps = vision.temporal_patch_size, grid(backbone, "video")[0]
    clips = patches.reshape(-1, backbone.frames, *patches.shape[1:])
    clips = torch.cat([clips, clips[:, -1:].expand(-1, steps * span - backbone.frames, -1, -1)], dim=1)
    clips = clips.reshape(len(clips), steps, span, clips.shape[2], vision.in_channels, span, -1)
    mixed = torch.stack([clips[:, :, i, :, :, i] for i in range(span)], dim=-2)
    return mixed.reshape(len(clips), steps * mixed.shape[2], -1)


def encode(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """(n, 1, dv): the mean of the last block's patches, before the merger, which may learn.

    It sums a medium up and nothing more: the language model is always fed with pixels.
    """
    grids = torch.tensor([grid(backbone, modality)] * len(pixels), device=pixels.device)
    states = backbone.inner.visual(pixels.flatten(0, 1), grid_thw=grids).last_hidden_state
    return states.reshape(len(pixels), -1, states.shape[-1]).mean(1, keepdim=True)


def expand(backbone: Backbone, modality: str) -> list[int]:
    """Qwen2.5-VL (arXiv 2502.13923): merged patches between the marks of vision."""
    config = backbone.model.config
    tokens = math.prod(grid(backbone, modality)) // config.vision_config.spatial_merge_size**2
    return [config.vision_start_token_id, *[backbone.token_id(modality)] * tokens, config.vision_end_token_id]


def v3_expand(backbone: Backbone, modality: str) -> list[int]:
    """Qwen3-VL (arXiv 2511.21631): a clip's time stands in words; it counts as one frame a second."""
    if modality == "image":
        return expand(backbone, modality)
    config, (steps, height, width) = backbone.model.config, grid(backbone, modality)
    span = config.vision_config.temporal_patch_size
    tokens = [backbone.token_id("video")] * (height * width // config.vision_config.spatial_merge_size**2)
    view = [config.vision_start_token_id, *tokens, config.vision_end_token_id]
    times = [f"<{step * span + (span - 1) / 2:.1f} seconds>" for step in range(steps)]
    return [i for time in times for i in (*backbone.tokenizer.encode(time, add_special_tokens=False), *view)]


def feed(backbone: Backbone, input_ids: Tensor, media: MediaBatch | None) -> dict[str, Any]:
    """The model's own inputs: pixels, their grids and the kind of each token, from which it makes 3-d positions."""
    inputs: dict[str, Any] = {"input_ids": input_ids}
    kinds = torch.zeros_like(input_ids)
    merge = backbone.model.config.vision_config.spatial_merge_size**2
    for number, (modality, name) in enumerate((("image", "pixel_values"), ("video", "pixel_values_videos")), start=1):
        pixels = dict(media.items()).get(modality) if media else None
        if pixels is None:
            continue
        places = input_ids == backbone.token_id(modality)
        count_placeholders(places, pixels.shape[0], pixels.shape[1] // merge, modality)
        kinds[places] = number
        inputs[name] = pixels.flatten(0, 1).to(backbone.device, backbone.model.dtype)
        inputs[f"{modality}_grid_thw"] = torch.tensor([grid(backbone, modality)] * len(pixels), device=backbone.device)
    return inputs if len(inputs) == 1 else {**inputs, "mm_token_type_ids": kinds}


def positions(inner: Any, inputs: dict[str, Any], mask: Tensor, plain: Tensor, cache: Any) -> Tensor:
    """Time, height and width of each token: (3, B, L). A medium takes fewer positions than tokens.

    By how many is kept with the key-value cache, for the tokens that follow; the model itself would keep only its last
    batch's, which is wrong as soon as two caches are in use.
    """
    if "mm_token_type_ids" not in inputs:
        return (plain + getattr(cache, "rope_deltas", 0)).expand(3, -1, -1)
    meta = {key: value for key, value in inputs.items() if key.endswith(("_ids", "_thw"))}
    positions, deltas = inner.get_rope_index(**meta, attention_mask=mask)
    if cache is not None:
        cache.rope_deltas = deltas
    return positions

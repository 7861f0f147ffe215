"""One row per family of backbones: where its parts are and how a medium becomes tokens.

Everything that differs between vision-language models is a value or a small function here; nothing else in the
project asks which model it has. `inner` is always the model without its language-model head (`model.model`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone, MediaBatch

Encode = Callable[[Any, Tensor, str], Tensor]
Bridge = Callable[[Any, Tensor, str], Tensor]
Expand = Callable[["Backbone", str], list[int]]
Feed = Callable[["Backbone", Tensor, Tensor, "MediaBatch | None"], dict[str, Any]]
Pixels = Callable[["Backbone", Any, str], Tensor]
Used = Callable[[Any], int | None]


@dataclass(frozen=True)
class Family:
    """One row of the table.

    tower, bridge, language: prefixes of module names. token: modality -> config attribute with the placeholder's id.
    encode: pixels -> what the frozen tower makes of them; bridge_forward: that -> embeddings (n, tokens, d) of the
    language model. expand: the ids that one medium takes in `input_ids`. feed: what the inner model is called with.
    used_layers: how many tower layers the features depend on (None: all). cacheable: features of the frozen tower
    can be stored and fed later, with the bridge still training.
    """

    model_class: str
    language: tuple[str, ...]
    bridge: tuple[str, ...] = ()
    tower: Mapping[str, str] = field(default_factory=dict)
    token: Mapping[str, str] = field(default_factory=dict)
    image_processor: str = ""
    processor_options: Callable[[Any, int | None], dict[str, Any]] = lambda config, side: {}
    encode: Encode | None = None
    bridge_forward: Bridge | None = None
    expand: Expand | None = None
    feed: Feed | None = None
    pixels: Pixels | None = None
    used_layers: Used = lambda config: None
    cacheable: bool = True

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the family can read; text always."""
        return (*self.tower, "text")


# ------ shared small functions


def grid(config: Any) -> int:
    """Patches along one side of a picture."""
    return int(config.vision_config.image_size) // int(config.vision_config.patch_size)


def _used_layers(config: Any) -> int:
    """hidden_states[k] is what k layers make, so layer -2 leaves the last tower layer without a gradient."""
    layers = int(config.vision_config.num_hidden_layers)
    chosen = config.vision_feature_layer
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    return max(layer if layer >= 0 else layers + 1 + layer for layer in chosen)


def _frames_flat(pixels: Tensor) -> tuple[Tensor, int, int]:
    """(n, C, H, W) or (n, frames, C, H, W) -> all frames in one batch, n, frames."""
    if pixels.dim() == 4:
        return pixels, pixels.shape[0], 1
    return pixels.flatten(0, 1), pixels.shape[0], pixels.shape[1]


def _select(tower: nn.Module, pixels: Tensor, config: Any, drop_first: bool) -> Tensor:
    """The hidden states that the family's bridge reads: one layer, or several side by side; (n, frames*tokens, dim)."""
    flat, n, frames = _frames_flat(pixels)
    states = tower(flat, output_hidden_states=True).hidden_states
    chosen = config.vision_feature_layer
    chosen = [chosen] if isinstance(chosen, int) else list(chosen)
    features = torch.cat([states[layer][:, 1:] if drop_first else states[layer] for layer in chosen], dim=-1)
    return features.reshape(n, frames * features.shape[1], features.shape[2])


def _project(inner: Any, features: Tensor, modality: str) -> Tensor:
    return inner.multi_modal_projector(features)


def _standard_pixels(backbone: Backbone, images: Any, modality: str) -> Tensor:
    """(n, C, H, W) of the family's own PIL image processor."""
    return backbone.processor(images, return_tensors="pt")["pixel_values"]


def splice(backbone: Backbone, input_ids: Tensor, attention_mask: Tensor, media: MediaBatch | None) -> dict[str, Any]:
    """Word embeddings, with the bridge's output in the place of the placeholders.

    The model's own forward does the same; done here, features that were stored before the bridge can enter as well.
    """
    embeds = backbone.model.get_input_embeddings()(input_ids)
    ids = {}
    for modality, vectors in backbone.embed_media(media):
        token = backbone.token_id(modality)
        if token in ids:
            raise ValueError(f"{ids[token]} and {modality} share one placeholder in this backbone: one per batch")
        ids[token] = modality
        places = input_ids == token
        if int(places.sum()) != vectors.shape[0] * vectors.shape[1]:
            raise ValueError(
                f"{modality}: {int(places.sum())} placeholder tokens in {input_ids.shape[0]} rows, but "
                f"{vectors.shape[0]} media of {vectors.shape[1]} tokens; each medium needs all of its placeholders"
            )
        mask = places.unsqueeze(-1).expand_as(embeds)
        embeds = embeds.masked_scatter(mask, vectors.to(embeds.device, embeds.dtype))
    return {"inputs_embeds": embeds}


# ------ Video-LLaVA (arXiv 2311.10122): one tower per modality, one projector


def _video_llava_encode(inner: Any, pixels: Tensor, modality: str) -> Tensor:
    tower = inner.image_tower if modality == "image" else inner.video_tower
    drop = modality == "image" and inner.config.vision_feature_select_strategy == "default"
    return _select(tower, pixels, inner.config, drop)


def _video_llava_expand(backbone: Backbone, modality: str) -> list[int]:
    config = backbone.model.config
    token = backbone.token_id(modality)
    patches = grid(config) ** 2
    if modality == "image":
        return [token] * (patches + (config.vision_feature_select_strategy == "full"))
    marks = backbone.frame_marks or [[]] * backbone.frames
    return [i for mark in marks[: backbone.frames] for i in (*mark, *[token] * (patches + 1))]


FAMILIES: dict[str, Family] = {
    "video_llava": Family(
        model_class="VideoLlavaForConditionalGeneration",
        tower={"image": "model.image_tower", "video": "model.video_tower"},
        bridge=("model.multi_modal_projector",),
        language=("model.language_model",),
        token={"image": "image_token_index", "video": "video_token_index"},
        image_processor="CLIPImageProcessorPil",
        processor_options=lambda config, side: {
            "size": {"shortest_edge": config.vision_config.image_size},
            "crop_size": {"height": config.vision_config.image_size, "width": config.vision_config.image_size},
        },
        encode=_video_llava_encode,
        bridge_forward=_project,
        expand=_video_llava_expand,
        feed=splice,
        pixels=_standard_pixels,
        used_layers=_used_layers,
    ),
}

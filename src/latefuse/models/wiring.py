"""The small functions that the rows of `families` name: pixels, tower features, bridge, placeholders, inputs.

`inner` is always the model without its language-model head. Clips are (n, frames, C, H, W); features and embeddings of
a clip are its frames' tokens one after the other.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor, nn

from latefuse.models.folder import BackboneError
from latefuse.models.towers import has_cls

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone, MediaBatch


def splice(backbone: Backbone, input_ids: Tensor, media: MediaBatch | None) -> dict[str, Any]:
    """Word embeddings, with the bridge's output in the place of the placeholders.

    The model's own forward does the same; done here, features that were stored before the bridge can enter as well.
    """
    embeds = backbone.model.get_input_embeddings()(input_ids)
    taken: dict[int, str] = {}
    for modality, vectors in backbone.embed_media(media):
        token = backbone.token_id(modality)
        if token in taken:
            raise ValueError(
                f"{taken[token]} and {modality} share a placeholder in this backbone: one of them per batch"
            )
        taken[token] = modality
        places = input_ids == token
        count_placeholders(places, vectors.shape[0], vectors.shape[1], modality)
        embeds = embeds.masked_scatter(places.unsqueeze(-1).expand_as(embeds), vectors.to(embeds.device, embeds.dtype))
    return {"inputs_embeds": embeds}


def plain_positions(inner: Any, inputs: dict[str, Any], mask: Tensor, plain: Tensor, cache: Any) -> Tensor:
    """One position a token: `plain` (B, L), counted over the tokens that are not padding."""
    return plain


def count_placeholders(places: Tensor, media: int, tokens: int, modality: str) -> None:
    """Raise ValueError unless `media` of `tokens` tokens each fill the True `places` (B, L) of a batch exactly."""
    if int(places.sum()) != media * tokens:
        raise ValueError(
            f"{modality}: {int(places.sum())} placeholder tokens in {places.shape[0]} rows, but {media} media of "
            f"{tokens} tokens: every medium needs all of its placeholders, none cut off"
        )


def no_media(*_: Any) -> Any:
    """For language models."""
    raise ValueError("this backbone reads text only")


def no_sentences(backbone: Backbone, texts: Any) -> Any:
    """For backbones without a sentence encoder."""
    raise BackboneError(f"backbone {backbone.name!r} has no sentence encoder: only light backbones do")


def no_options(config: Any, side: int | None) -> dict[str, Any]:
    """For language models."""
    return {}


def all_layers(config: Any) -> int | None:
    """The features come from the tower's end."""
    return None


def chosen_layers(config: Any) -> int:
    """hidden_states[k] is what k layers make, so with -2 the last tower layer never gets a gradient."""
    layers = int(config.vision_config.num_hidden_layers)
    return max(layer if layer >= 0 else layers + 1 + layer for layer in _chosen(config))


def chosen_width(config: Any) -> int:
    """The chosen layers' states stand side by side."""
    return int(config.vision_config.hidden_size) * len(_chosen(config))


def vision_width(config: Any) -> int:
    """The tower's own width."""
    return int(config.vision_config.hidden_size)


def nothing_sums_up(inner: Any, modality: str) -> bool:
    """No token stands for the whole picture."""
    return False


def _chosen(config: Any) -> list[int]:
    chosen = config.vision_feature_layer
    return [chosen] if isinstance(chosen, int) else list(chosen)


def grid(config: Any) -> int:
    """Patches along one side of a picture of fixed size."""
    return int(config.vision_config.image_size) // int(config.vision_config.patch_size)


def clip_options(config: Any, side: int | None) -> dict[str, Any]:
    """Shortest edge to the tower's size, then the centre."""
    size = config.vision_config.image_size
    return {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}


def square_options(config: Any, side: int | None) -> dict[str, Any]:
    """The whole picture, squeezed to the tower's square."""
    size = config.vision_config.image_size
    return {"size": {"height": size, "width": size}}


def standard_pixels(backbone: Backbone, images: list[Image.Image], modality: str) -> Tensor:
    """The family's own PIL image processor: (n, C, H, W), or (n, frames, C, H, W) for clips."""
    return as_clips(backbone.processor(images, return_tensors="pt")["pixel_values"], backbone, modality)


def as_clips(pixels: Tensor, backbone: Backbone, modality: str) -> Tensor:
    """(n * frames, ...) -> (n, frames, ...) for video, unchanged for pictures."""
    return pixels if modality == "image" else pixels.reshape(-1, backbone.frames, *pixels.shape[1:])


def flat_frames(pixels: Tensor) -> tuple[Tensor, int, int]:
    """(n, C, H, W) or (n, frames, C, H, W) -> all frames in one batch, n, frames."""
    return (pixels, pixels.shape[0], 1) if pixels.dim() == 4 else (pixels.flatten(0, 1), *pixels.shape[:2])


def _select(tower: nn.Module, pixels: Tensor, config: Any, drop_first: bool) -> Tensor:
    """The hidden states that the bridge reads, one layer or several side by side: (n, frames * tokens, dim)."""
    flat, n, frames = flat_frames(pixels)
    states = tower(flat, output_hidden_states=True).hidden_states
    features = torch.cat([states[layer][:, 1:] if drop_first else states[layer] for layer in _chosen(config)], dim=-1)
    return features.reshape(n, frames * features.shape[1], features.shape[2])


def project(inner: Any, features: Tensor, modality: str) -> Tensor:
    """A projector that works token by token."""
    return inner.multi_modal_projector(features)


def video_llava_encode(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """Video-LLaVA (arXiv 2311.10122): a tower per modality; pictures may drop CLS, clips always keep it."""
    inner = backbone.inner
    tower = inner.image_tower if modality == "image" else inner.video_tower
    drop = modality == "image" and inner.config.vision_feature_select_strategy == "default"
    return _select(tower, pixels, inner.config, drop)


def video_llava_expand(backbone: Backbone, modality: str) -> list[int]:
    """Patches, with CLS where it is kept; a frame's mark, if the backbone has any, before each frame."""
    config, token = backbone.model.config, backbone.token_id(modality)
    patches = grid(config) ** 2
    if modality == "image":
        return [token] * (patches + (config.vision_feature_select_strategy == "full"))
    return marked_frames(backbone, [token] * (patches + 1))


def video_llava_cls(inner: Any, modality: str) -> bool:
    """Clips always keep CLS, pictures under the strategy "full"."""
    tower = inner.image_tower if modality == "image" else inner.video_tower
    return has_cls(tower) and (modality == "video" or inner.config.vision_feature_select_strategy == "full")


def llava_cls(inner: Any, modality: str) -> bool:
    """Where the tower has CLS and the strategy keeps it."""
    return has_cls(inner.vision_tower) and inner.config.vision_feature_select_strategy == "full"


def marked_frames(backbone: Backbone, tokens: list[int]) -> list[int]:
    """The tokens of every frame of a clip, each behind its frame's mark if the backbone has any."""
    marks = backbone.frame_marks or [[]] * backbone.frames
    return [i for mark in marks[: backbone.frames] for i in (*mark, *tokens)]


def llava_encode(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """LLaVA (arXiv 2310.03744) and LLaVA-OneVision: one tower, CLS dropped under the strategy "default"."""
    inner = backbone.inner
    return _select(inner.vision_tower, pixels, inner.config, inner.config.vision_feature_select_strategy == "default")


def llava_expand(backbone: Backbone, modality: str) -> list[int]:
    """Patches, and CLS where it is kept."""
    config = backbone.model.config
    return [backbone.token_id(modality)] * (grid(config) ** 2 + (config.vision_feature_select_strategy == "full"))


def onevision_bridge(inner: Any, features: Tensor, modality: str) -> Tensor:
    """LLaVA-OneVision (arXiv 2408.03326): pictures whole, frames pooled 2 x 2, one newline vector at the end.

    Pictures come as the base view alone, which is the model's own way for several pictures in one conversation.
    """
    vectors = inner.multi_modal_projector(features)
    if modality == "video":
        frames = vectors.reshape(-1, grid(inner.config) ** 2, vectors.shape[-1])
        vectors = inner.apply_pooling(frames).reshape(vectors.shape[0], -1, vectors.shape[-1])
    newline = inner.image_newline.expand(vectors.shape[0], 1, -1)
    return torch.cat([vectors, newline.to(vectors)], dim=1)


def onevision_expand(backbone: Backbone, modality: str) -> list[int]:
    """Patches (pooled ones for each frame) and the newline."""
    side = grid(backbone.model.config)
    tokens = side**2 if modality == "image" else backbone.frames * math.ceil(side / 2) ** 2
    return [backbone.token_id(modality)] * (tokens + 1)


def smolvlm_options(config: Any, side: int | None) -> dict[str, Any]:
    """One view a picture, no tiles."""
    edge = {"longest_edge": config.vision_config.image_size}
    return {"size": edge, "max_image_size": edge, "do_image_splitting": False}


def smolvlm_pixels(backbone: Backbone, images: list[Image.Image], modality: str) -> Tensor:
    """The processor's path without tiles: the whole picture, squeezed to the tower's square."""
    options = smolvlm_options(backbone.model.config, None)
    values = backbone.processor([images], return_tensors="pt", **options)["pixel_values"]
    return as_clips(values[0], backbone, modality)


def smolvlm_encode(backbone: Backbone, pixels: Tensor, modality: str) -> Tensor:
    """SmolVLM (arXiv 2504.05299): every patch of every frame, none masked."""
    inner = backbone.inner
    flat, n, frames = flat_frames(pixels)
    mask = torch.ones(len(flat), grid(inner.config), grid(inner.config), dtype=torch.bool, device=flat.device)
    states = inner.vision_model(pixel_values=flat, patch_attention_mask=mask).last_hidden_state
    return states.reshape(n, frames * states.shape[1], states.shape[2])


def smolvlm_bridge(inner: Any, features: Tensor, modality: str) -> Tensor:
    """Pixel shuffle and projection, frame by frame."""
    frames = features.reshape(-1, grid(inner.config) ** 2, features.shape[-1])
    vectors = inner.connector(frames)
    return vectors.reshape(features.shape[0], -1, vectors.shape[-1])


def smolvlm_expand(backbone: Backbone, modality: str) -> list[int]:
    """The marks of SmolVLM's own template; a clip counts as one frame a second."""
    config, tokenizer = backbone.model.config, backbone.tokenizer
    edge, whole = tokenizer.convert_tokens_to_ids(["<fake_token_around_image>", "<global-img>"])
    patches = [backbone.token_id(modality)] * (grid(config) ** 2 // config.scale_factor**2)
    view = [edge, whole, *patches, edge]
    if modality == "image":
        return view
    times = [f"\nFrame from {second // 60:02d}:{second % 60:02d}:" for second in range(backbone.frames)]
    return [i for time in times for i in (*tokenizer.encode(time, add_special_tokens=False), *view)]

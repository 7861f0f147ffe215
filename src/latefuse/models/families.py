"""One row per family of backbones: where its parts are and how a medium becomes tokens.

Everything that differs between vision-language models is a value here or a small function in `wiring`; nothing else
in the project asks which model it has. A new family is one more row, and one tiny configuration in `tiny_random`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from latefuse.models import light, wiring, wiring_composed, wiring_qwen

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone, MediaBatch


@dataclass(frozen=True)
class Family:
    """One row of the table; `inner` is the model without its head.

    kind: `whole` for a model as somebody trained it, `glued` and `light` for those composed of parts, `encoder-decoder`
    for T5, alone or beside a tower. seq2seq: where T5 is in it, "" for all of it. module: where
    its class lives. tower, bridge, language: prefixes of module names. token: modality -> config attribute with the
    placeholder's id. pixels: the deterministic transform of pictures or frames. encode: pixels -> what the frozen tower
    makes of them; first_sums_up: whether each frame's first token there stands for all of it, as CLS does; seen_width:
    their width. bridge_forward: features -> embeddings (n, tokens, d) of the language model. expand: the ids that one
    medium takes in `input_ids`. feed: what the inner model is called with; positions: its position ids. sentences:
    texts -> vectors, where there is a sentence encoder. used_layers: how many tower layers the features depend on
    (None: all). cacheable: features of the frozen tower can be stored and fed later, with the bridge still training.
    """

    model_class: str
    language: tuple[str, ...]
    kind: Literal["whole", "glued", "light", "encoder-decoder"] = "whole"
    seq2seq: str = ""
    module: str = "transformers"
    feed: Callable[[Backbone, Tensor, MediaBatch | None], dict[str, Any]] = wiring.splice
    positions: Callable[[Any, dict[str, Any], Tensor, Tensor, Any], Tensor] = wiring.plain_positions
    tower: Mapping[str, str] = field(default_factory=dict)
    bridge: tuple[str, ...] = ()
    token: Mapping[str, str] = field(default_factory=dict)
    image_processor: str = ""
    processor_options: Callable[[Any, int | None], dict[str, Any]] = wiring.no_options
    pixels: Callable[[Backbone, Any, str], Tensor] = wiring.standard_pixels
    encode: Callable[[Backbone, Tensor, str], Tensor] = wiring.no_media
    first_sums_up: Callable[[Any, str], bool] = wiring.nothing_sums_up
    seen_width: Callable[[Any], int] = wiring.vision_width
    bridge_forward: Callable[[Any, Tensor, str], Tensor] = wiring.no_media
    expand: Callable[[Backbone, str], list[int]] = wiring.no_media
    sentences: Callable[[Backbone, Sequence[str]], Tensor] = wiring.no_sentences
    used_layers: Callable[[Any], int | None] = wiring.all_layers
    cacheable: bool = True

    @property
    def goes_on(self) -> bool:
        """Whether media may stand behind tokens that are cached: not where positions are counted over whole rows."""
        plain = self.positions is wiring.plain_positions and self.feed is wiring.splice
        return plain and self.kind != "encoder-decoder"

    @property
    def modalities(self) -> tuple[str, ...]:
        """What the family can read; text always."""
        return (*self.tower, "text")


QWEN_VL: dict[str, Any] = {
    "tower": {"image": "model.visual.blocks", "video": "model.visual.blocks"},
    "language": ("model.language_model",),
    "token": {"image": "image_token_id", "video": "video_token_id"},
    "image_processor": "Qwen2VLImageProcessorPil",
    "processor_options": wiring_qwen.options,
    "pixels": wiring_qwen.pixels,
    "encode": wiring_qwen.encode,
    "feed": wiring_qwen.feed,
    "positions": wiring_qwen.positions,
    "cacheable": False,
}

COMPOSED: dict[str, Any] = {
    "tower": {"image": "model.vision_tower", "video": "model.vision_tower"},
    "image_processor": "AutoImageProcessor",
    "first_sums_up": wiring_composed.first_sums_up,
    "seen_width": wiring_composed.width,
}

FAMILIES: dict[str, Family] = {
    "video_llava": Family(
        model_class="VideoLlavaForConditionalGeneration",
        tower={"image": "model.image_tower", "video": "model.video_tower"},
        bridge=("model.multi_modal_projector",),
        language=("model.language_model",),
        token={"image": "image_token_index", "video": "video_token_index"},
        image_processor="CLIPImageProcessorPil",
        processor_options=wiring.clip_options,
        encode=wiring.video_llava_encode,
        first_sums_up=wiring.video_llava_cls,
        seen_width=wiring.chosen_width,
        bridge_forward=wiring.project,
        expand=wiring.video_llava_expand,
        used_layers=wiring.chosen_layers,
    ),
    "llava": Family(
        model_class="LlavaForConditionalGeneration",
        tower={"image": "model.vision_tower"},
        bridge=("model.multi_modal_projector",),
        language=("model.language_model",),
        token={"image": "image_token_index"},
        image_processor="CLIPImageProcessorPil",
        processor_options=wiring.clip_options,
        encode=wiring.llava_encode,
        first_sums_up=wiring.llava_cls,
        seen_width=wiring.chosen_width,
        bridge_forward=wiring.project,
        expand=wiring.llava_expand,
        used_layers=wiring.chosen_layers,
    ),
    "llava_onevision": Family(
        model_class="LlavaOnevisionForConditionalGeneration",
        tower={"image": "model.vision_tower", "video": "model.vision_tower"},
        bridge=("model.multi_modal_projector",),
        language=("model.language_model",),
        token={"image": "image_token_index", "video": "video_token_index"},
        image_processor="SiglipImageProcessorPil",
        processor_options=wiring.square_options,
        encode=wiring.llava_encode,
        first_sums_up=wiring.llava_cls,
        seen_width=wiring.chosen_width,
        bridge_forward=wiring.onevision_bridge,
        expand=wiring.onevision_expand,
        used_layers=wiring.chosen_layers,
    ),
    "smolvlm": Family(
        model_class="SmolVLMForConditionalGeneration",
        tower={"image": "model.vision_model", "video": "model.vision_model"},
        bridge=("model.connector",),
        language=("model.text_model",),
        token={"image": "image_token_id", "video": "image_token_id"},
        image_processor="SmolVLMImageProcessorPil",
        processor_options=wiring.smolvlm_options,
        pixels=wiring.smolvlm_pixels,
        encode=wiring.smolvlm_encode,
        bridge_forward=wiring.smolvlm_bridge,
        expand=wiring.smolvlm_expand,
    ),
    "qwen2_5_vl": Family(
        model_class="Qwen2_5_VLForConditionalGeneration",
        bridge=("model.visual.merger",),
        expand=wiring_qwen.expand,
        **QWEN_VL,
    ),
    "qwen3_vl": Family(
        model_class="Qwen3VLForConditionalGeneration",
        bridge=("model.visual.merger", "model.visual.deepstack_merger_list"),
        expand=wiring_qwen.v3_expand,
        **QWEN_VL,
    ),
    "llama": Family(model_class="LlamaForCausalLM", language=("model",)),
    "qwen2": Family(model_class="Qwen2ForCausalLM", language=("model",)),
    "qwen3": Family(model_class="Qwen3ForCausalLM", language=("model",)),
    "mistral": Family(model_class="MistralForCausalLM", language=("model",)),
    "latefuse_glued": Family(
        model_class="GluedForConditionalGeneration",
        bridge=("model.bridge",),
        language=("model.language_model",),
        token={"image": "image_token_id", "video": "video_token_id"},
        encode=wiring_composed.encode,
        bridge_forward=wiring_composed.bridge,
        expand=wiring_composed.expand,
        kind="glued",
        module="latefuse.models.glued",
        **COMPOSED,
    ),
    "latefuse_light": Family(
        model_class="LightModel",
        language=(),
        encode=wiring_composed.encode_whole,
        sentences=light.encode_sentences,
        kind="light",
        module="latefuse.models.light",
        **COMPOSED,
    ),
    "t5": Family(
        model_class="T5ForConditionalGeneration",
        language=("encoder", "decoder"),
        kind="encoder-decoder",
    ),
    "latefuse_sighted": Family(
        model_class="SightedModel",
        language=("model.language_model",),
        encode=wiring_composed.encode_whole,
        kind="encoder-decoder",
        seq2seq="model.language_model",
        module="latefuse.models.sighted",
        **COMPOSED,
    ),
}

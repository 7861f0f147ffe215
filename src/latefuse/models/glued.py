"""A vision tower, a bridge and a language model glued into one model (NoteLLM-2, arXiv 2405.16789, section 4.2).

It is a Hugging Face model like the others: saved, loaded offline, adapted by PEFT. Pictures and clips come in through
`Backbone`, as for every family whose features can be stored.
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast

from latefuse.models.bridge import BridgeOptions, build_bridge


class GluedConfig(PreTrainedConfig):
    """Both parts' own configurations, the bridge's, and what the tower makes of a picture.

    vision_tokens: tokens of a picture or frame, the one that sums up among them; vision_width: their width.
    head_bias: whether the language model's head has one.
    """

    model_type = "latefuse_glued"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="llama"),
    }

    vision_config: Any = None
    text_config: Any = None
    bridge: dict[str, Any] | None = None
    vision_tokens: int = 0
    vision_width: int = 0
    image_token_id: int | None = None
    video_token_id: int | None = None
    head_bias: bool = False
    tie_word_embeddings: bool = False


class GluedPreTrainedModel(PreTrainedModel):
    """What both classes below tell the library."""

    config_class = GluedConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _skip_keys_device_placement: ClassVar[list[str]] = ["past_key_values"]
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_flex_attn = True
    _supports_attention_backend = True


class GluedModel(GluedPreTrainedModel):
    """The three parts, without the head."""

    def __init__(self, config: GluedConfig) -> None:
        super().__init__(config)
        options = BridgeOptions.model_validate(config.bridge or {})
        self.vision_tower = AutoModel.from_config(config.vision_config)
        self.bridge = build_bridge(options, config.vision_width, config.text_config.hidden_size)
        self.language_model = AutoModel.from_config(config.text_config)
        self.post_init()

    def train(self, mode: bool = True) -> GluedModel:
        """The tower stays in evaluation mode: it is frozen, and its batch statistics must be too."""
        super().train(mode)
        self.vision_tower.eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        found: nn.Module = self.language_model.get_input_embeddings()
        return found

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        self.language_model.set_input_embeddings(value)

    def forward(self, input_ids: Tensor | None = None, **inputs: Any) -> BaseModelOutputWithPast:
        """The language model's own forward; `inputs_embeds` carry what the bridge made of media."""
        return self.language_model(input_ids=input_ids, **inputs)


class GluedForConditionalGeneration(GluedPreTrainedModel, GenerationMixin):
    """The glued model with its language model's head."""

    def __init__(self, config: GluedConfig) -> None:
        super().__init__(config)
        text = config.text_config
        self.model = GluedModel(config)
        self.lm_head = nn.Linear(text.hidden_size, text.vocab_size, bias=config.head_bias)
        self._tied_weights_keys = {"lm_head.weight": f"model.{self._embedding_name()}.weight"}
        self.post_init()

    def _embedding_name(self) -> str:
        """Where the word embeddings are: models name them each in their own way."""
        table = self.model.get_input_embeddings()
        return next(name for name, module in self.model.named_modules() if module is table)

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """See `get_input_embeddings`."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        return self.lm_head

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Any = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **more: Any,
    ) -> CausalLMOutputWithPast:
        """Logits (B, L, vocabulary), or those of the last `logits_to_keep` positions."""
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            use_cache=use_cache,
            **more,
        )
        keep = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return CausalLMOutputWithPast(
            logits=self.lm_head(out.last_hidden_state[:, keep]),
            past_key_values=out.past_key_values,
            hidden_states=out.hidden_states,
            attentions=out.attentions,
        )


AutoConfig.register(GluedConfig.model_type, GluedConfig)

"""T5 beside a frozen vision tower, whose picture vectors become visual tokens (VIP5, arXiv 2305.14302)."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel, T5ForConditionalGeneration
from transformers.configuration_utils import SubConfigSpec

LANGUAGE = "model.language_model"


class SightedConfig(PreTrainedConfig):
    """Both parts' own configurations. vision_width: width of the tower's vectors."""

    model_type = "latefuse_sighted"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="clip_vision_model"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="t5"),
    }

    vision_config: Any = None
    text_config: Any = None
    vision_width: int = 0
    tie_word_embeddings: bool = True


class SightedModel(PreTrainedModel):
    """`model.vision_tower` and `model.language_model`; each is called by itself, the tower through `Backbone`."""

    config_class = SightedConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_attention_backend = True
    model: nn.ModuleDict

    def __init__(self, config: SightedConfig) -> None:
        super().__init__(config)
        self.model = nn.ModuleDict(
            {
                "vision_tower": AutoModel.from_config(config.vision_config),
                "language_model": T5ForConditionalGeneration(config.text_config),
            }
        )
        tied = T5ForConditionalGeneration._tied_weights_keys or {}
        self._tied_weights_keys = {f"{LANGUAGE}.{name}": f"{LANGUAGE}.{other}" for name, other in tied.items()}
        self.post_init()

    def train(self, mode: bool = True) -> SightedModel:
        """The tower stays in evaluation mode: it is frozen, and its batch statistics must be too."""
        super().train(mode)
        self.model["vision_tower"].eval()
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings."""
        language: Any = self.model["language_model"]
        found: nn.Module = language.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> nn.Module:
        """The head."""
        language: Any = self.model["language_model"]
        found: nn.Module = language.get_output_embeddings()
        return found

    def forward(self, **inputs: Any) -> Any:
        """The language model's own forward."""
        return self.model["language_model"](**inputs)


AutoConfig.register(SightedConfig.model_type, SightedConfig)

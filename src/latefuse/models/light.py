"""A frozen vision tower beside a frozen sentence encoder, for teams without a GPU: only a head behind them learns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.configuration_utils import SubConfigSpec

if TYPE_CHECKING:
    from latefuse.models.backbone import Backbone

BATCH = 64


class LightConfig(PreTrainedConfig):
    """Both encoders' own configurations.

    vision_width: width of the tower's vectors. text_tokens: how many tokens of a text the sentence encoder reads; the
    rest is cut off.
    """

    model_type = "latefuse_light"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "vision_config": SubConfigSpec(config_class=AutoConfig, model_type="mobilenet_v2"),
        "text_config": SubConfigSpec(config_class=AutoConfig, model_type="bert"),
    }

    vision_config: Any = None
    text_config: Any = None
    vision_width: int = 0
    text_tokens: int = 256


class LightModel(PreTrainedModel):
    """`model.vision_tower` and `model.text_encoder`."""

    config_class = LightConfig
    base_model_prefix = "model"
    input_modalities = ("image", "video", "text")
    _supports_flash_attn = True
    _supports_sdpa = True
    _supports_attention_backend = True
    model: nn.ModuleDict

    def __init__(self, config: LightConfig) -> None:
        super().__init__(config)
        self.model = nn.ModuleDict(
            {
                "vision_tower": AutoModel.from_config(config.vision_config),
                "text_encoder": AutoModel.from_config(config.text_config),
            }
        )
        self.post_init()

    def train(self, mode: bool = True) -> LightModel:
        """Always in evaluation mode: nothing here learns, so dropout and batch statistics would only be noise."""
        super().train(False)
        return self

    def get_input_embeddings(self) -> nn.Module:
        """The word embeddings of the sentence encoder."""
        encoder: Any = self.model["text_encoder"]
        found: nn.Module = encoder.get_input_embeddings()
        return found

    def get_output_embeddings(self) -> None:
        """It writes no words."""

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Sentence vectors (n, dt) of unit length."""
        states = self.model["text_encoder"](input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return sentence_mean(states, attention_mask)


def sentence_mean(states: Tensor, mask: Tensor) -> Tensor:
    """The mean over a text's tokens, of unit length (Sentence-BERT, arXiv 1908.10084); zero for one without any.

    states: (n, L, dt). mask: (n, L), 1 where a token stands. Returns (n, dt).
    """
    there = mask.unsqueeze(-1).to(states.dtype)
    return F.normalize((states * there).sum(1) / there.sum(1).clamp(min=1), dim=-1)


def encode_sentences(backbone: Backbone, texts: Sequence[str]) -> Tensor:
    """Sentence vectors (n, dt) of unit length; of a longer text only its first `text_tokens` tokens count."""
    model = backbone.model
    out = torch.zeros(len(texts), backbone.text_width, dtype=model.dtype, device=backbone.device)
    return fill_sentences(out, model, backbone.tokenizer, model.config.text_tokens, texts)


def fill_sentences(
    out: Tensor, encode: Callable[[Tensor, Tensor], Tensor], tokenizer: Any, limit: int, texts: Sequence[str]
) -> Tensor:
    """`out` (n, dt) with the vectors of the texts, of each at most `limit` tokens; like lengths share a batch.

    encode: input_ids, attention_mask (b, L) -> vectors (b, dt).
    """
    order = sorted(range(len(texts)), key=lambda number: len(texts[number]))
    for start in range(0, len(order), BATCH):
        numbers = order[start : start + BATCH]
        shown = [texts[number] for number in numbers]
        tokens = tokenizer(shown, padding=True, truncation=True, max_length=limit, return_tensors="pt")
        if tokens["input_ids"].shape[1]:  # not so for empty texts, where the tokenizer adds nothing of its own
            out[numbers] = encode(tokens["input_ids"].to(out.device), tokens["attention_mask"].to(out.device))
    return out


def too_long(backbone: Backbone, texts: Sequence[str]) -> list[bool]:
    """Whether each of the texts has more tokens than the sentence encoder reads."""
    if not texts:
        return []
    found = backbone.tokenizer(list(texts), padding=False, truncation=False, verbose=False)["input_ids"]
    return [len(ids) > backbone.model.config.text_tokens for ids in found]


AutoConfig.register(LightConfig.model_type, LightConfig)

"""What a glued backbone has between its tower and its language model; starts from nothing and is trained whole."""

from __future__ import annotations

from typing import Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from latefuse.sections import Section


class BridgeOptions(Section):
    """How the bridge is built.

    kind: `mlp` maps token by token (LLaVA), `qformer` compresses a picture into `tokens` (BLIP-2, NoteLLM-2). The other
    fields are the Q-Former's: its layers, their width and their heads.
    """

    kind: Literal["mlp", "qformer"] = "qformer"
    tokens: int = Field(16, ge=1)
    layers: int = Field(6, ge=1)
    hidden: int = Field(768, ge=1)
    heads: int = Field(12, ge=1)

    @model_validator(mode="after")
    def _heads_share_the_width(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden={self.hidden} must be a multiple of heads={self.heads}")
        return self

    def length(self, seen: int) -> int:
        """Tokens that the language model reads of a picture of which the tower makes `seen`."""
        return self.tokens if self.kind == "qformer" else seen


class MlpBridge(nn.Module):
    """Two linear layers with a GELU between them, token by token (LLaVA-1.5, arXiv 2310.03744)."""

    def __init__(self, seen: int, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(seen, width)
        self.linear_2 = nn.Linear(width, width)

    def forward(self, features: Tensor) -> Tensor:
        """(n, tokens, seen) -> (n, tokens, width)."""
        out: Tensor = self.linear_2(F.gelu(self.linear_1(features)))
        return out


class QFormerBridge(nn.Module):
    """T queries read a picture's tokens by cross-attention (BLIP-2, arXiv 2301.12597), then the MLP.

    The queries start at zero (NoteLLM-2, arXiv 2405.16789): they differ once the language model has read them at
    different positions. Without dropout, so that a picture's tokens are the same each time within a step.
    """

    def __init__(self, options: BridgeOptions, seen: int, width: int) -> None:
        super().__init__()
        config = Blip2QFormerConfig(
            hidden_size=options.hidden,
            num_hidden_layers=options.layers,
            num_attention_heads=options.heads,
            intermediate_size=4 * options.hidden,
            encoder_hidden_size=seen,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.query_tokens = nn.Parameter(torch.zeros(1, options.tokens, options.hidden))
        self.qformer = Blip2QFormerModel(config)
        self.mlp = MlpBridge(options.hidden, width)

    def forward(self, features: Tensor) -> Tensor:
        """(n, tokens, seen) -> (n, T, width)."""
        queries = self.query_tokens.expand(len(features), -1, -1)
        states = self.qformer(query_embeds=queries, encoder_hidden_states=features).last_hidden_state
        out: Tensor = self.mlp(states.to(features.dtype))
        return out


def build_bridge(options: BridgeOptions, seen: int, width: int) -> MlpBridge | QFormerBridge:
    """A new bridge from a tower of width `seen` to a language model of `width`, from torch's random state."""
    return MlpBridge(seen, width) if options.kind == "mlp" else QFormerBridge(options, seen, width)

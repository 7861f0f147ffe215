"""Answers behind personalised prompts, token by token: what any search is made of, and the greedy one."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, EncoderDecoderCache
from transformers.modeling_outputs import BaseModelOutput

from latefuse.models.backbone import Backbone
from latefuse.models.personal import inputs, last_of, network_of, positions
from latefuse.models.prompted import Prompted


@torch.no_grad()
def encode(backbone: Backbone, prompted: Prompted) -> BaseModelOutput:
    """What the encoder makes of the prompts, as T5 takes it for `encoder_outputs`; the mask is `prompted.mask`.

    Where families have bottlenecks of their own, a decoder called by itself takes those of the rows read last, and as
    many rows: `Reading` keeps both right. Raises ValueError on a causal language model, which has no encoder.
    """
    if backbone.seq2seq is None:
        raise ValueError(f"backbone {backbone.name!r} ({backbone.family.model_class}) has no encoder; see Reading")
    states = backbone.seq2seq.encoder(inputs_embeds=inputs(backbone, prompted), attention_mask=prompted.mask)
    return BaseModelOutput(last_hidden_state=states.last_hidden_state)


class Reading:
    """N answers that grow by a token at a time behind their prompts.

    logits: (N, vocabulary) in float32 of each one's next token.
    """

    @torch.no_grad()
    def __init__(self, backbone: Backbone, prompted: Prompted) -> None:
        self.backbone, self.mask, self.kind = backbone, prompted.mask, prompted.family
        self.logits: Tensor
        self._cache: Any
        self._read: Tensor | None = None
        t5 = backbone.seq2seq
        if t5 is None:
            self._cache = DynamicCache()
            states = self._gone_on(inputs(backbone, prompted), positions(self.mask))
            self._say(states[torch.arange(len(states), device=states.device), last_of(self.mask)])
        else:
            self._read = encode(backbone, prompted).last_hidden_state
            self._cache = EncoderDecoderCache(DynamicCache(), DynamicCache())
            self.write(prompted.ids.new_full((len(prompted.ids),), t5.config.decoder_start_token_id))

    @torch.no_grad()
    def write(self, tokens: Tensor) -> Tensor:
        """Each answer goes on by a token, (N,) int64. Returns the new logits."""
        network = network_of(self.backbone)
        if network.bottlenecks is not None:
            network.bottlenecks.kind = self.kind
        t5 = self.backbone.seq2seq
        if t5 is None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
            embeds = self.backbone.model.get_input_embeddings()(tokens[:, None])
            return self._say(self._gone_on(embeds, positions(self.mask)[:, -1:])[:, -1])
        out = t5(
            encoder_outputs=BaseModelOutput(last_hidden_state=self._read),
            attention_mask=self.mask,
            decoder_input_ids=tokens[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self.logits = out.logits[:, -1].float()
        return self.logits

    def select(self, rows: Tensor) -> None:
        """Go on with these answers, (M,) numbers of the N; one may stand there several times, or not at all."""
        self._cache.batch_select_indices(rows)
        self.mask, self.logits = self.mask[rows], self.logits[rows]
        self._read = None if self._read is None else self._read[rows]
        self.kind = None if self.kind is None else self.kind[rows]

    def _gone_on(self, embeds: Tensor, where: Tensor) -> Tensor:
        out = self.backbone.inner(
            inputs_embeds=embeds,
            attention_mask=self.mask.long(),
            position_ids=where,
            past_key_values=self._cache,
            use_cache=True,
        )
        states: Tensor = out.last_hidden_state
        return states

    def _say(self, states: Tensor) -> Tensor:
        self.logits = self.backbone.logits(states).float()
        return self.logits


class Beams:
    """A `beams.Reader` of whatever reads personalised prompts: each beam keeps states of its own."""

    def __init__(self, backbone: Backbone, prompted: Prompted) -> None:
        self.reading, self.rows, self.width = Reading(backbone, prompted), len(prompted.ids), 1

    def start(self) -> Tensor:
        """(B, 1, V) logits behind the prompts."""
        return self.reading.logits[:, None]

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits behind tokens (B, K)."""
        row = torch.arange(self.rows, device=parents.device)[:, None]
        self.reading.select((row * self.width + parents).flatten())
        self.width = tokens.shape[1]
        return self.reading.write(tokens.flatten()).view(self.rows, self.width, -1)


def explain(backbone: Backbone, prompted: Prompted, most: int) -> list[list[int]]:
    """The likeliest token after the other, at most `most` of them, without the end token: an answer a row."""
    end = backbone.tokenizer.eos_token_id
    reading = Reading(backbone, prompted)
    answers: list[list[int]] = [[] for _ in prompted.ids]
    going = torch.arange(len(answers), device=prompted.ids.device)
    for number in range(most):
        tokens = reading.logits.argmax(-1)
        left = (tokens != end).nonzero()[:, 0]
        for row, token in zip(going[left].tolist(), tokens[left].tolist(), strict=True):
            answers[row].append(token)
        if not len(left) or number == most - 1:
            break
        if len(left) < len(going):
            reading.select(left)
            going = going[left]
        reading.write(tokens[left])
    return answers

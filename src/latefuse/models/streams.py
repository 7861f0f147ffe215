"""Greedy decoding under a mix of adapters: each reads its own prompt, one mixed distribution picks the next token."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import DynamicCache

from latefuse.models.backbone import Backbone
from latefuse.models.closed_list import Prompts

Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Decoder:
    """One member of the mix in the middle of a text. rows: which of the B mixed rows it has a prompt for.

    acting: enters the state in which this member's adapter acts on the backbone.
    """

    backbone: Backbone
    prompts: Prompts
    rows: list[int]
    acting: Callable[[], AbstractContextManager[None]]

    def __post_init__(self) -> None:
        self.cache = DynamicCache()
        self.mask = self.prompts.attention_mask

    @torch.no_grad()
    def start(self) -> Tensor:
        """Log-probabilities (rows, V) of the first token."""
        with self.acting():
            hidden = self.backbone.hidden(
                self.prompts.input_ids, self.mask, self.prompts.media, past_key_values=self.cache
            )
            return self._log_probs(hidden)

    @torch.no_grad()
    def step(self, tokens: Tensor) -> Tensor:
        """Log-probabilities (rows, V) of the token that follows. tokens: (rows,), what was picked for its rows."""
        self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], dim=1)
        with self.acting():
            hidden = self.backbone.hidden(tokens.unsqueeze(1), self.mask, past_key_values=self.cache)
            return self._log_probs(hidden)

    def _log_probs(self, hidden: Tensor) -> Tensor:
        return torch.log_softmax(self.backbone.logits(hidden[:, -1]).float(), dim=-1)


def decode_mixed(
    members: Sequence[Decoder], rows: int, weights: Tensor, mix: Mix, end_id: int, max_new_tokens: int
) -> list[list[int]]:
    """The picked ids of each of the `rows` mixed rows, without the end token.

    weights: (M,). mix: (log_probs (M, B, V), weights, present (M, B)) -> (B, V). Every row needs one member at least.
    """
    present = torch.zeros(len(members), rows, dtype=torch.bool)
    for number, member in enumerate(members):
        present[number, member.rows] = True
    written: list[list[int]] = [[] for _ in range(rows)]
    open_rows = set(range(rows))
    current = [member.start() for member in members]
    for _ in range(max_new_tokens):
        picked = mix(_scatter(members, current, rows), weights, present).argmax(dim=-1)
        for row in sorted(open_rows):
            token = int(picked[row])
            if token == end_id:
                open_rows.discard(row)
            else:
                written[row].append(token)
        if not open_rows:
            break
        current = [member.step(picked[member.rows].to(member.mask.device)) for member in members]
    return written


def _scatter(members: Sequence[Decoder], current: Sequence[Tensor], rows: int) -> Tensor:
    """(M, B, V); rows that a member has no prompt for hold zeros, which nobody reads."""
    sizes = {scores.shape[-1] for scores in current}
    if len(sizes) != 1:
        raise ValueError(f"members with vocabularies of {sorted(sizes)} tokens can't be mixed")
    whole = torch.zeros(len(members), rows, sizes.pop())
    for number, (member, scores) in enumerate(zip(members, current, strict=True)):
        whole[number, member.rows] = scores.cpu()
    return whole

"""Beam search over a catalogue: what comes out are items, every one distinct and one that its row may name.

The search is that of transformers' `generate(num_beams, prefix_allowed_tokens_fn, length_penalty=0,
early_stopping="never")` (Autoregressive Entity Retrieval, arXiv 2010.00904, section 3.2): an item's score is the sum of
the log-probabilities of its tokens under the softmax over the whole vocabulary, not over what may follow, so it is the
likelihood that teacher forcing gives. As there, an end counts among the best `beams` continuations of its step only.
With as many beams as a row may name items nothing is ever dropped, and the order is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache, EncoderDecoderCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask
from transformers.modeling_outputs import BaseModelOutput

from latefuse.models.item_trie import Allowed, ItemTrie

SHARED = "latefuse_shared"
CELLS = 2**20
LEAST = -1e9  # nats; for a token that the model holds for impossible


@dataclass(frozen=True)
class Found:
    """items: (B, n) item codes, best first, -1 where a row may name fewer than n. scores: (B, n) nats, -inf there."""

    items: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Free:
    """What a search without a trie found. items: (B, n) item codes, best first, -1 behind the last of a row.

    Shares of the B * n strings. valid: those that are items. distinct: those that are the first of their row to name
    theirs. allowed: those of the distinct that their row may name.
    """

    items: Tensor
    valid: float
    distinct: float
    allowed: float


class Reader(Protocol):
    """A model behind B prompts, asked for what follows one beam after the other, token by token."""

    def start(self) -> Tensor:
        """(B, 1, V) logits of the first token."""
        ...

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits behind tokens (B, K), each written behind the beam parents (B, K) of the last step."""
        ...


class EncoderDecoder:
    """Reader of an encoder-decoder such as T5.

    The states of a prompt are kept once, and so are the keys and values that cross-attention makes of them: all beams
    of a row ask them together (`shared_states`). Only what the beams have written is kept by beam.
    """

    def __init__(self, model: Any, states: Tensor, mask: Tensor) -> None:
        """states: (B, L, d) of the encoder. mask: (B, L), nothing for padding."""
        self.model, self.states, self.width = model, BaseModelOutput(last_hidden_state=states), 1
        self.mask = mask.bool()[:, None, None]
        self.cache = EncoderDecoderCache(DynamicCache(), DynamicCache())

    def start(self) -> Tensor:
        """(B, 1, V) logits behind the decoder's start token."""
        token = self.model.config.decoder_start_token_id
        return self._logits(torch.full((len(self.mask), 1), token, device=self.mask.device))

    def step(self, tokens: Tensor, parents: Tensor) -> Tensor:
        """(B, K, V) logits behind tokens (B, K)."""
        row = torch.arange(len(tokens), device=tokens.device)[:, None]
        self.cache.self_attention_cache.reorder_cache((row * self.width + parents).flatten())
        self.width = tokens.shape[1]
        return self._logits(tokens.reshape(-1, 1))

    def _logits(self, tokens: Tensor) -> Tensor:
        out = self.model(
            encoder_outputs=self.states,
            attention_mask=self.mask,
            decoder_input_ids=tokens,
            past_key_values=self.cache,
            use_cache=True,
        )
        return out.logits.view(len(self.mask), self.width, -1)


def item_beams(
    model: Any, states: Tensor, mask: Tensor, may: Allowed, n: int, beams: int, among_items: bool = False
) -> Found:
    """The n best items of each row under an encoder-decoder, out of those that it may name.

    states: (B, L, d) of the encoder, each row once. mask: (B, L), nothing for padding. may: of the same B rows, on the
    device of the model. beams: at least n. among_items: whether a token's probability is that among what goes on to an
    item of the catalogue, and so the chances of all items add up to one. Raises ValueError for fewer beams than n, for
    other rows, and for scores that are no numbers.
    """
    with shared_states(model):
        return search(EncoderDecoder(model, states, mask), may, n, beams, among_items)


@torch.no_grad()
def free_beams(
    model: Any, states: Tensor, mask: Tensor, may: Allowed, n: int, beams: int, read: Callable[[Tensor], Tensor]
) -> Free:
    """The library's own beam search, which may write anything, as a control.

    read: token ids (B * n, T) -> (B * n,) item codes, -1 for what is no item: `trie.find`, or one that decodes and
    looks the text up. Strings that are no items are dropped, and so is an item that its row has named already.
    """
    written = model.generate(
        encoder_outputs=BaseModelOutput(last_hidden_state=states),
        attention_mask=mask,
        num_beams=beams,
        num_return_sequences=n,
        do_sample=False,
        length_penalty=0.0,
        early_stopping="never",
        max_new_tokens=may.trie.longest,
    )
    items = read(written[:, 1:]).view(len(states), n)
    valid = items >= 0
    again = ((items[:, :, None] == items[:, None]) & valid[:, None]).tril(diagonal=-1).any(dim=2)
    kept = valid & ~again
    order = (~kept).to(torch.uint8).argsort(dim=1, stable=True)
    row = torch.arange(len(items), device=items.device)[:, None].expand_as(items)
    shares = (valid, kept, kept & may.names(row, items.clamp(min=0)))
    return Free(items.masked_fill(~kept, -1).gather(1, order), *(float(one.float().mean()) for one in shares))


@contextmanager
def shared_states(model: Any) -> Iterator[None]:
    """While it lasts, several beams of a row may attend to one copy of the row's keys and values.

    Raises ValueError for a model whose attention the library cannot switch.
    """
    before = model.config._attn_implementation
    model.set_attn_implementation(SHARED)
    try:
        if model.config._attn_implementation != SHARED:
            raise ValueError(
                f"{type(model).__name__} has an attention of its own: use one that follows AttentionInterface"
            )
        yield
    finally:
        model.set_attn_implementation(before)


def _shared_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **about: Any
) -> tuple[Tensor, None]:
    """Scaled dot-product attention; queries (B * K, heads, 1, d) that meet keys of B rows are K queries of each row."""
    together, heads, length, width = query.shape
    rows = len(key)
    if together == rows:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **about)
    query = query.view(rows, -1, heads, width).transpose(1, 2)
    about["is_causal"] = False
    out, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **about)
    return out.reshape(together, length, heads, -1), None


AttentionInterface.register(SHARED, _shared_attention)
AttentionMaskInterface.register(SHARED, sdpa_mask)


@dataclass(frozen=True)
class _Grown:
    """All that may follow the beams of B rows, a line a row, filled up behind its end; each (B, width).

    score: of the whole beginning, -inf for filling. parent: the beam. token, child: what it leads to. leaf: whether an
    item ends there.
    """

    score: Tensor
    parent: Tensor
    token: Tensor
    child: Tensor
    leaf: Tensor


@torch.no_grad()
def search(reader: Reader, may: Allowed, n: int, beams: int, among_items: bool = False) -> Found:
    """The n best items of each row that `beams` beams find. See `item_beams`."""
    if not 0 < n <= beams:
        raise ValueError(f"{n} items out of {beams} beams: ask for 1 item or more, and for at least as many beams")
    logits = reader.start()
    rows = len(logits)
    if rows != may.rows:
        raise ValueError(f"{rows} prompts, and what {may.rows} rows may name: give one prompt a row")
    node, score = may.trie.first.new_zeros(rows, 1), torch.zeros(rows, 1, device=logits.device)
    found = Found(node.new_full((rows, n), -1), score.new_full((rows, n), -torch.inf))
    while True:
        grown = _grown(node, score, logits, may, among_items)
        found = _ended(found, grown, beams, may.trie)
        score, kept = _best(grown.score.masked_fill(grown.leaf, -torch.inf), beams)
        # Scores only fall: a row is done when its best beam is no better than the last of its n items.
        score = score.masked_fill(score[:, :1] <= found.scores[:, -1:], -torch.inf)
        width = int((score > -torch.inf).sum(dim=1).amax()) if score.numel() else 0
        if not width:
            return found
        score, kept = score[:, :width], kept[:, :width]
        node = grown.child.gather(1, kept)
        logits = reader.step(grown.token.gather(1, kept), grown.parent.gather(1, kept))


def _grown(node: Tensor, score: Tensor, logits: Tensor, may: Allowed, among_items: bool) -> _Grown:
    """Grow beams (B, K) by every token that their row may write. score: -inf for no beam. logits: (B, K, V)."""
    rows, width = node.shape
    alive = (score.flatten() > -torch.inf).nonzero()[:, 0]
    edges = may.trie.edges(node.flatten()[alive])
    beam, flat = alive[edges.parent], logits.flatten(0, 1)
    whole = _whole_of(beam, flat[beam, edges.token].float(), len(flat)) if among_items else _whole(flat)
    kept = may.live(beam // width, edges.child) > 0
    beam, token, child = beam[kept], edges.token[kept], edges.child[kept]
    gained = flat[beam, token].float() - whole[beam]
    if bool(gained.isnan().any()):
        raise ValueError("a beam's score is not a number; check the adapter's weights for NaN")
    row = beam // width
    count = torch.bincount(row, minlength=rows)
    place = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]
    shape = (rows, int(count.amax()))

    def lines(values: Tensor, filling: float) -> Tensor:
        return values.new_full(shape, filling).index_put((row, place), values)

    return _Grown(
        # What the model holds for impossible is still an item's token: it comes last, and before filling.
        score=lines(score.flatten()[beam] + gained.clamp(min=LEAST), -torch.inf),
        parent=lines(beam % width, 0),
        token=lines(token, 0),
        child=lines(child, 0),
        leaf=lines(may.trie.is_leaf(child), False),
    )


def _whole(logits: Tensor) -> Tensor:
    """(n,) what each row of logits (n, V) adds up to, in nats."""
    # Piece by piece: what logsumexp makes on its way is as large as all logits.
    return torch.cat([part.float().logsumexp(dim=-1) for part in logits.split(max(1, CELLS // logits.shape[1]))])


def _whole_of(beam: Tensor, logits: Tensor, beams: int) -> Tensor:
    """(beams,) what those of the logits (E,) that belong to each beam add up to, in nats; -inf for none."""
    most = logits.new_full((beams,), -torch.inf).scatter_reduce(0, beam, logits, "amax")
    return most + torch.zeros_like(most).index_add(0, beam, (logits - most[beam]).exp()).log()


def _ended(found: Found, grown: _Grown, beams: int, trie: ItemTrie) -> Found:
    """The best items so far and those that end among the best continuations of this step."""
    score, place = _best(grown.score, beams)
    leaf = grown.leaf.gather(1, place)
    item = trie.item(grown.child.gather(1, place))
    scores = torch.cat([found.scores, score.masked_fill(~leaf, -torch.inf)], dim=1)
    items = torch.cat([found.items, item.masked_fill(~leaf, -1)], dim=1)
    scores, best = _best(scores, found.scores.shape[1])
    return Found(items.gather(1, best), scores)


def _best(scores: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """The best of each row of (B, m), best first, and their places: as many as there are, and at most so many."""
    return scores.topk(min(most, scores.shape[1]), dim=1)

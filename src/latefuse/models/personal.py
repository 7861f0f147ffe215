"""Personalised multimodal prompts on a frozen language model (VIP5, arXiv 2305.14302, section 3).

What the encoder reads is a token, or a visual token that a small network makes of an item's picture, plus the embedding
of the whole word that it belongs to and that of its category, text or picture. Bottlenecks behind the parts of each
block, the scales of all norms and the small network learn; the rest is frozen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from latefuse.config import AdapterConfig
from latefuse.config_personal import PROMPT_FAMILIES, Personalise
from latefuse.models import adapters
from latefuse.models.adapter_files import AdapterError
from latefuse.models.backbone import Backbone
from latefuse.models.bottleneck import Bottlenecks, norm_scales, spots
from latefuse.models.prompted import IGNORED, Prompted, collate
from latefuse.models.whole import put_back

__all__ = ["Account", "Personal", "Prompted", "account", "build", "collate", "inputs", "loss", "nll", "unload"]

WORDS, CATEGORIES = 1024, 16
"""Rows of the two tables; of the categories the first is text, the second a picture."""
QUIET = 0.1
"""How far words and categories are told, against the spread of token embeddings."""
FLAT = 1e-6
DRAWN = 0
"""Seed of the weights of a base that has read nothing."""


class Personal(nn.Module):
    """Everything beside the language model.

    width: d of the language model. seen_width: dv of picture vectors. places: full names of the modules behind which
    bottlenecks stand. loud: root mean square of the token embeddings, at which visual tokens begin.
    before: the language model's own weights, where others were drawn. first, second, norm: the small network; centre,
    spread: how its input is scaled, as it is unless `learn_vectors` says more. absent: stands for the picture of an
    item that has none. words, categories: the two tables.
    """

    def __init__(
        self, settings: Personalise, width: int, seen_width: int, places: Sequence[str] = (), loud: float = 1.0
    ) -> None:
        super().__init__()
        self.settings, self.width, self.before = settings, width, dict[str, Tensor]()
        wide = settings.k * width
        if settings.k:
            self.first = nn.Linear(seen_width, wide // 2)
            self.second = nn.Linear(wide // 2, wide)
            self.norm = nn.RMSNorm(wide, eps=FLAT)
            nn.init.constant_(self.norm.weight, loud)
            self.absent = nn.Parameter(torch.randn(wide) * loud)
            self.centre: Tensor
            self.spread: Tensor
            self.register_buffer("centre", torch.zeros(seen_width))
            self.register_buffer("spread", torch.ones(seen_width))
        self.words = _table(WORDS, width, settings.whole_words, loud)
        self.categories = _table(CATEGORIES, width, settings.categories, loud)
        kinds = len(PROMPT_FAMILIES) if settings.per_family else 1
        self.bottlenecks = Bottlenecks(places, width, settings.reduction, kinds) if places else None

    def forward(self, prompted: Prompted, tokens: Tensor) -> Tensor:
        """What the language model reads, (B, L, d). tokens: (B, L, d) of the token table."""
        shown = prompted.visual >= 0
        embeds = tokens
        if self.settings.k:
            made = self.visual(prompted.pictures, prompted.seen).to(tokens.dtype)
            embeds = embeds.index_put((shown,), made[prompted.visual[shown]])
        elif bool(shown.any()):
            raise ValueError("prompts with visual slots, but personalise.k is 0: make them without")
        if self.words is not None:
            embeds = embeds + self.words(prompted.words).to(tokens.dtype)
        if self.categories is not None:
            embeds = embeds + self.categories(shown.long()).to(tokens.dtype)
        return embeds

    def visual(self, pictures: Tensor, seen: Tensor) -> Tensor:
        """Visual tokens (m * k, d), those of a picture one after the other (VIP5, eq. 1). pictures: (m, dv)."""
        scaled = (pictures.to(self.centre.dtype) - self.centre) / self.spread
        scaled = scaled.masked_fill(~seen[:, None], 0.0)
        made = self.norm(self.second(torch.tanh(self.first(scaled))))
        rows = torch.where(seen[:, None], made, self.absent)
        return rows.reshape(-1, self.width)

    @torch.no_grad()
    def learn_vectors(self, vectors: Tensor) -> None:
        """How picture vectors (m, dv) are scaled before the small network, one dimension at a time."""
        spread, centre = torch.std_mean(vectors.double(), dim=0, correction=0)
        self.spread.copy_(torch.where(spread > FLAT, spread, torch.ones_like(spread)))
        self.centre.copy_(centre)

    @contextmanager
    def off(self) -> Iterator[None]:
        """Inside, bottlenecks do not act."""
        if self.bottlenecks is None:
            yield
            return
        with self.bottlenecks.off():
            yield


def _table(rows: int, width: int, how: str, loud: float) -> nn.Embedding | None:
    if how == "none":
        return None
    table = nn.Embedding(rows, width)
    nn.init.normal_(table.weight, std=QUIET * loud)
    table.weight.requires_grad_(how == "learned")
    return table


def build(backbone: Backbone, settings: Personalise, seed: int, lora: AdapterConfig | None = None) -> Personal:
    """Put a new network on the backbone, and let what should learn of it; first weights come from `seed` alone.

    lora: rank and scale where `settings.adapter` asks for it. An earlier network is taken off. Raises AdapterError for
    a place that the backbone does not have, BackboneError where it has no tower for pictures or is no language model.
    """
    unload(backbone)
    backbone.must_speak()
    if settings.adapter == "lora":
        adapter = (lora or AdapterConfig()).model_copy(update={"on": ("language",)})
        adapters.attach(backbone, adapter, "text", seed)
    network = bare(backbone, settings, seed)
    if settings.norms:
        scales = {
            name: backbone.model.get_parameter(name) for name in norm_scales(backbone.model, backbone.family.language)
        }
        backbone.whole = {name: scale.detach().clone() for name, scale in scales.items()}
        for scale in scales.values():
            scale.requires_grad_(True)
    return network


def bare(backbone: Backbone, settings: Personalise, seed: int) -> Personal:
    """The network put on the backbone, without LoRA and with every weight of the backbone as it is. See `build`."""
    if backbone.seq2seq is None and not backbone.family.goes_on:
        raise AdapterError(f"backbone {backbone.name!r}: no prompts of embeddings; take T5 or a causal language model")
    places: list[str] = []
    if settings.adapter == "bottleneck":
        places = spots(backbone.model, backbone.family.language, settings.places)
    seen_width = backbone.pooled_width("image") if settings.k else 0
    before = _drawn(backbone) if settings.random_base else {}
    loud = float(backbone.model.get_input_embeddings().weight.detach().float().square().mean().sqrt())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = Personal(settings, backbone.width, seen_width, places, loud)
    network.before = before
    backbone.head = network.to(backbone.device)
    if network.bottlenecks is not None:
        network.bottlenecks.attach(backbone.model)
    return network


def _drawn(backbone: Backbone) -> dict[str, Tensor]:
    """Draw the T5's weights anew, the same ones each time; returns those that it had. Raises AdapterError."""
    t5 = backbone.seq2seq
    if t5 is None:
        raise AdapterError(f"backbone {backbone.name!r}: random_base is a control of encoder-decoders; leave it out")
    before = {name: tensor.detach().clone() for name, tensor in t5.state_dict().items()}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(DRAWN)
        t5.load_state_dict(type(t5)(t5.config).state_dict())
    return before


def unload(backbone: Backbone) -> None:
    """Take the network off; the backbone is as it was loaded."""
    before: dict[str, Tensor] = {}
    if isinstance(backbone.head, Personal):
        before = backbone.head.before
        if backbone.head.bottlenecks is not None:
            backbone.head.bottlenecks.detach()
    backbone.head = None
    adapters.detach(backbone)
    put_back(backbone)
    if before:
        backbone.seq2seq.load_state_dict(before)
    backbone.model.requires_grad_(False)


def network_of(backbone: Backbone) -> Personal:
    """The network on a backbone. Raises AdapterError without one."""
    if not isinstance(backbone.head, Personal):
        raise AdapterError("no personalised network on this backbone: build makes one, load reads one")
    return backbone.head


def inputs(backbone: Backbone, prompted: Prompted) -> Tensor:
    """What the language model reads, (B, L, d). Bottlenecks of families are set to those of the rows."""
    network = network_of(backbone)
    if network.bottlenecks is not None:
        network.bottlenecks.kind = prompted.family
    return network(prompted, backbone.model.get_input_embeddings()(prompted.ids))


def token_losses(backbone: Backbone, prompted: Prompted) -> tuple[Tensor, Tensor]:
    """Cross-entropy in nats of every answer token, teacher-forced, and the row of each: (n,) both, row by row.

    Logits are made at answer tokens only; where the prompts tell what may stand there, it is held against no other.
    """
    if prompted.labels is None:
        raise ValueError("a loss needs answers: these prompts have no labels")
    said = prompted.labels != IGNORED
    states = _gone_on(backbone, prompted, said) if backbone.seq2seq is None else _written(backbone, prompted, said)
    logits = backbone.logits(states).float()
    if prompted.may is not None:
        logits = logits.masked_fill(_shut(prompted.may, said, logits.shape[-1]), -torch.inf)
    return F.cross_entropy(logits, prompted.labels[said], reduction="none"), said.nonzero()[:, 0]


def _shut(may: Tensor, said: Tensor, tokens: int) -> Tensor:
    """(n, tokens) bool: what may not stand at the n answer tokens of `said` (B, T). may: see `Prompted`."""
    number = said.flatten().cumsum(0).reshape(said.shape) - 1
    row, place, token = may[said[may[:, 0], may[:, 1]]].T
    at = number[row, place]
    shut = torch.zeros(int(said.sum()), tokens, dtype=torch.bool, device=said.device)
    shut[at] = True
    shut[at, token] = False
    return shut


def _written(backbone: Backbone, prompted: Prompted, said: Tensor) -> Tensor:
    """States (n, d) of an encoder-decoder's decoder, each before the answer token that it should foretell."""
    t5, mask = backbone.seq2seq, prompted.mask
    read = t5.encoder(inputs_embeds=inputs(backbone, prompted), attention_mask=mask).last_hidden_state
    before = t5.prepare_decoder_input_ids_from_labels(prompted.labels)
    out = t5.decoder(input_ids=before, encoder_hidden_states=read, encoder_attention_mask=mask, use_cache=False)
    states: Tensor = out.last_hidden_state[said]
    return states * t5.model_dim**-0.5 if t5.config.scale_decoder_outputs else states


def _gone_on(backbone: Backbone, prompted: Prompted, said: Tensor) -> Tensor:
    """States (n, d) of a causal language model that reads the answer behind the prompt, each before its token."""
    assert prompted.labels is not None
    answer = backbone.model.get_input_embeddings()(prompted.labels.clamp(min=0))
    embeds = torch.cat([inputs(backbone, prompted), answer], dim=1)
    mask = torch.cat([prompted.mask, said], dim=1)
    out = backbone.inner(
        inputs_embeds=embeds, attention_mask=mask.long(), position_ids=positions(mask), use_cache=False
    )
    rows, length = torch.arange(len(mask), device=mask.device), prompted.mask.shape[1]
    first = out.last_hidden_state[rows, last_of(prompted.mask)]
    states = torch.cat([first[:, None], out.last_hidden_state[:, length:-1]], dim=1)
    return states[said]


def positions(mask: Tensor) -> Tensor:
    """(B, L) positions counted over what is not padding."""
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


def last_of(mask: Tensor) -> Tensor:
    """(B,) where the last token of each row stands, padded on either side."""
    return mask.shape[1] - 1 - mask.flip(1).long().argmax(1)


def loss(backbone: Backbone, prompted: Prompted) -> tuple[Tensor, int]:
    """Summed cross-entropy in nats of the answers' tokens, and how many there are.

    With `by_length` a token counts one over the square of its answer's length: the mean of each answer, divided by its
    length once more, as the released code does.
    """
    losses, row = token_losses(backbone, prompted)
    if network_of(backbone).settings.by_length:
        losses = losses / row.bincount()[row].square()
    return losses.sum(), len(row)


@torch.no_grad()
def nll(backbone: Backbone, prompted: Prompted) -> Tensor:
    """Cross-entropy in nats of each row's whole answer, (B,)."""
    losses, row = token_losses(backbone, prompted)
    return torch.zeros(len(prompted.ids), device=losses.device).index_add(0, row, losses)


@dataclass(frozen=True)
class Account:
    """Parameters. trained, total: as the paper counts them: language model, tables, adapters, small network. absent:
    of the learned tokens for missing pictures, which the paper does not have. tower: frozen, not in the paper's count.
    """

    trained: int
    total: int
    absent: int
    tower: int = 0

    @property
    def share(self) -> float:
        """Trained of all, as the paper counts."""
        return self.trained / self.total

    @property
    def own(self) -> tuple[int, int]:
        """Trained and all with what is ours: tokens for missing pictures, and the tower."""
        return self.trained + self.absent, self.total + self.absent + self.tower


def account(network: Personal, language: nn.Module, tower: int = 0) -> Account:
    """The parameters of a network and of the language model that it stands on. tower: of a tower within `language`."""
    both = [*network.parameters(), *language.parameters()]
    absent = network.absent.numel() if network.settings.k else 0
    learned = sum(p.numel() for p in both if p.requires_grad)
    return Account(learned - absent, sum(p.numel() for p in both) - absent - tower, absent, tower)


def account_of(backbone: Backbone) -> Account:
    """The parameters of a backbone with its network."""
    prefixes = tuple({f"{prefix}." for prefix in backbone.family.tower.values()})
    tower = sum(p.numel() for name, p in backbone.model.named_parameters() if name.startswith(prefixes))
    return account(network_of(backbone), backbone.model, tower if prefixes else 0)

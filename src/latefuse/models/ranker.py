"""A ranker: a DLRM (Naumov et al. 2019, arXiv 1906.00091) whose space frozen vectors of text and pictures share.

MMREC's mechanism (arXiv 2408.04211): numbers go through the bottom MLP, ids and attributes through hashed embeddings,
sentence and picture vectors each through one projection, all to the width D; the dot products of every two of them and
the bottom MLP's output go through the top MLP, whose one output is the log-odds of a like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F
from sklearn.decomposition import PCA
from torch import Tensor, nn

from latefuse.config_rank import Imbalance, Inputs, Rank
from latefuse.models.adapter_files import CARD, AdapterCard, AdapterError, load_tensors, read_card, write_tensors
from latefuse.models.backbone import Backbone

RANKER = "ranker.safetensors"
ID_STD = 0.01
FLAT = 1e-6
UNSEEN = 0
"""The row of every table that stands for values which training has not seen."""


@dataclass(frozen=True)
class Shown:
    """What a ranker reads of B rows.

    numbers: (B, n), nan where one is not there. hashed: column -> (values, offsets) of a bag of table rows for each
    row, as `nn.EmbeddingBag` takes them. vectors: source -> (distinct vectors (m, width), place of each row's (B,), -1
    where it has none).
    """

    numbers: Tensor
    hashed: Mapping[str, tuple[Tensor, Tensor]]
    vectors: Mapping[str, tuple[Tensor, Tensor]]


class Ranker(nn.Module):
    """Everything of a ranker; all of it learns.

    tables: an embedding bag for each hashed column. project, norm, absent: of each source of vectors, and what stands
    for one that a row lacks. mean, std: of the numbers, over training rows. centre, spread, basis: of each source, over
    what training has of it; the basis where `components` asks for one. seen: of each column the table rows that
    training has seen. positive: share of likes among training rows. shift: what is added to the logits outside of
    training, where training has seen other shares of likes than there are.
    """

    def __init__(self, settings: Rank, inputs: Inputs) -> None:
        super().__init__()
        self.settings, self.inputs = settings, inputs
        width, sparse = settings.dim, settings.sparse is not False
        self.tables = nn.ModuleDict(
            {name: nn.EmbeddingBag(settings.bins, width, mode="mean", sparse=sparse) for name in inputs.hashed}
        )
        self.project = nn.ModuleDict(
            {_key(name): nn.Linear(settings.read_of(size), width) for name, size in inputs.vectors.items()}
        )
        self.norm = nn.ModuleDict({_key(name): nn.LayerNorm(width) for name in inputs.vectors})
        self.absent = nn.ParameterDict({_key(name): nn.Parameter(torch.randn(width)) for name in inputs.vectors})
        indicators = len(inputs.numbers) + len(inputs.vectors)
        self.bottom = mlp([len(inputs.numbers) + indicators, *settings.bottom, width], settings.dropout)
        parts = 1 + len(inputs.hashed) + len(inputs.vectors)
        self.top = mlp([width + parts * (parts - 1) // 2, *settings.top, 1], settings.dropout)
        for table in self.tables.values():
            nn.init.normal_(table.weight, std=ID_STD)  # type: ignore[arg-type]  # a ModuleDict holds modules
        self.mean: Tensor
        self.std: Tensor
        self.positive: Tensor
        self.shift: Tensor
        self.register_buffer("mean", torch.zeros(len(inputs.numbers)))
        self.register_buffer("std", torch.ones(len(inputs.numbers)))
        self.register_buffer("positive", torch.tensor(0.5))
        self.register_buffer("shift", torch.zeros(()))
        for name, size in inputs.vectors.items():
            self.register_buffer(f"centre_{_key(name)}", torch.zeros(size))
            self.register_buffer(f"spread_{_key(name)}", torch.ones(size))
            if settings.components is not None:
                self.register_buffer(f"basis_{_key(name)}", torch.zeros(size, settings.read_of(size)))
        for name in inputs.hashed:
            self.register_buffer(f"seen_{name}", torch.zeros(settings.bins, dtype=torch.bool))

    def forward(self, shown: Shown) -> Tensor:
        """Log-odds (B,) in nats; while training those of the rows as they are trained on, unshifted."""
        numbers = (shown.numbers - self.mean) / self.std
        unknown = numbers.isnan()
        vectors, absences = [], []
        for name in self.inputs.vectors:
            vector, absent = self._vector(name, *shown.vectors[name])
            vectors.append(vector)
            absences.append(absent)
        told = [
            numbers.nan_to_num(0.0),
            unknown.to(numbers.dtype),
            *(one.to(numbers.dtype)[:, None] for one in absences),
        ]
        dense = self.bottom(torch.cat(told, dim=1))
        embedded = [self._embedded(name, *shown.hashed[name]) for name in self.inputs.hashed]
        both = interactions(torch.stack([dense, *embedded, *vectors], dim=1))
        logits: Tensor = self.top(torch.cat([dense, both], dim=1))[:, 0]
        return logits if self.training else logits + self.shift

    def _vector(self, name: str, distinct: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """(B, D) of unit length, and (B,) which rows have none; training drops some that are there."""
        key, absent = _key(name), place < 0
        if self.training and self.settings.absence:
            absent = absent | (torch.rand(len(place), device=place.device) < self.settings.absence)
        if not len(distinct):  # one that no row shows: processes agree on what they touch, whatever their rows lack
            distinct = distinct.new_zeros(1, self.inputs.vectors[name])
        scaled = (distinct - getattr(self, f"centre_{key}")) / getattr(self, f"spread_{key}")
        if self.settings.components is not None:
            scaled = scaled @ getattr(self, f"basis_{key}")
        made = F.normalize(self.norm[key](self.project[key](scaled)), dim=-1)
        rows = F.normalize(self.absent[key], dim=-1).expand(len(place), -1)
        rows = torch.where(absent[:, None], rows, made[place.clamp(min=0)])
        return F.normalize(rows, dim=-1), absent

    def _embedded(self, name: str, values: Tensor, offsets: Tensor) -> Tensor:
        """(B, D); a value that training has not seen is the unseen one, and training takes some others for it."""
        known: Tensor = getattr(self, f"seen_{name}")[values]
        if self.training and self.settings.absence:
            known = known & (torch.rand(len(values), device=values.device) >= self.settings.absence)
        table: Tensor = self.tables[name](torch.where(known, values, UNSEEN), offsets)
        return table

    @torch.no_grad()
    def learn_numbers(self, mean: Tensor, std: Tensor) -> None:
        """How numbers are scaled: (n,) each, of training rows; one that does not vary, or never is there, stays 0."""
        self.mean.copy_(mean.nan_to_num(0.0))
        self.std.copy_(torch.where(std.nan_to_num(0.0) > 0, std, torch.ones_like(std)))

    @torch.no_grad()
    def learn_vectors(self, name: str, vectors: Tensor) -> None:
        """How a source of vectors (m, width) is scaled, one dimension at a time, and its principal components."""
        if len(vectors):
            spread, centre = torch.std_mean(vectors.double(), dim=0, correction=0)
            spread = torch.where(spread > FLAT, spread, torch.ones_like(spread))
            getattr(self, f"centre_{_key(name)}").copy_(centre)
            getattr(self, f"spread_{_key(name)}").copy_(spread)
            if self.settings.components is not None:
                basis = getattr(self, f"basis_{_key(name)}")
                basis.copy_(whitening((vectors.double() - centre) / spread, basis.shape[1]))

    @torch.no_grad()
    def learn_values(self, name: str, values: Tensor) -> None:
        """Which rows of a table training sees. values: any shape."""
        getattr(self, f"seen_{name}")[values.flatten()] = True


def whitening(vectors: Tensor, components: int) -> Tensor:
    """(width, components) float64 that takes centred vectors (m, width) to their principal components, of variance 1.

    Directions in which the vectors do not vary are zero columns.
    """
    found = PCA(min(components, *vectors.shape), svd_solver="covariance_eigh").fit(vectors.cpu().numpy())
    there = found.explained_variance_ > FLAT
    out = torch.zeros(vectors.shape[1], components, dtype=torch.float64)
    axes = found.components_[there] / found.explained_variance_[there, None] ** 0.5
    out[:, : len(axes)] = torch.from_numpy(axes.T)
    return out


def mlp(sizes: list[int], dropout: float) -> nn.Sequential:
    """Linear layers with ReLU between them, and dropout behind each ReLU."""
    layers: list[nn.Module] = []
    for number, (before, behind) in enumerate(pairwise(sizes)):
        layers.append(nn.Linear(before, behind))
        if number < len(sizes) - 2:
            layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
    return nn.Sequential(*layers)


def interactions(parts: Tensor) -> Tensor:
    """The dot products of every two parts, without those with themselves (DLRM, section 2.1.4).

    parts: (B, F, D). Returns (B, F (F - 1) / 2): the lower triangle of the Gram matrix, row by row.
    """
    below = torch.tril_indices(parts.shape[1], parts.shape[1], offset=-1, device=parts.device)
    return (parts @ parts.mT)[:, below[0], below[1]]


def like_loss(logits: Tensor, labels: Tensor, how: Imbalance, positive: float) -> Tensor:
    """Summed loss in nats, a scalar.

    logits, labels: (B,). positive: the share of likes in training. `weighted`: each label has half of the weight, and a
    row one on average. `focal`: (1 - p_t)^gamma times the cross-entropy (Lin et al. 2017, arXiv 1708.02002, eq. 4).
    """
    truth = labels.to(logits.dtype)
    losses = F.binary_cross_entropy_with_logits(logits, truth, reduction="none")
    if how.loss == "weighted":
        losses = losses * torch.where(labels, 0.5 / positive, 0.5 / (1 - positive))
    if how.loss == "focal":
        losses = losses * (1 - torch.exp(-losses)) ** how.gamma
    return losses.sum()


def shift_of(how: Imbalance, positive: float) -> float:
    """What takes log-odds of training back to those of all rows, in nats; positive: the share of likes trained on.

    With a share r of negatives kept, the odds of a like are 1 / r times too large (King and Zeng 2001, section 4.2);
    weights that make both labels even do the same. Focal loss has no such closed form: calibration sees to it.
    """
    kept = torch.tensor(how.keep_negatives).log()
    even = torch.tensor(positive / (1 - positive)).log() if how.loss == "weighted" else torch.zeros(())
    return float(kept + even)


def build(backbone: Backbone, settings: Rank, inputs: Inputs, seed: int) -> Ranker:
    """Put a new ranker on the backbone; its first weights come from `seed` alone. Returns it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        ranker = Ranker(settings, inputs)
    backbone.model.requires_grad_(False)
    torch.sparse.check_sparse_tensor_invariants.disable()  # as it is; said, or every optimiser's step warns
    backbone.head = ranker.to(backbone.device)
    return ranker


def save(backbone: Backbone, folder: Path, card: AdapterCard) -> AdapterCard:
    """Write the ranker with its card; read again and checked. Raises AdapterError where a weight is not finite."""
    ranker = backbone.head
    total = sum(p.numel() for p in backbone.model.parameters())
    write_tensors(folder / RANKER, ranker.state_dict())
    told = {"rank": ranker.settings, "inputs": ranker.inputs, "parameters": sum(p.numel() for p in ranker.parameters())}
    card = card.model_copy(update={**told, "total_parameters": total})
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return card


def load(backbone: Backbone, folder: Path) -> AdapterCard:
    """Put a saved ranker on the backbone, frozen, in evaluation mode; an earlier head is taken off.

    Raises AdapterError when it is of another kind or backbone, and unless every tensor lands.
    """
    card = read_card(folder)
    if card.kind != "rank" or card.rank is None or card.inputs is None:
        raise AdapterError(f"{folder / CARD}: an adapter of kind {card.kind!r}; scores need one of kind rank")
    if card.backbone_digest != backbone.digest:
        raise AdapterError(
            f"{folder / CARD}: made on a backbone of digest {card.backbone_digest[:16]}, this one ({backbone.name}) "
            f"has {backbone.digest[:16]}; load the backbone it was trained on"
        )
    ranker = build(backbone, card.rank, card.inputs, 0)
    backbone.head = None
    load_tensors(folder / RANKER, ranker, "rank")
    backbone.head = ranker
    return card


def _key(name: str) -> str:
    """Module names can't hold blanks."""
    return name.replace(" ", "_")

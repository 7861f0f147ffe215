"""What a recipe says of pairs, item vectors and retrieval; part of the one schema in `config`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latefuse.sections import Section, Share, nearest


class Mining(Section):
    """How `prepare` mines the table `pairs` from events (NoteLLM-2, arXiv 2405.16789; constants of NoteLLM).

    One user's event on A and, within window_s seconds after it, on B add 1 / (number of items of that user) to the
    score of (A, B). Scores outside [lower, upper] are dropped, then each A keeps its `top` partners, of every split
    where whole items are held out. first, second: kinds of the event on A and on B, empty for any. min_value: events
    below it do not count. max_items: of a user with more items only the latest count.
    """

    window_s: int = Field(604_800, ge=0)
    first: tuple[str, ...] = ()
    second: tuple[str, ...] = ()
    min_value: float | None = None
    lower: float = Field(0.01, ge=0)
    upper: float = Field(30.0, gt=0)
    top: int = Field(10, ge=1)
    max_items: int = Field(1_000, ge=2)


class TextBudget(Section):
    """How much of an item's words a prompt shows (NoteLLM-2, section 4.1; their 20 and 80 are Chinese characters).

    title, content, topic: characters. topics: how many. tokens: of title, topics and content together.
    """

    title: int = Field(80, ge=1)
    content: int = Field(320, ge=0)
    topic: int = Field(16, ge=1)
    topics: int = Field(10, ge=0)
    tokens: int = Field(140, ge=1)


class ViewWeights(Section):
    """How much the loss of each view counts (NoteLLM-2: 9 to 1); a view that an arm does not have is left out."""

    multimodal: float = Field(9.0, gt=0)
    image: float = Field(1.0, ge=0)
    video: float = Field(1.0, ge=0)


class Embed(Section):
    """Item embeddings (NoteLLM-2, arXiv 2405.16789): prompt, late-fusion gate, contrastive loss.

    prompt: `basic` pools one token that has seen everything, `micl` compresses media into a token of their own first,
    `none` shows the words alone (media come in by the gate). dim: of the vectors; matryoshka: shorter prefixes that are
    trained as well. scale: the start of the logarithm of 1 / temperature. modality_dropout: how often a training item
    loses one of the modalities that it has. feature_dropout: share of every raw feature of a frozen encoder that
    training drops, against learning items by heart. popularity: whether scores shall follow how likely a partner is,
    popular ones in front; else what is drawn often is also pushed away often (the paper's loss). chunk: items encoded
    at a time with gradient, so that the contrastive batch is not bounded by memory; None for all at once. shuffled: the
    control in which every item has another's media, in training and in evaluation. max_images: pictures of one item.
    topics: attributes of an item whose values a prompt shows as topics. scheme: the stored split; the recipe's by
    default.
    """

    prompt: Literal["basic", "micl", "none"] = "micl"
    gate: bool = True
    dim: int = Field(64, ge=2)
    matryoshka: tuple[Annotated[int, Field(ge=1)], ...] = ()
    weights: ViewWeights = ViewWeights()
    scale: float = 3.0
    modality_dropout: Share = 0.1
    feature_dropout: float = Field(0.0, ge=0, lt=1)
    popularity: bool = False
    chunk: int | None = Field(None, ge=1)
    shuffled: tuple[Literal["image", "video"], ...] = ()
    max_images: int = Field(1, ge=1)
    topics: tuple[str, ...] = ()
    budget: TextBudget = TextBudget()
    scheme: Literal["item", "pair"] = "item"

    @model_validator(mode="after")
    def _prefixes_fit(self) -> Self:
        if any(size >= self.dim for size in self.matryoshka):
            raise ValueError(f"matryoshka {list(self.matryoshka)}: every prefix is shorter than dim={self.dim}")
        return self


class Retrieval(Section):
    """How item vectors are measured.

    ks: of Recall@k and NDCG@k. targets: what the items of the test split ask for, items of their own split or, where
    whole items are held out, `known` ones of the training split, as a new item of a shop does. pool: what is searched,
    all items of the catalogue or those of the split that targets are of. pairs: `one` keeps one test pair an item and
    takes every query out of the pool (NoteLLM-2, section 4.1), `all` counts all partners of a query and takes out the
    query itself. prior: weights of log(1 + training pairs of an item) to add to its score; each arm has the one with
    which it finds most on the valid pairs (of several that find as much, the first). sentence_encoder: folder of a
    sentence encoder whose cosine stands beside the arms, `pip:<package>` for one in an installed package. neighbours:
    queries on the page of neighbours. saliency_items: items over which the flow of saliency is averaged, 0 for none.
    """

    ks: tuple[Annotated[int, Field(ge=1)], ...] = Field((10, 20, 50, 100, 1_000), min_length=1)
    targets: Literal["split", "known"] = "split"
    pool: Literal["catalogue", "split"] = "catalogue"
    pairs: Literal["one", "all"] = "one"
    prior: tuple[Annotated[float, Field(ge=0)], ...] = Field((0.0,), min_length=1)
    sentence_encoder: str | None = None
    neighbours: int = Field(8, ge=0)
    saliency_items: int = Field(32, ge=0)


class Catalogue(Section):
    """All items as vectors and an index, the step `embed` of a recipe of item embeddings; the profile's `shards` tasks
    make them beside each other.

    arm: whose vectors, "" for the recipe's own task; of several seeds the first. index: exact, or approximate. part:
    items of a file, what a killed task may lose. batch_size: items encoded at a time.
    """

    arm: str = ""
    index: Literal["flat", "hnsw", "ivf"] = "flat"
    part: int = Field(4_096, ge=1)
    batch_size: int = Field(64, ge=1)

    def check(self, arms: Sequence[str], kinds: Sequence[str]) -> None:
        """Raise ValueError unless a recipe's only task is of kind embed, and has the arm. kinds: of its tasks."""
        if list(kinds) != ["embed"]:
            raise ValueError(
                f"catalogue: vectors come from a recipe's only task, of kind embed, not {', '.join(kinds)}"
            )
        if self.arm and self.arm not in arms:
            raise ValueError(f"catalogue.arm: no arm {self.arm!r}{nearest(self.arm, arms)}")

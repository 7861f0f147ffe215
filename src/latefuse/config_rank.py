"""What a recipe says of the ranker, of what it reads out of reviews, and of how it is measured; part of `config`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latefuse.sections import Section, Share

Layers = tuple[Annotated[int, Field(ge=1)], ...]
Maker = Literal["extractive", "classifier", "model", "endpoint"]


class Reader(Section):
    """Who puts reviews or pictures into few words.

    by: `extractive` takes the sentences that say most of what all say (reviews); `classifier` the labels that an image
    classifier gives a picture (pictures); `model` a language model, or one that sees, from a folder or a hub name;
    `endpoint` any server that speaks OpenAI's chat completions. model: folder or name. labels: a file with the labels
    of a classifier that does not tell them, one a line in its order, with or without their numbers in front. url: of
    the endpoint, up to `/v1`. token_env: the environment variable with its token, which is never stored. max_calls,
    max_tokens: what one run may ask for at most, answers and questions together; price: per million tokens, and
    max_cost in the same money. timeout_s, retries: of one call. mask: whether e-mail addresses, telephone numbers and
    names are replaced before a text leaves the house; names: further words to replace.
    """

    by: Maker
    model: str | None = None
    revision: str | None = None
    labels: str | None = None
    url: str | None = None
    token_env: str = "LATEFUSE_LLM_TOKEN"
    max_calls: int | None = Field(None, ge=0)
    max_tokens: int | None = Field(None, ge=0)
    price: float = Field(0.0, ge=0)
    max_cost: float | None = Field(None, ge=0)
    timeout_s: float = Field(60.0, gt=0)
    retries: int = Field(3, ge=0)
    side_by_side: int = Field(4, ge=1)
    mask: bool = True
    names: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _has_what_it_needs(self) -> Self:
        if self.by != "extractive" and self.model is None:
            raise ValueError(f"by is {self.by}: say which model")
        if (self.by == "endpoint") != (self.url is not None):
            raise ValueError("url belongs to by: endpoint, and to no other")
        if self.labels is not None and self.by != "classifier":
            raise ValueError("labels belong to by: classifier, and to no other")
        if self.max_cost is not None and not self.price:
            raise ValueError("max_cost needs a price")
        return self


class Readings(Section):
    """What `prepare` puts into words for the ranker, always from what was written before: the table `readings`.

    reviews: who sums up the past reviews of each item and each user. pictures: who describes each picture; None for
    nobody. cuts: into how many parts the time of training is cut; a row reads what was written before the newest cut
    that is not behind it, and held-out splits begin with a cut of their own. words: of one summary; picture_words: of
    one picture. max_reviews: the newest ones that one summary is made of.
    """

    reviews: Reader | None = Reader(by="extractive")
    pictures: Reader | None = None
    cuts: int = Field(8, ge=1)
    words: int = Field(60, ge=4)
    picture_words: int = Field(40, ge=1)
    max_reviews: int = Field(40, ge=1)

    @model_validator(mode="after")
    def _readers_fit(self) -> Self:
        if self.reviews is not None and self.reviews.by == "classifier":
            raise ValueError("reviews.by is classifier: that looks at pictures")
        if self.pictures is not None and self.pictures.by == "extractive":
            raise ValueError("pictures.by is extractive: that reads reviews")
        return self


class Label(Section):
    """Which rows count as liked.

    column: of the table that the task learns from. at_least: liked from this value on; without it the column must hold
    two values, of which the larger is liked. kinds: of events, those that are liked, in place of a value.
    """

    column: Literal["value", "stars"] = "value"
    at_least: float | None = None
    kinds: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_rule(self) -> Self:
        if self.kinds and self.at_least is not None:
            raise ValueError("at_least is of a value, kinds are of events: say one of them")
        return self


class Imbalance(Section):
    """What is done about labels of which one is rare; counts are those of training rows.

    loss: `bce`, `weighted` (positives weigh as much as negatives together) or `focal` (Lin et al. 2017, with gamma).
    keep_negatives: share of negatives that is trained on; the log of it is added to the logits afterwards.
    """

    loss: Literal["bce", "weighted", "focal"] = "bce"
    gamma: float = Field(2.0, ge=0)
    keep_negatives: float = Field(1.0, gt=0, le=1)


class Rank(Section):
    """The ranker (MMREC, arXiv 2408.04211, on a DLRM, arXiv 1906.00091): will this user like this item?

    A task's modality says which media it reads; without any it knows ids and numbers alone. label: what is liked. ids:
    whether users and items have embeddings of their own. numbers: whether what was counted before a row (events and
    likes of its user and of its item) comes in. attributes: of items; one whose values are all numbers, or texts of
    numbers, comes in as a number, words are hashed. text: how reviews come in, as `summary` or as the mean of their
    vectors (`averaged`). picture: `raw` features of the tower or its `words`. history: whether the mean of what the
    user liked before stands beside the item's own vectors.
    shuffled: the control in which every item has another's media. components: how many principal components of each
    source of vectors are read, each of variance 1, where items are few and vectors long; None for the vectors as they
    are. dim: of the unified space. bottom, top: widths of the two MLPs. bins: rows of the table into which the values
    of one column are hashed. sparse: whether the gradient of a table is kept of the rows that a step has seen only;
    None for where it can be, that is without DeepSpeed.
    absence: how often a training row loses a vector that it has. scheme: the stored split; the recipe's by default.
    """

    label: Label = Label()
    ids: bool = True
    numbers: bool = True
    attributes: tuple[str, ...] = ()
    text: Literal["summary", "averaged"] = "summary"
    picture: Literal["raw", "words"] = "raw"
    history: bool = True
    shuffled: tuple[Literal["image", "text"], ...] = ()
    imbalance: Imbalance = Imbalance()
    components: int | None = Field(None, ge=1)
    dim: int = Field(64, ge=2)
    bottom: Layers = (256, 128)
    top: Layers = (256, 128)
    bins: int = Field(20_000, ge=2)
    sparse: bool | None = None
    dropout: float = Field(0.0, ge=0, lt=1)
    absence: Share = 0.1
    scheme: Literal["time", "loo"] = "time"

    def read_of(self, width: int) -> int:
        """How many numbers a projection reads of a vector of this width."""
        return width if self.components is None else min(width, self.components)


class Inputs(Section):
    """What the network of one ranker is built for; it follows from settings, data and backbone.

    numbers: names, those of events before those of attributes. hashed: columns of ids and words. vectors: source ->
    width.
    """

    numbers: tuple[str, ...] = ()
    hashed: tuple[str, ...] = ()
    vectors: dict[str, int] = {}


class Ranking(Section):
    """How rankers are measured; everything is chosen on validation rows.

    recalls: at which the false-positive rate is told; rates: at which recall is. target: false-positive rate that the
    threshold keeps on validation rows. gain, loss: money of a liked recommendation and of one that is not liked; value
    is told of 1,000 rows. max_rows: test rows that are measured, evenly spread. controls: which models without a
    network learn from the same features.
    """

    recalls: tuple[Share, ...] = Field((0.8, 0.9), min_length=1)
    rates: tuple[Share, ...] = Field((0.01, 0.05), min_length=1)
    target: Share = 0.05
    gain: float = Field(1.0, ge=0)
    loss: float = Field(0.2, ge=0)
    max_rows: int | None = Field(None, ge=1)
    controls: tuple[Literal["logistic", "trees"], ...] = ("logistic", "trees")

"""What a recipe says of personalised multimodal prompts (VIP5, arXiv 2305.14302); part of `config`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latefuse.sections import Section

Place = Literal["self", "cross", "ffn"]
PLACES: tuple[Place, ...] = ("self", "cross", "ffn")
Family = Literal["sequential", "direct", "explanation"]
PROMPT_FAMILIES: tuple[Family, ...] = ("sequential", "direct", "explanation")
Table = Literal["frozen", "learned", "none"]
Often = Annotated[int, Field(ge=1)]


class Personalise(Section):
    """A frozen language model reads prompts in which an item is its number and k visual tokens made of its picture.

    k: visual tokens of an item, 0 for words alone. adapter: bottlenecks (Houlsby et al. 2019, arXiv 1902.00751), or
    LoRA with the rank of the task's `adapter`. reduction: how many times narrower a bottleneck is than the model.
    places: behind which parts of a block bottlenecks stand: self-attention, cross-attention, feed-forward. per_family:
    whether every family of prompts has bottlenecks of its own. norms: whether the scales of the norms learn.
    whole_words, categories: the embeddings that tell which tokens are one word, and text from pictures: frozen as they
    are drawn (the paper's count has them so), learned, or none. by_length: whether a token counts one over the square
    of its answer's length, as in the released code, so that long answers weigh little. compare: what the answer that
    names an item is held against in training: every token, as in the paper, or those that go on to an item of the
    catalogue, as the search has it. ids: what items are called: numbers of a random permutation, or semantic ids.
    families: of prompts, those that train. per_user: how often an epoch takes each user in each family of events, and
    each review once; or by family (sequential: 8, explanation: 2), the others once. max_tokens: of a prompt;
    target_tokens: of an answer, both with their end token. word_tokens: of each name, title or headline. history:
    items that a history shows at most, None for all that fit. candidates: of a list that one is chosen from. beams:
    answers that are kept side by side in a search. shuffled: the control in which every item has another's picture.
    random_base: the control whose frozen T5 has read nothing, its weights drawn anew, the same ones each time.
    """

    k: int = Field(2, ge=0, le=32)
    adapter: Literal["bottleneck", "lora"] = "bottleneck"
    reduction: int = Field(8, ge=1)
    places: tuple[Place, ...] = Field(PLACES, min_length=1)
    per_family: bool = False
    norms: bool = True
    whole_words: Table = "frozen"
    categories: Table = "frozen"
    by_length: bool = False
    compare: Literal["vocabulary", "items"] = "vocabulary"
    ids: Literal["permuted", "semantic"] = "permuted"
    ids_seed: int | None = None
    rows_seed: int = 0
    families: tuple[Family, ...] = Field(PROMPT_FAMILIES, min_length=1)
    per_user: Often | dict[Family, Often] = 5
    max_tokens: int = Field(1024, ge=8)
    target_tokens: int = Field(64, ge=2)
    word_tokens: int = Field(64, ge=1)
    history: int | None = Field(None, ge=1)
    candidates: int = Field(100, ge=2)
    beams: int = Field(20, ge=1)
    shuffled: bool = False
    random_base: bool = False

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in ("places", "families"):
            if len(set(getattr(self, name))) != len(getattr(self, name)):
                raise ValueError(f"{name} {list(getattr(self, name))}: each one once")
        if self.per_family and self.adapter != "bottleneck":
            raise ValueError("per_family: of bottlenecks only; LoRA is one for all families")
        if self.families == ("explanation",):
            raise ValueError("families: explanations are measured beside what comes next or what suits: add one")
        if self.random_base and self.adapter != "bottleneck":
            raise ValueError("random_base: behind bottlenecks only")
        if self.shuffled and not self.k:
            raise ValueError("shuffled: there are no pictures to shuffle with k=0")
        return self


class Recommending(Section):
    """How personalised prompts are measured; test rows, and everything is chosen on validation rows.

    max_rows: questions of each template, evenly spread; None for all. explanations: rows that are explained, of each
    template. controls: models without a prompt that learn from the same histories.
    """

    max_rows: int | None = Field(None, ge=1)
    explanations: int | None = Field(400, ge=1)
    controls: tuple[Literal["SASRec", "BPR", "VBPR"], ...] = ("SASRec", "BPR", "VBPR")

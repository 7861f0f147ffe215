"""What a recipe says of the relevance judge; part of the one schema in `config`."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from latefuse.sections import Section, Share

RELEVANT, NOT_RELEVANT, ABSTAIN = VERDICTS = ("relevant", "not relevant", "abstain")


class Judge(Section):
    """The relevance judge (LLaVA-RE, arXiv 2508.05602): instruction, demonstrations, picture and text in, a label out.

    relevant, not_relevant: the two labels; a verdict is the log-odds of their first tokens. demos: demonstrations
    before what is asked, of the same task and of both labels, out of the training split. choose: whether they are
    drawn, or those most like what is asked by the frozen backbone's vectors of picture and words. fixed: whether all
    rows of a task see the same demonstrations, which are then encoded once; rows that train see their own in any case.
    learn_demos: whether the labels of demonstrations are learned as well. instruction: whether the rule is shown, off
    for the control without it. weights: how many times as often as others the training rows of a `source` are seen, for
    instance {person: 4} for corrections. seed: of which demonstrations are drawn.
    """

    relevant: str = Field("Relevant", min_length=1)
    not_relevant: str = Field("Not Relevant", min_length=1)
    demos: int = Field(2, ge=0)
    choose: Literal["random", "nearest"] = "random"
    fixed: bool = True
    learn_demos: bool = False
    instruction: bool = True
    weights: dict[str, Annotated[int, Field(ge=1, le=1000)]] = {}
    seed: int = 0

    @model_validator(mode="after")
    def _own_if_nearest(self) -> Self:
        if self.choose == "nearest" and self.fixed:
            raise ValueError("choose is nearest, so each row has demonstrations of its own: say fixed: false")
        return self

    @model_validator(mode="after")
    def _two_labels(self) -> Self:
        for label in (self.relevant, self.not_relevant):
            if not label.strip():
                raise ValueError(f"a label is {label!r}: it needs words")
        if self.relevant.strip().casefold() == self.not_relevant.strip().casefold():
            raise ValueError(f"relevant and not_relevant are both {self.relevant!r}: a verdict needs two labels")
        return self

    def label(self, relevant: bool) -> str:
        """The label's words."""
        return self.relevant if relevant else self.not_relevant


class Policy(Section):
    """How the threshold is chosen: by the best F1, or the largest recall with at least so much precision (value) or at
    most such a false-positive rate (value)."""

    kind: Literal["best-f1", "precision", "false-positive-rate"] = "best-f1"
    value: Share | None = None

    @model_validator(mode="after")
    def _has_its_value(self) -> Self:
        if self.kind == "best-f1" and self.value is not None:
            raise ValueError("best-f1 takes no value")
        if self.kind != "best-f1" and self.value is None:
            bound = "the least precision" if self.kind == "precision" else "the largest rate"
            raise ValueError(f"{self.kind} needs a value, {bound} that is allowed")
        return self


class Abstain(Section):
    """How right the verdicts must be, on validation, that are not left to people. Six decimals count."""

    accuracy: Share


class Verdicts(Section):
    """How scores become verdicts; everything is chosen on validation rows, one task of judgements at a time.

    policy: of the threshold. abstain: which rows go to people instead; None for none. dual_encoder: folder of a CLIP or
    SigLIP model that is measured beside the arms. sentence_encoder: a folder or `pip:<package>` for the words of the
    linear map, by default the backbone's own language model. max_rows: test rows that are measured, evenly spread; a
    verdict is cheap, so `evaluation.max_rows` has no say. beside: rows that are answered freely, and asked again with
    what a text must not be able to do.
    """

    policy: Policy = Policy()
    abstain: Abstain | None = None
    dual_encoder: str | None = None
    sentence_encoder: str | None = None
    max_rows: int | None = Field(None, ge=1)
    beside: int = Field(200, ge=0)

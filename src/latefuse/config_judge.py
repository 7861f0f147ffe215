"""What a recipe says of the relevance judge; part of the one schema in `config`."""

from __future__ import annotations

from typing import Self

from pydantic import Field, model_validator

from latefuse.sections import Section

RELEVANT, NOT_RELEVANT, ABSTAIN = VERDICTS = ("relevant", "not relevant", "abstain")


class Judge(Section):
    """The relevance judge (LLaVA-RE, arXiv 2508.05602): instruction, demonstrations, picture and text in, a label out.

    relevant, not_relevant: the two labels; a verdict is the log-odds of their first tokens. demos: demonstrations
    before what is asked, of the same task and of both labels, out of the training split. fixed: whether all rows of a
    task see the same demonstrations, which are then encoded once; rows that train see their own in any case.
    learn_demos: whether the labels of demonstrations are learned as well. instruction: whether the rule is shown, off
    for the control without it. seed: of which demonstrations are drawn.
    """

    relevant: str = Field("Relevant", min_length=1)
    not_relevant: str = Field("Not Relevant", min_length=1)
    demos: int = Field(2, ge=0)
    fixed: bool = True
    learn_demos: bool = False
    instruction: bool = True
    seed: int = 0

    @model_validator(mode="after")
    def _two_labels(self) -> Self:
        if self.relevant.strip().casefold() == self.not_relevant.strip().casefold():
            raise ValueError(f"relevant and not_relevant are both {self.relevant!r}: a verdict needs two labels")
        return self

    def label(self, relevant: bool) -> str:
        """The label's words."""
        return self.relevant if relevant else self.not_relevant

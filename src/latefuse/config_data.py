"""The recipe's section of data: where they lie, what a medium may cost, how rows are split and audited."""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import Field, model_validator

from latefuse.config_rank import Readings
from latefuse.config_vectors import Mining
from latefuse.sections import Section, Share


class MediaLimits(Section):
    """What a medium may cost before it is refused; read from its header, before decoding."""

    max_bytes: int = Field(64_000_000, ge=1)
    max_pixels: int = Field(50_000_000, ge=1)
    max_frames: int = Field(100_000, ge=1)
    max_seconds: float = Field(3_600, gt=0)


class Splits(Section):
    """Which split scheme the tables need and how large the held-out parts are.

    official: whether splits that the source gives are kept; one without a valid part gets it from its training groups.
    """

    scheme: Literal["item", "pair", "time", "loo"] = "item"
    valid: Share = 0.1
    test: Share = 0.1
    seed: int = 0
    official: bool = True

    @model_validator(mode="after")
    def _some_train(self) -> Self:
        if self.valid + self.test >= 1:
            raise ValueError(f"valid {self.valid} and test {self.test} leave nothing to train on")
        return self


class Leaks(Section):
    """When two texts count as one, which words of a template do not count, and whether a leak fails `prepare`."""

    on_leak: Literal["fail", "report"] = "fail"

    jaccard: float = Field(0.8, gt=0, le=1)
    shingle: int = Field(5, ge=1)
    ignore_words: tuple[str, ...] = ()


class Data(Section):
    """Where the raw data lie and how `prepare` turns them into a dataset.

    pairs: mine them from the events. corrections: folders that `latefuse review import` wrote, whose judgements by
    people take the place of those they are about, or join the others. readings: what is put into words for a ranker.
    """

    source: str
    path: str | None = None
    options: dict[str, Any] = {}
    splits: Splits = Splits()
    pairs: Mining | None = None
    corrections: tuple[str, ...] = ()
    readings: Readings | None = None
    limits: MediaLimits = MediaLimits()
    leaks: Leaks = Leaks()
    quarantine_budget: Share = 0.02
    licence: str = "unknown"

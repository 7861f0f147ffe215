"""What a recipe says of fusing adapters; part of the one schema in `config`."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from latefuse.sections import Section

MergeMethod = Literal["concat", "ties", "dare", "svd"]


class LateFusion(Section):
    """Mixing next-token log-probabilities; the weights are learned on the validation split."""

    enabled: bool = True
    steps: int = Field(200, ge=1)
    max_rows: int = Field(200, ge=1)


class Fusion(Section):
    """How separate adapters become one model. `grid` holds the candidate weights per adapter, `candidates` bounds the
    combinations that the first method may try; the others begin at its choice and may try half as many. `tolerance` is
    the relative error that a proof allows: it may be stricter than float32 needs, not so lax that it proves nothing."""

    methods: tuple[MergeMethod, ...] = ("concat", "ties", "dare", "svd")
    grid: tuple[float, ...] = Field((0.3, 0.6, 1.0), min_length=1)
    search_rows: int = Field(32, ge=1)
    candidates: int = Field(10, ge=1)
    density: float = Field(0.5, gt=0, le=1)
    rank: int | None = Field(None, ge=1)
    tolerance: float = Field(1e-4, gt=0, le=1e-4)
    late: LateFusion = LateFusion()

    @field_validator("grid")
    @classmethod
    def _some_weight(cls, grid: tuple[float, ...]) -> tuple[float, ...]:
        if not any(grid):
            raise ValueError("expected at least one weight other than 0")
        return grid

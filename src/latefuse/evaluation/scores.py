"""The tidy table of all scores: one line per arm, seed, condition, row and metric."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from latefuse.evaluation.classification import Score
from latefuse.evaluation.intervals import Floats

COLUMNS: dict[str, Any] = {
    "arm": pl.String, "seed": pl.Int64, "condition": pl.String, "task": pl.String, "topic": pl.String,
    "row": pl.String, "item": pl.String, "modality": pl.String, "slice": pl.String, "metric": pl.String,
    "value": pl.Float64, "n": pl.Int64,
}  # fmt: skip
ORACLE = "oracle"
NO_SEED = -1


@dataclass
class Scores:
    """Collects score lines; `value` is null and `n` 0 where a row can't be measured."""

    lines: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, key: Sequence[Any], scores: Mapping[str, Score]) -> None:
        """key: (arm, seed, condition, task, topic, row, item, modality, slice)."""
        self.lines += [(*key, metric, None if np.isnan(value) else value, n) for metric, (value, n) in scores.items()]

    def table(self) -> ScoreTable:
        """Everything collected so far."""
        return ScoreTable(pl.DataFrame(self.lines, schema=COLUMNS, orient="row"))


class ScoreTable:
    """The scores, cut into one part per (arm, condition, task, metric)."""

    def __init__(self, frame: pl.DataFrame) -> None:
        self.frame = frame
        self._parts = frame.partition_by(["arm", "condition", "task", "metric"], as_dict=True, include_key=False)

    @classmethod
    def read(cls, path: Path) -> ScoreTable:
        """A table that `write` left."""
        return cls(pl.read_parquet(path))

    def write(self, path: Path) -> None:
        """As Parquet, lines in the order in which they were measured."""
        self.frame.write_parquet(path)

    def distinct(self, column: str, **where: str) -> list[str]:
        """The values of a column in order of appearance, among the lines where other columns have given values."""
        frame = self.frame.filter(*(pl.col(key) == value for key, value in where.items()))
        return frame[column].unique(maintain_order=True).to_list()

    def has(self, arm: str, task: str, metric: str, condition: str = "full") -> bool:
        """Whether the arm has been measured there."""
        return (arm, condition, task, metric) in self._parts

    def matrix(
        self, arm: str, task: str, metric: str, condition: str = "full", rows: Sequence[str] | None = None
    ) -> tuple[Floats, list[str], list[str]]:
        """(values (seeds, rows) with nan where not measured, row ids, item of each row).

        rows: the row ids wanted, in order; by default all that were measured, sorted.
        """
        part = self._parts[arm, condition, task, metric]
        names = part["row"].to_list()
        items = {name: item or name for name, item in zip(names, part["item"].to_list(), strict=True)}
        wanted = sorted(items) if rows is None else list(rows)
        at = {name: k for k, name in enumerate(wanted)}
        seeds = {seed: k for k, seed in enumerate(sorted(set(part["seed"].to_list())))}
        values = np.full((len(seeds), len(wanted)), np.nan)
        for name, seed, value in zip(names, part["seed"].to_list(), part["value"].to_list(), strict=True):
            if value is not None and name in at:
                values[seeds[seed], at[name]] = value
        return values, wanted, [items.get(name, name) for name in wanted]

    def slice_rows(self, task: str) -> dict[str, list[str]]:
        """Row ids of a task by slice, without the unnamed one."""
        part = self.frame.filter(pl.col("task") == task, pl.col("slice") != "").select("slice", "row").unique()
        slices: dict[str, list[str]] = {}
        for name, row in sorted(part.iter_rows()):
            slices.setdefault(name, []).append(row)
        return slices


def copy_lines(frame: pl.DataFrame, arm: str, sources: Mapping[str, str]) -> pl.DataFrame:
    """The lines of an arm that is put together from others: on each task those of `sources[task]`, renamed."""
    parts: Iterable[pl.DataFrame] = (
        frame.filter(pl.col("arm") == source, pl.col("task") == task) for task, source in sources.items()
    )
    return pl.concat(parts).with_columns(pl.lit(arm).alias("arm"))

"""Rows that are kept as columns and counted one by one: what kinds of task share whose rows are no conversations."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, overload

import numpy as np
from numpy.typing import NDArray

from latefuse.prompts import MediaRef
from latefuse.training.schedule import Columnar


@dataclass(frozen=True)
class CountedRow:
    """One row of `Counted`. It holds nothing of its own."""

    rows: Counted
    place: int

    @property
    def row(self) -> str:
        """Its id."""
        return self.rows.take([self.place]).names[0]

    @property
    def tokens(self) -> int:
        """Rows are counted, not words."""
        return 1

    @property
    def learned(self) -> int:
        """A label or an answer."""
        return 1

    @property
    def media(self) -> tuple[MediaRef, ...]:
        """Vectors of pictures are made for the whole catalogue at once."""
        return ()

    @property
    def group(self) -> str:
        """All rows touch all parts."""
        return "text"

    @property
    def identity(self) -> list[Any]:
        """What the weights at the end depend on."""
        return [self.row]


class Counted(Columnar):
    """Rows as columns, of which each counts as one and has one thing to learn."""

    counted = True

    @abstractmethod
    def take(self, numbers: Sequence[int] | NDArray[Any]) -> Self:
        """Some of the rows, in the order asked for."""

    @overload
    def __getitem__(self, number: int) -> CountedRow: ...
    @overload
    def __getitem__(self, number: slice) -> Self: ...
    def __getitem__(self, number: int | slice) -> CountedRow | Self:
        places = range(len(self))[number]
        return self.take(places) if isinstance(places, range) else CountedRow(self, places)

    def __iter__(self) -> Iterator[CountedRow]:
        return (CountedRow(self, place) for place in range(len(self)))

    @property
    def sizes(self) -> NDArray[np.int64]:
        """(n, 2) ones."""
        return np.ones((len(self), 2), np.int64)

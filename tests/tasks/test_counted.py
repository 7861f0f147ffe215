"""Rows as columns behave as a sequence does, whatever the columns are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import pytest
from numpy.typing import NDArray

from latefuse.config import Train
from latefuse.tasks.counted import Counted
from latefuse.training.schedule import Schedule, Step


@dataclass(frozen=True)
class Letters(Counted):
    """Of an alphabet."""

    known: str

    def __len__(self) -> int:
        return len(self.known)

    def take(self, numbers: Sequence[int] | NDArray[Any]) -> Self:
        return type(self)("".join(self.known[number] for number in numbers))

    @property
    def names(self) -> list[str]:
        return list(self.known)

    @property
    def identities(self) -> str:
        return self.known


@pytest.mark.parametrize("some", [slice(None), slice(1, 4), slice(-2, None), slice(None, None, -2), slice(9, 12)])
def test_slices_are_those_of_a_string(some: slice) -> None:
    assert Letters("abcde")[some].known == "abcde"[some]


def test_rows_come_one_by_one() -> None:
    rows = Letters("abcde")
    assert [row.row for row in rows] == list("abcde")
    assert (rows[-1].row, rows[1].row) == ("e", "b")
    assert [row.identity for row in rows[1:3]] == [["b"], ["c"]]
    with pytest.raises(IndexError):
        rows[5]


def test_each_counts_as_one() -> None:
    rows = Letters("abc")
    np.testing.assert_array_equal(rows.sizes, [(row.tokens, row.learned) for row in rows])


def test_of_rows_that_are_counted_no_tokens_are_told() -> None:
    todo = Schedule(Letters("abc"), [Step("both", (0, 2)), Step("both", (1, 0))], Train())
    assert todo.sizes == [(2, 2), (2, 2)]
    assert todo.tokens is None

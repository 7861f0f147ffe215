from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import Any

from latefuse.config import Train
from latefuse.training.schedule import Schedule, Step, taken


@dataclass(frozen=True)
class Plain:
    row: str
    group: str
    tokens: int
    learned: int = 1
    media: tuple[Any, ...] = ()

    @property
    def identity(self) -> list[Any]:
        return [self.row]

    def as_guest(self) -> Plain:
        return Plain(f"guest {self.row}", self.group, self.tokens, 0)


GROUPS = ["image", "image", "video", "text", "image+video", "text", "text", "text"]
ROWS = [Plain(str(n), group, 20 - n) for n, group in enumerate(GROUPS)]


def test_every_process_reads_the_media_that_another_one_reads_by_guests() -> None:
    todo = Schedule(ROWS, [Step("a", (0, 1, 2, 3)), Step("a", (4, 5, 6, 7))], Train(batch_size=4, accumulation=1))
    assert todo.micro_batches(2, 0) == [[0, 1], [4, 5]]
    assert todo.micro_batches(2, 0, alike=True) == [[0, 1, ~2], [4, 5]]
    assert todo.micro_batches(2, 1, alike=True) == [[2, 3, ~1], [6, 7, ~4]]  # of two the shorter, and one for both
    assert todo.micro_batches(1, 0, alike=True) == todo.micro_batches(1, 0)
    assert [row.row for row in taken(ROWS, [2, 3, ~1])] == ["2", "3", "guest 1"]


def test_processes_read_alike_at_each_moment_of_an_accumulation() -> None:
    todo = Schedule(ROWS, [Step("a", tuple(range(8)))], Train(batch_size=8, accumulation=2))
    both = [todo.micro_batches(2, rank, alike=True) for rank in (0, 1)]
    for moment in zip(*both, strict=True):
        read = [set("+".join(ROWS[max(n, ~n)].group for n in batch).split("+")) - {"text"} for batch in moment]
        assert read[0] == read[1]
    learned = [n for batch in chain.from_iterable(both) for n in batch if n >= 0]
    assert sorted(learned) == list(range(8))

"""What one job will do, step by step, before it starts: rows, micro-batches, tokens, and the optimiser's numbers."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from latefuse.config import Job, Task, Train
from latefuse.prompts import MediaRef
from latefuse.tasks import get
from latefuse.training.batching import interleave, micro_batches
from latefuse.training.distributed import TrainingError, micro_batch


class Row(Protocol):
    """What a job knows of a row of any kind: its id, its size, how much of it is learned, its media.

    group: rows of one group touch the same parts of the backbone. identity: what the weights at the end depend on.
    """

    @property
    def row(self) -> str: ...
    @property
    def tokens(self) -> int: ...
    @property
    def learned(self) -> int: ...
    @property
    def group(self) -> str: ...
    @property
    def media(self) -> tuple[MediaRef, ...]: ...
    @property
    def identity(self) -> list[Any]: ...


class Guest(Row, Protocol):
    """A row of a kind whose rows do not all touch the same parts."""

    def as_guest(self) -> Row:
        """The row as one that is read like any other and from which nothing is learned."""
        ...


class Columnar(Sequence[Row], ABC):
    """Rows that are kept as columns, which say of all of them what a list of rows is asked one by one.

    names: the ids of rows. sizes: (n, 2) tokens and what is learned of each row. identities: a digest of every row's
    identity. take: some of the rows, in the order asked for. counted: whether sizes counts rows and knows no tokens.
    """

    counted = False

    @property
    @abstractmethod
    def names(self) -> Sequence[str]: ...
    @property
    @abstractmethod
    def sizes(self) -> NDArray[np.int64]: ...
    @property
    @abstractmethod
    def identities(self) -> str: ...
    @abstractmethod
    def take(self, numbers: Sequence[int]) -> Columnar: ...


@dataclass(frozen=True)
class Step:
    """One optimiser step: its task and its rows, numbers into `Schedule.rows`."""

    task: str
    rows: tuple[int, ...]


@dataclass(frozen=True)
class Schedule:
    """All steps of a job. train: the numbers of the optimiser, for the mix those of all its tasks together."""

    rows: Sequence[Row]
    steps: list[Step]
    train: Train

    @cached_property
    def sizes(self) -> list[tuple[int, int]]:
        """Tokens of every step, padding not counted, and how much of it is learned."""
        rows = self.rows
        each = rows.sizes if isinstance(rows, Columnar) else np.array([(row.tokens, row.learned) for row in rows])
        sums = (each[list(step.rows)].sum(0) for step in self.steps)
        return [(int(tokens), int(learned)) for tokens, learned in sums]

    @property
    def tokens(self) -> list[int] | None:
        """Tokens of every step, padding not counted; None where rows are counted and not their tokens."""
        if isinstance(self.rows, Columnar) and self.rows.counted:
            return None
        return [tokens for tokens, _ in self.sizes]

    @property
    def groups(self) -> set[str]:
        """The kinds of batches that occur, by modality."""
        return {self.rows[step.rows[0]].group for step in self.steps}

    def micro_batches(self, world: int, rank: int, alike: bool = False) -> list[list[int]]:
        """What one process reads, in order: for every step, one micro-batch per accumulation.

        alike: each holds every modality that another process reads at that moment, by guests where its own rows have
        none of it; `~number` is row `number` as a guest.
        """
        parts = self.train.accumulation * world
        found: list[list[int]] = []
        for step in self.steps:
            cut = micro_batches(step.rows, parts)
            for start in range(0, parts, world):
                together = cut[start : start + world]
                found.append([*together[rank], *(self._guests(together, together[rank]) if alike else ())])
        return found

    def _guests(self, together: Sequence[Sequence[int]], own: Sequence[int]) -> list[int]:
        """Of each modality that another process reads and this one does not, its shortest row as `~number`."""
        if isinstance(self.rows, Columnar):  # such rows all touch the same parts
            return []
        lacking = self._read(chain.from_iterable(together)) - self._read(own)
        if not lacking:
            return []
        others = sorted(chain.from_iterable(together), key=lambda row: self.rows[row].tokens)
        first = (next(row for row in others if modality in self._read([row])) for modality in sorted(lacking))
        return [~row for row in dict.fromkeys(first)]

    def _read(self, rows: Iterable[int]) -> set[str]:
        """The media that rows are read with; words all of them have."""
        return {modality for row in rows for modality in self.rows[row].group.split("+")} - {"text"}

    def key(self, *bound_to: str) -> str:
        """A digest of everything that the weights at the end depend on, with what else the caller names."""
        rows = self.rows
        names = rows.names if isinstance(rows, Columnar) else [row.row for row in rows]
        steps = [[step.task, [names[row] for row in step.rows]] for step in self.steps]
        whole = json.dumps([steps, identities(rows), self.train.model_dump(mode="json"), *bound_to], sort_keys=True)
        return hashlib.sha256(whole.encode()).hexdigest()[:32]


def schedule(job: Job, examples: Mapping[str, Sequence[Row]], world: int) -> Schedule:
    """The steps of a job. Raises TrainingError when a batch can't be split over the processes.

    A mix is the separate jobs' own steps, shuffled into one another: the same rows and tokens as those jobs together.
    """
    train = check_batches(job, world)
    plans: dict[str, list[list[int]]] = {}
    first = 0
    for name, task in job.tasks.items():
        one = task.train
        mine = examples[name]
        if not len(mine):
            raise TrainingError(f"task {name!r} has no rows to train on")
        made = get(task.kind).steps(mine, one, job.seed, train.accumulation * world)
        plans[name] = [[row + first for row in step] for step in made] if first else made
        first += len(mine)
    parts = [examples[name] for name in job.tasks]
    rows = parts[0] if len(parts) == 1 else [row for part in parts for row in part]
    return Schedule(rows, [Step(name, tuple(step)) for name, step in interleave(plans, job.seed)], train)


def identities(rows: Sequence[Row]) -> str:
    """A digest of the identities of all rows, in their order."""
    if isinstance(rows, Columnar):
        return rows.identities
    made = hashlib.sha256()
    for row in rows:
        made.update(json.dumps(row.identity).encode())
    return made.hexdigest()


def taken(rows: Sequence[Row], numbers: Sequence[int]) -> Sequence[Row]:
    """Some of the rows, in that order, `~number` as a guest; rows that are columns stay columns, and have no guests."""
    if isinstance(rows, Columnar):
        return rows.take(numbers)
    return [rows[number] if number >= 0 else cast(Guest, rows[~number]).as_guest() for number in numbers]


def check_batches(job: Job, world: int) -> Train:
    """The optimiser's numbers of a job. Raises TrainingError unless every task's batch splits over the processes."""
    train = combined(job.tasks)
    for task in job.tasks.values():
        micro_batch(task.train.model_copy(update={"accumulation": train.accumulation}), world)
    return train


def combined(tasks: Mapping[str, Task]) -> Train:
    """The optimiser's numbers for all tasks together.

    Steps add up; rates and shares are means weighted by steps; a schedule that differs between tasks is an error.
    """
    parts = [task.train for task in tasks.values()]
    schedules = sorted({part.schedule for part in parts})
    if len(schedules) > 1:
        raise TrainingError(f"tasks with different schedules {schedules} can't be mixed: set train.schedule for all")
    steps = sum(part.max_steps for part in parts)

    def mean(key: str) -> float:
        return float(sum(getattr(part, key) * part.max_steps for part in parts) / steps)

    means = {key: mean(key) for key in ("lr", "warmup", "weight_decay", "max_grad_norm")} if len(parts) > 1 else {}
    return parts[0].model_copy(
        update={
            **means,
            "max_steps": steps,
            "accumulation": max(part.accumulation for part in parts),
            "save_every": max(part.save_every for part in parts),
            "batch_size": max(part.batch_size for part in parts),
        }
    )


def epochs(schedule: Schedule) -> float:
    """How often each row is read, on average."""
    return sum(len(step.rows) for step in schedule.steps) / len(schedule.rows)


def losses(history: Sequence[Mapping[str, float]]) -> Iterator[tuple[int, float]]:
    """Step and mean loss per answer token of every entry of a Trainer's log that has one."""
    return ((int(entry["step"]), float(entry["loss"])) for entry in history if "loss" in entry)

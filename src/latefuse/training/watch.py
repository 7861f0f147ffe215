"""What is watched while a job trains: that gradients arrive and are finite, and how fast it goes."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from latefuse import progress
from latefuse.models.adapters import gradient_norms, numbers_of
from latefuse.models.backbone import Backbone
from latefuse.training import alive
from latefuse.training.distributed import TrainingError
from latefuse.training.schedule import Schedule

NAMES = {"loss": "train/loss", "grad_norm": "train/grad_norm", "learning_rate": "train/lr"}


class WatchGradients(TrainerCallback):
    """Stops on a gradient that is not finite, or on a part of the adapter that gets none where it should.

    A step of text only can't move what reads media, so each part is looked at in the first steps that touch it.
    """

    def __init__(self, backbone: Backbone, schedule: Schedule) -> None:
        self.backbone, self.schedule = backbone, schedule
        self.trained = backbone.trained()
        self.waiting: set[str] | None = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called with the gradients of a whole step."""
        if args.deepspeed:
            return  # its gradients are spread over the processes; the adapter is checked for movement when it is saved
        step = self.schedule.steps[state.global_step]
        grads = [numbers_of(p.grad) for p in self.trained if p.grad is not None]
        if not math.isfinite(float(torch.nn.utils.get_total_norm(grads))):
            rows = self.rows_of(step.rows)
            raise TrainingError(f"step {state.global_step + 1}: the gradient is not finite; rows {rows}")
        if self.waiting is None or self.waiting:
            self._look(state.global_step, "+".join({self.schedule.rows[row].group for row in step.rows}))

    def _look(self, step: int, group: str) -> None:
        norms = gradient_norms(self.backbone)
        if self.waiting is None:
            self.waiting = set(norms)
        expected = {part for part in norms if _touched(part, group)}
        silent = sorted(part for part in expected & self.waiting if norms[part] == 0)
        if silent:
            raise TrainingError(
                f"step {step + 1}: no gradient reaches {', '.join(silent)} of the adapter, so it would train nothing "
                "there; look at adapter.on and at what the backbone's features depend on"
            )
        self.waiting -= expected

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Every part must have been touched by some step."""
        if self.waiting and not args.deepspeed:
            raise TrainingError(f"no batch ever touched {', '.join(sorted(self.waiting))} of the adapter")

    def rows_of(self, rows: tuple[int, ...]) -> list[str]:
        """The ids of the conversations of a step."""
        return [self.schedule.rows[row].row for row in rows]


class Beat(TrainerCallback):
    """Tells that the process lives, at each step, micro-batch and save; before and behind all steps it need not."""

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A step begins."""
        alive.beat(state.global_step + 1)

    def on_substep_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """A micro-batch of it is done."""
        alive.beat(state.global_step + 1)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """The optimiser has stepped."""
        alive.beat(state.global_step + 1)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """A checkpoint is written."""
        alive.beat(state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """What comes now is measured by nobody."""
        alive.rest()


class SparseAside(TrainerCallback):
    """Keeps sparse gradients of large tables away from the clipping, which knows dense ones only.

    `take` is called after every backward pass; they are back when the optimiser steps, unclipped.
    """

    def __init__(self, trained: Sequence[torch.nn.Parameter]) -> None:
        self.trained = trained
        self.held: dict[torch.nn.Parameter, torch.Tensor] = {}

    def take(self) -> None:
        """Take sparse gradients off their parameters, onto those of earlier micro-batches."""
        for parameter in self.trained:
            if parameter.grad is not None and parameter.grad.is_sparse:
                held = self.held.get(parameter)
                self.held[parameter] = parameter.grad if held is None else held + parameter.grad
                parameter.grad = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Give them back."""
        for parameter, gradient in self.held.items():
            parameter.grad = gradient.coalesce()
        self.held.clear()


def _touched(part: str, group: str) -> bool:
    if part in ("language", "head"):
        return True
    return group != "text" if part == "bridge" else part.removeprefix("tower.") in group.split("+")


class Progress(TrainerCallback):
    """A progress bar where somebody looks at it, and numbers for the tracker.

    on_log gets train/loss, train/grad_norm, train/lr, train/samples_per_s and, where tokens are counted,
    train/tokens_per_s with the step.
    """

    def __init__(self, schedule: Schedule, on_log: Callable[[dict[str, float], int], None], first: bool) -> None:
        self.schedule, self.on_log_values, self.first = schedule, on_log, first
        self.tokens = schedule.tokens
        self.bar: Any = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the clock."""
        self.start = self.last = state.global_step
        self.began = self.last_time = time.perf_counter()
        self.bar = progress.bar(total=state.max_steps, initial=self.start, desc="train", unit="step", wanted=self.first)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """One optimiser step further."""
        self.bar.update(1)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, logs: Any = None, **kwargs: Any
    ) -> None:
        """Hand the numbers on."""
        values = {NAMES[key]: float(value) for key, value in (logs or {}).items() if key in NAMES}
        if not self.first or not values:
            return
        now, step = time.perf_counter(), state.global_step
        speed = self.done(self.last, step, now - self.last_time)
        values |= {f"train/{name}": one for name, one in speed.items() if one is not None}
        unit = "samples" if speed["tokens_per_s"] is None else "tokens"
        self.bar.set_postfix({"loss": f"{values['train/loss']:.3f}", f"{unit}_s": f"{speed[f'{unit}_per_s']:.0f}"})
        self.on_log_values(values, step)
        self.last, self.last_time = step, now

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop the clock."""
        self.ended = time.perf_counter()
        self.stop = state.global_step
        self.bar.close()

    def done(self, start: int, stop: int, seconds: float) -> dict[str, float | None]:
        """samples_per_s and tokens_per_s of the steps from start to stop; None for tokens that are not counted."""
        rows, passed = sum(len(step.rows) for step in self.schedule.steps[start:stop]), max(seconds, 1e-9)
        tokens = None if self.tokens is None else sum(self.tokens[start:stop]) / passed
        return {"samples_per_s": rows / passed, "tokens_per_s": tokens}

    def speed(self) -> dict[str, float | None]:
        """samples_per_s and tokens_per_s over the steps that this process ran, and train_s."""
        passed = self.ended - self.began
        return {**self.done(self.start, self.stop, passed), "train_s": passed}

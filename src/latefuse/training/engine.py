"""One optimisation on the Hugging Face Trainer, through its public extension points only.

The Trainer sees a small module that computes the summed loss of a batch by the task's own `loss`; it keeps the
optimiser, gradient accumulation, clipping, the schedule, DDP and DeepSpeed, checkpoints and resuming.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader
from transformers import PrinterCallback, Trainer, TrainingArguments

from latefuse.config import Job, Train
from latefuse.models.adapters import module_digest, parameter_counts
from latefuse.models.backbone import Backbone
from latefuse.tasks import get
from latefuse.training.adagrad import Adagrad
from latefuse.training.checkpoints import MarkComplete, newest_complete, remove_incomplete
from latefuse.training.distributed import (
    TrainingError,
    World,
    deepspeed_config,
    gathered,
    micro_batch,
    prepare_process,
)
from latefuse.training.features import Features
from latefuse.training.learner import Learner
from latefuse.training.schedule import Columnar, Row, Schedule, epochs, losses, schedule, taken
from latefuse.training.watch import Beat, Progress, SparseAside, WatchGradients

OPTIMISERS = {"rank": "adagrad"}
"""Adagrad takes the sparse gradients of large tables, and is what DLRM trains with (arXiv 1906.00091, section 4)."""
OnLog = Callable[[dict[str, float], int], None]


class Order:
    """A batch sampler that hands out the micro-batches of one process in the order of the schedule."""

    def __init__(self, batches: Sequence[list[int]], batch_size: int) -> None:
        self.batches, self.batch_size, self.drop_last = batches, batch_size, False

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


class OrderedTrainer(Trainer):
    """The Trainer with a given order of batches and a loss that is the mean over all that is learned in a step."""

    loss_is_scaled_for_ga = True

    def __init__(self, order: Order, aside: SparseAside, **options: Any) -> None:
        super().__init__(callbacks=[aside], **options)
        self.order, self.aside = order, aside

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Every process reads its own share of the schedule, so nothing is left for the Trainer to shard."""
        return DataLoader(self.train_dataset, batch_sampler=self.order, collate_fn=self.data_collator)

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """What decays: not tables with sparse gradients, whose rows would decay as often as they are seen."""
        bags = (name for name, module in model.named_modules() if isinstance(module, nn.EmbeddingBag) and module.sparse)
        sparse = {f"{name}.weight" for name in bags}
        return [name for name in super().get_decay_parameter_names(model) if name not in sparse]

    def training_step(self, model: nn.Module, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        """Forward and backward; what is sparse of the gradient goes aside until the optimiser steps."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        self.aside.take()
        return loss

    def compute_loss(
        self, model: nn.Module, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Raises TrainingError with the batch's row ids on a loss that is not finite."""
        total = model(**inputs)
        if not math.isfinite(float(total.detach())):
            raise TrainingError(
                f"step {self.state.global_step + 1}: the loss is {float(total.detach())}; rows {list(inputs['rows'])}: "
                "look at these rows, or lower train.lr"
            )
        # DDP averages gradients over the processes; the count of what is learned is already over all of them.
        mean = total / num_items_in_batch * self.accelerator.num_processes
        return (mean, None) if return_outputs else mean


def train(
    backbone: Backbone,
    job: Job,
    examples: Mapping[str, Sequence[Row]],
    valid: Mapping[str, Sequence[Row]],
    out: Path,
    features: Features,
    on_log: OnLog,
    bound_to: str = "",
) -> dict[str, Any]:
    """Train the adapter that is attached to the backbone; returns what `result.json` says about it.

    examples, valid: rows by task. out: checkpoints come under it, and a run that was killed goes on from the newest
    complete one of the same job and `bound_to`. Raises TrainingError when the loss or a gradient is not finite, when a
    part of the adapter gets no gradient, and when a weight moved that should not.
    """
    prepare_process(job)
    world = World.of_environment()
    todo = schedule(job, examples, world.size)
    key = todo.key(job.digest, backbone.digest, bound_to)
    frozen = module_digest(backbone.model, backbone.whole)
    kind = job.kind
    report = Progress(todo, on_log, world.first)
    learner = Learner(backbone, kind, several=len(todo.groups) > 1 or kind == "embed")
    trainer = _trainer(learner, job, todo, world, out / "checkpoints", features)
    if isinstance(job.deepspeed, dict) and job.deepspeed.get("zero_optimization", {}).get("stage", 0) < 3:
        learner.to(trainer.args.device)  # elsewhere the Trainer does it; towers are slow on a CPU beside an idle GPU
    for callback in (WatchGradients(backbone, todo), MarkComplete(key, world), Beat(), report):
        trainer.add_callback(callback)
    encoded = sum(
        get(kind).warm(part, backbone, features, world.first) for part in (todo.rows, *valid.values()) if len(part)
    )
    world.wait()
    resumed = _resume(out / "checkpoints", key, world)
    trainer.train(resume_from_checkpoint=str(resumed) if resumed else None)
    learner.eval()
    if module_digest(backbone.model, backbone.whole, gathered) != frozen:
        raise TrainingError("a weight of the frozen backbone has moved in training: the adapter is not saved")
    trained, total = parameter_counts(backbone)
    history = list(losses(trainer.state.log_history))
    return {
        "steps": len(todo.steps),
        "resumed_from": int(resumed.name.rpartition("-")[2]) if resumed else 0,
        "train_tokens": None if todo.tokens is None else sum(todo.tokens),
        "answer_tokens": sum(learned for _, learned in todo.sizes),
        "samples": sum(len(step.rows) for step in todo.steps),
        "epochs": epochs(todo),
        "media_encoded": encoded,
        **report.speed(),
        "trainable": trained,
        "total": total,
        "trainable_share": trained / total,
        "losses": [loss for _, loss in history],
        "loss_steps": [step for step, _ in history],
        "frozen_digest": frozen,
        **learner.whole(lambda: final_loss(backbone, kind, valid, features)),
    }


def final_loss(backbone: Backbone, kind: str, valid: Mapping[str, Sequence[Row]], features: Features) -> dict[str, Any]:
    """Mean loss of what is learned on the validation rows: of all, and of each task."""
    sums, counts = {}, {}
    for name, rows in valid.items():
        if len(rows):
            sums[name] = float(get(kind).nll(backbone, rows, features=features).sum())
            counts[name] = int(rows.sizes[:, 1].sum()) if isinstance(rows, Columnar) else sum(r.learned for r in rows)
    if not counts:
        return {"valid_loss": None, "valid_losses": {}}
    return {
        "valid_loss": sum(sums.values()) / sum(counts.values()),
        "valid_losses": {name: sums[name] / counts[name] for name in sums},
    }


def _trainer(
    learner: Learner, job: Job, todo: Schedule, world: World, folder: Path, features: Features
) -> OrderedTrainer:
    arguments = training_arguments(job, todo, world, folder)
    if todo.train.gradient_checkpointing:
        learner.model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})

    def collate(rows: list[Row]) -> dict[str, Any]:
        return vars(learner.task.collate(rows, learner.backbone, features))

    own = {"optimizer_cls_and_kwargs": (Adagrad, {"lr": todo.train.lr})} if job.deepspeed and job.kind == "rank" else {}
    order = Order(todo.micro_batches(world.size, world.rank, bool(job.deepspeed)), micro_batch(todo.train, world.size))
    trainer = OrderedTrainer(
        order,
        SparseAside(learner.trained),
        model=learner,
        args=arguments,
        train_dataset=_Rows(todo.rows),
        data_collator=collate,
        **own,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _Rows(torch.utils.data.Dataset[Row]):
    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Row:
        return self.rows[number]

    def __getitems__(self, numbers: list[int]) -> Sequence[Row]:
        """A batch: by columns, where rows are columns."""
        return taken(self.rows, numbers)


def training_arguments(job: Job, todo: Schedule, world: World, folder: Path) -> TrainingArguments:
    """The job in the Trainer's words."""
    one, on_gpu = todo.train, torch.cuda.is_available()
    name, options = _scheduler(one)
    return TrainingArguments(
        output_dir=str(folder),
        max_steps=one.max_steps,
        per_device_train_batch_size=micro_batch(one, world.size),
        gradient_accumulation_steps=one.accumulation,
        learning_rate=one.lr,
        warmup_steps=round(one.warmup * one.max_steps),
        lr_scheduler_type=name,
        lr_scheduler_kwargs=options,
        weight_decay=one.weight_decay,
        max_grad_norm=one.max_grad_norm,
        optim=OPTIMISERS.get(job.kind, "adamw_torch_fused"),
        logging_steps=min(one.log_every, one.max_steps),
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=one.save_every,
        save_total_limit=2,
        seed=job.seed,
        use_cpu=not on_gpu,
        bf16=job.precision == "bfloat16",
        fp16=job.precision == "float16",
        ddp_backend=None if on_gpu or world.size == 1 else "gloo",
        ddp_find_unused_parameters=len(todo.groups) > 1 or job.kind == "embed",
        deepspeed=deepspeed_config(job.deepspeed, job, one, world.size) if job.deepspeed else None,
        dataloader_pin_memory=on_gpu,
        remove_unused_columns=False,
        label_names=["labels"],
        report_to="none",
        disable_tqdm=True,
    )


def _scheduler(one: Train) -> tuple[str, dict[str, Any]]:
    if one.schedule == "constant_then_linear":
        return "warmup_stable_decay", {"num_decay_steps": one.max_steps // 2, "decay_type": "linear"}
    return "constant_with_warmup" if one.schedule == "constant" else one.schedule, {}


def _resume(folder: Path, key: str, world: World) -> Path | None:
    if world.first:
        remove_incomplete(folder, key)
    world.wait()
    return newest_complete(folder, key)

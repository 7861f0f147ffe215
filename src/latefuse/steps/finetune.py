"""A dataset and a backbone in, one adapter out: one arm under one seed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing.errors import record

from latefuse import usage
from latefuse.config import Job, Modality, Task
from latefuse.data.dataset import Dataset
from latefuse.errors import UserError
from latefuse.models.adapters import AdapterCard
from latefuse.models.backbone import Backbone
from latefuse.models.backbone import load as load_backbone
from latefuse.tasks import get
from latefuse.tasks.conversation import Selection
from latefuse.tracking import Null, Tracker
from latefuse.training import alive
from latefuse.training.distributed import World, gathered
from latefuse.training.engine import train
from latefuse.training.features import GIB, Features
from latefuse.training.launch import Launch, launch, must_launch
from latefuse.training.schedule import check_batches


def run(
    job: Job,
    dataset: Path,
    backbone: Path,
    out: Path,
    tracker: Tracker,
    cache: Path,
    workdir: Path | None = None,
    start: Launch = launch,
) -> dict[str, Any]:
    """Load, adapt, train, check, save; returns the result that also lies in `out/result.json`.

    out: gets `adapter/` in PEFT's own format with its card. cache: where frozen features are kept between runs.
    workdir: where checkpoints lie, `out` by default; a run that was killed goes on from the newest complete one.
    A job for several processes is started again by `start`, under torchrun, unless this is one of them.
    """
    if must_launch(job):
        return _in_processes(job, dataset, backbone, out, tracker, cache, workdir or out, start)
    began, world = time.perf_counter(), World.of_environment()
    data, base = Dataset(dataset), load_backbone(backbone, dtype=job.precision)
    kind = get(job.kind)
    chosen = {name: kind.select(data, task, "train", base) for name, task in job.tasks.items()}
    valid = {name: kind.select(data, task, "valid", base, needed=False) for name, task in job.tasks.items()}
    kind.attach(base, job.tasks, job.seed, chosen)
    tracker.dataset(data.manifest.get("source", "dataset"), data.fingerprint, str(data.manifest.get("source", "")))
    learned = train(
        base,
        job,
        {name: part.examples for name, part in chosen.items()},
        {name: part.examples for name, part in valid.items()},
        workdir or out,
        _features(job, base, data, cache),
        lambda values, step: tracker.metrics(values, step),
        bound_to=data.fingerprint,
    )
    with gathered(base.saved()):
        card = kind.save(base, out / "adapter", _card(job, data, base, learned)) if world.first else None
    world.wait()
    result = {
        "step": "finetune",
        "name": job.name,
        "seed": job.seed,
        "tasks": sorted(job.tasks),
        "wall_s": time.perf_counter() - began,
        **usage.peaks(),
        "processes": world.size,
        **learned,
        "rows": {name: len(part.examples) for name, part in chosen.items()},
        "left_out": _left_out(chosen, valid),
        "cut": sum(part.cut for part in chosen.values()),
        "adapter_parameters": card.parameters if card else None,
        "target_modules": len(card.target_modules) if card else None,
        "inputs": {"dataset": data.fingerprint, "backbone": base.digest, "job": job.digest},
        "run_id": tracker.run_id,
    }
    if world.first:
        _finish(result, out, tracker)
    return result


def modalities_of(tasks: Mapping[str, Task]) -> list[Modality]:
    """The modalities of a job, each once, in the order of its tasks."""
    return list(dict.fromkeys(modality for task in tasks.values() for modality in task.modality))


def _features(job: Job, base: Backbone, data: Dataset, cache: Path) -> Features:
    parts = [task.train for task in job.tasks.values()]
    root = cache / "features" if all(part.feature_cache for part in parts) else None
    return Features(base, data.media, root, int(max(part.feature_cache_gib for part in parts) * GIB))


def _card(job: Job, data: Dataset, base: Backbone, learned: Mapping[str, Any]) -> AdapterCard:
    loss = learned["valid_loss"]
    return AdapterCard(
        task="+".join(job.tasks),
        kind=job.kind,
        modality=tuple(modalities_of(job.tasks)),
        arm=job.name,
        seed=job.seed,
        backbone_digest=base.digest,
        config_digest=job.digest,
        data_fingerprint=data.fingerprint,
        metrics={"valid_loss": loss} if loss is not None else {},
        max_tokens=max(task.train.max_tokens for task in job.tasks.values()),
        where=next(iter(job.tasks.values())).where if len(job.tasks) == 1 else {},
        judge=next(iter(job.tasks.values())).judge,
    )


def _left_out(chosen: Mapping[str, Selection], valid: Mapping[str, Selection]) -> dict[str, dict[str, int]]:
    """Rows that could not be used, by task and split, then by reason."""
    splits = {"train": chosen, "valid": valid}
    parts = {f"{name}/{split}": part for split, some in splits.items() for name, part in some.items()}
    return {key: part.left_out for key, part in parts.items() if part.left_out}


def _finish(result: dict[str, Any], out: Path, tracker: Tracker) -> None:
    """Tell the tracker, write the result, say in one line what was made."""
    numbers = ("samples_per_s", "tokens_per_s", "trainable_share", "valid_loss", "train_tokens")
    tracker.metrics({f"train/{name}": float(result[name]) for name in numbers if result[name] is not None})
    tracker.artifact(out / "adapter", "adapter")
    (out / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    valid = "" if result["valid_loss"] is None else f", validation loss {result['valid_loss']:.3f}"
    print(
        f"finetune {result['name']} (seed {result['seed']}): {result['steps']} steps, "
        f"{_read(result)}, {_trained(result)}, loss {result['losses'][-1]:.3f}{valid}, "
        f"{result['samples_per_s']:.0f} rows/s -> {out / 'adapter'} in {result['wall_s']:.0f} s"
    )


def _read(result: Mapping[str, Any]) -> str:
    """How much was read: tokens, or rows where these are counted."""
    tokens = result["train_tokens"]
    return f"{result['samples']:,} rows" if tokens is None else f"{tokens:,} tokens"


def _trained(result: Mapping[str, Any]) -> str:
    """What learned: a share of the backbone's modules, or a network of its own behind it."""
    if not result["target_modules"]:
        return f"{result['trainable']:,} parameters trained"
    return f"{result['trainable_share']:.1%} trained in {result['target_modules']} modules"


def _in_processes(
    job: Job, dataset: Path, backbone: Path, out: Path, tracker: Tracker, cache: Path, workdir: Path, start: Launch
) -> dict[str, Any]:
    """The same step under torchrun; the tracker stays here. Batches are checked before it starts."""
    check_batches(job, job.nodes * job.processes)
    paths = {"dataset": dataset, "backbone": backbone, "out": out, "cache": cache, "workdir": workdir}
    request = {"job": job.model_dump(mode="json"), **{name: str(path.absolute()) for name, path in paths.items()}}
    start("latefuse.steps.finetune", request, job, workdir, lambda values, step: tracker.metrics(values, step))
    tracker.artifact(out / "adapter", "adapter")
    result: dict[str, Any] = json.loads((out / "result.json").read_text(encoding="utf-8"))
    result["run_id"] = tracker.run_id
    (out / "result.json").write_text(json.dumps(result, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return result


class _Lines(Null):
    """Writes numbers to a file that the launching process reads."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """One line of JSON, written whole."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"values": dict(values), "step": step}) + "\n")


def main(request: Path) -> None:
    """One process of `_in_processes`."""
    asked = json.loads(request.read_text(encoding="utf-8"))
    dataset, backbone, out, cache, workdir = (
        Path(asked[name]) for name in ("dataset", "backbone", "out", "cache", "workdir")
    )
    job, world = Job.model_validate(asked["job"]), World.of_environment()
    tracker = _Lines(Path(asked["log"])) if world.first else Null()
    with alive.watched(Path(asked["ranks"]), world.rank, job.stall_s):
        run(job, dataset, backbone, out, tracker, cache, workdir)


if __name__ == "__main__":
    try:
        record(main)(Path(sys.argv[1]))
    except UserError as error:
        raise SystemExit(f"latefuse: {error}") from error

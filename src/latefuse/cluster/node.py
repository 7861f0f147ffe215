"""One node of the graph, wherever it runs: text in, folders in, one step, one MLflow run, a fingerprint out.

The components and `latefuse step` both call these functions. A fingerprint is what the next node's cache is keyed by.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from latefuse import places, tracking, usage
from latefuse.cluster.train_job_where import Where, of_environment
from latefuse.config import BackboneConfig, Evaluation, Job, Task
from latefuse.config_data import Data
from latefuse.config_fusion import Fusion
from latefuse.config_vectors import Catalogue
from latefuse.sections import Section
from latefuse.tracking.runs import SPOOL_SUFFIX

HEADLINES = 100


class FuseConfig(Section):
    """What `fuse` reads of a recipe: for one seed."""

    fusion: Fusion
    tasks: dict[str, Task]
    seed: int


class EvaluateConfig(Section):
    """What `evaluate` reads of a recipe. tasks: and the arms of its only task."""

    evaluation: Evaluation
    tasks: dict[str, Task]
    fusion: Fusion


def node_name(job: Job, seeds: Sequence[int]) -> str:
    """`finetune-image`, or `finetune-image-s1` where a recipe has several seeds."""
    return f"finetune-{job.name}" + (f"-s{job.seed}" if len(seeds) > 1 else "")


def prepare(config: str, out: str | Path, node: str = "prepare") -> str:
    """Raw data to dataset; config: a `Data` section as JSON. Returns the dataset's fingerprint."""
    from latefuse.steps import prepare as step

    data = Data.model_validate_json(config)

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        with places.work(node, data.digest) as work:
            return step.run(data, folder, tracker, workdir=work, cache=places.cache())

    return run_step("prepare", node, data, Path(out), call)


def prepare_shard(config: str, shard: int, shards: int, out: str | Path, source: str = "") -> str:
    """One of N equal parts of `prepare`; config: a `Data` section as JSON. Returns the fingerprint of what it wrote.

    source: the digest of the code and the raw files, so that a shard which was killed goes on only where both are as
    they were.
    """
    from latefuse.steps import prepare_shard as step

    data, node = Data.model_validate_json(config), f"prepare-shard-{int(shard)}"
    key = hashlib.sha256(f"{data.digest}/{int(shards)}/{source}".encode()).hexdigest()[:16]

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        with places.work(node, key) as work:
            return step.run(data, int(shard), int(shards), folder, tracker, work)

    return run_step("prepare", node, data, Path(out), call)


def prepare_merge(config: str, shards: Sequence[str | Path], out: str | Path) -> str:
    """All shards to the dataset; config: a `Data` section as JSON. Returns the dataset's fingerprint."""
    from latefuse.steps import prepare_merge as step

    data, folders = Data.model_validate_json(config), [Path(shard) for shard in shards]
    return run_step(
        "prepare",
        "prepare",
        data,
        Path(out),
        lambda folder, tracker: step.run(data, folders, folder, tracker, places.cache()),
    )


def backbone(config: str, out: str | Path, node: str = "backbone") -> str:
    """Build or fetch the backbone once; config: a `BackboneConfig` as JSON. Returns its digest."""
    from latefuse.steps import backbone as step

    section = BackboneConfig.model_validate_json(config)
    cache = places.cache()
    return run_step(
        "backbone", node, section, Path(out), lambda folder, tracker: step.run(section, folder, tracker, cache)
    )


def finetune(
    config: str,
    dataset: str,
    backbone: str,
    out: str | Path,
    node: str = "",
    source: str = "",
    where: Where | None = None,
) -> str:
    """Train one adapter; config: a `Job` as JSON. source: the digest of the code, so that a changed one starts anew.

    where: the nodes of a TrainJob, for a job with that launcher; the pipeline says it by environment, since a change of
    it must not train again.
    """
    from latefuse.cluster import train_job
    from latefuse.steps import finetune as step
    from latefuse.training.launch import launch

    job = Job.model_validate_json(config)
    node = node or f"finetune-{job.name}"
    inputs = [fingerprint(Path(dataset)), fingerprint(Path(backbone)), source]
    key = hashlib.sha256("/".join([job.digest, *inputs]).encode()).hexdigest()[:16]
    start = train_job.launcher(where or of_environment(), node) if job.launcher == "trainjob" else launch

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        with places.work(node, key) as work:
            result = step.run(job, Path(dataset), Path(backbone), folder, tracker, places.cache(), work, start)
            shutil.rmtree(work, ignore_errors=True)
        return result

    return run_step("finetune", node, job, Path(out), call)


def fuse(config: str, dataset: str, backbone: str, adapters: Sequence[str], out: str | Path, node: str = "fuse") -> str:
    """Merge the adapters of one seed; config: a `FuseConfig` as JSON; adapters: output folders of `finetune`."""
    from latefuse.steps import fuse as step

    part = FuseConfig.model_validate_json(config)
    data, base, paths = Path(dataset), Path(backbone), [Path(path) for path in adapters]

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        return step.run(part.fusion, part.tasks, data, base, paths, part.seed, folder, tracker, cache=places.cache())

    return run_step("fuse", node, part, Path(out), call)


def embed_shard(
    config: str,
    dataset: str,
    backbone: str,
    adapter: str,
    shard: int,
    shards: int,
    out: str | Path,
    source: str = "",
) -> str:
    """The vectors of every so many-th part of a catalogue; config: a `Catalogue` as JSON; adapter: an output of
    `finetune`; source: the digest of the code. Returns the fingerprint of what it wrote.
    """
    from latefuse.steps import embed_shard as step

    part, node = Catalogue.model_validate_json(config), f"embed-shard-{int(shard)}"
    inputs = [part.digest, *(fingerprint(Path(one)) for one in (dataset, backbone, adapter)), source]
    key = hashlib.sha256("/".join([*inputs, str(int(shards))]).encode()).hexdigest()[:16]
    given = (Path(dataset), Path(backbone), Path(adapter), int(shard), int(shards))

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        with places.work(node, key) as work:
            return step.run(part, *given, folder, tracker, work, places.cache())

    return run_step("embed", node, part, Path(out), call)


def embed(config: str, shards: Sequence[str | Path], out: str | Path) -> str:
    """All shards of a catalogue's vectors with an index; config: a `Catalogue` as JSON. Returns the fingerprint."""
    from latefuse.steps import embed as step

    part, folders = Catalogue.model_validate_json(config), [Path(shard) for shard in shards]
    return run_step("embed", "embed", part, Path(out), lambda folder, tracker: step.run(part, folders, folder, tracker))


def evaluate(
    config: str,
    dataset: str,
    backbone: str,
    finetuned: Sequence[str],
    fused: Sequence[str],
    out: str | Path,
    node: str = "evaluate",
) -> str:
    """Measure all arms; config: an `EvaluateConfig` as JSON; finetuned, fused: output folders of those steps."""
    from latefuse.steps import evaluate as step

    part = EvaluateConfig.model_validate_json(config)
    data, base = Path(dataset), Path(backbone)
    trained, merged = [Path(path) for path in finetuned], [Path(path) for path in fused]

    def call(folder: Path, tracker: tracking.Tracker) -> Mapping[str, Any]:
        return step.run(
            part.evaluation, part.tasks, part.fusion, data, base, trained, merged, folder, tracker, cache=places.cache()
        )

    return run_step("evaluate", node, part, Path(out), call)


def publish(out: str | Path, report: Any, metrics: Any) -> None:
    """Hand the evaluation to Kubeflow's UI: report: an HTML artifact, metrics: a Metrics artifact of headline numbers,
    those least deep in the tree of names (`eval/dish_top1` before its arms, intervals and differences).

    The metrics file is always written: an artifact without one turns every later look-up in the cache into a miss.
    """
    page = Path(out) / "report.html"
    Path(report.path).write_text(page.read_text(encoding="utf-8") if page.exists() else "", encoding="utf-8")
    found = Path(out) / "metrics.json"
    values = dict(_leaves(json.loads(found.read_text(encoding="utf-8")))) if found.exists() else {}
    for name in sorted(values, key=lambda name: (name.count("/"), name))[:HEADLINES]:
        metrics.log_metric(name, values[name])
    Path(metrics.path).write_text(json.dumps(values, sort_keys=True), encoding="utf-8")


def fingerprint(folder: Path) -> str:
    """What the folder holds: what its manifest says of it, else 16 hex digits over its weights and JSON files."""
    for file, key in (("manifest.json", "fingerprint"), ("backbone.json", "digest")):
        if (folder / file).exists():
            return str(json.loads((folder / file).read_text(encoding="utf-8"))[key])[:64]
    hasher = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".safetensors", ".json") and path.name != "result.json":
            hasher.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            hasher.update(hashlib.sha256(path.read_bytes()).digest())
    return hasher.hexdigest()[:16]


def run_step(
    step: str,
    node: str,
    config: Section,
    out: Path,
    call: Callable[[Path, tracking.Tracker], Mapping[str, Any]],
) -> str:
    """Run `call` inside the step's MLflow run and see to it that `out/result.json` says what every step says.

    Raises PlaceError where latefuse can't keep its own files.
    """
    places.check()
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with tracking.step_run(step, config.digest, out, node) as tracker:
        tracker.params(config.model_dump(mode="json"))
        result = dict(call(out, tracker))
        said = {"step": step, "node": node, "wall_s": time.monotonic() - start, **usage.peaks()}
        text = json.dumps({**said, **result, "run_id": tracker.run_id}, indent=1, sort_keys=True, default=str)
        (out / "result.json").write_text(text + "\n", encoding="utf-8")
        tracker.artifact(out / "result.json")
    spool = out.absolute().parent / f"{out.name}{SPOOL_SUFFIX}"
    if spool.exists():  # the server was away: on a cluster only what lies in the output folder outlives the pod
        shutil.copyfile(spool, out / f"unsent{SPOOL_SUFFIX}")
    return fingerprint(out)


def _leaves(values: Any, prefix: str = "") -> list[tuple[str, float]]:
    if isinstance(values, Mapping):
        pairs = [leaf for key, value in values.items() for leaf in _leaves(value, f"{prefix}{key}/")]
        return pairs
    if isinstance(values, int | float) and not isinstance(values, bool) and values == values:
        return [(prefix.rstrip("/"), float(values))]
    return []

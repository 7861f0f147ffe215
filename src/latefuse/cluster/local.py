"""Run the pipeline on this machine: the same pipeline object, through `kfp.local`, every node a process of its own."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latefuse import places, progress, tracking
from latefuse.cluster.console import COLOUR, Console
from latefuse.cluster.processes import owned
from latefuse.cluster.side_by_side import side_by_side
from latefuse.cluster.sources import source_digest
from latefuse.config import Config
from latefuse.data.sources import raw_digest

STEPS = ("prepare", "backbone", "finetune", "fuse", "embed", "evaluate")


class RunError(RuntimeError):
    """The pipeline has failed; the failing step has said why above."""


def sources() -> dict[str, str]:
    """The pipeline's parameters but for the data: the digest of each step's source."""
    return {f"{step}_source": source_digest(step) for step in STEPS}


def arguments(config: Config) -> dict[str, str]:
    """The parameters of a run here: a raw file that has changed makes `prepare` run again, as changed code does."""
    digests = sources()
    if config.profile.shards > 1:
        digests["prepare_source"] = f"{source_digest('prepare_shard')} {source_digest('prepare_merge')}"
    return {**digests, "prepare_source": f"{digests['prepare_source']} {raw_digest(config.recipe.data)}".strip()}


def run(config: Config, build: Callable[[Config], Any], fresh: bool = False) -> dict[str, Any]:
    """Run the pipeline that `build` makes; unchanged nodes come from the cache unless `fresh`.

    Returns {"run_id", "evaluate": folder of the evaluation, "latest": folder of links, "nodes", "seconds"}. Raises
    RunError, KeyboardInterrupt.
    """
    start = time.monotonic()
    home = places.home()
    outputs, kept = home / "runs", home / "kfp-cache"
    home.mkdir(parents=True, exist_ok=True)
    cache = Path(tempfile.mkdtemp(prefix="kfp-cache-", dir=home)) if fresh else kept
    _replay(home)
    console = Console(sys.stdout, outputs, cache, link=_link())
    with tracking.pipeline_run(config.recipe.name, config.digest, home / "tracking") as parent:
        parent.params({"recipe": config.recipe.name, "profile": config.profile.name, "config_digest": config.digest})
        settings = home / "tracking" / "config.json"
        settings.write_text(config.model_dump_json(indent=1), encoding="utf-8")
        parent.artifact(settings)
        try:
            with owned():
                _execute(build(config), arguments(config), outputs, cache, console, config.profile.side_by_side)
        except KeyboardInterrupt:
            console.interrupted()
            tracking.replay(outputs, unfinished="KILLED")  # of steps that were ended before they could say so
            raise
        finally:
            if fresh:
                _replace(kept, cache)
            parent.tags({f"node/{node.name}": node.run_id for node in console.nodes.values() if node.run_id})
            parent.metrics({"sys/cached_nodes": sum(node.status == "cached" for node in console.nodes.values())})
    _replay(home)
    _forget_old(outputs, home)
    last = console.nodes.get("evaluate")
    return {
        "run_id": parent.run_id,
        "evaluate": last.out if last else None,
        "latest": _latest(home, config.recipe.name, console),
        "nodes": console.nodes,
        "seconds": time.monotonic() - start,
    }


def _execute(pipeline: Any, given: dict[str, str], outputs: Path, cache: Path, console: Console, most: int) -> None:
    from kfp import local

    outputs.mkdir(parents=True, exist_ok=True)
    os.environ.update({"PYTHONUNBUFFERED": "1", "PYTHONUTF8": "1", "TOKENIZERS_PARALLELISM": "false"})
    os.environ.update({progress.READ: "1", "TQDM_MININTERVAL": "1"})
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore::DeprecationWarning")
    local.init(
        runner=local.SubprocessRunner(use_venv=False),
        pipeline_root=str(outputs),
        workspace_root=str(places.home() / f"workspace-{os.getpid()}"),  # kfp.local deletes it at the end
        enable_caching=True,
        cache_root=str(cache),
    )
    try:
        with warnings.catch_warnings(), console.listening(), side_by_side(most):
            warnings.simplefilter("ignore")
            pipeline(**given)
    except RuntimeError as error:
        raise RunError(COLOUR.sub("", str(error))) from None
    finally:
        local.config.LocalExecutionConfig.instance = None


def _replay(home: Path) -> None:
    """Send what earlier runs could not; a server that is still away costs one bounded try."""
    for path, kept in tracking.replay(home).items():
        if kept and Path(path).exists():
            logging.getLogger("latefuse.tracking").warning("%s: %d record(s) still kept", path, kept)
            return


def _latest(home: Path, recipe: str, console: Console) -> Path:
    """A folder with a link to the output of every node, made in this run or kept: places that people can name."""
    folder = home / "latest" / recipe
    partial = Path(tempfile.mkdtemp(prefix=f".{recipe}-", dir=home))
    partial.chmod(0o755)
    for node in console.nodes.values():
        if node.out:
            (partial / node.name).symlink_to(node.out.resolve(), target_is_directory=True)
    folder.parent.mkdir(exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)
    partial.rename(folder)
    return folder


def _link() -> str:
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    return f"{uri.rstrip('/')}/#/runs/{{run_id}}" if uri.startswith("http") else "{run_id}"


def _replace(kept: Path, cache: Path) -> None:
    """Move what a fresh run put into a cache of its own over what was there; other recipes' entries stay."""
    kept.mkdir(parents=True, exist_ok=True)
    for entry in cache.glob("*.json"):
        entry.replace(kept / entry.name)
    shutil.rmtree(cache, ignore_errors=True)


def _forget_old(outputs: Path, home: Path) -> None:
    """Delete the folders of earlier runs that no entry of a cache points to."""
    entries = "".join(path.read_text(encoding="utf-8") for path in home.glob("kfp-cache*/*.json"))
    newest = max(outputs.iterdir(), key=lambda path: path.stat().st_mtime, default=None)
    for folder in outputs.iterdir():
        if folder.is_dir() and folder != newest and f"/{folder.name}/" not in entries:
            shutil.rmtree(folder, ignore_errors=True)

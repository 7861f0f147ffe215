"""The vectors of one of N equal parts of a catalogue, for one that a machine would take too long for."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from latefuse import usage
from latefuse.config_vectors import Catalogue
from latefuse.serving import index, vector_shards
from latefuse.tracking import Tracker


def run(
    catalogue: Catalogue,
    dataset: Path,
    backbone: Path,
    adapter: Path,
    shard: int,
    shards: int,
    out: Path,
    tracker: Tracker,
    work: Path,
    cache: Path | None = None,
) -> dict[str, Any]:
    """Embed shard number `shard` (from 0) of `shards`: every so many-th part of the catalogue; returns the result that
    also lies in `out`.

    adapter: an output of `finetune`. work: where parts are written, so that a killed shard goes on there; empty at the
    end. cache: features of media are kept there. Raises VectorIndexError, AdapterError, BackboneError, and ValueError
    for a shard that is none of them.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}: the first is 0, the last {shards - 1}")
    from latefuse.serving.vectors import Embedder

    began = time.perf_counter()
    made = Embedder(backbone, adapter, dataset, cache / "features" if cache else None)
    told = index.write_vectors(
        work,
        made.batches(catalogue.part),
        lambda items: made.vectors(items, catalogue.batch_size),
        made.header,
        made.items,
        shard,
        shards,
    )
    for path in sorted((work / index.PARTS).glob("part-*.parquet")):
        vector_shards.place(path, out / index.PARTS / path.name)
    own = told["written"] + told["kept"]
    manifest = vector_shards.seal_shard(out, made.header, shard, shards, own + told["others"], made.left_out)
    shutil.rmtree(work, ignore_errors=True)
    counts = {"vectors": own, "kept": told["kept"], "items": manifest["items"], "left_out": made.left_out}
    result = report({"shard": shard, "shards": shards}, counts, manifest, out, tracker, time.perf_counter() - began)
    print(
        f"embed: shard {shard} of {shards}: {own:,} of {manifest['items']:,} vectors, {told['kept']:,} of them kept; "
        f"in {result['wall_s']:.1f} s",
        flush=True,
    )
    return result


def report(
    inputs: dict[str, int], counts: dict[str, int], manifest: dict[str, Any], out: Path, tracker: Tracker, wall: float
) -> dict[str, Any]:
    """What the step says, to the tracker and in `out/result.json`. inputs: which shard, of how many; counts: of
    vectors; wall: seconds."""
    told = {**usage.peaks(), "fingerprint": manifest["fingerprint"], **counts}
    result = {"step": "embed", "wall_s": round(wall, 3), "inputs": inputs, **told, "run_id": tracker.run_id}
    tracker.metrics(
        {"sys/wall_s": wall, "sys/peak_rss_gib": result["peak_rss_gib"], "data/vectors": float(counts["vectors"])}
    )
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    return result

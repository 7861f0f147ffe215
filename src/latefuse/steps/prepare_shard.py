"""One of N equal parts of `prepare`, for data that one machine would take too long for: its rows typed, its media
stored.
"""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

from latefuse import usage
from latefuse.config_data import Data
from latefuse.data import shards as parts
from latefuse.steps.prepare import corrected
from latefuse.tracking import Tracker


def run(data: Data, shard: int, shards: int, out: Path, tracker: Tracker, work: Path) -> dict[str, Any]:
    """Write shard number `shard` (from 0) of `shards` into `out` and return the result that also lies there.

    work: raw files of a generating source, and media as they are taken in, so that a killed shard goes on; empty at the
    end. Raises DataError for input that can't be used, ValueError for a shard that is none of them.
    """
    if not 0 <= shard < shards:
        raise ValueError(f"shard {shard} of {shards}: the first is 0, the last {shards - 1}")
    began = time.perf_counter()
    manifest = parts.write(corrected(data, work / "raw"), data, shard, shards, out, work)
    shutil.rmtree(work, ignore_errors=True)
    wall, refused = time.perf_counter() - began, sum(manifest["refused"].values())
    result = {
        "step": "prepare",
        "wall_s": round(wall, 3),
        **usage.peaks(),
        "inputs": {"source": data.source, "shard": shard, "shards": shards},
        "fingerprint": manifest["fingerprint"],
        "rows": manifest["rows"],
        "media": manifest["media"],
        "refused_media": manifest["refused"],
        "run_id": tracker.run_id,
    }
    rows = sum(manifest["rows"].values())
    tracker.metrics(
        {"sys/wall_s": wall, "sys/peak_rss_gib": result["peak_rss_gib"], "data/rows": rows, "data/refused": refused}
    )
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    told = ", ".join(f"{count:,} of {manifest['tables'][name]:,} {name}" for name, count in manifest["rows"].items())
    media = f"{manifest['media']:,} media, {refused} refused"
    print(f"prepare: shard {shard} of {shards}: {told}; {media}; in {wall:.1f} s", flush=True)
    return result

"""The shards of a catalogue's vectors to the vectors and the index that one task would have made."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latefuse.config_vectors import Catalogue
from latefuse.serving import vector_shards
from latefuse.steps.embed_shard import report
from latefuse.tracking import Tracker


def run(catalogue: Catalogue, shards: Sequence[Path], out: Path, tracker: Tracker) -> dict[str, Any]:
    """The vectors of all `shards` (outputs of `embed_shard`, in any order) and their index in `out`.

    The fingerprint depends on catalogue, adapter and size of a part, not on how many shards there were. Raises
    VectorIndexError as `vector_shards.merge` does.
    """
    began = time.perf_counter()
    manifest = vector_shards.merge(shards, out, catalogue.index)
    counts = {"vectors": manifest["items"], "left_out": manifest["left_out"]}
    result = report({"shards": len(shards)}, counts, manifest, out, tracker, time.perf_counter() - began)
    left_out = f", {manifest['left_out']:,} without a field to read left out" if manifest["left_out"] else ""
    print(
        f"embed: {manifest['items']:,} vectors{left_out}; {manifest['fingerprint'][:12]}; search them with "
        f"`latefuse search {out}`",
        flush=True,
    )
    return result

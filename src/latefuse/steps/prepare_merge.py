"""The shards of `prepare` to the dataset that one `prepare` would have written, to the byte."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latefuse.config_data import Data
from latefuse.steps import prepare
from latefuse.tracking import Tracker


def run(data: Data, shards: Sequence[Path], out: Path, tracker: Tracker, cache: Path | None = None) -> dict[str, Any]:
    """Write the dataset of all `shards` (outputs of `prepare_shard`, in any order) into `out`; see `prepare.run`.

    Neither the source nor any medium is opened. Raises DataError that names a shard which is missing, unfinished,
    changed or of other data; and all that `prepare.run` raises.
    """
    return prepare.run(data, out, tracker, cache=cache, shards=shards)

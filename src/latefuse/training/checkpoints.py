"""Checkpoints that are known to be whole: a marker is written last, what lacks it is never resumed from."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from latefuse.training.distributed import World

MARKER = "complete.json"
FOLDER = re.compile(r"^checkpoint-(\d+)$")


def newest_complete(folder: Path, key: str) -> Path | None:
    """The newest checkpoint of the job `key` whose files are all there with their sizes, or None."""
    steps = sorted(((int(found.group(1)), path) for path, found in _found(folder)), reverse=True)
    return next((path for _, path in steps if is_complete(path, key)), None)


def is_complete(checkpoint: Path, key: str) -> bool:
    """Whether the marker is there, is of this job, and fits the files."""
    try:
        marker = json.loads((checkpoint / MARKER).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return False
    return bool(marker["key"] == key and marker["files"] == _sizes(checkpoint))


def remove_incomplete(folder: Path, key: str) -> list[str]:
    """Delete the checkpoints that can't be resumed from; returns their names."""
    gone = [path for path, _ in _found(folder) if not is_complete(path, key)]
    for path in gone:
        shutil.rmtree(path)
    return sorted(path.name for path in gone)


class MarkComplete(TrainerCallback):
    """Writes the marker when every process has written its part. key: what the checkpoint is of."""

    def __init__(self, key: str, world: World) -> None:
        self.key, self.world = key, world

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Called by the Trainer behind its last write."""
        self.world.wait()
        if self.world.first:
            checkpoint = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
            content = json.dumps({"key": self.key, "files": _sizes(checkpoint)}, sort_keys=True)
            partial = checkpoint / f".{MARKER}"
            partial.write_text(content, encoding="utf-8")
            os.replace(partial, checkpoint / MARKER)
        self.world.wait()


def _found(folder: Path) -> list[tuple[Path, re.Match[str]]]:
    if not folder.is_dir():
        return []
    return [(path, found) for path in folder.iterdir() if (found := FOLDER.match(path.name))]


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        str(path.relative_to(checkpoint)): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name not in (MARKER, f".{MARKER}")
    }

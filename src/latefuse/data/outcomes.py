"""What became of the media of one shard, written down as it happens, so that a killed shard goes on."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from latefuse.data.errors import MediaError
from latefuse.data.quarantine import printable
from latefuse.data.store import Key, MediaStore, Stored

CHUNK = 512
JOURNAL = "outcomes.jsonl"
_TEXTS = ("modality", "path", "ref", "content", "reason", "detail")
OUTCOMES = pa.schema([*((name, pa.string()) for name in _TEXTS), ("bytes", pa.int64())])


def outcome_row(key: Key, outcome: Stored | MediaError, folder: Path) -> dict[str, Any]:
    """One row of `OUTCOMES`; folder: where the medium is stored."""
    row: dict[str, Any] = dict.fromkeys(_TEXTS, "") | {"modality": key[0], "path": key[1], "bytes": 0}
    if isinstance(outcome, Stored):
        size = (folder / outcome.ref).stat().st_size
        return row | {"ref": outcome.ref, "content": outcome.content.hex(), "bytes": size}
    return row | {"reason": outcome.reason, "detail": printable(outcome.detail)}


def outcome_of(row: Mapping[str, Any]) -> tuple[Stored | MediaError, int]:
    """The outcome that a row of `OUTCOMES` tells, and the bytes of the stored file."""
    if row["ref"]:
        return Stored(row["ref"], bytes.fromhex(row["content"])), int(row["bytes"])
    return MediaError(row["reason"], row["detail"]), 0


class Outcomes:
    """Takes in the media of a shard, some hundred at a time. used: all that were asked for.

    What an earlier run in `folder` wrote down counts where the raw file and the stored one have not changed since.
    """

    def __init__(self, folder: Path, store: MediaStore) -> None:
        self.used: set[Key] = set()
        self._folder, self._store = folder, store
        self._waiting: list[Key] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        journal = self._folder / JOURNAL
        lines = journal.read_text(encoding="utf-8").splitlines(keepends=True) if journal.exists() else []
        whole = [line for line in lines if line.endswith("}\n")]
        for line in whole:
            self._remember(json.loads(line))
        # A line that a kill has torn must not become the beginning of the next one.
        journal.write_text("".join(whole), encoding="utf-8")
        self._journal = self._stack.enter_context(journal.open("a", encoding="utf-8"))
        self._stack.enter_context(self._store.opened())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def want(self, keys: Iterable[Key]) -> None:
        """Media that this shard is to take in; they are with the next hundreds."""
        for key in keys:
            if key not in self.used:
                self.used.add(key)
                self._waiting.append(key)
        if len(self._waiting) >= CHUNK:
            self.flush()

    def flush(self) -> None:
        """Take in what waits and write down what became of it."""
        for key in self._store.take(self._waiting):
            row = outcome_row(key, self._store.known[key], self._folder)
            self._journal.write(json.dumps({**row, "stamp": self._store.stamp(key)}) + "\n")
        self._journal.flush()
        self._waiting = []

    def _remember(self, row: Mapping[str, Any]) -> None:
        key, (outcome, size) = (row["modality"], row["path"]), outcome_of(row)
        stored = self._folder / outcome.ref if isinstance(outcome, Stored) else None
        same = self._store.stamp(key) == row["stamp"]
        if same and (stored is None or (stored.is_file() and stored.stat().st_size == size)):
            self._store.known[key] = outcome

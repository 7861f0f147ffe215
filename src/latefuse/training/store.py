"""A bounded store of arrays on disk, safe under several writers and under a kill at any moment."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from latefuse.progress import bar

PARTIAL = ".partial-"
STALE_SECONDS = 3_600
DECODERS = 8


def decoders() -> int:
    """Threads of this process that decode media: its share of the machine's cores, at most DECODERS."""
    return max(1, min(DECODERS, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))


class FeatureCache:
    """Arrays by (media hash, tower digest, transform), one `.npy` each, read through memory maps.

    A file gets its name only when it is whole (written beside it, then renamed), so a reader never sees half of one and
    two writers of the same medium write the same bytes. All stores under one root share `budget_bytes`: what was used
    least recently goes first, what the present job needs is never dropped for it, what does not fit is not stored.
    """

    def __init__(self, root: Path, tower_digest: str, transform_id: str, budget_bytes: int) -> None:
        self.root = Path(root)
        self.folder = self.root / f"{tower_digest[:16]}-{transform_id}"
        self.budget_bytes = budget_bytes
        self.folder.mkdir(parents=True, exist_ok=True)

    def get(self, key: str) -> np.ndarray[Any, Any]:
        """The stored array, memory-mapped and read-only. Raises KeyError where it is not stored (or was damaged)."""
        path = self._path(key)
        try:
            return np.load(path, mmap_mode="r", allow_pickle=False)
        except FileNotFoundError:
            raise KeyError(key) from None
        except (ValueError, EOFError):
            path.unlink(missing_ok=True)
            raise KeyError(key) from None

    def __contains__(self, key: str) -> bool:
        return self._path(key).exists()

    def fill(
        self,
        wanted: Mapping[str, Any],
        decode: Callable[[Any], Any],
        encode: Callable[[list[Any]], Sequence[np.ndarray[Any, Any]] | np.ndarray[Any, Any]],
        batch: int = 32,
        progress: bool = True,
    ) -> int:
        """Decode and encode what is not stored yet; returns how many media that were.

        wanted: key -> what `decode` takes. Decoding of the next batch runs beside the encoding of this one. Stops
        early, without an error, when the budget is spent.
        """
        self._sweep()
        now = time.time()
        missing = []
        for key in wanted:
            if key in self:
                os.utime(self._path(key), (now, now))
            else:
                missing.append(key)
        done = 0
        with ThreadPoolExecutor(decoders()) as pool, _bar(len(missing), progress) as bar:
            upcoming = [missing[start : start + batch] for start in range(0, len(missing), batch)]
            decoded = [pool.submit(decode, wanted[key]) for key in upcoming[0]] if upcoming else []
            for number, keys in enumerate(upcoming):
                media = [future.result() for future in decoded]
                following = upcoming[number + 1] if number + 1 < len(upcoming) else []
                decoded = [pool.submit(decode, wanted[key]) for key in following]
                arrays = encode(media)
                done += len(keys)
                bar.update(len(keys))
                if not self._put(dict(zip(keys, arrays, strict=True)), set(wanted)):
                    for future in decoded:
                        future.cancel()
                    break
        return done

    def used_bytes(self) -> int:
        """What all stores under the root take on disk."""
        return sum(path.stat().st_size for path in self._files())

    def _put(self, arrays: Mapping[str, np.ndarray[Any, Any]], keep: set[str]) -> bool:
        """Store arrays that are not there yet; False when no room could be made for all of them."""
        with self._locked():
            used = self._read_usage()
            for key, array in arrays.items():
                path = self._path(key)
                if path.exists():
                    continue
                partial = self._write_partial(path, array)
                size = partial.stat().st_size
                if used + size > self.budget_bytes:
                    used -= self._evict(used + size - self.budget_bytes, keep)
                if used + size > self.budget_bytes:
                    partial.unlink()
                    self._write_usage(used)
                    return False
                os.replace(partial, path)
                used += size
            self._write_usage(used)
        return True

    def _write_partial(self, path: Path, array: np.ndarray[Any, Any]) -> Path:
        path.parent.mkdir(exist_ok=True)
        partial = path.with_name(f"{PARTIAL}{socket.gethostname()}~{os.getpid()}~{path.stem}")
        with partial.open("wb") as file:
            np.save(file, np.ascontiguousarray(array), allow_pickle=False)
        return partial

    def _evict(self, needed: int, keep: set[str]) -> int:
        """Delete the least recently used files that this job does not need; returns the bytes that came free."""
        freed = 0
        own = {self._path(key) for key in keep}
        aged = sorted((path.stat().st_mtime, path) for path in self._files() if path not in own)
        for _, path in aged:
            if freed >= needed:
                break
            freed += path.stat().st_size
            path.unlink()
        return freed

    def _path(self, key: str) -> Path:
        return self.folder / key[-2:] / f"{key}.npy"

    def _files(self) -> Iterator[Path]:
        return (path for path in self.root.glob("*/*/*.npy") if not path.name.startswith(PARTIAL))

    def _sweep(self) -> None:
        """Remove what killed writers left behind, and count again."""
        with self._locked():
            for partial in self.root.glob(f"*/*/{PARTIAL}*"):
                if _abandoned(partial):
                    partial.unlink(missing_ok=True)
            self._write_usage(self.used_bytes())

    def _read_usage(self) -> int:
        try:
            return int((self.root / "usage").read_text())
        except (FileNotFoundError, ValueError):
            return self.used_bytes()

    def _write_usage(self, used: int) -> None:
        (self.root / "usage").write_text(str(used))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / "lock").open("a") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def _abandoned(partial: Path) -> bool:
    host, _, rest = partial.name.removeprefix(PARTIAL).partition("~")
    process = rest.partition("~")[0]
    if host == socket.gethostname() and process.isdigit():
        return not psutil.pid_exists(int(process))
    return time.time() - partial.stat().st_mtime > STALE_SECONDS


def _bar(total: int, progress: bool) -> Any:
    return bar(total=total, desc="features", unit="medium", wanted=progress and total > 0, leave=False)

"""Sources measured side by side, every worker with a backbone of its own."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import Any, Protocol, TypeVar

import torch

from latefuse import progress, usage

Found = TypeVar("Found", covariant=True)


class Sources(Protocol[Found]):
    """Units, and what measures one of them; units and findings travel between processes."""

    def units(self) -> list[Any]:
        """Everything there is to measure, what is long in front."""
        ...

    def measure(self, unit: Any) -> Found:
        """One unit."""
        ...


_mine: Sources[Any] | None = None


def measure_all(sources: Sources[Found], again: Callable[[], Sources[Found]], workers: int) -> list[Found]:
    """What was found of all units of the sources, in their order.

    again: makes the same sources in a worker, picklable; it is called only where there are several workers.
    """
    units = sources.units()
    workers = min(workers, len(units))
    with progress.bar(total=len(units), desc="evaluate", unit="source") as bar:
        if workers == 1:
            return [_told(bar, unit, sources.measure(unit)) for unit in units]
        with _pool(again, workers) as pool:
            waiting = {pool.submit(_measure, unit): number for number, unit in enumerate(units)}
            parts: dict[int, Found] = {}
            for future in as_completed(waiting):
                number = waiting[future]
                parts[number] = _told(bar, units[number], future.result())
        return [parts[number] for number in range(len(units))]


def _told(bar: Any, unit: Any, found: Any) -> Any:
    bar.set_postfix_str(str(unit), refresh=False)
    bar.update()
    return found


@contextmanager
def _pool(again: Callable[[], Sources[Any]], workers: int) -> Iterator[ProcessPoolExecutor]:
    """Workers that share the cores; after an error what has not begun is dropped."""
    threads = max(1, (os.cpu_count() or 1) // workers)
    spawn = multiprocessing.get_context("spawn")  # a forked process may not use the threads of its parent's torch
    usage.beside(workers)
    pool = ProcessPoolExecutor(workers, spawn, initializer=_begin, initargs=(again, threads))
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(again: Callable[[], Sources[Any]], threads: int) -> None:
    global _mine
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    torch.set_num_threads(threads)
    _mine = again()


def _leave_with_parent() -> None:
    """A parent that was killed outright can't end its workers."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _measure(unit: Any) -> Any:
    assert _mine is not None
    return _mine.measure(unit)

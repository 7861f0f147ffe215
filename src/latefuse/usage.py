"""What a process has used of the machine."""

from __future__ import annotations

import re
import resource
import sys
from pathlib import Path

GIB = 2**30
_UNIT = 1 if sys.platform == "darwin" else 1024
_workers = 0


def beside(workers: int) -> None:
    """Say that this process has had that many children at work side by side."""
    global _workers
    _workers = max(_workers, workers)


def own_peak() -> int:
    """Most bytes of memory that this process has held so far.

    On Linux not `ru_maxrss`: a process starts with its parent's there (getrusage(2) keeps it over execve).
    """
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s*(\d+) kB", status.read_text())):
        return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT


def peaks() -> dict[str, float]:
    """Peak memory in GiB: `peak_rss_gib`, and `peak_gpu_gib` of this process where a GPU was used.

    The largest of its ended children is counted as often as there were children `beside` it.
    """
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _UNIT
    found = {"peak_rss_gib": (own_peak() + _workers * child) / GIB}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found

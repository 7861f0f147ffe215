"""What a process has used of the machine."""

from __future__ import annotations

import resource
import sys

GIB = 2**30
_workers = 0


def beside(workers: int) -> None:
    """Say that this process has had that many children at work side by side."""
    global _workers
    _workers = max(_workers, workers)


def peaks() -> dict[str, float]:
    """Peak memory in GiB: `peak_rss_gib`, and `peak_gpu_gib` of this process where a GPU was used.

    The largest of its ended children is counted as often as there were children `beside` it.
    """
    unit = 1 if sys.platform == "darwin" else 1024
    own, child = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    found = {"peak_rss_gib": (own + _workers * child) * unit / GIB}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        found["peak_gpu_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found

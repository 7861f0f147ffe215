"""Where latefuse keeps its own files: everything under one folder, `.latefuse` here or `LATEFUSE_HOME`."""

from __future__ import annotations

import os
from pathlib import Path


def home() -> Path:
    """The folder of all state that is not an output: runs, caches, checkpoints, the tracking database."""
    return Path(os.environ.get("LATEFUSE_HOME") or ".latefuse").absolute()


def cache() -> Path:
    """Frozen features, fetched backbones, answers about reviews; safe to delete, but answers may have cost money."""
    return home() / "cache"


def work(node: str, key: str) -> Path:
    """Checkpoints of one node; the same key finds them again after a crash."""
    return home() / "work" / node / key


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the local database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"

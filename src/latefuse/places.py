"""Where latefuse keeps its own files: everything under one folder, `.latefuse` here or `LATEFUSE_HOME`."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from latefuse.errors import UserError


class PlaceError(UserError, RuntimeError):
    """A folder that can't be written."""


def home() -> Path:
    """The folder of all state that is not an output: runs, caches, checkpoints, the tracking database."""
    return Path(os.environ.get("LATEFUSE_HOME") or ".latefuse").absolute()


def check() -> None:
    """Make the folder and write to it. Raises PlaceError that says who may not."""
    try:
        home().mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home()):
            pass
    except OSError as error:
        who = f"user {os.getuid()} in group {os.getgid()}"
        raise PlaceError(
            f"LATEFUSE_HOME, {home()}, can't be written by {who} ({error.strerror}): set it to a folder that can be; a "
            "claim of a cluster is opened by deploy/claims.yaml"
        ) from None


def cache() -> Path:
    """Frozen features, fetched backbones, answers about reviews; safe to delete, but answers may have cost money."""
    return home() / "cache"


def work(node: str, key: str) -> Path:
    """Checkpoints of one node; the same key finds them again after a crash."""
    return home() / "work" / node / key


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the local database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"

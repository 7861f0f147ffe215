"""Where latefuse keeps its own files: everything under one folder, `.latefuse` here or `LATEFUSE_HOME`."""

from __future__ import annotations

import fcntl
import itertools
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

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


@contextmanager
def work(node: str, key: str) -> Iterator[Path]:
    """The folder of one node's checkpoints, for this process alone; the same key finds them again after a crash.

    While another run of the same work is at it, a folder beside it. The lock goes with its process.
    """
    folder = home() / "work" / node
    folder.mkdir(parents=True, exist_ok=True)
    for number in itertools.count(1):
        name = key if number == 1 else f"{key}-{number}"
        with (folder / f"{name}.lock").open("a") as file:
            if _locked(file):
                yield folder / name
                return
        print(f"{node}: another run is at work in {folder / name}", flush=True)


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks: as if nobody else were there
        pass
    return True


def tracking_uri() -> str:
    """`MLFLOW_TRACKING_URI`, or the local database."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"

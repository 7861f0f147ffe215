"""torchrun that leaves word: `python -m latefuse.training.ranks [torchrun's options] -m MODULE REQUEST`.

It takes torchrun's options and its PET_* variables, so it starts the processes of one machine as well as those of one
node of a TrainJob. What has failed is written to `ranks/` beside the request, for whoever waits for the job.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latefuse.training import alive

RANKS, LEASE = "ranks", "lease"
LEASED = "LATEFUSE_LEASE"
LEASE_CHECK_S = 1.0
ABSENT_S = 60.0
MESSAGE = 1_000


def main(argv: list[str]) -> int:
    """Start the ranks of this node and wait for them; 1 when one has failed, 128 + n after signal n."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = run.parse_args(argv)
    folder = Path(options.training_script_args[0]).parent
    _keep_lease(os.environ.get(LEASED))
    try:
        run.run(options)
    except ChildFailedError as error:
        alive.record(folder / RANKS, _node(options), [_failure(rank, one) for rank, one in error.failures.items()])
        print(f"latefuse: {alive.cause(folder / RANKS, 0) or 'a rank has failed'}", file=sys.stderr, flush=True)
        return 1
    except SignalException as error:
        return 128 + int(error.sigval)
    return 0


def fresh(folder: Path) -> Path:
    """An empty folder for signs of life beside the request in `folder`."""
    shutil.rmtree(folder / RANKS, ignore_errors=True)
    (folder / RANKS).mkdir(parents=True)
    return folder / RANKS


def _node(options: argparse.Namespace) -> int:
    return int(options.node_rank or 0)


def _failure(rank: int, failure: Any) -> Mapping[str, Any]:
    """One failed rank: what it has recorded itself, or what its exit code says."""
    recorded = isinstance(failure.message, Mapping)
    said = str(failure.message["message"]) if recorded else f"it ended with code {failure.exitcode}"
    return {
        "rank": rank,
        "pid": failure.pid,
        "code": failure.exitcode,
        "signal": failure.signal_name() if failure.exitcode < 0 else "",
        "message": " ".join(said.split())[:MESSAGE],
        "time": failure.timestamp,
    }


def _keep_lease(lease: str | None) -> None:
    """End this node when nobody renews the lease: a driver that is killed can't delete its job, and a job that has
    failed may be started again by Kubernetes when nobody waits for it any more.

    lease: a file with the seconds it holds and a number that changes, there before the job is and gone with the driver.
    """
    if lease:
        threading.Thread(target=_watch_lease, args=(Path(lease),), name="lease", daemon=True).start()


def _watch_lease(lease: Path) -> None:
    last, seconds, since = "", ABSENT_S, time.monotonic()  # this machine's own clock
    while time.monotonic() - since <= seconds:
        time.sleep(LEASE_CHECK_S)
        try:
            text = lease.read_text(encoding="utf-8")
        except OSError:  # gone, or the volume is away for a while
            continue
        if text and text != last:
            last, seconds, since = text, float(text.split()[0]), time.monotonic()
    print("latefuse: the pipeline's node is gone, so its training ends", file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

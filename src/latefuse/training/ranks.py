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
LEASE_CHECK_S = 1.0
MESSAGE = 1_000


def main(argv: list[str]) -> int:
    """Start the ranks of this node and wait for them; 1 when one has failed, 128 + n after signal n."""
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    options = run.parse_args(argv)
    folder = Path(options.training_script_args[0]).parent
    _keep_lease(folder / LEASE)
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


def _keep_lease(lease: Path) -> None:
    """End this node when the lease is there and nobody renews it: a driver that is killed can't delete its job.

    The lease is a file with the seconds it holds and a number that changes. Times are of this machine's own clock.
    """
    if lease.exists():
        threading.Thread(target=_watch_lease, args=(lease,), name="lease", daemon=True).start()


def _watch_lease(lease: Path) -> None:
    last, since = "", time.monotonic()
    while True:
        time.sleep(LEASE_CHECK_S)
        try:
            text = lease.read_text(encoding="utf-8")
        except OSError:
            continue
        if text and text != last:
            last, since = text, time.monotonic()
        elif last and time.monotonic() - since > float(last.split()[0]):
            print("latefuse: the pipeline's node is gone, so its training ends", file=sys.stderr, flush=True)
            os.kill(os.getpid(), signal.SIGTERM)
            return


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

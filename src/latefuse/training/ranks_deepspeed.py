"""DeepSpeed's launcher that leaves word: `python -m latefuse.training.ranks_deepspeed PROCESSES MODULE REQUEST`.

It does for `launcher: deepspeed` what `ranks` does for torchrun: the processes of one machine, and in `ranks/` beside
the request what has failed. DeepSpeed's own launcher tells an exit code and no more, so each process writes down what
it has raised, and who fell silent is told from who was ended.
"""

from __future__ import annotations

import base64
import json
import os
import runpy
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from latefuse.training import alive
from latefuse.training.ranks import MESSAGE, RANKS

INSIDE = "--inside"


def main(argv: list[str]) -> int:
    """Start the ranks and wait for them; 1 when one has failed."""
    if argv[0] == INSIDE:
        return _one_rank(argv[1], Path(argv[2]))
    from deepspeed.launcher import launch

    processes, module, request = int(argv[0]), argv[1], Path(argv[2])
    world = base64.urlsafe_b64encode(json.dumps({"localhost": list(range(processes))}).encode()).decode()
    where = [f"--world_info={world}", "--master_addr=127.0.0.1", f"--master_port={_free_port()}"]
    sys.argv = ["deepspeed", *where, "--module", "--no_local_rank", __spec__.name, INSIDE, module, str(request)]
    try:
        launch.main()
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    else:
        return 0
    alive.record(request.parent / RANKS, 0, list(_failures(request.parent / RANKS, processes, code)))
    print(f"latefuse: {alive.cause(request.parent / RANKS, 0) or 'a rank has failed'}", file=sys.stderr, flush=True)
    return 1


def _one_rank(module: str, request: Path) -> int:
    """In a process that DeepSpeed has started: what torchrun would have told it, then the module."""
    os.environ["LOCAL_WORLD_SIZE"] = os.environ["LOCAL_SIZE"]
    os.environ["TORCHELASTIC_ERROR_FILE"] = str(_word(request.parent / RANKS, int(os.environ["RANK"])))
    sys.argv = [module, str(request)]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
    return 0


def _failures(folder: Path, processes: int, code: int) -> Iterator[Mapping[str, Any]]:
    """Every rank that has recorded what it raised; where none has, or a signal has ended one, those without a word.

    code: of the first process that failed. Who was ended because of it has left a stack.
    """
    told = [rank for rank in range(processes) if _word(folder, rank).exists()]
    for rank in range(processes):
        stack = folder / f"rank-{rank}.stack"
        if rank in told:
            said = json.loads(_word(folder, rank).read_text(encoding="utf-8"))["message"]
            yield _failure(folder, rank, 1, str(said["message"]), float(said["extraInfo"]["timestamp"]))
        elif (code < 0 or not told) and not (stack.exists() and stack.stat().st_size):
            yield _failure(folder, rank, code, f"it ended with code {code}", time.time())


def _failure(folder: Path, rank: int, code: int, said: str, when: float) -> Mapping[str, Any]:
    return {
        "rank": rank,
        "pid": alive.said(folder, rank).get("pid", "?"),
        "code": code,
        "signal": signal.Signals(-code).name if code < 0 else "",
        "message": " ".join(said.split())[:MESSAGE],
        "time": when,
    }


def _word(folder: Path, rank: int) -> Path:
    return folder / f"word-{rank}.json"


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""One process of `finetune` whose second rank does what BAD_RANK says at its third batch: kill, sleep or raise."""

import json
import os
import signal
import sys
import time
from pathlib import Path

from torch.distributed.elastic.multiprocessing.errors import record

from latefuse.steps import finetune
from latefuse.tasks import instruct


def collate_badly(rows, *given):
    calls.append(rows)
    if os.environ["RANK"] == "1" and len(calls) == 3:
        Path(os.environ["BAD_RANK_AT"]).write_text(str(time.time()))
        match os.environ["BAD_RANK"]:
            case "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            case "sleep":
                sleep_for_ever()
            case "raise":
                raise ValueError("row 7 tastes of soap")
    return plain(rows, *given)


def sleep_for_ever():
    time.sleep(100_000)


calls: list = []
plain = instruct.collate
instruct.collate = collate_badly

if __name__ == "__main__":
    assert json.loads(Path(sys.argv[1]).read_text())["job"]["processes"] == 2
    record(finetune.main)(Path(sys.argv[1]))

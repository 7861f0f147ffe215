"""One of two processes that trains case after case, so that many settings of DeepSpeed cost one start: CASES.json.

`deal`: rows of a step are of several modalities, so that processes read different ones at a time. `kill`: the second
process kills itself behind that step, once; both started again go on with that case.
"""

import gc
import json
import os
import random
import signal
import sys
import traceback
from dataclasses import replace
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.elastic.multiprocessing.errors import record
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from latefuse.config import Job
from latefuse.errors import UserError
from latefuse.steps import finetune
from latefuse.tracking import Null
from latefuse.training import alive, engine, schedule
from latefuse.training.distributed import World


def dealt(*given):
    """The steps of a job with all their rows shuffled over them."""
    plain = schedule.schedule(*given)
    rows = [row for step in plain.steps for row in step.rows]
    random.Random(5).shuffle(rows)
    cards = iter(rows)
    return replace(plain, steps=[replace(step, rows=tuple(next(cards) for _ in step.rows)) for step in plain.steps])


def killed_at(step: int, mark: Path):
    """`alive.beat` that is the last of the second process when it comes to the step behind `step`."""

    def beat(now: int) -> None:
        if now > step and not mark.exists() and World.of_environment().rank == 1:
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    return beat


def train(case) -> dict:
    dataset, backbone, out = (Path(case[name]) for name in ("dataset", "backbone", "out"))
    engine.schedule = dealt if case.get("deal") else schedule.schedule
    alive.beat = killed_at(case["kill"], out / "killed") if case.get("kill") else lambda step: None
    try:
        return {"result": finetune.run(Job.model_validate(case["job"]), dataset, backbone, out, Null(), out / "c")}
    except UserError as error:
        return {"refused": str(error)}
    except Exception:
        if case.get("kill"):
            raise  # it has lost the other one
        return {"failed": traceback.format_exc()}


def main() -> None:
    for case in json.loads(Path(sys.argv[1]).read_text()):
        told = Path(case["out"]) / f"told-{World.of_environment().rank}.json"
        if told.exists():
            continue
        told.parent.mkdir(parents=True, exist_ok=True)
        told.write_text(json.dumps(train(case)))
        unset_hf_deepspeed_config()
        GradientState._reset_state()
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        gc.collect()


if __name__ == "__main__":
    record(main)()

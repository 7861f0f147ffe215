"""One of two processes that trains case after case, so that many settings of DeepSpeed cost one start: CASES.json."""

import gc
import json
import sys
import traceback
from pathlib import Path

from accelerate.state import AcceleratorState, GradientState, PartialState
from torch.distributed.elastic.multiprocessing.errors import record
from transformers.integrations.deepspeed import unset_hf_deepspeed_config

from latefuse.config import Job
from latefuse.errors import UserError
from latefuse.steps import finetune
from latefuse.tracking import Null
from latefuse.training.distributed import World


def main() -> None:
    world = World.of_environment()
    for case in json.loads(Path(sys.argv[1]).read_text()):
        dataset, backbone, out = (Path(case[name]) for name in ("dataset", "backbone", "out"))
        try:
            told = {"result": finetune.run(Job.model_validate(case["job"]), dataset, backbone, out, Null(), out / "c")}
        except UserError as error:
            told = {"refused": str(error)}
        except Exception:  # noqa: BLE001
            told = {"failed": traceback.format_exc()}
        out.mkdir(parents=True, exist_ok=True)
        (out / f"told-{world.rank}.json").write_text(json.dumps(told))
        unset_hf_deepspeed_config()
        GradientState._reset_state()
        AcceleratorState._reset_state(True)
        PartialState._reset_state()
        gc.collect()


if __name__ == "__main__":
    record(main)()

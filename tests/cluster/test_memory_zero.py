"""What ZeRO leaves in one of two processes, against every tensor that is alive in a real run of DeepSpeed."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

from latefuse.cluster.memory import Zero, state
from latefuse.cluster.shapes import shapes_of, trained
from latefuse.config import AdapterConfig

pytestmark = pytest.mark.skipif(find_spec("deepspeed") is None, reason="DeepSpeed is not installed; `dev` has it")

CONFIG = {
    "model_type": "llama", "vocab_size": 4000, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip
RUN = """
import gc, json, os, sys
import deepspeed, torch, transformers
from peft import LoraConfig, get_peft_model

deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
deepspeed.init_distributed("gloo")
config, stage = json.loads(sys.argv[1]), int(sys.argv[2])
model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).to(torch.bfloat16).requires_grad_(False)
wanted = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name]
peft = get_peft_model(model, LoraConfig(r=16, target_modules=wanted)).train()
learns = [p for p in peft.parameters() if p.requires_grad]
zero = {"stage": stage, "reduce_bucket_size": 1000, "overlap_comm": False, "stage3_param_persistence_threshold": 0,
        "stage3_max_live_parameters": 0, "stage3_prefetch_bucket_size": 0}
engine, *_ = deepspeed.initialize(model=peft, optimizer=torch.optim.AdamW(learns), model_parameters=learns, config={
    "train_micro_batch_size_per_gpu": 1, "bf16": {"enabled": True}, "zero_allow_untested_optimizer": True,
    "zero_optimization": zero})
ids = torch.arange(32)[None]
for step in range(2):
    engine.backward(engine(input_ids=ids, labels=ids).loss)
    if step == 1:
        gc.collect()
        alive = {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in gc.get_objects()
                 if type(t) in (torch.Tensor, torch.nn.Parameter)}
        if os.environ["RANK"] == "0":
            print("alive", sum(alive.values()))
    engine.step()
"""


@pytest.mark.parametrize("stage", [2, 3])
def test_state_between_backward_and_step(stage, tmp_path):
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, str(tmp_path / "run.py"), json.dumps(CONFIG), str(stage)],
        capture_output=True, text=True, timeout=280, env={**os.environ, "DS_ACCELERATOR": "cpu"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    [found] = [int(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("alive")]
    shapes = shapes_of(CONFIG)
    learns = trained(shapes, AdapterConfig(r=16, on=("language",)), ("text",))
    told = state(shapes.parameters, learns, "bfloat16", Zero(stage, bucket=0, live=0), world=2)
    assert sum(told.values()) == pytest.approx(found, rel=1e-3)

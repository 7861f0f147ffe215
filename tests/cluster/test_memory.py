"""The estimate of memory against real tensors: counted, hooked, and measured as the peak of a process."""

import json
import os
import subprocess
import sys
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from latefuse.cluster.kept import Load, saved
from latefuse.cluster.memory import GIB, Zero, estimate, state
from latefuse.cluster.shapes import Trained, shapes_of, trained
from latefuse.config import AdapterConfig
from latefuse.models import adapters
from latefuse.models import backbone as backbones
from latefuse.models.media_batch import MediaBatch

EVERYWHERE = AdapterConfig(r=4, on=("language", "bridge", "tower"))
PLAIN = AdapterConfig(r=4)
LANGUAGE = AdapterConfig(r=4, on=("language",))
SEES = ("video_llava", "llava", "llava_onevision")


def kept_for_backward(call, parameters):
    """Bytes of the distinct storages that autograd keeps while `call` runs, but for those of the parameters."""
    own, found, alive = {p.untyped_storage().data_ptr() for p in parameters}, {}, []

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
            alive.append(tensor)  # else its address could be given out again
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = call()
    return sum(found.values()), result


@pytest.fixture
def scene(backbone_folder):
    """A tiny backbone with an adapter, a batch for it, and what the estimate is told of both."""

    def make(family, modality, adapter, rows=3, text=60, learned=10, dtype="float32"):
        folder = backbone_folder(family)
        base = backbones.load(folder, dtype=dtype)
        shapes = shapes_of(json.loads((folder / "config.json").read_text()))
        adapters.attach(base, adapter, modality, seed=0)
        base.model.train()
        before = [] if modality == "text" else base.placeholder_ids(modality)
        ids = torch.tensor([[*before, *range(20, 20 + text)]] * rows)
        mask = torch.ones_like(ids)
        mask[1:, -1] = 0
        count = rows * (base.frames if modality == "video" else 1)
        pictures = [Image.fromarray(np.zeros((40, 50, 3), dtype=np.uint8))] * count
        media = None if modality == "text" else MediaBatch(**{modality: base.pixels(pictures, modality)})

        def loss():
            hidden = base.hidden(ids, mask, media)[:, -learned:]
            logits = base.logits(hidden.reshape(-1, hidden.shape[-1])).float()
            return torch.nn.functional.cross_entropy(logits, ids[:, -learned:].reshape(-1), reduction="none").sum()

        load = Load(rows, ids.shape[1], learned, len(before), shapes.encoded(modality, base.frames))
        return base, shapes, load, loss

    return make


CASES = [
    ("llama", "text", LANGUAGE),
    *((family, "image", adapter) for family in SEES for adapter in (LANGUAGE, PLAIN, EVERYWHERE)),
    ("video_llava", "text", PLAIN),
    ("video_llava", "video", PLAIN),
    ("video_llava", "video", EVERYWHERE),
    ("llava_onevision", "video", EVERYWHERE),
    ("video_llava", "image", AdapterConfig(r=4, on=("bridge",))),
    ("video_llava", "image", AdapterConfig(r=4, bridge_full=True)),
    ("video_llava", "image", AdapterConfig(r=4, dropout=0.1)),
]


@pytest.mark.parametrize(("family", "modality", "adapter"), CASES)
def test_bytes_kept_for_backward(family, modality, adapter, scene):
    base, shapes, load, loss = scene(family, modality, adapter)
    found, _ = kept_for_backward(loss, base.model.parameters())
    assert saved(shapes, adapter, (modality,), load, gpu=False).total == pytest.approx(found, rel=0.05)


@pytest.mark.parametrize("adapter", [PLAIN, EVERYWHERE, AdapterConfig(r=4, dropout=0.1)])
def test_bytes_kept_in_mixed_precision(adapter, scene):
    base, shapes, load, loss = scene("video_llava", "image", adapter, dtype="bfloat16")
    with torch.autocast("cpu", torch.bfloat16):
        found, _ = kept_for_backward(loss, base.model.parameters())
    assert saved(shapes, adapter, ("image",), load, "bfloat16", gpu=False).total == pytest.approx(found, rel=0.05)


def test_bytes_kept_where_all_is_in_half_precision_as_deepspeed_has_it(scene):
    base, shapes, load, loss = scene("video_llava", "image", PLAIN, dtype="bfloat16")
    base.model.to(torch.bfloat16)
    found, _ = kept_for_backward(loss, base.model.parameters())
    assert saved(shapes, PLAIN, ("image",), load, "bfloat16", deepspeed=True).total == pytest.approx(found, rel=0.05)


SMALL = {
    "model_type": "qwen2", "vocab_size": 3000, "hidden_size": 256, "intermediate_size": 640, "num_hidden_layers": 4,
    "num_attention_heads": 8, "num_key_value_heads": 2, "tie_word_embeddings": True,
}  # fmt: skip


@pytest.mark.parametrize(("rows", "length"), [(1, 384), (4, 128)])
def test_a_small_language_model_with_grouped_attention(rows, length):
    """Rows with padding bring a mask, which every layer keeps, and repeated keys and values."""
    model = transformers.Qwen2ForCausalLM(transformers.Qwen2Config(**SMALL)).requires_grad_(False)
    wanted = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name]
    peft = get_peft_model(model, LoraConfig(r=16, target_modules=wanted))
    ids = torch.arange(rows * length).reshape(rows, length) % 3000
    mask = torch.ones_like(ids)
    mask[1:, -3:] = 0

    def loss():
        positions = torch.arange(length).expand(rows, -1)
        hidden = model.model(input_ids=ids, attention_mask=mask, position_ids=positions).last_hidden_state[:, -20:]
        logits = model.lm_head(hidden.reshape(-1, 256))
        return torch.nn.functional.cross_entropy(logits, ids[:, -20:].reshape(-1), reduction="none").sum()

    shapes, adapter = shapes_of(SMALL), AdapterConfig(r=16, on=("language",))
    found, _ = kept_for_backward(loss, peft.parameters())
    load = Load(rows, length, 20)
    assert saved(shapes, adapter, ("text",), load).total == pytest.approx(found, rel=0.03)
    assert trained(shapes, adapter, ("text",)).numbers == sum(p.numel() for p in peft.parameters() if p.requires_grad)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize(("family", "modality", "adapter"), [CASES[0], CASES[3], CASES[2], CASES[-2]])
def test_weights_gradients_and_optimiser_are_exact(family, modality, adapter, dtype, scene):
    base, shapes, load, loss = scene(family, modality, adapter, dtype=dtype)
    learns = base.trained()
    optimiser = torch.optim.AdamW(learns, fused=True)
    with torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16"):
        total = loss()
    total.backward()
    untouched = [p for p in learns if p.grad is None]
    for parameter in untouched:  # of the last tower layers, which features at -2 do not read
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    told = estimate(shapes, adapter, (modality,), load, dtype)
    frozen = [p for p in base.model.parameters() if not p.requires_grad]
    assert told.weights == bytes_of(frozen)  # with a whole bridge PEFT keeps the old one beside it
    assert told.adapter == bytes_of(learns)
    assert told.gradients == bytes_of(p.grad for p in learns)
    assert told.optimiser == bytes_of(t for one in optimiser.state.values() for t in one.values())


def bytes_of(tensors):
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


TRAIN = """
import torch, transformers
from peft import LoraConfig, get_peft_model

def train(config, length, checkpointing):
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).requires_grad_(False)
    wanted = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name]
    peft = get_peft_model(model, LoraConfig(r=16, target_modules=wanted)).train()
    if checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    optimiser = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], fused=True)
    ids = torch.arange(length)[None] % config["vocab_size"]
    for _ in range(2):
        embeds = model.get_input_embeddings()(ids)
        inner = model.model(inputs_embeds=embeds, attention_mask=torch.ones_like(ids), use_cache=False)
        logits = model.lm_head(inner.last_hidden_state[:, -64:].reshape(-1, config["hidden_size"]))
        torch.nn.functional.cross_entropy(logits, ids[:, -64:].reshape(-1), reduction="sum").backward()
        del logits, inner
        optimiser.step()
        optimiser.zero_grad()
"""
PEAK = """
import json, sys
import psutil
from latefuse import usage

torch.set_num_threads(1)
config = json.loads(sys.argv[1])
tiny = {"hidden_size": 16, "intermediate_size": 16, "vocab_size": 80, "num_hidden_layers": 1}
train({**config, **tiny}, 64, False)  # all that is loaded on first use is loaded
floor = psutil.Process().memory_info().rss
train(config, 1024, False)
print(usage.own_peak() - floor)
"""
MIDDLE = {
    "model_type": "llama", "vocab_size": 4000, "hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6,
    "num_attention_heads": 8, "num_key_value_heads": 8, "tie_word_embeddings": False,
}  # fmt: skip


def told_of(config, length, checkpointing=False):
    adapter = AdapterConfig(r=16, on=("language",))
    load = Load(1, length, 64)
    return estimate(shapes_of(config), adapter, ("text",), load, checkpointing=checkpointing, gpu=False)


def test_the_peak_of_a_process_above_its_imports():
    # Freed blocks go back at once, as profiles for a CPU cluster ask for; else glibc keeps up to as much again.
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "1048576"}
    command = [sys.executable, "-c", TRAIN + PEAK, json.dumps(MIDDLE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=True, env=environment)
    measured, told = int(done.stdout.split()[-1]), told_of(MIDDLE, 1024)
    assert told.total / 1.3 < measured < told.total * 1.3, f"{measured / 2**20:.0f} MiB, told {told}"


class Alive(TorchDispatchMode):
    """The most bytes of tensors that were alive at a time."""

    def __init__(self):
        super().__init__()
        self.sizes, self.now, self.peak = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and (key := tensor.untyped_storage()._cdata) not in self.sizes:
                self.sizes[key] = tensor.untyped_storage().nbytes()
                self.now += self.sizes[key]
                weakref.finalize(tensor.untyped_storage(), self._gone, key)
        self.peak = max(self.peak, self.now)
        return result

    def _gone(self, key):
        self.now -= self.sizes.pop(key)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_the_most_that_is_alive_at_a_time(checkpointing):
    scope = {}
    exec(TRAIN, scope)
    config = {**MIDDLE, "hidden_size": 256, "intermediate_size": 688}
    with Alive() as alive:
        scope["train"](config, 512, checkpointing)
    assert told_of(config, 512, checkpointing).total == pytest.approx(alive.peak, rel=0.12)


def test_zero_spreads_what_the_paper_says():
    """Rajbhandari et al., figure 1, for LoRA: of N processes each has 1/N of the state that a stage spreads."""
    base, learns = 7_000_000_000, Trained(40_000_000, 448)
    plain = state(base, learns, "bfloat16", Zero(1, bucket=0), 1)
    for stage, spread in ((1, {"optimiser"}), (2, {"optimiser", "gradients"}), (3, {*plain} - {"buffers", "host"})):
        many = state(base, learns, "bfloat16", Zero(stage, bucket=0, live=0), 8)
        assert {key for key in plain if many[key] != plain[key]} == spread
        assert all(many[key] * 8 == plain[key] for key in spread)
    assert plain["optimiser"] == 12 * learns.numbers
    assert plain["weights"] == 14_000_000_000


def test_a_deepspeed_file_is_read():
    two, three = (json.loads(Path(f"configs/deepspeed/zero{n}.json").read_text()) for n in (2, 3))
    assert Zero.of(two) == Zero(2, False, 50_000_000, True)
    assert Zero.of(three).stage == 3
    assert Zero.of(json.loads(Path("configs/deepspeed/zero2-offload.json").read_text())).offload
    assert Zero.of(None).stage is None
    learns = Trained(1000, 2)
    host = state(1000, learns, "bfloat16", Zero(2, offload=True, bucket=0), 2)
    assert host["host"] == 500 * (3 * 4 + 2)


def test_checkpointing_keeps_one_layers_work_and_every_layers_input():
    """In closed form for a language model of 32 equal layers."""
    config = {**MIDDLE, "num_hidden_layers": 32}
    adapter, load = AdapterConfig(r=16, on=("language",)), Load(1, 2048, 1)
    plain = estimate(shapes_of(config), adapter, ("text",), load)
    less = estimate(shapes_of(config), adapter, ("text",), load, checkpointing=True)
    assert less.saved < plain.saved / 8
    assert less.saved >= 32 * 2048 * 512 * 4


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here")
def test_the_peak_of_a_gpu():
    config = {**MIDDLE, "hidden_size": 2048, "intermediate_size": 5504, "num_hidden_layers": 8}
    model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config)).requires_grad_(False)
    model = model.to("cuda", torch.bfloat16)
    wanted = [name for name, one in model.named_modules() if isinstance(one, torch.nn.Linear) and ".layers." in name]
    peft = get_peft_model(model, LoraConfig(r=16, target_modules=wanted)).train()
    optimiser = torch.optim.AdamW([p for p in peft.parameters() if p.requires_grad], fused=True)
    ids = torch.arange(4 * 1024, device="cuda").reshape(4, 1024) % 4000
    mask = torch.ones_like(ids)
    mask[1:, -1] = 0
    torch.cuda.reset_peak_memory_stats()
    for _ in range(2):
        with torch.autocast("cuda", torch.bfloat16):
            embeds = model.get_input_embeddings()(ids)
            hidden = model.model(inputs_embeds=embeds, attention_mask=mask, use_cache=False).last_hidden_state
            logits = model.lm_head(hidden[:, -64:].reshape(-1, 2048)).float()
            loss = torch.nn.functional.cross_entropy(logits, ids[:, -64:].reshape(-1), reduction="sum")
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    told = estimate(shapes_of(config), AdapterConfig(r=16, on=("language",)), ("text",), Load(4, 1024, 64), "bfloat16")
    measured = torch.cuda.max_memory_allocated()
    assert told.total / 1.3 < measured < told.total * 1.3, f"{measured / GIB:.2f} GiB, told {told}"

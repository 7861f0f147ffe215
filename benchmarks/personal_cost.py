"""What an epoch of personalised prompts costs, adapters beside full tuning: time, memory, trained share.

    OMP_NUM_THREADS=1 python benchmarks/personal_cost.py [--rows 10000] [--batch 16] [--arms "self, ffn" k=5]

A random T5 of T5-small's shapes with 32,100 tokens, pictures of 512 numbers, answers of 4 tokens, prompts of 128 tokens
(--length), half of them visual slots. An arm has a process of its own; its memory is the peak of the whole
process less what it held once the libraries were there, and its time the median of its steps, forward, backward and
AdamW, by the clock of the processor where one thread works. VIP5 (arXiv 2305.14302, table 5) tells 10.55 minutes and
27.4 GB an epoch with self-attention adapters, 11.10 and 29.0 with cross-attention too, 14.08 and 35.6 for full tuning.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPVisionConfig, T5Config

from latefuse.config import AdapterConfig
from latefuse.config_personal import Personalise
from latefuse.models import personal
from latefuse.models.backbone import Backbone, load
from latefuse.models.folder import seal
from latefuse.models.prompted import Prompted
from latefuse.models.sighted import SightedConfig, SightedModel
from latefuse.models.tiny_random import byte_tokenizer
from latefuse.models.towers import default_transform
from latefuse.usage import own_peak

MIB = 2**20
WIDTH, VOCABULARY, ANSWER, ITEMS = 512, 32_100, 4, 200
ARMS: dict[str, dict[str, Any]] = {
    "full tuning": {"adapter": "lora"},
    "self, ffn": {"places": ("self", "ffn")},
    "self, cross, ffn": {},
    "own for each family": {"per_family": True},
    "LoRA of rank 16": {"adapter": "lora"},
    "text alone": {"k": 0},
    "k=1": {"k": 1},
    "k=3": {"k": 3},
    "k=5": {"k": 5},
}
FULL = "full tuning"


def model_folder(out: Path) -> Path:
    """T5 beside a small tower, random weights, as a backbone folder."""
    tower = CLIPVisionConfig(
        hidden_size=WIDTH,
        num_attention_heads=8,
        intermediate_size=64,
        num_hidden_layers=1,
        image_size=32,
        patch_size=16,
    )
    reader = T5Config(vocab_size=VOCABULARY, num_heads=8, pad_token_id=0, eos_token_id=2, decoder_start_token_id=0)
    torch.manual_seed(0)
    model = SightedModel(SightedConfig(vision_config=tower, text_config=reader, vision_width=WIDTH))
    model.save_pretrained(out)
    byte_tokenizer().save_pretrained(out)
    default_transform(tower).save_pretrained(out)
    seal(out, name="random/t5-small", frames=4)
    return out


def prompts(rows: int, length: int, k: int, seed: int) -> Prompted:
    """A history of `length / 4` items, two tokens of words and k visual slots each: `length` tokens where k is 2."""
    draw = torch.Generator().manual_seed(seed)
    items, words = length // 4, 2
    one = words + k
    slot = torch.arange(items * one) % one - words
    shown = torch.randint(ITEMS, (rows, items), generator=draw).repeat_interleave(one, dim=1)
    return Prompted(
        ids=torch.randint(20, VOCABULARY, (rows, items * one), generator=draw),
        mask=torch.ones(rows, items * one, dtype=torch.bool),
        words=torch.arange(items * one).expand(rows, -1) // one + 1,
        visual=torch.where(slot >= 0, shown * k + slot, -1),
        pictures=torch.randn(ITEMS, WIDTH, generator=draw),
        seen=torch.ones(ITEMS, dtype=torch.bool),
        labels=torch.randint(20, VOCABULARY, (rows, ANSWER), generator=draw),
        family=torch.arange(rows) % 3,
    )


def trained(backbone: Backbone, arm: str) -> list[torch.nn.Parameter]:
    """The arm put on the backbone; what learns. Full tuning has the small network for pictures and all of T5."""
    settings = Personalise.model_validate(ARMS[arm])
    if arm == FULL:
        network = personal.bare(backbone, settings, 0)
        backbone.seq2seq.requires_grad_(True)
        return [*backbone.seq2seq.parameters(), *(p for p in network.parameters() if p.requires_grad)]
    personal.build(backbone, settings, 0, AdapterConfig(r=16))
    return backbone.trained()


def measure(arm: str, folder: Path, batch: int, length: int, steps: int) -> dict[str, float]:
    """Seconds of a step, MiB above the imports, share of parameters that learn."""
    floor = own_peak()
    backbone = load(folder)
    learns = trained(backbone, arm)
    total = sum(p.numel() for part in (backbone.seq2seq, backbone.head) for p in part.parameters())
    optimiser = torch.optim.AdamW(learns, lr=1e-3)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    took = []
    for step in range(steps + 1):
        rows = prompts(batch, length, int(ARMS[arm].get("k", 2)), step)
        began = clock()
        summed, count = personal.loss(backbone, rows)
        (summed / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        took.append(clock() - began)
    share = sum(p.numel() for p in learns) / total
    return {"seconds": statistics.median(took[1:]), "mib": (own_peak() - floor) / MIB, "share": share}


def main() -> int:
    """Print a table; 1 where adapters take more time or memory than full tuning."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, help="of an epoch")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    parser.add_argument("--one", nargs=2, metavar=("ARM", "FOLDER"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.one:
        arm, folder = given.one
        print(json.dumps(measure(arm, Path(folder), given.batch, given.length, given.steps)))
        return 0
    sizes = [f"--{name}={getattr(given, name)}" for name in ("batch", "length", "steps")]
    found = {}
    with tempfile.TemporaryDirectory() as place:
        folder = model_folder(Path(place))
        for arm in dict.fromkeys((FULL, *given.arms)):
            again = [sys.executable, __file__, *sizes, "--one", arm, str(folder)]
            found[arm] = json.loads(subprocess.run(again, check=True, capture_output=True, text=True).stdout)
            told, full = found[arm], found[FULL]
            minutes = told["seconds"] * given.rows / given.batch / 60
            print(
                f"{arm:20} {told['share']:7.2%} trained, {minutes:6.2f} minutes an epoch of {given.rows:,} rows "
                f"({told['seconds'] / full['seconds']:.2f} of full tuning), {told['mib']:6,.0f} MiB "
                f"({told['mib'] / full['mib']:.2f})",
                flush=True,
            )
    same = [arm for arm in found if "k" not in ARMS[arm] and arm != FULL]
    return int(any(found[arm][what] > found[FULL][what] for arm in same for what in ("seconds", "mib")))


if __name__ == "__main__":
    sys.exit(main())

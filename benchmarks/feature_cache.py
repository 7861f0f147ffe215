"""Our training against the plain one: Hugging Face Trainer + PEFT, pixels through the model's own forward, full logits.

    python benchmarks/feature_cache.py [--vocabulary 32000] [--clips 64] [--steps 60]

Both read the same rows in the same order from the same first weights, each in a process of its own, so that peak
memory is honest. The plain path gets its pixels decoded and transformed beforehand, in a memory-mapped file; our time
holds the filling of the feature cache. Prints the ratios; fails where a step's losses differ by 1e-4 or more.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import PrinterCallback, Trainer, TrainingArguments, VideoLlavaForConditionalGeneration

from latefuse import usage
from latefuse.config import Job
from latefuse.data.dataset import Dataset, store_medium, write_dataset
from latefuse.models.backbone import Backbone, load
from latefuse.models.folder import seal
from latefuse.models.tiny import TinyOptions, architecture, image_processor
from latefuse.models.tiny_random import byte_tokenizer
from latefuse.tasks import instruct
from latefuse.training import engine
from latefuse.training.batching import pad
from latefuse.training.features import Features
from latefuse.training.schedule import schedule

FRAMES = 8
BATCH = 8
TOLERANCE = 1e-4


def make_dataset(out: Path, clips: int) -> None:
    """Clips of noise with an answer of 20 to 60 letters, each clip in four rows."""
    draw, rows = random.Random(0), []
    pixels = np.random.default_rng(0)
    for number in range(clips):
        frames = [Image.fromarray(pixels.integers(0, 256, (64, 64, 3), np.uint8)) for _ in range(FRAMES)]
        raw = out.parent / f"{number}.gif"
        frames[0].save(raw, save_all=True, append_images=frames[1:])
        medium = {"modality": "video", "path": store_medium(out, raw)}
        for copy in range(4):
            answer = "".join(draw.choices("abcdefgh ", k=draw.randint(20, 60)))
            question = f"<video>\nQuestion {copy}?"
            turns = [{"role": "user", "text": question}, {"role": "assistant", "text": answer + "."}]
            row = {"id": f"{number}-{copy}", "modality": "video", "media": [medium], "turns": turns}
            rows.append({**row, "split_item": "train"})
    write_dataset(out, {"conversations": rows})


def make_backbone(out: Path, vocabulary: int) -> None:
    """The demo base's shape with random weights; further words of the vocabulary are never used, as in a real one."""
    torch.manual_seed(0)
    tokenizer = byte_tokenizer()
    config = architecture(tokenizer, TinyOptions(frames=FRAMES))
    config.text_config.vocab_size = max(vocabulary, len(tokenizer))
    VideoLlavaForConditionalGeneration(config).save_pretrained(out)
    tokenizer.save_pretrained(out)
    image_processor().save_pretrained(out)
    seal(out, name="benchmark", frames=FRAMES)


def job_of(steps: int) -> Job:
    """Both paths' settings."""
    train = {"max_steps": steps, "batch_size": BATCH, "log_every": 1, "save_every": 10_000, "max_tokens": 1024}
    return Job.model_validate({"name": "video", "seed": 0, "tasks": {"video": {"modality": "video", "train": train}}})


def prepared(folder: Path, job: Job) -> tuple[Dataset, Backbone, dict[str, list[instruct.Example]]]:
    """What both paths start from."""
    data, backbone = Dataset(folder / "dataset"), load(folder / "backbone")
    rows = {"video": instruct.examples(data, job.tasks["video"], "train", backbone)}
    instruct.attach(backbone, job.tasks, job.seed)
    return data, backbone, rows


def ours(folder: Path, job: Job) -> dict[str, Any]:
    """The engine with its feature cache, filled inside the time."""
    data, backbone, rows = prepared(folder, job)
    features = Features(backbone, data.media, folder / "cache")
    before, start = peak(), time.perf_counter()
    result = engine.train(backbone, job, rows, {}, folder / "ours", features, lambda values, step: None)
    seconds = time.perf_counter() - start
    return {"losses": result["losses"], "seconds": seconds, "loop": result["train_s"], "before": before, "peak": peak()}


def plain(folder: Path, job: Job) -> dict[str, Any]:
    """What the libraries' own examples do: a PEFT model, a padding collator, the Trainer."""
    _, backbone, rows = prepared(folder, job)
    todo = schedule(job, rows, 1)
    pixels = np.load(folder / "pixels.npy", mmap_mode="r")
    place = {ref: number for number, ref in enumerate(clips_of(rows["video"]))}

    def collate(batch: list[instruct.Example]) -> dict[str, torch.Tensor]:
        return {
            "input_ids": pad([row.input_ids for row in batch], backbone.tokenizer.pad_token_id),
            "attention_mask": pad([[1] * len(row.input_ids) for row in batch], 0),
            "labels": pad([row.labels for row in batch], -100),
            "pixel_values_videos": torch.from_numpy(pixels[[place[row.media[0].path] for row in batch]]),
        }

    arguments = engine.training_arguments(job, todo, engine.World(), folder / "plain").to_dict()
    arguments |= {"train_sampling_strategy": "sequential", "label_names": None, "accelerator_config": None}
    trainer = Trainer(
        model=backbone.peft,
        args=TrainingArguments(**{key: value for key, value in arguments.items() if value is not None}),
        train_dataset=[todo.rows[row] for step in todo.steps for row in step.rows],
        data_collator=collate,
    )
    trainer.remove_callback(PrinterCallback)
    before, start = peak(), time.perf_counter()
    trainer.train()
    seconds = time.perf_counter() - start
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {"losses": losses, "seconds": seconds, "loop": seconds, "before": before, "peak": peak()}


def clips_of(rows: list[instruct.Example]) -> list[str]:
    """The distinct clips, in order."""
    return list(dict.fromkeys(row.media[0].path for row in rows))


def write_pixels(folder: Path, job: Job) -> None:
    """Every distinct clip decoded and transformed, (clips, frames, 3, 64, 64)."""
    data, backbone, rows = prepared(folder, job)
    refs = {row.media[0].path: row.media[0] for row in rows["video"]}
    batch = Features(backbone, data.media).batch([refs[path] for path in clips_of(rows["video"])])
    assert batch is not None
    assert batch.video is not None
    np.save(folder / "pixels.npy", batch.video.numpy())


def peak() -> float:
    """Peak resident memory so far, MiB."""
    return usage.own_peak() / 2**20


def one(path: str, folder: Path, steps: int) -> None:
    """One path in this process; its numbers as a line of JSON."""
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    print(json.dumps({"plain": plain, "ours": ours}[path](folder, job_of(steps))))


def main() -> int:
    """Both paths, one after the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=32_000)
    parser.add_argument("--clips", type=int, default=64)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--one", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        one(options.one[0], Path(options.one[1]), options.steps)
        return 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_dataset(folder / "dataset", options.clips)
        make_backbone(folder / "backbone", options.vocabulary)
        write_pixels(folder, job_of(options.steps))
        found = {}
        for path in ("plain", "ours"):
            command = [sys.executable, __file__, "--steps", str(options.steps), "--one", path, name]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            found[path] = json.loads(done.stdout.splitlines()[-1])
    return told(found["plain"], found["ours"], options.steps)


def told(peer: dict[str, Any], mine: dict[str, Any], steps: int) -> int:
    """Print the comparison; 1 where the losses differ."""
    worst = max(abs(a - b) for a, b in zip(peer["losses"], mine["losses"], strict=True))
    rows = steps * BATCH
    first, last = mine["losses"][0], mine["losses"][-1]
    print(f"{steps} steps of {BATCH} clips of {FRAMES} frames; loss {first:.4f} -> {last:.4f}")
    print(f"largest difference of a step's loss: {worst:.1e} (must be below {TOLERANCE:.0e})")
    print(f"{'':26}{'plain':>10}{'ours':>10}{'ratio':>8}")
    for label, key in (("rows/s, cache filled inside", "seconds"), ("rows/s, training loop", "loop")):
        a, b = rows / peer[key], rows / mine[key]
        print(f"{label:28}{a:8.1f}{b:10.1f}{b / a:8.2f}")
    for label, a, b in (
        ("peak memory, MiB", peer["peak"], mine["peak"]),
        ("  of it above loading", peer["peak"] - peer["before"], mine["peak"] - mine["before"]),
    ):
        print(f"{label:28}{a:8.0f}{b:10.0f}{b / max(a, 1):8.2f}")
    return int(worst >= TOLERANCE)


if __name__ == "__main__":
    raise SystemExit(main())

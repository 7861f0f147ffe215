"""Contrastive training: stored features and encode-once beside the plain way, and the memory of gradient caching.

python benchmarks/contrastive.py                               # tiny random backbones, pictures drawn here
python benchmarks/contrastive.py --backbone work/backbone --dataset work/dataset    # outputs of those steps

The plain way encodes every occurrence of an item from its pixels and words; both ways must reach the same loss.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from latefuse import usage
from latefuse.config import Task
from latefuse.data.dataset import Dataset, store_medium, write_dataset
from latefuse.models import embedder
from latefuse.models.backbone import load
from latefuse.models.tiny_random import random_backbone
from latefuse.tasks import embed
from latefuse.training.features import Features

SIZES = (64, 128, 256, 512, 1_024)
CHUNK = 64


def main() -> None:
    """Print pairs a second both ways with their ratio and losses, then peak memory by batch size."""
    options = _options()
    torch.set_num_threads(options.threads)
    if options.batch:
        _one_step(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        dataset = options.dataset or _drawn(work / "dataset")
        light = options.backbone or random_backbone(work / "light", "light_conv")
        _speed(light, dataset, work / "cache", options)
        language = options.language or random_backbone(work / "language", "glued_mlp")
        _memory(language, dataset, work / "cache", options)


def _speed(backbone: Path, dataset: Path, cache: Path, options: argparse.Namespace) -> None:
    found, reached = {}, list[float]()
    for name, stored in (("plain", False), ("stored features, encoded once", True)):
        base, data, task = load(backbone), Dataset(dataset), _task(None)
        embedder.attach(base, task, 0)
        features = Features(base, data.media, cache if stored else None)
        rows = embed.examples(data, task, "train", base)
        steps = embed.steps(rows, task.train.model_copy(update=_train(options)), 0, 1)
        warm = time.perf_counter()
        if stored:
            embed.warm(rows, base, features, progress=False)
        warm = time.perf_counter() - warm
        optimiser = torch.optim.AdamW(base.trained(), lr=1e-3)
        losses, began = [], time.perf_counter()
        for step in steps:
            batch = [rows[number] if stored else _apart(rows[number], k) for k, number in enumerate(step)]
            value, count = embed.loss(base, embed.collate(batch, base, features))
            (value / count).backward()
            optimiser.step()
            optimiser.zero_grad()
            losses.append(float(value.detach()) / count)
        seconds = time.perf_counter() - began
        found[name] = sum(map(len, steps)) / seconds
        reached.append(losses[-1])
        print(f"{name:32} {found[name]:8.1f} pairs/s, loss {losses[-1]:.5f}, {warm:.1f} s to store features before")
    if abs(reached[0] - reached[1]) > 1e-3:
        raise SystemExit(f"the losses differ: {reached}")
    plain, ours = found.values()
    print(
        f"ratio {ours / plain:.1f} over {options.steps} steps of {options.pairs} pairs, {options.threads} thread(s)\n"
    )


def _apart(row: embed.Pair, number: int) -> embed.Pair:
    """The pair with items of its own: nothing is known to be the same, so every occurrence is encoded."""
    return replace(row, a=replace(row.a, id=f"{number}/a"), b=replace(row.b, id=f"{number}/b"))


class Held:
    """A tensor kept for the backward pass; all of them together are the activations."""

    live = most = 0

    def __init__(self, tensor: torch.Tensor) -> None:
        self.tensor = tensor
        Held.live += tensor.nbytes
        Held.most = max(Held.most, Held.live)

    def __del__(self) -> None:
        Held.live -= self.tensor.nbytes


def _memory(backbone: Path, dataset: Path, cache: Path, options: argparse.Namespace) -> None:
    """Every size in a process of its own: a peak never comes down again."""
    for name in ("chunks", "whole"):
        peaks, kept = [], []
        for size in SIZES if name == "chunks" else SIZES[:3]:
            given = ["--backbone", str(backbone), "--dataset", str(dataset), "--cache", str(cache)]
            given += ["--batch", str(size), "--threads", "1"]
            command = [sys.executable, __file__, *given, *(["--chunk", str(CHUNK)] if name == "chunks" else [])]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            peak, activations = map(float, done.stdout.split()[-2:])
            peaks.append(peak)
            kept.append(activations)
        told = ", ".join(f"{s}: {a:.1f}, {p:.3f}" for s, a, p in zip(SIZES, kept, peaks, strict=False))
        what = f"gradient caching, {CHUNK} items at a time" if name == "chunks" else "plain"
        print(f"{what}; by pairs a batch, MiB of activations and peak GiB of the process: {told}")
        print(f"  activations {kept[-1] / kept[0] - 1:+.1%}, process {peaks[-1] / peaks[0] - 1:+.1%}")


def _one_step(options: argparse.Namespace) -> None:
    base, data, task = load(options.backbone), Dataset(options.dataset), _task(options.chunk)
    embedder.attach(base, task, 0)
    rows = embed.examples(data, task, "train", base)
    apart = 37  # neighbours in the table share items, and the smallest batch has to fill its chunks too
    batch = [rows[apart * number % len(rows)] for number in range(options.batch)]
    features = Features(base, data.media, options.cache)
    embed.warm(rows, base, features, progress=False)
    with torch.autograd.graph.saved_tensors_hooks(Held, lambda held: held.tensor):
        value, count = embed.loss(base, embed.collate(batch, base, features))
        (value / count).backward()
    print(usage.peaks()["peak_rss_gib"], Held.most / 2**20)


def _task(chunk: int | None) -> Task:
    settings = {"modality_dropout": 0, "chunk": chunk, "budget": {"tokens": 32}}
    return Task.model_validate({"kind": "embed", "modality": ["text", "image"], "embed": settings})


def _train(options: argparse.Namespace) -> dict[str, int]:
    return {"max_steps": options.steps, "batch_size": options.pairs}


def _drawn(folder: Path) -> Path:
    """2,400 items with a little picture each, 4,800 pairs: every item stands in four."""
    draw, items = np.random.default_rng(0), []
    for number in range(2_400):
        path = folder.parent / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, (32, 32, 3), np.uint8)).save(path)
        words = " ".join(draw.choice(["red", "blue", "wide", "old", "of wood", "of glass"], 6))
        items.append(
            {"id": f"i{number}", "title": f"thing {number}", "text": words, "images": [store_medium(folder, path)]}
        )
    ends = [(number, (number + step) % 2_400) for number in range(2_400) for step in (1, 7)]
    pairs = [{"a": f"i{a}", "b": f"i{b}", "split_item": "train"} for a, b in ends]
    write_dataset(folder, {"items": items, "pairs": pairs})
    return folder


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", type=Path, help="a light backbone, the output of `latefuse step backbone`")
    parser.add_argument("--language", type=Path, help="a backbone with a language model, for the memory")
    parser.add_argument("--dataset", type=Path, help="the output of `latefuse step prepare`")
    for name, value in {"steps": 8, "pairs": 128, "threads": 1, "batch": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--chunk", type=int)
    parser.add_argument("--cache", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()

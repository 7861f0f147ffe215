"""How fast a ranker trains and scores, and what memory that takes, beside the same model fed row by row.

    python benchmarks/ranker.py [--events 1000000] [--steps 120] [--batch 4096]

A generated shop: items with a vector of words and one of a picture, users, events in time. The plain way is what one
writes first: a Dataset whose rows are dictionaries, PyTorch's own collate, the same network, optimiser and order of
rows. Both see the same numbers, so their losses are equal. Memory is that of the process, before and after.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from latefuse.config import Job, Task
from latefuse.data.dataset import Dataset, seal
from latefuse.data.schema import TABLES
from latefuse.models import ranker
from latefuse.models.backbone import Backbone, load
from latefuse.models.ranker import Shown
from latefuse.models.tiny_random import random_backbone
from latefuse.tasks import rank
from latefuse.tasks.rank_store import HISTORY, ITEM, PAST, Frozen, Store
from latefuse.training.distributed import World
from latefuse.training.engine import train
from latefuse.training.features import Features

ITEMS, USERS = 5_000, 20_000
CHUNK = 250_000
MIB = 2**20


def shop(out: Path, events: int, seed: int = 0) -> Dataset:
    """A dataset of as many events, one in twenty a like, written chunk by chunk."""
    draw = np.random.default_rng(seed)
    items = [
        {"id": f"i{n}", "title": f"thing {n}", "number": n, "split_item": "train", "attributes": "{}"}
        for n in range(ITEMS)
    ]
    pq.write_table(pa.Table.from_pylist(items, schema=TABLES["items"]), out / "items.parquet")
    taste, kind = draw.integers(0, 10, USERS), draw.integers(0, 10, ITEMS)
    with pq.ParquetWriter(out / "events.parquet", TABLES["events"]) as writer:
        for start in range(0, events, CHUNK):
            size = min(CHUNK, events - start)
            user, item = draw.integers(0, USERS, size), draw.integers(0, ITEMS, size)
            liked = draw.random(size) < np.where(taste[user] == kind[item], 0.3, 0.02)
            place = (start + np.arange(size)) / events
            split = np.where(place < 0.8, "train", np.where(place < 0.9, "valid", "test"))
            columns = {
                "user": np.char.add("u", user.astype(str)), "item": np.char.add("i", item.astype(str)),
                "ts": 1_700_000_000 + start + np.arange(size), "kind": np.full(size, "shown"),
                "value": liked.astype(float), "split_time": split, "split_loo": split,
            }  # fmt: skip
            writer.write_table(
                pa.table({name: pa.array(columns[name]) for name in TABLES["events"].names}).cast(TABLES["events"])
            )
    seal(out, {"source": "benchmark", "licence": "none", "seed": seed, "quarantine": {}, "leaks": {}})
    return Dataset(out)


def vectors(store: Store, seed: int = 0) -> None:
    """Frozen vectors of all items, in place of encoders: 384 numbers of words, 1,280 of a picture."""
    draw = torch.Generator().manual_seed(seed)
    for modality, width in (("text", 384), ("image", 1_280)):
        if modality in store.task.modality:
            matrix = torch.randn(ITEMS, width, generator=draw)
            store.vectors[ITEM[modality]] = Frozen(matrix, np.arange(ITEMS))
            store.inputs.vectors.update(dict.fromkeys((ITEM[modality], PAST[modality]), width))


class Plain(torch.utils.data.Dataset[dict[str, Any]]):
    """Rows as dictionaries, one at a time."""

    def __init__(self, rows: rank.Rows) -> None:
        self.rows, self.store = rows, rows.store
        self.hashed = dict(self.store.hashed_ids)
        self.matrices = {name: frozen.matrix for name, frozen in self.store.vectors.items()}

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> dict[str, Any]:
        columns, place = self.store.columns, self.rows.places[number]
        user, item, past = int(columns.user[place]), int(columns.item[place]), int(columns.past[place])
        end = int(columns.liked_from[user]) + past
        liked = columns.liked_items[end - min(past, HISTORY) : end].astype(np.int64)
        row: dict[str, Any] = {
            "numbers": torch.from_numpy(np.asarray(columns.before[place])),
            "user": int(self.hashed["user"][user]), "item": int(self.hashed["item"][item]),
            "label": int(columns.liked[place]), "past": past,
        }  # fmt: skip
        for modality in self.store.task.modality:
            matrix = self.matrices[ITEM[modality]]
            row[ITEM[modality]] = matrix[item]
            row[PAST[modality]] = matrix[liked].mean(0) if past else torch.zeros(matrix.shape[1])
        return row


def shown(batch: dict[str, Tensor], modalities: tuple[str, ...]) -> Shown:
    """A collated batch of plain rows as the network reads it."""
    rows = len(batch["label"])
    every = torch.arange(rows)
    place = {
        **{ITEM[m]: every for m in modalities},
        **{PAST[m]: torch.where(batch["past"] > 0, every, -1) for m in modalities},
    }
    hashed = {name: (batch[name], every) for name in ("user", "item")}
    return Shown(batch["numbers"], hashed, {name: (batch[name], place[name]) for name in (*_order(modalities),)})


def _order(modalities: tuple[str, ...]) -> Iterator[str]:
    return (name for modality in modalities for name in (ITEM[modality], PAST[modality]))


def plain_way(backbone: Backbone, task: Task, rows: rank.Rows, steps: list[list[int]]) -> tuple[float, float, float]:
    """Rows a second trained, the loss of the last ten steps, rows a second scored."""
    net, data = backbone.head.train(), Plain(rows)
    optimiser = torch.optim.Adagrad(net.parameters(), lr=task.train.lr)
    losses, began = [], time.perf_counter()
    for batch in DataLoader(data, batch_sampler=steps):
        optimiser.zero_grad()
        logits, labels = net(shown(batch, task.modality)), batch["label"].bool()
        loss = ranker.like_loss(logits, labels, net.settings.imbalance, float(net.positive)) / len(labels)
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    speed = sum(map(len, steps)) / (time.perf_counter() - began)
    net.eval()
    began, scored = time.perf_counter(), 0
    with torch.no_grad():
        for batch in DataLoader(data, batch_sampler=steps[: max(1, len(steps) // 4)]):
            scored += len(net(shown(batch, task.modality)))
    return speed, float(np.mean(losses[-10:])), scored / (time.perf_counter() - began)


def main(arguments: list[str] | None = None) -> None:
    """Measure both ways and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=4_096)
    parser.add_argument("--dense", action="store_true", help="dense gradients of the tables")
    asked = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), asked)


def memory() -> float:
    """MiB that this process holds for itself: what lies in files that it has mapped is the system's to take back."""
    info = psutil.Process().memory_full_info()
    return float(info.uss / MIB)


def measure(folder: Path, asked: argparse.Namespace) -> None:
    """Print what each way takes."""
    made = shop(_made(folder / "data"), asked.events)
    how = {
        "max_steps": asked.steps, "batch_size": asked.batch, "lr": 0.02, "log_every": 10, "save_every": 10**6,
        "schedule": "constant", "warmup": 0.0, "max_grad_norm": 1e9,
    }  # fmt: skip
    settings = {"bins": 50_000, "sparse": not asked.dense, "absence": 0.0}
    task = Task.model_validate({"kind": "rank", "modality": ["text", "image"], "rank": settings, "train": how})
    base = random_backbone(_made(folder / "base"), "video_llava", 0)
    before, began = memory(), time.perf_counter()
    backbone, job = load(base), Job(name="like", seed=0, tasks={"like": task})
    chosen = rank.select(made, task, "train", backbone)
    rows = chosen.examples
    vectors(rows.store)
    opened, held = time.perf_counter() - began, memory()
    rank.attach(backbone, job.tasks, 0, {"like": chosen})
    features = Features(backbone, made.media)
    rank.warm(rows, backbone, features, progress=False)
    start = {name: value.clone() for name, value in backbone.head.state_dict().items()}
    result = train(backbone, job, {"like": rows}, {}, folder / "out", features, lambda *_: None)
    began = time.perf_counter()
    some = rows.take(np.arange(min(len(rows), asked.steps * asked.batch)))
    rank.predict(backbone, some, features=features)
    scored, after = len(some) / (time.perf_counter() - began), memory()
    backbone.head.load_state_dict(start)
    backbone.head.requires_grad_(True)
    steps = rank.steps(rows, task.train, 0, 1)
    speed, loss, plain_scored = plain_way(backbone, task, rows, steps)
    ours = result["samples_per_s"]
    print(
        f"{asked.events:,} events opened in {opened:.1f} s; {held - before:.0f} MiB more, "
        f"{after - before:.0f} after training"
    )
    print(f"training: {ours:,.0f} rows/s by columns, {speed:,.0f} row by row: {ours / speed:.1f} times")
    print(
        f"scoring:  {scored:,.0f} rows/s by columns, {plain_scored:,.0f} row by row: {scored / plain_scored:.1f} times"
    )
    print(f"loss of the last ten steps: {result['losses'][-1]:.5f} by columns, {loss:.5f} row by row")
    print(f"processes: {World.of_environment().size}, threads: {torch.get_num_threads()}")


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


if __name__ == "__main__":
    main(sys.argv[1:])

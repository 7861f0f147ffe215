"""Verdicts a second beside the plain way: the same judge, the same rows, the same threads, one run.

    OMP_NUM_THREADS=1 python benchmarks/judge.py [--rows 512] [--demos 2] [--threads 1] [--batch 64]

Ours: rule and demonstrations encoded once for all rows of a rule, one state a row, two logits, pictures out of the
feature cache. Plain: every row whole through `generate()`, pictures and all, which may say either label and nothing
else. Between them the plain way with the feature cache: what is left is what sharing and two logits are worth.
Demonstrations of its own for every row leave nothing to share and are measured as well. Verdicts must be the same
wherever the labels are more than 1e-4 nats apart. Fails below four times the plain way's verdicts with two
demonstrations or more.
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from latefuse.config import BackboneConfig, Task
from latefuse.config_judge import Judge
from latefuse.data.dataset import Dataset, store_medium, write_dataset
from latefuse.data.demo import judgements, pictures, world
from latefuse.models.backbone import Backbone, load
from latefuse.steps import backbone as backbone_step
from latefuse.tasks import instruct, judge
from latefuse.tasks.judge import Judgement
from latefuse.tracking import Null
from latefuse.training.features import Features

Answer = TypeVar("Answer")
TARGET = 4.0
TIE = 1e-4
UNTAUGHT = {"steps": 1, "tower_steps": 1, "checks": 1}  # a base that has learned nothing takes as long as one that has


def table(root: Path, rows: int) -> Dataset:
    """Generated judgements by one rule, as many of the test split as asked for."""
    menu, made = world.dishes(480, 7), []
    for turn in range(-(-rows // 80)):
        for dish in menu:
            path = root / f"{dish.id}.png"
            if not path.exists():
                pictures.dish_picture(dish, random.Random(dish.id)).save(path)
            for number, asked in enumerate(judgements.judgements(dish, menu, random.Random(f"{dish.id}/{turn}"))):
                if asked.task == "every":
                    key = f"{dish.id}-{turn}-{number}"
                    stored = store_medium(root / "dataset", path)
                    made.append({"id": key, "item": dish.id, "image": stored, "split_item": dish.split, **asked.row()})
    return write_dataset(root / "dataset", {"judgements": made}, source="demo")


@dataclass(frozen=True)
class Race:
    """What both ways answer. settings: of the judge; size: rows a batch."""

    backbone: Backbone
    rows: Sequence[Judgement]
    settings: Judge
    size: int

    def ours(self, features: Features) -> Tensor:
        """(n,) log-odds."""
        return judge.score(self.backbone, self.rows, self.settings, features=features, batch_size=self.size)

    def plain(self, features: Features) -> list[bool]:
        """Whether each row is relevant, by generate() over the two labels."""
        labels = (self.settings.relevant, self.settings.not_relevant)
        tree = instruct.trie(labels, self.backbone)
        about = {"features": features, "batch_size": self.size}
        said = instruct.predict(self.backbone, self.rows, 4, allowed=lambda _, ids: tree.allowed(ids), **about)
        return [text == labels[0] for text in said]


def timed(run: Callable[[Features], Answer], features: Features) -> tuple[Answer, float]:
    """What it gives, and its seconds."""
    began = time.perf_counter()
    return run(features), time.perf_counter() - began


def measured(race: Race, kind: str, cached: Features, anew: Features) -> float:
    """Both ways in turn, told; how many times faster ours is. Raises AssertionError where verdicts differ."""
    race.ours(cached)
    scores, ours = timed(race.ours, cached)
    said, whole = timed(race.plain, cached)
    _, pixels = timed(race.plain, anew)
    known = [float(score) for score in scores]
    differ = [k for k, one in enumerate(said) if one != (known[k] > 0) and abs(known[k]) > TIE]
    rows = len(race.rows)
    print(
        f"  demonstrations, {kind:<14} ours {rows / ours:7.1f} verdicts/s; generate() {rows / pixels:6.1f} "
        f"({pixels / ours:.1f} times), with the feature cache {rows / whole:6.1f} ({whole / ours:.1f} times)"
    )
    assert not differ, f"{len(differ)} of {rows} verdicts differ, the first of {race.rows[differ[0]].row}"
    return pixels / ours


def main() -> int:
    """Measure, print, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--rows", type=int, default=512)
    parser.add_argument("--demos", type=int, default=2)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--threads", type=int, default=int(os.environ.get("OMP_NUM_THREADS", "1")))
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ratios = []
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        backbone_step.run(BackboneConfig(options=UNTAUGHT), root / "base", Null(), None)
        backbone, data = load(root / "base"), table(root, options.rows)
        cached, anew = Features(backbone, data.media, root / "cache"), Features(backbone, data.media)
        print(f"{options.rows} rows, {options.demos} demonstrations, {options.threads} thread(s)")
        for fixed, kind in ((True, "one set a rule"), (False, "a set a row")):
            settings = {"demos": options.demos, "fixed": fixed}
            train = {"max_tokens": 1_024}
            how = {"kind": "judge", "modality": ["image", "text"], "judge": settings, "train": train}
            task = Task.model_validate(how)
            rows = judge.examples(data, task, "test", backbone)[: options.rows]
            cached.warm((ref for row in rows for ref in row.media), progress=False)
            assert task.judge is not None
            ratios.append(measured(Race(backbone, rows, task.judge, options.batch), kind, cached, anew))
    if options.demos >= 2 and ratios[0] < TARGET:
        print(f"FAILED: {ratios[0]:.1f} times, expected {TARGET}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

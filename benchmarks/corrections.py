"""What corrections by people change: the near twins of what was corrected, and nothing else.

    python benchmarks/corrections.py RUN [--profile local-long] [--share 0.5] [--weights 1 4]

RUN: the folder of a finished run of configs/recipes/llava_re.yaml. To its judge a board is no square plate. Here people
say it is: of the training rows in which a board is called a square plate, under the rule of the plate, a share is
corrected, by a table of votes and `review import`. The judge is trained again on the same data with these corrections,
once for each weight. Near twins are the test rows of that kind, of other dishes, texts and pictures; others are all
test rows besides. The judge before it, trained the same way without corrections, is that of RUN.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from latefuse import configfile
from latefuse.config import Config, Job
from latefuse.data.dataset import Dataset
from latefuse.data.demo import world
from latefuse.data.sources.demo import DemoOptions
from latefuse.models import adapters
from latefuse.models.backbone import load
from latefuse.review import people
from latefuse.steps import finetune, prepare
from latefuse.tasks import judge
from latefuse.tracking import Null
from latefuse.training.features import Features

RECIPE = Path(__file__).parents[1] / "configs" / "recipes" / "llava_re.yaml"
RULE, TRUE, SAID = "only-plate", "board", "square"
Row = dict[str, Any]


def twins(rows: Sequence[Row], plates: dict[str, str]) -> list[Row]:
    """The rows in which a board is called a square plate, judged by the plate."""
    told = (f"{SAID} plate", f"plate : {SAID}")
    return [
        row
        for row in rows
        if row["task"] == RULE and plates[row["item"]] == TRUE and any(words in row["text"] for words in told)
    ]


def vote(rows: Sequence[Row], path: Path) -> None:
    """A table of people who call them relevant."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "label", "who"])
        writer.writerows([row["id"], "relevant", "ann"] for row in rows)


def job_of(config: Config, weight: int) -> Job:
    """The recipe's main judge under its first seed, with corrections weighing as much."""
    job = config.jobs()[0]
    (name, task), *_ = job.tasks.items()
    assert task.judge is not None
    weighed = task.model_copy(update={"judge": task.judge.model_copy(update={"weights": {"person": weight}})})
    return job.model_copy(update={"tasks": {name: weighed}})


def log_odds(base: Path, adapter: Path, job: Job, data: Dataset) -> dict[str, float]:
    """Of every test row, by its id."""
    backbone, (task, *_) = load(base), job.tasks.values()
    rows = judge.examples(data, task, "test", backbone)
    adapters.load(backbone, adapter)
    assert task.judge is not None
    scores = judge.score(backbone, rows, task.judge, features=Features(backbone, data.media), batch_size=64)
    return {row.row: float(score) for row, score in zip(rows, scores, strict=True)}


def tell(name: str, scores: dict[str, float], near: Sequence[Row], rest: Sequence[Row]) -> None:
    """One line: near twins called relevant, and other rows judged right."""
    called = [scores[row["id"]] > 0 for row in near]
    right = [(scores[row["id"]] > 0) == row["label"] for row in rest]
    middle = float(np.median([scores[row["id"]] for row in near]))
    print(
        f"{name:<28} near twins called relevant {np.mean(called):6.1%} of {len(near)} (median log-odds {middle:+.1f}); "
        f"other rows right {np.mean(right):6.1%} of {len(rest)}",
        flush=True,
    )


def main() -> int:
    """Correct, train again, compare."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--profile", default="local-long")
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--weights", type=int, nargs="+", default=[1, 4])
    options = parser.parse_args()
    config = configfile.load(RECIPE, options.profile)
    data, base = Dataset(options.run / "prepare"), options.run / "backbone"
    made = DemoOptions.model_validate(config.recipe.data.options)
    plates = {dish.id: dish.plating for dish in world.dishes(made.dishes, made.seed)}
    near = twins(data.rows("judgements", "test"), plates)
    assert not any(row["label"] for row in near), "a board is no square plate here"
    known = {row["id"] for row in near}
    rest = [row for row in data.rows("judgements", "test") if row["id"] not in known]
    wrong = twins(data.rows("judgements", "train"), plates)
    chosen = random.Random(0).sample(wrong, round(options.share * len(wrong)))
    first = config.jobs()[0].name + (f"-s{config.recipe.seeds[0]}" if len(config.recipe.seeds) > 1 else "")
    tell("before", log_odds(base, options.run / f"finetune-{first}" / "adapter", job_of(config, 1), data), near, rest)
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        vote(chosen, root / "votes.csv")
        found = people.corrections_of_dataset(root / "votes.csv", options.run / "prepare", root / "said")
        print(f"{found.told()}; as many again of that kind stay as they were: {len(wrong) - len(chosen)}")
        told = config.recipe.data.model_copy(update={"corrections": (str(root / "said"),)})
        prepare.run(told, root / "data", Null())
        for weight in options.weights:
            job, out = job_of(config, weight), root / f"weight-{weight}"
            finetune.run(job, root / "data", base, out, Null(), root / "cache")
            scores = log_odds(base, out / "adapter", job, Dataset(root / "data"))
            tell(f"corrected, weight {weight}", scores, near, rest)
    return 0


if __name__ == "__main__":
    sys.exit(main())

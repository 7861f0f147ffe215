"""Made-up scores with known effects: what the summary and the report are tried on without any model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import polars as pl
import pytest

from latefuse.evaluation import arms
from latefuse.evaluation.arms import Arm
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.scores import NO_SEED, ORACLE, Scores, ScoreTable, copy_lines
from latefuse.evaluation.summary import Summary, summarise

TASKS = {"dish": "image", "recipe": "video", "answers": "text"}
METRICS = {
    "dish": ("dish_top1", "dish_top5"),
    "recipe": ("ingredient_f1", "amount_accuracy", "amount_error", "step_order", "hallucination", "bleu"),
    "answers": ("exact_match", "answer_top1"),
}
LEVELS = {"zero-shot": 0.05, "zero-shot+grammar": 0.2, "mixed": 0.7, "mixed-wide": 0.72, "only": 0.8, "merge": 0.6}
ROWS = 80


def _level(source: str, task: str) -> float:
    if source.startswith("only-"):
        return LEVELS["only"] if source == f"only-{task}" else 0.04
    return LEVELS["merge" if source.startswith("separate") else source]


def made_up_scores(rows: int = ROWS, seeds: int = 1, mixed: float | None = None) -> tuple[ScoreTable, list[Arm]]:
    """Scores of every arm; `mixed` overrides how good the mixed control is."""
    known = arms.arms(TASKS, [*TASKS, "mixed", "mixed-wide"], ["concat", "ties"], late=True, same_input=True)
    scores, rng = Scores(), np.random.default_rng(0)
    sources = sorted({source for arm in known for task, source in arm.sources.items() if task in TASKS})
    for task, modality in TASKS.items():
        hard = rng.random(rows)
        for source in sources:
            level = mixed if source == "mixed" and mixed is not None else _level(source, task)
            for seed in [NO_SEED] if source.startswith("zero") else range(seeds):
                _lines(scores, (source, seed), task, modality, "full", level, hard, rng)
                if source in (f"only-{task}", "mixed"):
                    for kind, left in (("absent", 0.1), ("constant", 0.12), ("shuffled", 0.06)):
                        _lines(scores, (source, seed), task, modality, f"{kind}:{modality}", left, hard, rng)
        _lines(scores, (ORACLE, NO_SEED), task, modality, "full", 0.95, hard, rng)
    _fused(scores, rows, seeds, rng)
    frame = scores.table().frame
    routed = next(arm for arm in known if arm.name == arms.ROUTE)
    return ScoreTable(pl.concat([frame, copy_lines(frame, arms.ROUTE, routed.sources)])), known


def _lines(
    scores: Scores,
    who: tuple[str, int],
    task: str,
    modality: str,
    condition: str,
    level: float,
    hard: np.ndarray,
    rng: np.random.Generator,
) -> None:
    for number, bar in enumerate(hard):
        value = float(bar < level + 0.1 * rng.standard_normal())
        names = METRICS.get(task, ("dish_top1",))
        found = {name: (1 - value if name in ("amount_error", "hallucination") else value, 1) for name in names}
        absent = "absent" if task == "dish" and number % 10 == 0 and condition == "full" else ""
        scores.add((*who, condition, task, task, f"{task}-{number}", f"item-{number}", modality, absent), found)


def _fused(scores: Scores, rows: int, seeds: int, rng: np.random.Generator) -> None:
    hard = rng.random(rows)
    for arm, level in (("zero-shot", 0.02), ("mixed", 0.75), ("mixed-wide", 0.76), (arms.LATE, 0.9)):
        for seed in [NO_SEED] if arm == "zero-shot" else range(seeds):
            _lines(scores, (arm, seed), arms.FUSED, "image", "full", level, hard, rng)
            if arm in ("mixed", arms.LATE):
                for modality, left in (("image", 0.3), ("video", 0.6), ("text", 0.85)):
                    for kind, share in (("absent", 1.0), ("alone", 0.5), ("shuffled", 0.9)):
                        _lines(scores, (arm, seed), arms.FUSED, "image", f"{kind}:{modality}", left * share, hard, rng)
    _lines(scores, (ORACLE, NO_SEED), arms.FUSED, "image", "full", 1.0, hard, rng)


@pytest.fixture(scope="session")
def made_up() -> Summary:
    """The summary of the made-up scores."""
    table, known = made_up_scores()
    return summarise(table, known, Bootstrap(draws=500))


@pytest.fixture(scope="session")
def make_scores() -> Callable[..., tuple[ScoreTable, list[Arm]]]:
    """`made_up_scores`, for tests that want other effects."""
    return made_up_scores

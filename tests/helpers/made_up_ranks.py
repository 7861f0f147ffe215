"""Arms of a ranker by scores that are made up: what summary, findings and page are tried on."""

from __future__ import annotations

import numpy as np

from latefuse.config_rank import Ranking
from latefuse.evaluation.arms_summary import Group, MeasuredArm
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.rank_summary import RankSummary, summarise
from latefuse.evaluation.rank_values import Answers
from latefuse.evaluation.redraw import Redraw

N, HOW = 1_600, Ranking()
RNG = np.random.default_rng(0)
WORDS, PICTURE = RNG.normal(size=(2, N))
TRUTH = RNG.random(N) < 1 / (1 + np.exp(1 - WORDS - 2 * PICTURE))
NOISE = RNG.normal(size=(4, N))
SCORES = {
    "majority": [np.zeros(N)],
    "popularity": [0.2 * WORDS + NOISE[3]],
    "logistic": [WORDS + 2 * PICTURE + 0.6 * NOISE[2] - 1],
    "text-only": [WORDS - 1, WORDS + 0.1 * NOISE[0] - 1],
    "shuffled": [WORDS - 1, WORDS + 0.1 * NOISE[1] - 1],
    "twin": [WORDS + 2 * PICTURE + 0.5 * one - 1 for one in NOISE[1::-1]],
    "both": [WORDS + 2 * PICTURE + 0.5 * one - 1 for one in NOISE[:2]],
}
GROUPS: dict[str, Group] = {"majority": "floor", "popularity": "floor", "logistic": "floor", "both": "main"}


def answers(scores: np.ndarray) -> Answers:
    """As sure as the scores are."""
    probability = 1 / (1 + np.exp(-scores))
    return Answers(scores, probability, probability, probability > 0.8, probability > 0.15, probability > 1 / 6)


def summary(
    scores: dict[str, list[np.ndarray]] = SCORES, users: int = 80, name: str = "text-only", min_rows: int = 50
) -> RankSummary:
    """name: what the arm `text-only` is called."""
    called = {one: name if one == "text-only" else one for one in scores}
    arms = [MeasuredArm(one, called[one], f"what {one} is", GROUPS.get(one, "control")) for one in scores]
    redraw = Redraw(np.arange(N) % users, Bootstrap(draws=200, min_rows=min_rows))
    return summarise(
        "both", arms, {arm: [answers(one) for one in seeds] for arm, seeds in scores.items()},
        {"shuffled:image": [WORDS - 1, WORDS - 1]}, TRUTH, {"cold item": np.arange(0, N, 4)}, redraw, HOW,
    )  # fmt: skip

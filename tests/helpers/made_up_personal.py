"""Arms of personalised prompts by answers that are made up: what summary, findings and page are tried on."""

from __future__ import annotations

import numpy as np

from latefuse.evaluation import explanations, next_item
from latefuse.evaluation.arms_summary import Group, MeasuredArm
from latefuse.evaluation.intervals import Bootstrap
from latefuse.evaluation.personal_summary import PersonalSummary, summarise
from latefuse.evaluation.redraw import Redraw
from latefuse.evaluation.sums import Sums, means

N, USERS, ITEMS = 1_200, 300, 2_000
REDRAW = Redraw(np.arange(N) % USERS, Bootstrap(draws=300))
LUCK = np.random.default_rng(0).random((6, N))
SHARE = {"popularity": 0.04, "highest + 1": 0.004, "SASRec": 0.3, "text-only": 0.15, "shuffled": 0.16, "both": 0.25}
SEEDS = {"popularity": 1, "highest + 1": 1, "SASRec": 1}
GROUPS: dict[str, Group] = {"popularity": "floor", "highest + 1": "floor", "boilerplate": "floor", "both": "main"}
METRICS = [*next_item.names(), *next_item.names(protocol=next_item.sampled(100))]


def found(share: float, seed: int = 0, sample: float | None = None) -> dict[str, Sums]:
    """Answers that have the target among the first ten in a share of the rows. sample: the share among candidates."""
    places = np.where(LUCK[0] + 0.2 * LUCK[1 + seed] < share * 1.1 + 0.02, (30 * LUCK[3]).astype(int) % 10, 500)
    among = np.where(LUCK[4] < (2 * share if sample is None else sample), 2, 50)
    protocol = next_item.sampled(100)
    return means(next_item.row_values(places) | next_item.row_values(among, protocol=protocol))


def arm(name: str, called: str | None = None) -> MeasuredArm:
    return MeasuredArm(name, called or name, f"what {name} is", GROUPS.get(name, "control"))


def summary(
    shares: dict[str, float] | None = None, name: str = "text-only", redraw: Redraw = REDRAW
) -> PersonalSummary:
    """name: what the arm `text-only` is called."""
    shares = SHARE | (shares or {})
    measured = {one: [found(share, seed) for seed in range(SEEDS.get(one, 2))] for one, share in shares.items()}
    knocked = [found(0.15, seed)["hr_at_10"] for seed in range(2)]
    cold = np.arange(0, N, 3)
    return summarise(
        "sequential", [arm(one, name if one == "text-only" else one) for one in shares], measured, METRICS,
        {"cold": cold, "no picture": np.arange(20)}, redraw, {"both": {"shuffled:image": knocked}}, pool=ITEMS,
    )  # fmt: skip


FEATURES = [f"part{number}" for number in np.random.default_rng(1).integers(0, 40, N)]
TRUE = [
    f"the {feature} of this one is soft and I use it {row % 7} times a week" for row, feature in enumerate(FEATURES)
]
SAID = {
    "boilerplate": ["the part1 of this one is soft and I use it 3 times"] * N,
    "text-only": [f"the {feature} is soft" for feature in FEATURES],
    "both": [f"the {feature} of this one is soft and I use it {row % 5} times" for row, feature in enumerate(FEATURES)],
}


def explained(said: dict[str, list[str]] | None = None) -> PersonalSummary:
    """Explanations of three arms."""
    measured = {one: [explanations.measures(texts, TRUE, FEATURES)] for one, texts in (SAID | (said or {})).items()}
    best = explanations.measures(TRUE, TRUE, FEATURES)
    return summarise(
        "explanation", [arm(one) for one in measured], measured, explanations.METRICS, {}, REDRAW,
        oracle={metric: best[metric].value for metric in explanations.AGAINST_BOILERPLATE},
    )  # fmt: skip

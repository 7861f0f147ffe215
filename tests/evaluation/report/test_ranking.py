"""The page of a ranker over made-up scores: complete, self-contained, safe against what data say."""

from __future__ import annotations

import re

import numpy as np
import pytest
from made_up_ranks import HOW, N, summary
from pages import HOSTILE, must_keep_as_text, must_stand_alone

from latefuse.evaluation.calibration import Bin, Calibration
from latefuse.evaluation.cost import Cost
from latefuse.evaluation.judge_verdict import Calibrated
from latefuse.evaluation.money import Offer
from latefuse.evaluation.rank_verdict import Roles, Sure
from latefuse.evaluation.report.ranking import ArmCurves, Confusion, Count, RankReport, build
from latefuse.evaluation.rulings import Ruling
from latefuse.evaluation.thresholds import ABOVE_ALL, Threshold

CUT = Threshold(value=0.8, precision=0.7, recall=0.6, f1=0.65, false_positive_rate=0.05)


def _report(**more: object) -> RankReport:
    steps = np.linspace(0, 1, 500)
    drawn = [ArmCurves(arm, steps, steps**0.5, 1 - steps / 2, steps, 300 * steps - 100, (0.4, 20.0))
             for arm in ("both", "text-only")]  # fmt: skip
    given: dict[str, object] = {
        "title": HOSTILE, "description": HOSTILE, "summary": summary(name=HOSTILE), "how": HOW,
        "manifest": {"source": HOSTILE, "rows": {}, "splits": {}}, "costs": [Cost("both", 1e5, 0.08, 9e3, 61.0, 50.0)],
        "facts": {"backbone": HOSTILE}, "repeat": {"recipe": HOSTILE},
        "part": Roles(("text-only",), {"shuffled": HOSTILE}, ("twin",)),
        "sure": {"both": Sure(Calibrated(0.021, 0.015, 0.01, 0.02, N), 0.1, 0.3, 0.31)},
        "bins": [Bin(200, 0.1, 0.12, 0.08, 0.17), Bin(200, 0.9, 0.88, 0.83, 0.92)],
        "ruling": Ruling(0.3, Calibration(scale=1.5, shift=0.25), CUT, told=(HOSTILE,)),
        "offer": Offer(0.15, 210.0, 0.6, 1 / 6), "confusion": Confusion(123, 45, 67, 1_365),
        "counts": [Count("train", 12_345, 345), Count(HOSTILE, 0, 0)], "drawn": drawn, "everything": 87.5,
        "speeds": {"both": 812.4},
    }  # fmt: skip
    return RankReport(**(given | more))  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page() -> str:
    return build(_report())


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    must_stand_alone(page)


def test_what_data_say_stays_text(page: str) -> None:
    must_keep_as_text(page, 15)


def test_the_numbers_stand_there(page: str) -> None:
    for said in ("1,365", "12,345", "87.5 of 1,000", "0.8000", "0.1500", "0.1667", "812", "cold item", "2.8%"):
        assert said in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).split()
    assert page.count("<polyline") == 6


def test_less_is_better_of_false_alarms(page: str) -> None:
    """text-only has more of them, so its value lies above, and below by the area."""
    table = page[page.index('aria-label="Arms by metric"') :]
    row = table[table.index("&lt;script&gt;") :].split("</tr>")[0]
    assert row.count("▼") >= 3
    assert row.count("▲") == 2
    assert row.count('class="best"') == 0


def test_without_slices_calibration_or_recommendations() -> None:
    bare = summary()
    bare = type(bare)(**{**bare.__dict__, "parts": {}, "slices": {}, "knock_outs": ()})
    none = Offer(ABOVE_ALL, 0.0, 0.0, ABOVE_ALL)
    page = build(_report(summary=bare, ruling=Ruling(0.3), offer=none, bins=(), drawn=(), speeds={}, sure={}))
    must_stand_alone(page)
    assert 'id="slices"' not in page
    assert "nothing is recommended" in page

"""The page of a judge over estimates made by hand: complete, self-contained, safe against what data say."""

from __future__ import annotations

import re

import pytest
from pages import HOSTILE, PICTURE, must_keep_as_text, must_stand_alone

from latefuse.evaluation.arms_summary import ArmsSummary, KnockOut, Line, MeasuredArm
from latefuse.evaluation.calibration import Bin, Calibration
from latefuse.evaluation.cost import Cost
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.judge_verdict import Calibrated
from latefuse.evaluation.report.verdicts import Answer, VerdictCard, VerdictReport, build
from latefuse.evaluation.rulings import Ruling
from latefuse.evaluation.stress import Freely, Stressed

MEANS = {"majority": 0.5, "linear map": 0.61, "text-only": 0.52, "judge": 0.9}
GROUPS = {"majority": "floor", "linear map": "floor", "text-only": "control", "judge": "main"}
METRICS = ("balanced_accuracy", "roc_auc", f"balanced_accuracy/task:{HOSTILE}")


def _near(value: float) -> Estimate:
    return Estimate(value, value - 0.02, value + 0.03, 400)


@pytest.fixture(scope="module")
def page() -> str:
    lines = {
        arm: Line(_near(mean), None if arm == "judge" else _near(mean - MEANS["judge"])) for arm, mean in MEANS.items()
    }
    summary = ArmsSummary(
        task="judge", main="judge", metrics=METRICS, rows=400, about="400 rows", pool=0,
        arms=[MeasuredArm(name, name, f"what {name} is", group) for name, group in GROUPS.items()],  # type: ignore[arg-type]
        lines=dict.fromkeys(METRICS, lines),
        knock_outs=[KnockOut("judge", "shuffled:image", _near(0.9), _near(0.55), _near(0.35))],
        slices={}, sizes={}, oracle={},
    )  # fmt: skip
    answers = [Answer("judge", "main", "relevant", 0.93, True), Answer(HOSTILE, "floor", "abstain", 0.5, None)]
    card = VerdictCard(HOSTILE, HOSTILE, HOSTILE, HOSTILE, "relevant", HOSTILE, PICTURE, answers, HOSTILE)
    return build(
        VerdictReport(
            title=HOSTILE, description=HOSTILE, summary=summary, manifest={"source": HOSTILE, "rows": {}, "splits": {}},
            costs=[Cost("judge", 123_456, 0.08, 9_000, 61.0, 50.0, 1.25)], facts={"backbone": HOSTILE},
            repeat={"recipe": HOSTILE}, blind_arms=["text-only"],
            calibrated={"judge": Calibrated(0.021, 0.015, 0.01, 0.02, 400)},
            bins=[Bin(200, 0.1, 0.12, 0.08, 0.17), Bin(200, 0.9, 0.88, 0.83, 0.92)],
            rulings={HOSTILE: Ruling(0.5, Calibration(scale=1.5, shift=0.25), told=(HOSTILE,)), "bare": Ruling(0.4)},
            freely=Freely(200, 198, 197), stressed=[Stressed("orders", 200, 3, 100, 104, 100, 4)],
            speeds={"judge": 812.4}, cards=[card],
        )
    )  # fmt: skip


def test_the_page_is_well_formed_and_asks_for_nothing(page: str) -> None:
    must_stand_alone(page)


def test_what_data_say_stays_text(page: str) -> None:
    must_keep_as_text(page, 10)


def test_the_numbers_stand_there(page: str) -> None:
    for said in ("90.0%", "61.0%", "812", "relevant", "abstain"):
        assert said in page
    assert "nan" not in re.sub(r"<[^>]*>", " ", page).split()

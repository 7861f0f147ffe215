"""The table for a terminal."""

from __future__ import annotations

import re

from latefuse.evaluation.arms import Arm
from latefuse.evaluation.intervals import Estimate
from latefuse.evaluation.summary import Cell, Summary, TaskSummary
from latefuse.evaluation.terminal import table

NAN = float("nan")


def test_the_table_is_aligned(made_up: Summary) -> None:
    lines = table(made_up, 0.9).splitlines()
    assert lines[0].startswith("arm")
    assert "recipe: ingredients F1 (n=80)" in lines[0]
    columns = [match.start() for match in re.finditer(r"-+", lines[1])]
    routed = next(line for line in lines if line.startswith("separate + route"))
    assert all(routed[start - 1] == " " for start in columns[1:] if start < len(routed))
    assert any(line.startswith("oracle") for line in lines)
    assert lines[-1].startswith("[90% interval]")


def test_a_cell_of_fewer_rows_than_its_column_says_so() -> None:
    known = [Arm(name, name, "", "control", {"t": name}) for name in ("all", "some", "few", "none")]
    cells = {
        "all": Cell(Estimate(0.5, 0.4, 0.6, 112)),
        "some": Cell(Estimate(0.2, 0.1, 0.32, 50), Estimate(0.2, 0.1, 0.3, 50)),
        "few": Cell(Estimate(0.25, NAN, NAN, 25)),
        "none": Cell(Estimate(NAN, NAN, NAN, 0)),
    }
    task = TaskSummary("t", 112, "dish_top1", {"dish_top1": cells})
    lines = {
        line.split()[0]: line.split(maxsplit=1)[1:] for line in table(Summary(known, [task]), 0.95).splitlines() if line
    }
    assert lines["all"] == ["50.0% [40.0, 60.0]"]
    assert lines["some"] == ["20.0% [10.0, 32.0] (n = 50) *"]
    assert lines["few"] == ["25.0% (n = 25)"]
    assert lines["none"] == []

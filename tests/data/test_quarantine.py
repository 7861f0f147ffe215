"""What is refused is counted, listed and measured against the budget, also when the step breaks."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from latefuse.data.errors import DataError, MediaError, Refusal
from latefuse.data.quarantine import Quarantine


def test_every_table_and_the_media_have_a_budget_of_their_own(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "q.parquet") as quarantine:
        quarantine.seen("items", 100)
        quarantine.seen("media", 10)
        quarantine.refuse(Refusal("wrong-type", "no"), "items", "a", "x.csv:2")
        quarantine.refuse(Refusal("not-utf8"), "items", "b\udcff", "x.csv:3")
        quarantine.refuse(MediaError("empty", "0 bytes"), "items", "c", "x.csv:4", medium="a.png")
    assert quarantine.reasons == {"wrong-type": 1, "not-utf8": 1, "empty": 1}
    rows = pq.read_table(tmp_path / "q.parquet").to_pylist()
    assert [row["id"] for row in rows] == ["a", "b\\udcff", "c"]
    assert rows[2] | {"medium": "a.png", "reason": "empty", "detail": "0 bytes"} == rows[2]
    quarantine.check(0.1)
    with pytest.raises(DataError, match=r"1 of 10 media \(10\.0%\): 1 empty") as caught:
        quarantine.check(0.05)
    assert "items" not in str(caught.value)
    with pytest.raises(DataError, match=r"2 of 100 rows of 'items' \(2\.0%\)"):
        quarantine.check(0.01)


def test_the_list_is_readable_after_a_crash(tmp_path: Path) -> None:
    def crash() -> None:
        with Quarantine(tmp_path / "q.parquet") as quarantine:
            quarantine.refuse(Refusal("wrong-type"), "items", "a", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        crash()
    assert pq.read_table(tmp_path / "q.parquet").num_rows == 1


def test_nothing_refused_passes_a_budget_of_zero(tmp_path: Path) -> None:
    with Quarantine(tmp_path / "q.parquet") as quarantine:
        quarantine.seen("items")
    quarantine.check(0)

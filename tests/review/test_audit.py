"""The audit table: rows come back as they went in, nothing changes or takes them, and processes write side by side."""

from __future__ import annotations

import multiprocessing
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, fields, replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latefuse.review.audit import Audit, AuditError, Verdict, now

Made = Callable[..., Verdict]
ODD = '<script>alert("x")</script> 🍜 שלום עולם & co'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "new" / "audit.db"


def test_rows_come_back_as_they_went_in_and_in_that_order(path: Path, verdict: Made) -> None:
    rows = [verdict("b", text=ODD, rationale=ODD), verdict("a", 0.5, verdict="abstain", image=""), verdict("b", 0.1)]
    with Audit(path) as audit:
        assert audit.append(iter(rows[:2])) == 2
    with Audit(path) as audit:
        audit.append(rows[2:])
        assert list(audit.rows()) == rows


def test_filters_are_those_of_a_plain_loop(path: Path, verdict: Made) -> None:
    start = datetime(2026, 11, 22, 9, 30, tzinfo=UTC)
    rows = [
        verdict(f"p{k % 3}", 0.2 + 0.15 * (k % 5), time=(start + timedelta(hours=k)).strftime("%Y-%m-%dT%H:%M:%SZ"))
        for k in range(30)
    ]
    later = start + timedelta(hours=12)
    with Audit(path) as audit:
        audit.append(rows)
        assert list(audit.rows(id="p1")) == [row for row in rows if row.id == "p1"]
        assert list(audit.rows(verdict="relevant")) == [row for row in rows if row.probability >= 0.5]
        expected = rows[12:]
        for moment in (later, later.replace(tzinfo=None), "2026-11-22T21:30:00", "2026-11-22T23:30:00+02:00"):
            assert list(audit.rows(since=moment)) == expected
        assert list(audit.rows(since=later.astimezone(timezone(timedelta(hours=-7))))) == expected
        both = audit.rows(id="p0", verdict="not relevant", since=later)
        assert list(both) == [row for row in expected if row.id == "p0" and row.probability < 0.5]


def test_a_filter_that_can_not_match_is_an_error_not_an_empty_answer(path: Path) -> None:
    with Audit(path) as audit:
        with pytest.raises(AuditError, match="did you mean 'abstain'"):
            audit.rows(verdict="abstained")
        with pytest.raises(AuditError, match=r"audit\.db: since 'yesterday'"):
            audit.rows(since="yesterday")


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE verdicts SET verdict = 'relevant' WHERE id = 'p'",
        "DELETE FROM verdicts",
        "REPLACE INTO verdicts SELECT * FROM verdicts WHERE id = 'p'",
        "INSERT OR REPLACE INTO verdicts SELECT number, 'forged' AS id, task, instruction, image, text, score, "
        "probability, verdict, threshold, model, backbone_digest, adapter_digest, config_digest, rationale, time "
        "FROM verdicts",
        "INSERT INTO verdicts SELECT * FROM verdicts WHERE true ON CONFLICT (number) DO UPDATE SET id = 'forged'",
    ],
)
def test_no_client_can_change_or_take_a_row(path: Path, verdict: Made, statement: str) -> None:
    rows = [verdict("p"), verdict("q")]
    with Audit(path) as audit:
        audit.append(rows)
    other = sqlite3.connect(path)
    with pytest.raises(sqlite3.IntegrityError, match="rows are only added"):
        other.execute(statement)
    other.close()
    with Audit(path) as audit:
        assert list(audit.rows()) == rows


@pytest.mark.parametrize(
    "change",
    [
        {"verdict": "maybe"},
        {"probability": 1.1},
        {"probability": float("nan")},
        {"score": float("inf")},
        {"time": "2026-11-22 09:30:00"},
        {"time": "2026-02-30T09:30:00Z"},
    ],
)
def test_a_verdict_that_is_none_can_not_be_made(verdict: Made, change: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"verdict|probability|score|time data|day is out"):
        replace(verdict("p"), **change)


@pytest.mark.parametrize(
    ("column", "value"),
    [("verdict", "maybe"), ("probability", 1.1), ("probability", "much"), ("text", None), ("time", "9:30")],
)
def test_no_client_can_add_a_row_that_is_no_verdict(path: Path, verdict: Made, column: str, value: object) -> None:
    values = {**asdict(verdict("p")), column: value}
    with Audit(path):
        pass
    other, places = sqlite3.connect(path), ", ".join("?" * len(values))
    with pytest.raises(sqlite3.IntegrityError):
        other.execute(f"INSERT INTO verdicts ({', '.join(values)}) VALUES ({places})", [*values.values()])
    other.close()


def test_an_append_that_fails_leaves_nothing(path: Path, verdict: Made) -> None:
    def torn() -> Iterator[Verdict]:
        yield verdict("p")
        raise KeyboardInterrupt

    with Audit(path) as audit:
        with pytest.raises(KeyboardInterrupt):
            audit.append(torn())
        bad = verdict("q")
        object.__setattr__(bad, "time", "late")
        with pytest.raises(AuditError, match=r"audit\.db.*CHECK constraint"):
            audit.append([verdict("p"), bad])
        assert list(audit.rows()) == []
        assert audit.append([verdict("p")]) == 1


def test_numbers_of_numpy_are_taken(path: Path, verdict: Made) -> None:
    with Audit(path) as audit:
        audit.append([verdict("p", np.float32(0.75), score=np.float32(1.5))])
        (row,) = audit.rows()
    assert (row.probability, row.score) == (0.75, 1.5)


def test_the_time_of_a_verdict_is_this_second_in_utc(verdict: Made) -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    values = asdict(verdict("p"))
    values.pop("time")
    told = datetime.fromisoformat(Verdict(**values).time)
    assert before <= told <= datetime.now(UTC)
    assert told.utcoffset() == timedelta(0)


def test_the_file_answers_to_any_client_and_holds_only_what_a_verdict_says(path: Path, verdict: Made) -> None:
    with Audit(path) as audit:
        audit.append([verdict("p"), verdict("q", 0.5, verdict="abstain", text=ODD)])
    assert [file.name for file in path.parent.iterdir()] == ["audit.db"]
    query = "select id, text from verdicts where verdict = 'abstain'"
    assert sqlite3.connect(path).execute(query).fetchall() == [("q", ODD)]
    columns = [row[1] for row in sqlite3.connect(path).execute("PRAGMA table_info(verdicts)")]
    assert sorted(columns) == sorted(["number", *(column.name for column in fields(Verdict))])
    if command := shutil.which("sqlite3"):
        out = subprocess.run([command, str(path), query], capture_output=True, text=True, check=True)
        assert out.stdout == f"q|{ODD}\n"


def _writer(path: Path, name: str, made: Verdict) -> None:
    with Audit(path) as audit:
        for batch in range(20):
            audit.append(replace(made, id=f"{name}-{batch}-{row}") for row in range(25))


def test_processes_that_append_at_once_lose_nothing(path: Path, verdict: Made) -> None:
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        jobs = [pool.submit(_writer, path, name, verdict("p")) for name in ("one", "two")]
        for job in jobs:
            job.result()
    with Audit(path) as audit:
        found = [row.id for row in audit.rows()]
    for name in ("one", "two"):
        own = [id for id in found if id.startswith(name)]
        assert own == [f"{name}-{batch}-{row}" for batch in range(20) for row in range(25)]
    assert len(found) == 1000
    batches = ["-".join(id.split("-")[:2]) for id in found]
    assert all(len(set(batches[k : k + 25])) == 1 for k in range(0, 1000, 25)), "a batch stays in one piece"


def _race(paths: Sequence[Path], start: float, made: Verdict) -> None:
    time.sleep(max(0.0, start - time.time()))
    for path in paths:
        with Audit(path) as audit:
            audit.append([made])


def test_processes_that_make_the_table_at_once_make_one(tmp_path: Path, verdict: Made) -> None:
    paths = [tmp_path / f"{number}.db" for number in range(30)]
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context("spawn")) as pool:
        for job in [pool.submit(_race, [], 0.0, verdict("p")) for _ in range(3)]:
            job.result()
        start = time.time() + 0.1
        for job in [pool.submit(_race, paths, start, verdict("p")) for _ in range(3)]:
            job.result()
    for path in paths:
        with Audit(path) as audit:
            assert len(list(audit.rows())) == 3


def test_a_file_that_is_no_audit_table_is_told_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.db", tmp_path / "shop.db"
    text.write_text("these are no rows at all\n" * 100)
    made = sqlite3.connect(other)
    made.execute("CREATE TABLE items (id)")
    made.commit()
    made.close()
    for path, told in ((text, "file is not a database"), (other, "another program"), (tmp_path, "unable to open")):
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(AuditError, match=told) as error:
            Audit(path)
        assert str(path) in str(error.value)
        assert before is None or path.read_bytes() == before


def test_another_schema_version_is_told(path: Path, verdict: Made) -> None:
    with Audit(path) as audit:
        audit.append([verdict("p")])
    other = sqlite3.connect(path)
    other.execute("PRAGMA user_version = 7")
    other.close()
    with pytest.raises(AuditError, match=r"audit\.db: schema version 7, this code reads 1"):
        Audit(path)


def test_a_reader_makes_no_table(path: Path) -> None:
    with pytest.raises(AuditError, match=r"audit\.db: no such audit table"):
        Audit(path, create=False)
    assert not path.parent.exists()
    with Audit(path):
        pass
    with Audit(path, create=False) as audit:
        assert list(audit.rows()) == []


def test_now_is_a_time_of_the_table() -> None:
    assert now().endswith("Z")
    assert len(now()) == len("2026-11-22T09:30:00Z")

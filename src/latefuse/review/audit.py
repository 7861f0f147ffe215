"""The audit table: every verdict that a judge gave, by which weights and when, in one SQLite file.

    sqlite3 audit.db "select time, id, probability, text from verdicts where verdict = 'abstain'"

Rows are only added. Triggers refuse UPDATE, DELETE and REPLACE to every client, so a row can be changed only by taking
the table apart. The file holds the columns of `Verdict` and nothing else: no user, no host, no environment. It is for
processes of one machine: the write-ahead log that lets them append side by side does not work on a network file system.
"""

from __future__ import annotations

import math
import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from latefuse.config_judge import VERDICTS
from latefuse.errors import UserError
from latefuse.sections import nearest

FILE = "audit.db"
TIME = "%Y-%m-%dT%H:%M:%SZ"
VERSION = 1
APPLICATION = int.from_bytes(b"lfau")
WAIT_S = 60.0
PAUSES_S = (0.01, 0.05, 0.2, 1.0, 5.0)

SCHEMA = (
    f"""
    CREATE TABLE verdicts (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL,
        task TEXT NOT NULL,
        instruction TEXT NOT NULL,
        image TEXT NOT NULL,
        text TEXT NOT NULL,
        score REAL NOT NULL,
        probability REAL NOT NULL CHECK (probability BETWEEN 0 AND 1),
        verdict TEXT NOT NULL CHECK (verdict IN {VERDICTS}),
        threshold REAL NOT NULL,
        model TEXT NOT NULL,
        backbone_digest TEXT NOT NULL,
        adapter_digest TEXT NOT NULL,
        config_digest TEXT NOT NULL,
        rationale TEXT NOT NULL,
        time TEXT NOT NULL CHECK (time IS strftime('{TIME}', time))
    ) STRICT""",
    "CREATE INDEX verdicts_by_id ON verdicts (id)",
    "CREATE TRIGGER no_update BEFORE UPDATE ON verdicts BEGIN SELECT RAISE(ABORT, 'rows are only added'); END",
    "CREATE TRIGGER no_delete BEFORE DELETE ON verdicts BEGIN SELECT RAISE(ABORT, 'rows are only added'); END",
    # The row that INSERT OR REPLACE takes away fires no DELETE trigger.
    """
    CREATE TRIGGER no_replace BEFORE INSERT ON verdicts WHEN EXISTS (SELECT 1 FROM verdicts WHERE number = NEW.number)
    BEGIN SELECT RAISE(ABORT, 'rows are only added'); END""",
    f"PRAGMA application_id = {APPLICATION}",
    f"PRAGMA user_version = {VERSION}",
)


class AuditError(UserError, RuntimeError):
    """An audit table that can't be opened, read or added to; the message names the file and what to do."""


def now() -> str:
    """This second in UTC, as it stands in the table."""
    return datetime.now(UTC).strftime(TIME)


@dataclass(frozen=True)
class Verdict:
    """What a judge said of one pair, and what it said it with: a row of the table.

    id: of the pair. image: path or reference of the picture, "" without one. score: log-odds in nats that picture and
    text fit. probability: of being relevant, after calibration; threshold: the probability from which on the verdict
    is "relevant". model: name of the backbone. Digests: hex. time: UTC, "2026-11-22T09:30:00Z".
    Raises ValueError for a verdict that is none, numbers that are none, and a time in another form.
    """

    id: str
    task: str
    instruction: str
    image: str
    text: str
    score: float
    probability: float
    verdict: str
    threshold: float
    model: str
    backbone_digest: str
    adapter_digest: str
    config_digest: str
    rationale: str = ""
    time: str = field(default_factory=now)

    def __post_init__(self) -> None:
        if self.verdict not in VERDICTS:
            raise ValueError(f"{self.id}: no verdict {self.verdict!r}{nearest(self.verdict, VERDICTS)}")
        if not (math.isfinite(self.score) and math.isfinite(self.threshold) and 0 <= self.probability <= 1):
            raise ValueError(
                f"{self.id}: score {self.score}, threshold {self.threshold}, probability {self.probability}: "
                "expected finite numbers, and a probability between 0 and 1"
            )
        datetime.strptime(self.time, TIME)


COLUMNS = tuple(column.name for column in fields(Verdict))
NUMBERS = {"score", "probability", "threshold"}


class Audit:
    """An audit table, made where there is none; to be used in a `with` statement."""

    def __init__(self, path: Path | str, create: bool = True) -> None:
        """create: False raises where there is no file, for readers.

        Raises AuditError for a file that is no audit table, or one of another version; it is left as it is.
        """
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise AuditError(f"{self.path}: no such audit table; `latefuse judge` makes one")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with _told(self.path):
            self._connection = sqlite3.connect(self.path, timeout=WAIT_S, isolation_level=None)
        try:
            with _told(self.path):
                self._prepare()
        except BaseException:
            self._connection.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def append(self, verdicts: Iterable[Verdict]) -> int:
        """Add rows in one transaction: all of them or, where anything fails, none. Returns how many.

        The rows are taken from the iterable first, so that a slow one keeps no other process waiting.
        """
        rows = [tuple(_value(verdict, name) for name in COLUMNS) for verdict in verdicts]
        places = ", ".join("?" * len(COLUMNS))
        with _told(self.path), self._transaction():
            self._connection.executemany(f"INSERT INTO verdicts ({', '.join(COLUMNS)}) VALUES ({places})", rows)
        return len(rows)

    def rows(
        self, id: str | None = None, verdict: str | None = None, since: datetime | str | None = None
    ) -> Iterator[Verdict]:
        """The rows that fit all filters, in the order in which they were added.

        since: a moment (ISO 8601, UTC where it names no zone); rows of that second and later. Raises AuditError for a
        verdict that is none and a moment that is none.
        """
        if verdict is not None and verdict not in VERDICTS:
            raise AuditError(f"{self.path}: no verdict {verdict!r}{nearest(verdict, VERDICTS)}")
        wanted = {"id = ?": id, "verdict = ?": verdict, "time >= ?": None if since is None else self._moment(since)}
        used = {condition: value for condition, value in wanted.items() if value is not None}
        query = f"SELECT {', '.join(COLUMNS)} FROM verdicts WHERE {' AND '.join(['1', *used])} ORDER BY number"
        with _told(self.path):
            found = self._connection.execute(query, list(used.values()))
        return self._verdicts(found)

    def _verdicts(self, found: sqlite3.Cursor) -> Iterator[Verdict]:
        with _told(self.path):
            for row in found:
                yield Verdict(*row)

    def _moment(self, since: datetime | str) -> str:
        try:
            moment = datetime.fromisoformat(since) if isinstance(since, str) else since
        except ValueError:
            raise AuditError(f"{self.path}: since {since!r}: write a time like 2026-11-22T09:30:00") from None
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC).strftime(TIME)

    def _prepare(self) -> None:
        if self._signature() == (0, 0):
            with self._transaction():
                if self._signature() == (0, 0):
                    self._create()
        application, version = self._signature()
        if application != APPLICATION:
            raise AuditError(f"{self.path}: an SQLite file of another program; name another file for the audit table")
        if version != VERSION:
            raise AuditError(
                f"{self.path}: schema version {version}, this code reads {VERSION}; name a new file for the audit table"
            )
        self._write_ahead()

    def _create(self) -> None:
        tables = self._connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        for statement in () if tables else SCHEMA:
            self._connection.execute(statement)

    def _write_ahead(self) -> None:
        """Switch the log on. While another process does so, the switch fails at once, whatever the time-out."""
        for pause in PAUSES_S:
            try:
                self._connection.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError:
                time.sleep(pause)
        self._connection.execute("PRAGMA journal_mode = WAL")

    def _signature(self) -> tuple[int, int]:
        application, version = (
            self._connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
        )
        return application, version

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Take the lock for writing at the start: a lock that is taken later can't be waited for."""
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
            raise


def _value(verdict: Verdict, name: str) -> Any:
    """A column of a row; the numbers of NumPy and of tensors become Python's."""
    value = getattr(verdict, name)
    return float(value) if name in NUMBERS else value


@contextmanager
def _told(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise AuditError(f"{path}: can't be used as an audit table: {error}") from None

"""What was refused, why, and whether it was too much."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from latefuse.data.dataset import QUARANTINE, TableWriter
from latefuse.data.errors import DataError, Refusal


class Quarantine:
    """Streams every refused row and medium into `quarantine.parquet`; leaving the context completes the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.reasons: Counter[str] = Counter()
        self._refused: Counter[str] = Counter()
        self._seen: Counter[str] = Counter()
        self._why: dict[str, Counter[str]] = {}
        self._writer = TableWriter(path, QUARANTINE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What was refused must be readable above all when the step fails.
        self._writer.__exit__(None, None, None)

    def seen(self, what: str, count: int = 1) -> None:
        """Count rows of a table, or "media", against which the refused ones are measured."""
        self._seen[what] += count

    def refuse(self, refusal: Refusal, table: str, id: str, line: str, medium: str = "") -> None:
        """One row (or, with `medium`, one medium of it) that stays out."""
        what = "media" if medium else table
        self.reasons[refusal.reason] += 1
        self._refused[what] += 1
        self._why.setdefault(what, Counter())[refusal.reason] += 1
        told = {"table": table, "id": id, "line": line, "medium": medium, "reason": refusal.reason}
        self._writer.write({key: printable(value) for key, value in {**told, "detail": refusal.detail}.items()})

    def check(self, budget: float) -> None:
        """Raises DataError where more than the share `budget` of a table's rows, or of the media, was refused."""
        over = []
        for what, refused in sorted(self._refused.items()):
            if refused > budget * self._seen[what]:
                why = ", ".join(f"{count} {reason}" for reason, count in self._why[what].most_common())
                name = what if what == "media" else f"rows of {what!r}"
                over.append(f"{refused:,} of {self._seen[what]:,} {name} ({refused / self._seen[what]:.1%}): {why}")
        if over:
            raise DataError(
                f"more was refused than data.quarantine_budget = {budget:.1%} allows:\n  "
                + "\n  ".join(over)
                + f"\nEach one is listed in {self.path}; mend the source or raise the budget."
            )


def printable(text: str) -> str:
    """The text with what is not UTF-8 written as escapes."""
    return text.encode("utf-8", "backslashreplace").decode()

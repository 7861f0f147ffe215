"""The errors of everything that reads or writes data."""

from __future__ import annotations

from latefuse.errors import UserError


class DataError(UserError, ValueError):
    """Raw data or a dataset that can't be used; the message names the file, the row or key, and what to do."""


class Refusal(Exception):
    """Why one row or one medium is quarantined: a short slug that is counted, and a sentence for a human."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


class MediaError(Refusal):
    """A medium that can't be used; `reason` is a short slug such as "truncated", "empty", "too-many-pixels"."""

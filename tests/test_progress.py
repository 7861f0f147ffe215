"""A bar is seen on a terminal and by a runner, and by nobody else."""

from __future__ import annotations

import io

import pytest
from transformers.utils import logging

from latefuse import progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("stream", "read", "wanted", "seen"),
    [
        (Terminal, False, True, True),
        (io.StringIO, True, True, True),
        (io.StringIO, False, True, False),
        (Terminal, True, False, False),
    ],
)
def test_who_sees_a_bar(
    stream: type[io.StringIO], read: bool, wanted: bool, seen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    errors = stream()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.delenv(progress.READ, raising=False)
    if read:
        monkeypatch.setenv(progress.READ, "1")
    assert list(progress.bar(range(3), desc="rows", wanted=wanted)) == [0, 1, 2]
    assert ("rows: 100%" in errors.getvalue()) is seen


def test_the_bars_of_libraries_come_back() -> None:
    shown = logging.is_progress_bar_enabled()
    with progress.no_library_bars():
        assert not logging.is_progress_bar_enabled()
    assert logging.is_progress_bar_enabled() is shown

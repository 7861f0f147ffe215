"""Where latefuse keeps its own files."""

from __future__ import annotations

from pathlib import Path

import pytest

from latefuse import places
from latefuse.cluster import node
from latefuse.config import BackboneConfig
from latefuse.places import PlaceError


def test_a_home_that_can_be_written_is_made_and_left_empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "some" / "where"))
    places.check()
    assert list((tmp_path / "some" / "where").iterdir()) == []


def test_one_that_can_not_is_told_before_a_step_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a file nobody may make a folder, not even root."""
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path / "file" / "home"))
    with pytest.raises(PlaceError, match=r"file/home, can't be written by user \d+ in group \d+ \(Not a directory\)"):
        node.run_step("backbone", "backbone", BackboneConfig(), tmp_path / "out", lambda folder, tracker: {})
    assert not (tmp_path / "out").exists()

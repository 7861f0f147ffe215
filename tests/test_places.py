"""Where latefuse keeps its own files."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
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


def test_a_folder_of_work_is_one_processs_alone_and_found_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path))
    with places.work("finetune", "k") as first, places.work("finetune", "k") as second:
        assert (first.name, second.name) == ("k", "k-2")
        with places.work("finetune", "other") as other, places.work("finetune", "k") as third:
            assert (other.name, third.name) == ("other", "k-3")
    with places.work("finetune", "k") as again:
        assert again == first == tmp_path / "work" / "finetune" / "k"


def test_a_process_that_is_killed_leaves_its_folder_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LATEFUSE_HOME", str(tmp_path))
    code = """
import time
from latefuse import places
with places.work("n", "k") as folder:
    print(folder.name, flush=True)
    time.sleep(99)
"""
    holder = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "k\n"
    with places.work("n", "k") as beside:
        assert beside.name == "k-2"
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with places.work("n", "k") as found:
        assert found.name == "k"

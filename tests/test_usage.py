"""Peak memory: of this process, and of the workers that it had."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from latefuse import usage

SCRIPT = """
import multiprocessing
from latefuse import usage

def fill(size):
    return len(bytearray(size))

if __name__ == "__main__":
    before = usage.peaks()["peak_rss_gib"]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        pool.map(fill, [2**28, 2**28], chunksize=1)
        pool.close()
        pool.join()
    alone = usage.peaks()["peak_rss_gib"]
    usage.beside(2)
    print(before, alone, usage.peaks()["peak_rss_gib"])
"""


def test_it_is_at_least_what_is_used_now() -> None:
    held = bytearray(2**27)
    assert usage.peaks()["peak_rss_gib"] >= psutil.Process().memory_info().rss / 2**30 - 0.01
    assert len(held) == 2**27


def test_what_the_parent_held_does_not_count() -> None:
    held = bytearray(2**29)
    script = "from latefuse import usage; print(usage.own_peak(), usage.peaks()['peak_rss_gib'])"
    own, told = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    ).stdout.split()
    assert 2**22 < int(own) < 2**28
    assert float(told) == pytest.approx(int(own) / 2**30, abs=0.01)
    assert len(held) == 2**29


def test_workers_count(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(SCRIPT)
    said = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True).stdout
    before, alone, together = map(float, said.split())
    assert alone == pytest.approx(before, abs=0.05)
    assert together - alone >= 2 * 0.25
    assert together - alone < 2 * (0.25 + before) + 0.1

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latefuse.training.store import PARTIAL, FeatureCache

MANY = 1 << 30
ROW = np.arange(64, dtype=np.float32)


def number(key: str) -> int:
    return int(key.rpartition("-")[2])


def encode(media: list[int]) -> np.ndarray[Any, Any]:
    return np.stack([ROW + value for value in media])


def keys(*numbers: int) -> dict[str, int]:
    return {f"image-{k:04d}": k for k in numbers}


def test_what_was_filled_is_read_back_through_a_memory_map(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "tower", "transform", MANY)
    assert cache.fill(keys(*range(70)), int, encode, batch=8, progress=False) == 70
    found = cache.get("image-0007")
    assert isinstance(found, np.memmap)
    assert not found.flags.writeable
    np.testing.assert_array_equal(found, ROW + 7)
    assert FeatureCache(tmp_path, "tower", "transform", MANY).fill(keys(*range(70)), int, encode, progress=False) == 0


def test_each_medium_is_decoded_and_encoded_once(tmp_path: Path) -> None:
    seen: list[int] = []
    encoded: list[int] = []

    def decode(value: int) -> int:
        seen.append(value)
        return value

    def note(media: list[int]) -> np.ndarray[Any, Any]:
        encoded.extend(media)
        return encode(media)

    cache = FeatureCache(tmp_path, "tower", "transform", MANY)
    cache.fill(keys(1, 2, 3), decode, note, progress=False)
    cache.fill(keys(2, 3, 4), decode, note, progress=False)
    assert sorted(seen) == sorted(encoded) == [1, 2, 3, 4]


@pytest.mark.parametrize("other", [("other", "transform"), ("tower", "other")])
def test_another_tower_or_transform_is_another_key(tmp_path: Path, other: tuple[str, str]) -> None:
    FeatureCache(tmp_path, "tower", "transform", MANY).fill(keys(1), int, encode, progress=False)
    with pytest.raises(KeyError):
        FeatureCache(tmp_path, *other, MANY).get("image-0001")


def test_the_budget_is_kept_and_what_was_used_last_stays(tmp_path: Path) -> None:
    size = 64 * 4 + 128
    old = FeatureCache(tmp_path, "old", "transform", 4 * size)
    old.fill(keys(1, 2, 3), int, encode, progress=False)
    for age, key in ((300, "image-0001"), (100, "image-0002"), (200, "image-0003")):
        stamp = time.time() - age
        os.utime(old._path(key), (stamp, stamp))
    new = FeatureCache(tmp_path, "new", "transform", 4 * size)
    new.fill(keys(4, 5), int, encode, progress=False)
    assert new.used_bytes() <= 4 * size
    assert "image-0001" not in old
    assert "image-0002" in old
    assert "image-0003" in old
    new.fill(keys(*range(4, 20)), int, encode, batch=4, progress=False)
    assert new.used_bytes() <= 4 * size
    assert sum(key in new for key in keys(*range(4, 20))) == 4
    np.testing.assert_array_equal(new.get("image-0004"), ROW + 4)


def test_a_damaged_file_counts_as_absent(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, "tower", "transform", MANY)
    cache.fill(keys(1), int, encode, progress=False)
    path = cache._path("image-0001")
    path.write_bytes(path.read_bytes()[:150])
    with pytest.raises(KeyError):
        cache.get("image-0001")
    assert cache.fill(keys(1), int, encode, progress=False) == 1


WRITER = """
import sys, time
import numpy as np
from pathlib import Path
from latefuse.training.store import FeatureCache
root, slow = Path(sys.argv[1]), float(sys.argv[2])
def encode(media):
    time.sleep(slow)
    return np.stack([np.full(50_000, value, np.float32) for value in media])
print("go", flush=True)
wanted = {f"image-{k:04d}": k for k in range(60)}
FeatureCache(root, "t", "x", 1 << 30).fill(wanted, int, encode, batch=4, progress=False)
"""


def test_writers_side_by_side_and_one_killed_in_the_middle(tmp_path: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writers = [subprocess.Popen([*command, slow], stdout=subprocess.PIPE) for slow in ("0.01", "0.02", "0.5")]
    victim = writers[-1]
    assert victim.stdout is not None
    victim.stdout.readline()
    time.sleep(0.6)
    victim.send_signal(signal.SIGKILL)
    assert [writer.wait() for writer in writers[:2]] == [0, 0]
    victim.wait()
    for writer in writers:
        assert writer.stdout is not None
        writer.stdout.close()
    cache = FeatureCache(tmp_path, "t", "x", MANY)
    orphan = cache._path("image-0001").with_name(f"{PARTIAL}{os.uname().nodename}~{victim.pid}~image-0001")
    orphan.write_bytes(b"half")
    assert cache.fill({f"image-{k:04d}": k for k in range(60)}, int, encode, progress=False) == 0
    assert not orphan.exists()
    for k in range(60):
        np.testing.assert_array_equal(cache.get(f"image-{k:04d}"), np.full(50_000, k, np.float32))
    assert int((tmp_path / "usage").read_text()) == cache.used_bytes()

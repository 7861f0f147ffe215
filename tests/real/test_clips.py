"""Thirty real clips: mp4, mkv and gif, odd sizes and frame rates among them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from latefuse.data.dataset import Dataset
from latefuse.data.media import read_frames


def test_clips(prepared: Callable[..., Dataset]) -> None:
    options = {"columns": {"licence": "licence"}}
    dataset = prepared("clips", "videos", options=options, splits={"test": 0.3})
    assert dataset.manifest["quarantine"] == {}
    rows = dataset.rows("conversations")
    assert len(rows) == 30
    assert all(row["modality"] == "video" and row["media"][0]["path"] for row in rows)
    endings = Counter(row["media"][0]["path"].rpartition(".")[2] for row in rows)
    assert set(endings) >= {"mp4", "mkv", "gif"}
    assert all(row["licence"] for row in dataset.rows("items"))
    for row in rows[:3] + [row for row in rows if row["media"][0]["path"].endswith("gif")][:1]:
        frames = read_frames(dataset.media(row["media"][0]["path"]), 4)
        assert len(frames) == 4
        assert any(frame.getextrema() != frames[0].getextrema() for frame in frames[1:])

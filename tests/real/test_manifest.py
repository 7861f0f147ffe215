"""MovieLens' own files and Flickr8k's captions as a user's tables, through a column mapping."""

from __future__ import annotations

from collections.abc import Callable

from latefuse.data.dataset import Dataset


def test_movielens_by_mapping(prepared: Callable[..., Dataset]) -> None:
    tables = {
        "items": {
            "file": "movies.csv",
            "columns": {"id": "movieId", "title": "title", "attributes": {"genres": "genres"}},
            "values": {"language": "en"},
        },
        "events": {
            "file": "ratings.csv",
            "columns": {"user": "userId", "item": "movieId", "ts": "timestamp", "value": "rating"},
            "values": {"kind": "rating"},
        },
    }
    dataset = prepared("manifest", "ml_latest_small_posters", options={"tables": tables}, splits={"scheme": "time"})
    assert dataset.manifest["rows"] == {"items": 9_742, "events": 100_836}
    assert dataset.manifest["quarantine"] == {}


def test_captions_by_mapping(prepared: Callable[..., Dataset]) -> None:
    table = {
        "file": "images.csv",
        "columns": {"images": "file", "answer": "label", "split_item": "split"},
        "values": {"question": "Which dish?", "topic": "dish"},
        "truth": "name",
        "limit": 300,
    }
    dataset = prepared("manifest", "food101_64px", options={"tables": {"conversations": table}})
    rows = dataset.rows("conversations")
    assert len(rows) == 300
    assert all(row["modality"] == "image" and row["media"][0]["path"] for row in rows)
    assert {row["split_item"] for row in rows} == {"train", "valid", "test"}

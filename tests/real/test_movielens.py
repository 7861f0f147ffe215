"""ml-latest-small with posters and plots, against the counts that its README gives."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from latefuse.data.dataset import Dataset
from latefuse.data.sources import REAL_DATA


def test_five_core_with_poster_and_plot(
    prepared: Callable[..., Dataset], split_counts: Callable[..., Counter[str]]
) -> None:
    dataset = prepared("movielens", "ml_latest_small_posters", options={"core": 5, "needs": ["poster", "plot"]})
    assert dataset.manifest["rows"]["items"] == 3_470
    assert dataset.manifest["rows"]["events"] == 88_845
    assert dataset.manifest["quarantine"] == {}
    values = dataset.table("events", columns=["value"])["value"].to_pylist()
    assert sum(value >= 4 for value in values) == 44_116
    users = set(dataset.table("events", columns=["user"])["user"].to_pylist())
    assert split_counts(dataset, "events", "loo")["test"] == len(users) == 610
    assert set(split_counts(dataset, "events", "time")) == {"train", "valid", "test"}
    images = dataset.table("items", columns=["images"])["images"].to_pylist()
    assert all(len(paths) == 1 and dataset.media(paths[0]).stat().st_size for paths in images)
    modalities = Counter(dataset.table("conversations", columns=["modality"])["modality"].to_pylist())
    assert modalities["image"] == modalities["text"]


def test_everything(real_data: Callable[[str], Path]) -> None:
    from latefuse.config_data import Data
    from latefuse.data import sources

    source: Any = sources.build(Data(source="movielens", path=str(real_data("ml_latest_small_posters"))), Path())
    tables = {name: list(rows()) for name, rows in source.tables().items()}
    assert len(tables["items"]) == 9_742
    assert len(tables["events"]) == 100_836
    assert sum(bool(row["images"]) for row in tables["items"]) == 4_888
    assert not any("_error" in row for rows in tables.values() for row in rows)


def test_tags_are_reviews_that_are_read(prepared: Callable[..., Dataset], real_data: Callable[[str], Path]) -> None:
    real_data("../weights")
    weights = f"${REAL_DATA}/../weights"
    model, labels = f"{weights}/mobilenet_v2_1.0_224_hf", f"{weights}/imagenet_labels.txt"
    pictures = {"by": "classifier", "model": model, "labels": labels}
    dataset = prepared(
        "movielens", "ml_latest_small_posters", splits={"scheme": "time"},
        options={"tags": "tags.csv", "core": 20, "needs": ["poster", "plot"], "limit": 60},
        readings={"pictures": pictures, "picture_words": 6},
    )  # fmt: skip
    reviews, readings = dataset.rows("reviews"), dataset.rows("readings")
    first_test = min(row["ts"] for row in dataset.rows("events", "test", scheme="time"))
    assert max(row["cut"] for row in readings) <= first_test
    for row in (row for row in readings if row["of"] == "item"):
        tags = {review["text"] for review in reviews if review["item"] == row["id"] and review["ts"] < row["cut"]}
        assert all(said.casefold() in {tag.casefold() for tag in tags} for said in row["text"].rstrip(".").split(". "))
    described = [row["text"] for row in readings if row["of"] == "picture"]
    assert len(described) == 60
    assert len(set(described)) > 20
    assert "comic book" in " ".join(described) or "book jacket" in " ".join(described)


def test_likes_of_a_five_core_serve_sequences(prepared: Callable[..., Dataset]) -> None:
    """Every user has a film to find, from a history of likes alone; prompts know nothing of what is held out."""
    from latefuse.data import leaks
    from latefuse.tasks.personal_rows import open_rows

    options = {"core": 5, "min_rating": 4, "needs": ["poster"]}
    dataset = prepared("movielens", "ml_latest_small_posters", options=options, splits={"scheme": "loo"})
    rows = dataset.rows("events")
    assert min(row["value"] for row in rows) >= 4
    for part in ("user", "item"):
        assert min(Counter(row[part] for row in rows).values()) >= 5
    data = open_rows(dataset, per_user=2)
    assert data.families == ("sequential", "direct"), "tags name no feature"
    users = len({row["user"] for row in rows})
    for split in ("valid", "test"):
        asked = data.held_out("A-3", split)
        assert len(asked) == users
        assert (asked.end - asked.begin).min() >= 3
        assert leaks.prompt_order(asked.begin, asked.end, asked.place, data.found.split).passed
    assert data.candidates("test").shape == (users, 100)
    assert len(data.train(0)) == 4 * users

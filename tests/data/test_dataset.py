"""The dataset folder: written once, read back by column, split and condition, sealed by hashes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import datasets
import pytest
from broken_media import encoded, gradient

from latefuse.data.dataset import Dataset, fingerprint, store_medium, write_dataset
from latefuse.data.errors import DataError

ITEMS = [{"id": "a", "title": "one"}, {"id": "b", "split_item": "test"}, {"id": "c", "split_item": "valid"}]
EVENTS = [{"user": "u", "item": "a", "ts": at, "split_loo": "test" if at == 2 else "train"} for at in range(3)]


@pytest.fixture
def dataset(tmp_path: Path) -> Dataset:
    return write_dataset(tmp_path / "set", {"items": ITEMS, "events": EVENTS}, source="here", licence="CC0", seed=3)


def test_rows_come_back_by_split_and_condition(dataset: Dataset) -> None:
    assert [row["id"] for row in dataset.rows("items")] == ["a", "b", "c"]
    assert [row["id"] for row in dataset.rows("items", "test")] == ["b"]
    assert [row["id"] for row in dataset.rows("items", where={"title": "one"})] == ["a"]
    assert dataset.table("events", "test", "loo", ["ts"]).to_pylist() == [{"ts": 2}]
    assert dataset.table("events", "train").num_rows == 3
    assert [row["id"] for batch in dataset.batches("items", ["id"]) for row in batch] == ["a", "b", "c"]
    assert dataset.tables == ("items", "events")


def test_the_manifest_says_what_is_there(dataset: Dataset) -> None:
    told = dataset.manifest
    assert told["rows"] == {"items": 3, "events": 3}
    assert told["splits"]["events"]["loo"] == {"train": 2, "valid": 0, "test": 1}
    assert (told["schema"], told["source"], told["licence"], told["seed"]) == (1, "here", "CC0", 3)
    for name, digest in told["files"].items():
        assert hashlib.sha256((dataset.path / name).read_bytes()).hexdigest() == digest
    assert dataset.fingerprint == fingerprint(told)


def test_questions_that_can_not_be_answered_teach(dataset: Dataset) -> None:
    for call, match in (
        (lambda: dataset.rows("event"), "no table 'event'; did you mean 'events'"),
        (lambda: dataset.rows("items", "tset"), "did you mean 'test'"),
        (lambda: dataset.table("events", "test", "item"), "no split by 'item'; it has: time, loo"),
        (lambda: dataset.rows("items", where={"titel": "x"}), "did you mean 'title'"),
    ):
        with pytest.raises(DataError, match=match):
            call()


def test_a_folder_without_or_with_a_strange_manifest(tmp_path: Path, dataset: Dataset) -> None:
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path)
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(DataError, match="not JSON"):
        Dataset(tmp_path)
    (tmp_path / "manifest.json").write_text(json.dumps({**dataset.manifest, "schema": 99}))
    with pytest.raises(DataError, match="schema version 99"):
        Dataset(tmp_path)


def test_the_same_rows_give_the_same_fingerprint_and_others_another(tmp_path: Path, dataset: Dataset) -> None:
    def written(name: str, **more: object) -> str:
        return write_dataset(tmp_path / name, {"items": ITEMS, "events": EVENTS}, **more).fingerprint  # type: ignore[arg-type]  # keywords

    assert written("a", source="here", licence="CC0", seed=3) == dataset.fingerprint
    assert written("b", source="here", licence="CC0", seed=4) != dataset.fingerprint
    assert write_dataset(tmp_path / "c", {"items": ITEMS}, "here", "CC0", 3).fingerprint != dataset.fingerprint


def test_media_by_content(tmp_path: Path) -> None:
    for name in ("one.png", "two.PNG"):
        (tmp_path / name).write_bytes(encoded(gradient(), "PNG"))
    out = tmp_path / "set"
    ref = store_medium(out, tmp_path / "one.png")
    assert ref == store_medium(out, tmp_path / "two.PNG")
    digest = hashlib.sha256((tmp_path / "one.png").read_bytes()).hexdigest()
    assert ref == f"media/{digest[:2]}/{digest}.png"
    dataset = write_dataset(out, {"items": [{"id": "a", "images": [ref]}]})
    assert dataset.media(ref).read_bytes() == (tmp_path / "one.png").read_bytes()
    assert dataset.manifest["files"][ref] == digest
    for wrong in (
        "../one.png",
        "items.parquet",
        "media/../items.parquet",
        str(tmp_path / "one.png"),
        "media/aa/no.png",
        "",
    ):
        with pytest.raises(DataError):
            dataset.media(wrong)


def test_a_medium_that_links_out_of_the_dataset_is_not_given(tmp_path: Path) -> None:
    dataset = write_dataset(tmp_path / "set", {"items": ITEMS})
    (tmp_path / "secret.png").write_bytes(b"x")
    (dataset.path / "media/aa").mkdir(parents=True)
    (dataset.path / "media/aa/a.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(DataError, match="not a medium"):
        dataset.media("media/aa/a.png")


def test_verify_names_what_changed(dataset: Dataset) -> None:
    dataset.verify()
    with (dataset.path / "items.parquet").open("ab") as file:
        file.write(b"!")
    with pytest.raises(DataError, match=r"items\.parquet"):
        dataset.verify()


def test_the_tables_open_with_hugging_face_datasets(tmp_path: Path, dataset: Dataset) -> None:
    opened = datasets.Dataset.from_parquet(str(dataset.path / "items.parquet"), cache_dir=str(tmp_path))
    assert opened.to_list() == dataset.rows("items")

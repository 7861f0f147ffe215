"""What people said takes the place of what it is about, in the same split; what is new joins."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import polars
import pytest
from broken_media import encoded, gradient

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.sources import raw_digest
from latefuse.review import corrections
from latefuse.steps import prepare
from latefuse.tracking import Null

Row = dict[str, Any]
OPTIONS = {"tables": {"judgements": {"file": "checks.jsonl"}}}


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """Thirty checks with a picture each."""
    root, rows = tmp_path / "shop", []
    root.mkdir()
    for number in range(30):
        (root / f"{number}.png").write_bytes(encoded(gradient(20 + number, 20), "PNG"))
        rows.append(
            {"id": f"c{number}", "task": "fits", "instruction": "it fits", "image": f"{number}.png",
             "text": f"claim {number}", "label": number % 2 == 0, "negative": "" if number % 2 == 0 else "random"}
        )  # fmt: skip
    (root / "checks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return root


def prepared(shop: Path, name: str, *folders: Path, budget: float = 0.02) -> Dataset:
    corrected = {"corrections": [str(one) for one in folders], "quarantine_budget": budget}
    data = Data.model_validate({"source": "manifest", "path": str(shop), "options": OPTIONS, **corrected})
    prepare.run(data, shop.parent / name, Null())
    return Dataset(shop.parent / name)


def said(data: Dataset, folder: Path, votes: Mapping[str, bool], who: str = "ann") -> Path:
    """As `latefuse review import` leaves it."""
    given = [corrections.Vote(id, label, who, "", id) for id, label in votes.items()]
    corrections.write(corrections.corrected(given, data.rows("judgements")).rows, folder, data.media)
    return folder


def told(data: Dataset) -> str:
    (note,) = [note for note in data.manifest["notes"] if note.startswith("corrections of ")]
    return note.rpartition(": ")[2]


def sha(folder: Path) -> str:
    return hashlib.sha256((folder / "judgements.jsonl").read_bytes()).hexdigest()[:12]


def rows_of(data: Dataset) -> dict[str, Row]:
    return {row["id"]: row for row in data.rows("judgements")}


def test_a_correction_takes_the_place_of_its_judgement(shop: Path, tmp_path: Path) -> None:
    before = prepared(shop, "before")
    old = rows_of(before)
    chosen = [key for key, row in old.items() if row["split_item"] != "test"][:5]
    folder = said(before, tmp_path / "said", {key: not old[key]["label"] for key in chosen})
    after = prepared(shop, "after", folder)
    assert told(after) == "5 judgement(s) replaced, 0 added"
    assert f"corrections of said ({sha(folder)})" in after.manifest["notes"][-2]
    counts = [sum(old[key]["split_item"] == split for key in chosen) for split in ("train", "valid")]
    assert after.manifest["notes"][-1] == f"judgements by people: {counts[0]} train, {counts[1]} valid, 0 test"
    new = rows_of(after)
    assert new.keys() == old.keys()
    for key, row in old.items():
        if key in chosen:
            word = "person" if row["label"] else ""
            assert new[key] == {**row, "label": not row["label"], "source": "person", "negative": word}
        else:
            assert new[key] == row


def test_the_last_word_counts_also_about_a_correction(shop: Path, tmp_path: Path) -> None:
    before = prepared(shop, "before")
    one, two = [key for key, row in rows_of(before).items() if row["split_item"] == "train"][:2]
    first = said(before, tmp_path / "first", {one: True, two: True}, "ann")
    second = said(before, tmp_path / "second", {one: False}, "bob")
    entries = [json.loads(line) for line in (first / "judgements.jsonl").read_text(encoding="utf-8").splitlines()]
    about = next(row for row in entries if row["id"].startswith(f"{two}-person-"))
    again = {**about, "id": f"{about['id']}-person-0123abcd", "label": False}
    third = corrections.write([again], tmp_path / "third", first.joinpath).parent
    after = prepared(shop, "after", first, second, third)
    assert told(after) == "2 judgement(s) replaced, 0 added"
    assert [rows_of(after)[key]["label"] for key in (one, two)] == [False, False]
    back = prepared(shop, "back", second, first)
    assert rows_of(back)[one]["label"] is True


def test_pairs_that_the_source_does_not_have_join_with_their_pictures(shop: Path, tmp_path: Path) -> None:
    before = prepared(shop, "before")
    old = rows_of(before)["c3"]
    (folder := tmp_path / "said").mkdir()
    (folder / "new.png").write_bytes(encoded(gradient(90, 40), "PNG"))
    (folder / "judgements.jsonl").write_text(
        json.dumps({**old, "id": "c3-person-aaaaaaaa", "text": "another claim", "image": "new.png"}) + "\n"
        + json.dumps({**old, "id": "c4-person-bbbbbbbb", "text": "far out", "image": "../shop/4.png"}) + "\n",
        encoding="utf-8",
    )  # fmt: skip
    after = prepared(shop, "after", folder, budget=0.2)
    (found,) = [row for key, row in rows_of(after).items() if key.startswith("c3-person-")]
    assert found["text"] == "another claim"
    assert after.media(found["image"]).read_bytes() == (folder / "new.png").read_bytes()
    assert after.manifest["quarantine"] == {"outside-root": 1}
    assert rows_of(after)["c3"]["source"] == old["source"]
    assert told(after) == "0 judgement(s) replaced, 2 added"


def test_another_picture_under_the_same_id_is_another_pair(shop: Path, tmp_path: Path) -> None:
    """Ids of a catalogue's pairs are whatever its file says: 1, 2, 3."""
    before = prepared(shop, "before")
    old = rows_of(before)
    (folder := tmp_path / "said").mkdir()
    (folder / "other.png").write_bytes(encoded(gradient(91, 41), "PNG"))
    rows = [{**old[key], "id": f"{key}-person-0123abcd", "image": "other.png", "label": True} for key in ("c1", "c3")]
    rows += [{**old["c5"], "id": "c5-person-0123abcd", "image": "", "label": True}]
    (folder / "judgements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    after = prepared(shop, "after", folder)
    assert told(after) == "0 judgement(s) replaced, 3 added"
    new = rows_of(after)
    assert {key: new[key]["label"] for key in old} == {key: row["label"] for key, row in old.items()}


def test_of_several_words_about_an_added_pair_the_last_one_stays(shop: Path, tmp_path: Path) -> None:
    folders = []
    for who, label in (("0123abcd", True), ("89abcdef", False), ("0123abcd", True)):
        folders.append(tmp_path / f"said-{len(folders)}")
        folders[-1].mkdir()
        (folders[-1] / "new.png").write_bytes(encoded(gradient(92, 42), "PNG"))
        row = {"id": f"1-person-{who}", "task": "fits", "instruction": "it fits", "image": "new.png", "text": "new",
               "label": label, "source": "person"}  # fmt: skip
        (folders[-1] / "judgements.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    for some, label in ((folders[:1], True), (folders[:2], False), (folders, True)):
        after = prepared(shop, f"after-{len(some)}", *some)
        (found,) = [row for row in after.rows("judgements") if row["source"] == "person"]
        assert found["label"] is label
        assert told(after) == "0 judgement(s) replaced, 1 added"


@pytest.mark.parametrize("ids", [range(30), [float(number) for number in range(30)]])
def test_ids_that_are_numbers_are_found_again(shop: Path, tmp_path: Path, ids: list[float]) -> None:
    table = polars.read_ndjson(shop / "checks.jsonl").with_columns(id=polars.Series(list(ids)))
    (shop / "checks.jsonl").unlink()
    table.write_parquet(shop / "checks.parquet")
    options = {"tables": {"judgements": {"file": "checks.parquet"}}}
    data = Data.model_validate({"source": "manifest", "path": str(shop), "options": options})
    prepare.run(data, tmp_path / "before", Null())
    before = Dataset(tmp_path / "before")
    chosen = [key for key, row in rows_of(before).items() if row["split_item"] == "train"]
    folder = said(before, tmp_path / "said", {key: not rows_of(before)[key]["label"] for key in chosen})
    prepare.run(data.model_copy(update={"corrections": (str(folder),)}), tmp_path / "after", Null())
    assert told(Dataset(tmp_path / "after")) == f"{len(chosen)} judgement(s) replaced, 0 added"
    assert "0" in chosen or rows_of(before)["0"]["split_item"] != "train"


def test_rows_that_can_not_be_understood_go_to_quarantine(shop: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "said").mkdir()
    rows = [{"id": ["odd"], "instruction": "it fits", "label": True}, {"id": "x", "instruction": "it fits"}]
    text = "".join(json.dumps(row) + "\n" for row in rows) + "{torn\n"
    (folder / "judgements.jsonl").write_text(text, encoding="utf-8")
    after = prepared(shop, "after", folder, budget=0.5)
    assert sum(after.manifest["quarantine"].values()) == 3
    assert told(after) == "0 judgement(s) replaced, 0 added"


def test_a_changed_correction_is_seen_and_a_wrong_folder_named(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = prepared(shop, "before")
    folder = said(before, tmp_path / "said", {"c1": True})
    data = Data.model_validate(
        {"source": "manifest", "path": str(shop), "options": OPTIONS, "corrections": [str(folder)]}
    )
    digest = raw_digest(data)
    elsewhere = data.model_copy(update={"path": "$LATEFUSE_REAL_DATA/shop", "corrections": ()})
    monkeypatch.delenv("LATEFUSE_REAL_DATA", raising=False)
    assert raw_digest(elsewhere) == ""
    assert digest != raw_digest(data.model_copy(update={"corrections": ()}))
    said(before, folder, {"c1": True, "c5": True})
    assert raw_digest(data) != digest
    with pytest.raises(DataError, match=r"data\.corrections: .*nowhere has no judgements\.jsonl"):
        prepared(shop, "after", tmp_path / "nowhere")

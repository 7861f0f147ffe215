"""From raw files to a sealed dataset: what is refused, what fails, what leaks, what comes out twice the same."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import plain_source
import pyarrow.parquet as pq
import pytest
from broken_media import encoded, gradient, huge_png, write_clip

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.sources import SOURCES
from latefuse.data.sources.files import NOT_UTF8
from latefuse.steps import prepare
from latefuse.tracking import Null

Row = dict[str, Any]
Tables = dict[str, list[Row]]
N = 60


@pytest.fixture(autouse=True)
def _source(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SOURCES, "plain", "plain_source:Plain")


def catalogue(root: Path) -> Tables:
    """Sixty items with a picture and a text of their own, 600 events, pairs, judgements, conversations, reviews."""
    draw = random.Random(5)
    words = [f"word{number}" for number in range(500)]
    (root / "media").mkdir(parents=True)
    items, chats, claims = [], [], []
    for number in range(N):
        picture = f"media/{number}.png"
        (root / picture).write_bytes(encoded(gradient(24 + number, 24), "PNG"))
        text = " ".join(draw.choices(words, k=30))
        key = f"item-{number}"
        items.append({"id": key, "title": f"dish {number}", "text": text, "images": [picture]})
        turns = [{"role": "user", "text": "<image> what is this?"}, {"role": "assistant", "text": text}]
        media = [{"modality": "image", "path": picture}]
        chats.append(
            {"id": f"chat-{number}", "modality": "image", "topic": "dish", "item": key, "media": media, "turns": turns}
        )
        claims.append(
            {
                "id": f"claim-{number}",
                "instruction": "fits?",
                "text": text,
                "label": True,
                "item": key,
                "image": picture,
            }
        )
    events = [
        {"user": f"u{place % 30}", "item": f"item-{draw.randrange(N)}", "ts": draw.randrange(10_000), "kind": "view"}
        for place in range(600)
    ]
    reviews = [{**event, "text": "good"} for event in events[:90]]
    for review in reviews:
        review.pop("kind")
    pairs = [{"a": f"item-{draw.randrange(N)}", "b": f"item-{draw.randrange(N)}"} for _ in range(200)]
    return {
        "items": items,
        "events": events,
        "reviews": reviews,
        "pairs": pairs,
        "judgements": claims,
        "conversations": chats,
    }


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    return tmp_path / "raw"


@pytest.fixture
def tables(raw: Path) -> Tables:
    return catalogue(raw)


@pytest.fixture
def run(raw: Path, tables: Tables, tmp_path: Path) -> Callable[..., Dataset]:
    def call(out: str = "out", **changes: Any) -> Dataset:
        plain_source.write(raw, tables)
        prepare.run(Data(source="plain", path=str(raw), **changes), tmp_path / out, Null())
        return Dataset(tmp_path / out)

    return call


def quarantined(out: Path) -> list[Row]:
    rows: list[Row] = pq.read_table(out / "quarantine.parquet").to_pylist()
    return rows


def test_a_sound_source_becomes_a_whole_dataset(run: Callable[..., Dataset], tables: Tables, tmp_path: Path) -> None:
    dataset = run(licence="CC0")
    dataset.verify()
    assert dataset.manifest["rows"] == {name: len(rows) for name, rows in tables.items()}
    assert dataset.manifest["quarantine"] == {}
    assert all(finding["passed"] for finding in dataset.manifest["leaks"].values())
    assert {
        "media",
        "text",
        "unit",
        "demos",
        "pair",
        "time/events",
        "loo/reviews",
        "held/reviews",
        "number/order",
        "number/next",
    } <= set(dataset.manifest["leaks"])
    items = dataset.rows("items")
    assert [row["id"] for row in items] == [row["id"] for row in tables["items"]]
    assert sorted(row["number"] for row in items) == list(range(N))
    assert {row["licence"] for row in items} == {"CC0"}
    assert {row["split_item"] for row in items} == {"train", "valid", "test"}
    split = {row["id"]: row["split_item"] for row in items}
    for table in ("conversations", "judgements"):
        assert all(row["split_item"] == split[row["item"]] for row in dataset.rows(table))
    assert dataset.media(dataset.rows("conversations")[0]["media"][0]["path"]).is_file()
    result = json.loads((tmp_path / "out/result.json").read_text())
    assert (result["step"], result["fingerprint"]) == ("prepare", dataset.fingerprint)
    assert not (tmp_path / "out/.partial").exists()


def test_the_same_input_gives_the_same_bytes(run: Callable[..., Dataset]) -> None:
    one, again, elsewhere = run(), run(), run("other")
    assert one.fingerprint == again.fingerprint == elsewhere.fingerprint
    other_seed = run("seed", splits={"seed": 1})
    assert other_seed.fingerprint != one.fingerprint
    assert other_seed.table("items", columns=["split_item"]) != one.table("items", columns=["split_item"])


def test_a_new_run_leaves_nothing_of_the_old_one(run: Callable[..., Dataset], tables: Tables, raw: Path) -> None:
    run()
    del tables["reviews"]
    (raw / "reviews.jsonl").unlink()
    for row in tables["items"]:
        row["images"] = []
    tables["conversations"] = [row for row in tables["conversations"] if row["item"] == "item-0"]
    tables["judgements"] = tables["judgements"][:1]
    dataset = run()
    assert "reviews" not in dataset.tables
    assert len(list(dataset.path.glob("media/??/*"))) == 1


def test_new_items_move_no_other(run: Callable[..., Dataset], tables: Tables) -> None:
    before = {row["id"]: row["split_item"] for row in run("one").rows("items")}
    tables["items"] += [{"id": f"new-{number}", "text": str(number)} for number in range(30)]
    after = {row["id"]: row["split_item"] for row in run("two").rows("items")}
    assert before == {key: after[key] for key in before}


BROKEN_ROWS: list[tuple[str, Row, str]] = [
    ("items", {"id": "item-0"}, "duplicate-id"),
    ("items", {"id": ""}, "missing-value"),
    ("items", {"title": "no id"}, "missing-value"),
    ("items", {"id": "x", "attributes": "no json"}, "wrong-type"),
    ("events", {"user": "u", "item": "nobody", "ts": 1}, "dangling-reference"),
    ("events", {"user": "u", "item": "item-1", "ts": "soon"}, "wrong-type"),
    ("reviews", {"user": "u", "item": "chat-1", "ts": 1}, "dangling-reference"),
    ("pairs", {"a": "item-1", "b": "nobody"}, "dangling-reference"),
    ("judgements", {"id": "j", "instruction": "?", "label": "maybe"}, "wrong-type"),
    ("conversations", {"id": "c", "modality": "text", "turns": [{"role": "user", "text": "?"}]}, "no-answer"),
    (
        "conversations",
        {
            "id": "c",
            "modality": "image",
            "media": [{"modality": "image", "path": "media/1.png"}],
            "turns": [{"role": "user", "text": "two <image><image>"}, {"role": "assistant", "text": "a"}],
        },
        "placeholder-mismatch",
    ),
]


@pytest.mark.parametrize(
    ("table", "row", "reason"), BROKEN_ROWS, ids=[f"{table}-{why}" for table, _, why in BROKEN_ROWS]
)
def test_a_broken_row_is_quarantined_with_its_reason(
    run: Callable[..., Dataset], tables: Tables, table: str, row: Row, reason: str
) -> None:
    before = len(tables[table])
    tables[table].append(row)
    dataset = run(quarantine_budget=0.05)
    assert dataset.manifest["rows"][table] == before
    assert dataset.manifest["quarantine"] == {reason: 1}
    (told,) = quarantined(dataset.path)
    assert (told["table"], told["reason"], told["line"]) == (table, reason, f"{table}.jsonl:{before + 1}")
    assert told["id"] == row.get("id", "")


def test_lines_that_are_no_text_are_quarantined(run: Callable[..., Dataset], tables: Tables, raw: Path) -> None:
    tables["items"].append({"id": "lone", "title": "\udcff"})
    plain_source.write(raw, tables)
    (raw / "extra").mkdir()
    path = raw / "events.jsonl"
    path.write_bytes(path.read_bytes() + b'{"user": "caf\xe9", "item": "item-1", "ts": 1}\n')
    prepare.run(Data(source="plain", path=str(raw), quarantine_budget=0.1), raw / "out", Null())
    told = {row["table"]: row for row in quarantined(raw / "out")}
    assert told["events"]["line"] == "events.jsonl:601"
    assert NOT_UTF8.split(":")[0].split(";")[0] in f"{told['events']['reason']} {told['events']['detail']}"
    assert set(told) == {"items", "events"}


BROKEN_MEDIA: dict[str, tuple[str, Callable[[], bytes], str]] = {
    "truncated jpeg": ("image", lambda: encoded(gradient(99, 99), "JPEG")[:900], "truncated"),
    "zero bytes": ("image", lambda: b"", "empty"),
    "not media": ("image", lambda: b"<html>404</html>", "unknown-format"),
    "huge": ("image", huge_png, "too-many-pixels"),
    "no clip": ("video", lambda: b"\0\0\0\x10ftypisom" + bytes(50), "truncated"),
}


@pytest.mark.parametrize("case", BROKEN_MEDIA)
def test_a_broken_medium_is_absent_and_quarantined_and_its_rows_stay(
    run: Callable[..., Dataset], tables: Tables, raw: Path, case: str
) -> None:
    modality, content, reason = BROKEN_MEDIA[case]
    (raw / "media/bad.bin").write_bytes(content())
    tables["items"][3]["images" if modality == "image" else "videos"] = ["media/bad.bin"]
    chat = tables["conversations"][3]
    chat["media"].append({"modality": modality, "path": "media/bad.bin"})
    chat["turns"][0]["text"] += f" <{modality}>"
    dataset = run(quarantine_budget=0.05)
    assert dataset.manifest["quarantine"] == {reason: 1}
    (told,) = quarantined(dataset.path)
    assert (told["medium"], told["id"], told["reason"]) == ("media/bad.bin", "item-3", reason)
    assert dataset.rows("items")[3]["videos"] == []
    paths = [medium["path"] for medium in dataset.rows("conversations")[3]["media"]]
    assert paths[0].startswith("media/")
    assert paths[1] == ""


@pytest.mark.parametrize("path", ["../secret.png", "{raw}/media/1.png", "link.png", "gone.png"])
def test_a_medium_outside_the_data_root_is_never_read(
    run: Callable[..., Dataset], tables: Tables, raw: Path, path: str
) -> None:
    secret = raw.parent / "secret.png"
    secret.write_bytes(encoded(gradient(77, 77), "PNG"))
    (raw / "link.png").symlink_to(secret)
    tables["items"][0]["images"] = [path.format(raw=raw)]
    dataset = run(quarantine_budget=0.05)
    assert dataset.manifest["quarantine"] == {"missing" if path == "gone.png" else "outside-root": 1}
    assert dataset.rows("items")[0]["images"] == []
    assert secret.read_bytes() not in [stored.read_bytes() for stored in dataset.path.glob("media/??/*")]


def test_odd_but_sound_media_are_kept(run: Callable[..., Dataset], tables: Tables, raw: Path) -> None:
    (raw / "media/wrong.jpg").write_bytes(encoded(gradient(50, 60), "PNG"))
    (raw / "media/cmyk.jpg").write_bytes(encoded(gradient(51, 60).convert("CMYK"), "JPEG"))
    write_clip(raw / "media/one.mp4", [9])
    tables["items"][0]["images"] = ["media/wrong.jpg", "media/cmyk.jpg"]
    tables["items"][0]["videos"] = ["media/one.mp4"]
    dataset = run()
    item = dataset.rows("items")[0]
    assert [Path(path).suffix for path in (*item["images"], *item["videos"])] == [".png", ".jpg", ".mp4"]
    assert dataset.manifest["quarantine"] == {}


def test_above_the_budget_the_step_fails_after_it_wrote_the_quarantine(
    run: Callable[..., Dataset], tables: Tables, tmp_path: Path
) -> None:
    run()
    tables["events"] += [{"user": "u", "item": "nobody", "ts": number} for number in range(13)]
    with pytest.raises(DataError, match=r"13 of 613 rows of 'events' \(2\.1%\): 13 dangling-reference") as caught:
        run()
    assert str(tmp_path / "out/quarantine.parquet") in str(caught.value)
    assert len(quarantined(tmp_path / "out")) == 13
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path / "out")
    assert run(quarantine_budget=0.03).manifest["quarantine"] == {"dangling-reference": 13}


def test_the_budget_of_media_is_their_own(run: Callable[..., Dataset], tables: Tables, raw: Path) -> None:
    for number in range(3):
        (raw / f"media/{number}.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"3 of 60 media \(5\.0%\): 3 empty"):
        run()


def test_missing_and_unknown_columns_and_tables_are_errors(
    run: Callable[..., Dataset], tables: Tables, raw: Path
) -> None:
    tables["events"][5]["when"] = 1
    with pytest.raises(DataError, match=r"table 'events' has no column 'when' \(events\.jsonl:6\)"):
        run()
    for row in tables["events"]:
        row.pop("ts")
        row.pop("when", None)
    with pytest.raises(DataError, match=r"events\.jsonl:1: table 'events' needs the column 'ts'"):
        run()
    (raw / "persons.jsonl").write_text("{}\n")
    with pytest.raises(DataError, match="offers a table 'persons'"):
        run()


@pytest.mark.parametrize("rows", [[], [{"id": "", "modality": "text", "turns": []}]])
def test_an_empty_table_is_an_error(run: Callable[..., Dataset], tables: Tables, rows: list[Row]) -> None:
    tables["conversations"] = rows
    with pytest.raises(DataError, match="table 'conversations' is empty"):
        run(quarantine_budget=1)


def held(dataset: Dataset, *keys: str) -> list[str]:
    split = {row["id"]: row["split_item"] for row in dataset.rows("items")}
    return [split[key] for key in keys]


def test_copies_of_a_picture_or_a_text_share_a_drawn_split(
    run: Callable[..., Dataset], tables: Tables, raw: Path
) -> None:
    items = tables["items"]
    plain = run("plain")
    (raw / "media/1.png").write_bytes((raw / "media/0.png").read_bytes())
    (raw / "media/2.png").write_bytes(encoded(gradient(24, 24), "BMP"))
    for first in (10, 20, 30, 40):
        items[first + 1]["text"] = items[first]["text"].rsplit(" ", 1)[0] + " other"
    dataset = run("copies")
    assert len(set(held(dataset, "item-0", "item-1", "item-2"))) == 1
    for first in (10, 20, 30, 40):
        assert len(set(held(dataset, f"item-{first}", f"item-{first + 1}"))) == 1
    assert held(plain, "item-5") == held(dataset, "item-5")
    assert all(finding["passed"] for finding in dataset.manifest["leaks"].values())


def official(tables: Tables) -> None:
    for table in ("items", "conversations", "judgements"):
        for number, row in enumerate(tables[table]):
            row["split_item"] = "test" if number >= 50 else "valid" if number >= 45 else "train"


def test_an_official_split_is_kept(run: Callable[..., Dataset], tables: Tables) -> None:
    official(tables)
    for table in ("conversations", "judgements"):
        for row in tables[table]:
            row.pop("split_item")
    for place, event in enumerate(sorted(tables["events"], key=lambda row: row["ts"])):
        event["split_time"] = "train" if place < 300 else "test"
    tables["events"] = [row for row in tables["events"] if row["split_time"] == "train" or row["ts"] > 6_000]
    dataset = run()
    for table in ("items", "conversations", "judgements"):
        assert dataset.manifest["splits"][table]["item"] == {"train": 45, "valid": 5, "test": 10}
    assert dataset.manifest["splits"]["events"]["time"]["train"] == 300
    assert run("drawn", splits={"official": False}).manifest["splits"] != dataset.manifest["splits"]


@pytest.mark.parametrize("what", ["media", "text", "unit"])
def test_a_leak_in_an_official_split_fails_and_is_named(
    run: Callable[..., Dataset], tables: Tables, raw: Path, tmp_path: Path, what: str
) -> None:
    official(tables)
    if what == "media":
        (raw / "media/0.png").write_bytes((raw / "media/59.png").read_bytes())
    elif what == "text":
        tables["items"][0]["text"] = tables["items"][59]["text"].replace(tables["items"][59]["text"].split()[0], "new")
    else:
        tables["conversations"][0]["split_item"] = "test"
    with pytest.raises(DataError, match=f"the splits leak:\n  {what}: ") as caught:
        run()
    assert "item-0" in str(caught.value)
    assert json.loads((tmp_path / "out/leaks.json").read_text())[what]["passed"] is False
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path / "out")
    assert run("reported", leaks={"on_leak": "report"}).manifest["leaks"][what]["passed"] is False
    assert run("by time", splits={"scheme": "time"}).manifest["leaks"][what]["passed"] is False
    assert run("drawn", splits={"official": False}).manifest["leaks"][what]["passed"] is True


def test_a_demonstration_that_is_a_test_row_fails_and_is_named(run: Callable[..., Dataset], tables: Tables) -> None:
    official(tables)
    train, test = tables["conversations"][0], tables["conversations"][59]
    shown = [{**turn, "text": turn["text"].replace("<image> ", "")} for turn in test["turns"]]
    train["turns"] = [*shown, *train["turns"]]
    with pytest.raises(DataError, match="the splits leak:\n  demos: 1 test rows") as caught:
        run()
    assert "row 'chat-0' quotes row 'chat-59' (test)" in str(caught.value)
    test["turns"] = [*tables["conversations"][1]["turns"], *test["turns"]]
    test["media"] = [*tables["conversations"][1]["media"], *test["media"]]
    train["turns"] = train["turns"][2:]
    assert run("shown to a test row", leaks={"on_leak": "report"}).manifest["leaks"]["demos"]["passed"]


@pytest.mark.parametrize("scheme", ["time", "loo"])
def test_a_summary_that_quotes_a_test_review_fails_and_is_named(
    run: Callable[..., Dataset], tables: Tables, scheme: str
) -> None:
    last = max(tables["reviews"], key=lambda row: row["ts"])
    last["text"] = "the crust was far too salty for me but the filling was a joy"
    assert run("sound", splits={"scheme": scheme}).manifest["leaks"]["summaries"]["passed"]
    tables["items"][7]["text"] += f" People say: {last['text']}. And more."
    with pytest.raises(DataError, match="summaries: 1 test reviews") as caught:
        run(splits={"scheme": scheme})
    assert f"item 'item-7' quotes the review of {last['item']!r} by {last['user']!r} (test)" in str(caught.value)


def test_ignored_words_do_not_make_a_leak(run: Callable[..., Dataset], tables: Tables) -> None:
    official(tables)
    boilerplate = "ships within two days and can be sent back for free"
    for number in (1, 58):
        tables["items"][number]["text"] = f"{boilerplate} {number}"
    with pytest.raises(DataError, match="text"):
        run(leaks={"jaccard": 0.4})
    assert run("ignored", leaks={"jaccard": 0.4, "ignore_words": boilerplate.split()})


@pytest.mark.parametrize(
    ("table", "column", "value"),
    [("events", "split_time", "train"), ("events", "split_loo", "train"), ("pairs", "split_pair", "test")],
)
def test_orders_and_pairs_that_an_official_split_breaks(
    run: Callable[..., Dataset], tables: Tables, table: str, column: str, value: str
) -> None:
    if table == "events":
        max(tables["events"], key=lambda row: row["ts"])[column] = value
    else:
        tables["pairs"] += [
            {"a": "item-1", "b": "item-2", column: "train"},
            {"a": "item-2", "b": "item-1", column: value},
        ]
    with pytest.raises(DataError, match=f"  {column.removeprefix('split_')}"):
        run()


def test_numbers_that_tell_the_future_fail(run: Callable[..., Dataset], tables: Tables) -> None:
    seen = dict.fromkeys(row["item"] for row in sorted(tables["events"], key=lambda row: row["ts"]))
    order = {key: number for number, key in enumerate(dict.fromkeys([*seen, *(row["id"] for row in tables["items"])]))}
    for row in tables["items"]:
        row["number"] = order[row["id"]]
    with pytest.raises(DataError, match="number/order: rank correlation"):
        run()
    for row in tables["items"]:
        row["number"] = 1
    with pytest.raises(DataError, match="'number' holds a value twice"):
        run()


def test_leave_one_out_of_events_and_reviews(run: Callable[..., Dataset]) -> None:
    dataset = run(splits={"scheme": "loo"})
    by_user: dict[str, list[Row]] = {}
    for row in dataset.rows("events"):
        by_user.setdefault(row["user"], []).append(row)
    for rows in by_user.values():
        ordered = sorted(rows, key=lambda row: row["ts"])
        assert [row["split_loo"] for row in ordered[-2:]] == ["valid", "test"]
        assert {row["split_loo"] for row in ordered[:-2]} == {"train"}
    for review in dataset.rows("reviews", "train", scheme="loo"):
        held_out = [row["ts"] for row in by_user[review["user"]] if row["split_loo"] != "train"]
        assert review["ts"] < min(held_out)


def test_an_empty_split_and_a_stand_in_picture_are_noted(
    run: Callable[..., Dataset], tables: Tables, capsys: Any
) -> None:
    for table in ("conversations", "judgements", "events", "reviews", "pairs"):
        tables[table] = tables[table][:3]
    for row in tables["items"][:40]:
        row["images"] = ["media/0.png"]
    dataset = run(quarantine_budget=1)
    notes = " / ".join(dataset.manifest["notes"])
    assert "split_item of conversations: no row of 3 is" in notes
    assert "40 of 60 units share media or text" in notes
    assert "prepare: note:" in capsys.readouterr().out


def test_the_tracker_hears_the_fingerprint(raw: Path, tables: Tables, tmp_path: Path) -> None:
    class Ear(Null):
        heard: list[tuple[Any, ...]] = []

        def dataset(self, name: str, digest: str, source: str) -> None:
            self.heard.append((name, digest, source))

        def artifact(self, path: str | Path, folder: str | None = None) -> None:
            self.heard.append((Path(path).name,))

    plain_source.write(raw, tables)
    ear = Ear()
    result = prepare.run(Data(source="plain", path=str(raw)), tmp_path / "out", ear)
    assert ("plain", result["fingerprint"], "plain") in ear.heard
    assert ("manifest.json",) in ear.heard

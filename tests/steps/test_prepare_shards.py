"""N shards and their merge against one `prepare`: the same bytes, whatever is broken, repeated or leaking."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from broken_media import encoded, gradient, write_clip

from latefuse.config_data import Data
from latefuse.data import shards as parts
from latefuse.data import store
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.steps import prepare, prepare_merge, prepare_shard
from latefuse.tracking import Null

ITEMS = 40
DEMO = Data(source="demo", options={"dishes": 24, "users": 20})


@pytest.fixture(autouse=True)
def _small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "BLOCK", 3)


@pytest.fixture
def shop(tmp_path: Path) -> Data:
    """Items with photos, clips and words, judgements, conversations and events, and all that can be wrong with them."""
    root = tmp_path / "shop"
    (root / "m").mkdir(parents=True)
    for number in range(ITEMS):
        (root / f"m/{number}.png").write_bytes(encoded(gradient(20 + number, 24), "PNG"))
    (root / "m/7.png").write_bytes(encoded(gradient(28, 24), "BMP"))  # the pixels of number 8
    (root / "m/9.png").write_bytes((root / "m/10.png").read_bytes())
    (root / "m/11.png").write_bytes(b"")
    (root / "m/12.png").write_bytes(encoded(gradient(99, 99), "JPEG")[:900])
    write_clip(root / "m/a.mp4", [9, 1, 4])
    write_clip(root / "m/b.mp4", [2, 6])
    (root / "m/torn.mp4").write_bytes(b"\0\0\0\x10ftypisom" + bytes(50))
    clips = {3: "m/a.mp4", 4: "m/b.mp4", 5: "m/torn.mp4", 30: "m/a.mp4"}
    rows = [[f"i{n}", f"dish {n}", _text(n), f"m/{n}.png|m/{(n + 5) % ITEMS}.png", clips.get(n, "")] for n in range(40)]
    rows[14][3] = "../secret.png|m/gone.png"
    rows += [["i3", "again", "the same id", "m/only-here.png", ""], ["", "no id", "", "", ""]]
    with (root / "items.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["id", "title", "text", "images", "videos"], *rows])
    claims = [
        {"id": f"j{n}", "instruction": "fits?", "text": f"claim {n}", "label": True, "item": f"i{n}",
         "image": f"m/{n}.png"} for n in range(ITEMS)
    ]  # fmt: skip
    claims += [{"id": "jx", "instruction": "fits?", "label": "perhaps"}, {"id": "j3", "instruction": "?", "label": 0}]
    events = [{"user": f"u{n % 9}", "item": f"i{n * 7 % ITEMS}", "ts": 1_000 + n * 13 % 401} for n in range(300)]
    events[200]["item"] = "nobody"
    chats = [
        {"id": f"c{n}", "question": "<video> what?", "answer": f"answer {n}", "item": f"i{n}", "videos": [clips[n]]}
        for n in (3, 4, 5, 30)
    ]
    for name, told in (("judgements", claims), ("events", events), ("conversations", chats)):
        (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in told))
    tables = {"items": {"file": "items.csv"}} | {
        name: {"file": f"{name}.jsonl"} for name in ("judgements", "events", "conversations")
    }
    return Data.model_validate(
        {"source": "manifest", "path": str(root), "options": {"tables": tables}, "quarantine_budget": 0.3,
         "leaks": {"on_leak": "report"}, "pairs": {}}
    )  # fmt: skip


def _text(number: int) -> str:
    words = [f"word{(number * 31 + place * place) % 211}" for place in range(30)]
    return " ".join([*words, "other"] if number != 21 else [f"word{(20 * 31 + p * p) % 211}" for p in range(30)])


@pytest.fixture
def whole(tmp_path: Path) -> Callable[[Data], Path]:
    def call(data: Data) -> Path:
        prepare.run(data, tmp_path / "whole", Null())
        return tmp_path / "whole"

    return call


@pytest.fixture
def sharded(tmp_path: Path) -> Callable[..., list[Path]]:
    def call(data: Data, count: int, name: str = "shard") -> list[Path]:
        folders = [tmp_path / f"{name}-{number}-of-{count}" for number in range(count)]
        for number, folder in enumerate(folders):
            prepare_shard.run(data, number, count, folder, Null(), tmp_path / "work" / name / str(number))
        return folders

    return call


def contents(folder: Path) -> dict[str, bytes]:
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {name: path.read_bytes() for name, path in found.items() if name != "result.json"}


def test_any_number_of_shards_gives_the_bytes_of_one_task(
    shop: Data, whole: Callable[..., Path], sharded: Callable[..., list[Path]], tmp_path: Path
) -> None:
    expected = contents(whole(shop))
    told = Dataset(tmp_path / "whole").manifest
    assert {"duplicate-id", "dangling-reference", "outside-root", "missing", "empty", "truncated", "wrong-type"} <= set(
        told["quarantine"]
    )
    assert told["leaks"]["text"]["checked"] > 0
    assert "pairs" in told["rows"]
    for count in (1, 3, 4):
        folders = sharded(shop, count)
        result = prepare_merge.run(shop, folders[::-1], tmp_path / f"merged-{count}", Null())
        made = contents(tmp_path / f"merged-{count}")
        assert made.keys() == expected.keys()
        assert [name for name in made if made[name] != expected[name]] == []
        assert result["fingerprint"] == told["fingerprint"]
        Dataset(tmp_path / f"merged-{count}").verify()


def test_a_generated_source_gives_the_same_dataset(
    whole: Callable[..., Path], sharded: Callable[..., list[Path]], tmp_path: Path
) -> None:
    expected = contents(whole(DEMO))
    prepare_merge.run(DEMO, sharded(DEMO, 3), tmp_path / "merged", Null())
    assert contents(tmp_path / "merged") == expected


def test_every_row_and_medium_is_the_work_of_one_shard(
    shop: Data, sharded: Callable[..., list[Path]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: Counter[str] = Counter()
    real = store.MediaStore._store

    def counted(self: store.MediaStore, modality: str, raw: str) -> store.Stored:
        opened[f"{modality} {raw}"] += 1
        return real(self, modality, raw)

    monkeypatch.setattr(store.MediaStore, "_store", counted)
    folders = sharded(shop, 4)
    prepare_merge.run(shop, folders, tmp_path / "merged", Null())
    assert set(opened.values()) == {1}
    manifests = [json.loads((folder / "manifest.json").read_text()) for folder in folders]
    for table, total in manifests[0]["tables"].items():
        assert sum(manifest["rows"][table] for manifest in manifests) == total
    assert sum(manifest["media"] for manifest in manifests) == len(opened)
    assert all(manifest["media"] and manifest["rows"]["items"] for manifest in manifests)


def test_a_killed_shard_goes_on_where_it_was(shop: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from latefuse.data import outcomes

    monkeypatch.setattr(outcomes, "CHUNK", 4)
    opened: list[str] = []
    real = store.MediaStore._store

    def killed(self: store.MediaStore, modality: str, raw: str) -> store.Stored:
        opened.append(raw)
        if len(opened) == 20:
            raise KeyboardInterrupt
        return real(self, modality, raw)

    monkeypatch.setattr(store.MediaStore, "_store", killed)
    work, out = tmp_path / "work/killed", tmp_path / "killed"
    with pytest.raises(KeyboardInterrupt):
        prepare_shard.run(shop, 0, 1, out, Null(), work)
    with pytest.raises(DataError, match=r"killed: no manifest\.json; this shard of `prepare` is missing or did not"):
        prepare_merge.run(shop, [out], tmp_path / "merged", Null())
    with (work / outcomes.JOURNAL).open("a") as journal:
        journal.write('{"modality": "image", "pa')  # what the kill has torn
    known = [json.loads(line)["path"] for line in (work / outcomes.JOURNAL).read_text().splitlines()[:-1]]
    assert len(known) >= 12
    changed = Path(str(shop.path)) / known[0]
    changed.write_bytes(encoded(gradient(77, 30), "PNG"))
    opened.clear()
    opened += [""] * 20
    prepare_shard.run(shop, 0, 1, out, Null(), work)
    assert set(opened) & set(known) == {known[0]}
    assert not work.exists()
    prepare_merge.run(shop, [out], tmp_path / "merged", Null())
    prepare.run(shop, tmp_path / "whole", Null())
    assert contents(tmp_path / "merged") == contents(tmp_path / "whole")


def test_shards_that_are_no_whole_are_refused_by_name(
    shop: Data, sharded: Callable[..., list[Path]], tmp_path: Path
) -> None:
    folders = sharded(shop, 3)

    def refused(shards: list[Path], why: str, data: Data = shop) -> None:
        with pytest.raises(DataError, match=why):
            prepare_merge.run(data, shards, tmp_path / "merged", Null())
        assert not (tmp_path / "merged/manifest.json").exists()

    refused(folders[:2], "shard-0-of-3: one of 3 shards, and 2 are given")
    refused([*folders[:2], folders[1]], "both shard 1 of 3")
    refused([*folders[:2], tmp_path / "absent"], "absent: no manifest.json")
    other = shop.model_copy(update={"licence": "CC0"})
    refused([*folders[:2], sharded(other, 3, "foreign")[2]], "foreign-2-of-3: a shard of other data")
    kept = (folders[1] / "items.shard.parquet").read_bytes()
    (folders[1] / "items.shard.parquet").write_bytes(kept[:-1])
    refused(folders, r"shard-1-of-3: items\.shard\.parquet gone or changed")
    (folders[1] / "items.shard.parquet").write_bytes(kept)
    with (Path(str(shop.path)) / "events.jsonl").open("a") as file:
        file.write('{"user": "new", "item": "i1", "ts": 2000}\n')
    refused([*folders[:2], sharded(shop, 3, "late")[2]], "late-2-of-3: the source changed while its shards were made")
    medium = next(folders[2].glob("media/??/*"))
    medium.unlink()
    refused(folders, rf"{medium.name}: gone or changed .* make this shard again")


def test_what_one_task_refuses_a_shard_or_the_merge_refuses(shop: Data, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="shard 3 of 3: the first is 0, the last 2"):
        prepare_shard.run(shop, 3, 3, tmp_path / "x", Null(), tmp_path / "w")
    strict = shop.model_copy(update={"quarantine_budget": 0.0})
    with pytest.raises(DataError) as expected:
        prepare.run(strict, tmp_path / "whole", Null())
    folders = [tmp_path / f"s{number}" for number in range(2)]
    for number, folder in enumerate(folders):
        prepare_shard.run(strict, number, 2, folder, Null(), tmp_path / "w")
    with pytest.raises(DataError) as caught:
        prepare_merge.run(strict, folders, tmp_path / "whole", Null())
    assert str(caught.value) == str(expected.value)

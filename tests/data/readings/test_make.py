"""Readings as `prepare` makes them: what they may know, what they must not, and what is told."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import plain_source
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from broken_media import encoded, gradient
from loopback_chat import chat, said

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.readings import check, make
from latefuse.data.readings.cuts import ALWAYS
from latefuse.data.readings.request import Request
from latefuse.data.readings.table import Readings
from latefuse.data.schema import TABLES
from latefuse.data.sources import SOURCES
from latefuse.steps import prepare
from latefuse.tracking import Null

PLANTED = "xyzzy"


class Recorder:
    """A maker that says all it reads, and remembers every prompt."""

    name, version, method, calls = "recorder", "v1", "all of it", 0

    def __init__(self) -> None:
        self.prompts: list[tuple[Request, str]] = []

    def reads(self, request: Request) -> int:
        return len(request.documents)

    def key(self, request: Request) -> str:
        return request.digest(self.method)

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        for place, request in enumerate(requests):
            self.prompts.append((request, " / ".join(request.documents)))
            yield place, " / ".join(request.documents)

    def notes(self) -> list[str]:
        return []

    def spent(self) -> str:
        return "nothing"


@pytest.fixture
def tables(tmp_path: Path) -> dict[str, list[dict[str, Any]]]:
    """Eight items, twelve users, 240 reviews at times of their own, as many events."""
    draw = random.Random(7)
    (tmp_path / "raw/media").mkdir(parents=True)
    items = []
    for number in range(8):
        (tmp_path / f"raw/media/{number}.png").write_bytes(encoded(gradient(24 + number, 24), "PNG"))
        items.append({"id": f"i{number}", "title": f"dish {number}", "images": [f"media/{number}.png"]})
    seconds = draw.sample(range(1, 10_000), 240)
    events = [{"user": f"u{k % 12}", "item": f"i{draw.randrange(8)}", "ts": ts} for k, ts in enumerate(seconds)]
    reviews = [{**event, "headline": f"h{k}", "text": f"said{k} of it."} for k, event in enumerate(events)]
    reviews[3]["text"] = reviews[3]["headline"] = ""
    return {"items": items, "events": events, "reviews": reviews}


@pytest.fixture
def run(
    tables: dict[str, list[dict[str, Any]]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Dataset]:
    monkeypatch.setitem(SOURCES, "plain", "plain_source:Plain")

    def call(
        readings: dict[str, Any] | None, out: str = "out", scheme: str = "time", cache: Path | None = None, **more: Any
    ) -> Dataset:
        plain_source.write(tmp_path / "raw", tables)
        raw = {"source": "plain", "path": str(tmp_path / "raw"), "splits": {"scheme": scheme}, **more}
        prepare.run(Data.model_validate({**raw, "readings": readings}), tmp_path / out, Null(), cache=cache)
        return Dataset(tmp_path / out)

    return call


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> Recorder:
    one = Recorder()
    monkeypatch.setattr(make, "build", lambda *arguments: one)
    return one


@pytest.mark.parametrize("scheme", ["time", "loo"])
def test_a_word_of_a_held_out_review_is_in_no_prompt_and_no_reading_of_a_row_before_it(
    scheme: str, run: Callable[..., Dataset], tables: dict[str, list[dict[str, Any]]], recorder: Recorder
) -> None:
    plain = run({}, "plain", scheme)
    held = {split: plain.rows("reviews", split, scheme=scheme) for split in ("train", "valid", "test")}
    assert all(held.values())
    by_ts = {review["ts"]: review for review in tables["reviews"]}
    for split, rows in held.items():
        for row in rows:
            by_ts[row["ts"]]["text"] += f" {PLANTED}{split}{row['ts']}x"
    recorder.prompts.clear()
    dataset = run({"cuts": 5, "max_reviews": 1_000}, "planted", scheme)
    told = " ".join(prompt for _, prompt in recorder.prompts)
    assert f"{PLANTED}test" not in told
    assert f"{PLANTED}valid" in told
    assert f"{PLANTED}train" in told
    for request, prompt in recorder.prompts:
        known = {int(word.split("x")[0]) for split in held for word in prompt.split(f"{PLANTED}{split}")[1:]}
        assert max(known, default=0) < request.cut
    events = dataset.table("events")
    for of in ("item", "user"):
        found = Readings.read(dataset, of)
        at = found.at(events[of], events["ts"].to_numpy()).tolist()
        assert any(place >= 0 for place in at)
        for row, place in zip(events.to_pylist(), at, strict=True):
            text = found.texts[place] if place >= 0 else ""
            for split in held:
                assert all(int(word.split("x")[0]) < row["ts"] for word in text.split(f"{PLANTED}{split}")[1:])
    assert dataset.manifest["leaks"]["readings"]["passed"]


@pytest.mark.parametrize("scheme", ["time", "loo"])
def test_readings_hold_what_a_search_over_the_stored_reviews_finds(
    scheme: str, run: Callable[..., Dataset], recorder: Recorder
) -> None:
    dataset = run({"cuts": 4, "max_reviews": 3}, scheme=scheme)
    reviews, readings = dataset.rows("reviews"), dataset.rows("readings")
    cuts = sorted({row["cut"] for row in readings})
    starts = {s: min(r["ts"] for r in dataset.rows("events", s, scheme="time")) for s in ("valid", "test")}
    assert len(cuts) == 5
    assert {starts["valid"], starts["test"]} <= set(cuts)
    expected = {}
    for of in ("item", "user"):
        for owner in {review[of] for review in reviews}:
            before: list[str] = []
            for cut in cuts:
                known = [r for r in reviews if r[of] == owner and r["ts"] < cut and r[f"split_{scheme}"] != "test"]
                words = [f"{r['headline']}. {r['text']}" for r in sorted(known, key=lambda r: r["ts"]) if r["text"]]
                if words and words != before:
                    expected[of, owner, cut] = (" / ".join(words[-3:]), len(words[-3:]))
                before = words
    assert {(r["of"], r["id"], r["cut"]): (r["text"], r["documents"]) for r in readings} == expected
    assert {(row["maker"], row["prompt"]) for row in readings} == {("recorder", "v1")}
    older = sum(note.endswith("made of the newest 3 reviews, older ones are out") for note in dataset.manifest["notes"])
    assert older == 1


def test_extractive_readings_are_repeated_byte_by_byte(run: Callable[..., Dataset], capsys: Any) -> None:
    first, second = run({}, "a"), run({}, "b")
    assert first.fingerprint == second.fingerprint
    assert "readings.parquet" in first.manifest["files"]
    first.verify()
    counts = {of: sum(row["of"] == of for row in first.rows("readings")) for of in ("item", "user")}
    note = f"readings: {counts['item']} of items, {counts['user']} of users by extractive (v1)"
    assert note in first.manifest["notes"]
    assert f"prepare: {note}, 0 calls" in capsys.readouterr().out


def test_without_readings_nothing_is_different(run: Callable[..., Dataset], tmp_path: Path) -> None:
    with_them = run({}, "out")
    assert "readings" in with_them.tables
    without = run(None, "out")
    assert "readings" not in without.tables, "the table of an earlier run is gone"
    assert not any("readings" in note for note in without.manifest["notes"])
    assert "readings" not in without.manifest["leaks"]
    assert without.fingerprint == run(None, "other").fingerprint
    assert "calls" not in json.loads((tmp_path / "out/result.json").read_text())


def test_the_endpoint_is_asked_once_and_its_answers_make_the_same_dataset(
    run: Callable[..., Dataset], tmp_path: Path, tables: dict[str, list[dict[str, Any]]]
) -> None:
    pytest.importorskip("openai")
    for review in tables["reviews"]:
        review["user"] = review["user"].replace("u", "foodie_")
        review["text"] += f" greetings, {review['user']}"
    with chat(lambda number, body: said(f"Answer to {len(json.dumps(body))}.")) as server:
        readings = {"cuts": 2, "reviews": {"by": "endpoint", "model": "m", "url": server.url}}
        first = run(readings, "a", cache=tmp_path / "cache")
        asked = len(server.bodies)
        assert asked == len({json.dumps(body) for body in server.bodies}) > 8
        second = run(readings, "b", cache=tmp_path / "cache")
        assert len(server.bodies) == asked
        assert not any("foodie_" in prompt for prompt in server.prompts()), "users of the data are masked"
    assert first.fingerprint == second.fingerprint
    results = [json.loads((tmp_path / name / "result.json").read_text()) for name in ("a", "b")]
    assert [result["calls"] for result in results] == [asked, 0]
    assert {row["maker"] for row in first.rows("readings")} == {"endpoint m"}


def test_pictures_are_read_once_each(
    run: Callable[..., Dataset], tmp_path: Path, classifier_folder: Callable[..., Path]
) -> None:
    pictures = {"by": "classifier", "model": str(classifier_folder())}
    dataset = run({"reviews": None, "pictures": pictures}, cache=tmp_path / "cache")
    rows = dataset.rows("readings")
    assert [row["id"] for row in rows] == [path for item in dataset.rows("items") for path in item["images"]]
    assert {(row["of"], row["cut"], row["documents"]) for row in rows} == {("picture", ALWAYS, 0)}
    assert all(row["text"] for row in rows)
    assert "readings" not in dataset.manifest["leaks"]


def test_an_empty_answer_is_no_reading(
    run: Callable[..., Dataset], recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Recorder, "make", lambda self, requests: ((place, "") for place in range(len(requests))))
    dataset = run({})
    assert dataset.rows("readings") == []
    assert any("answers were empty and are no readings" in note for note in dataset.manifest["notes"])


def test_what_is_not_there_is_told(run: Callable[..., Dataset], tables: dict[str, list[dict[str, Any]]]) -> None:
    tables["readings"] = [{"of": "item", "id": "i1", "text": "of the source"}]
    with pytest.raises(DataError, match="offers a table 'readings'"):
        run({})
    del tables["readings"]


def test_no_reviews_and_no_pictures(
    run: Callable[..., Dataset], tables: dict[str, list[dict[str, Any]]], tmp_path: Path,
    classifier_folder: Callable[..., Path],
) -> None:  # fmt: skip
    del tables["reviews"]
    for item in tables["items"]:
        item["images"] = []
    with pytest.raises(DataError, match=r"no table 'reviews'.* set data\.readings\.reviews=null"):
        run({})
    with pytest.raises(DataError, match=r"no item has a picture; set data\.readings\.pictures=null"):
        run({"reviews": None, "pictures": {"by": "classifier", "model": str(classifier_folder())}})
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path / "out")


def tampered(dataset: Dataset, **changes: Any) -> list[dict[str, Any]]:
    """The stored readings with the last one of an item changed."""
    rows = dataset.rows("readings")
    last = max((row for row in rows if row["of"] == "item"), key=lambda row: row["cut"])
    last.update(changes)
    pq.write_table(pa.Table.from_pylist(rows, TABLES["readings"]), dataset.path / "readings.parquet")
    return [last]


@pytest.mark.parametrize("changes", [{"cut": 500}, {"digest": "0"}, {"documents": 2}, {"id": "nobody"}, {"id": "i0x"}])
def test_the_check_finds_a_reading_that_is_not_of_its_reviews(
    changes: dict[str, Any], run: Callable[..., Dataset], tmp_path: Path, recorder: Recorder
) -> None:
    dataset = run({"cuts": 3})
    assert check.findings(dataset.path, tmp_path, "time", recorder.method).passed
    tampered(dataset, **changes)
    found = check.findings(dataset.path, tmp_path, "time", recorder.method)
    assert (found.passed, found.found) == (False, 1)


@pytest.mark.parametrize(("scheme", "flaw"), [("time", "late"), ("loo", "late"), ("loo", "held out")])
def test_prepare_fails_where_readings_know_the_future(
    scheme: str, flaw: str, run: Callable[..., Dataset], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    true = make.windows

    def flawed(owner: Any, ts: Any, usable: Any, cuts: Any, newest: int) -> Any:
        usable = usable | True if flaw == "held out" else usable
        for window in true(owner, ts, usable, cuts + 400 if flaw == "late" else cuts, newest):
            yield window._replace(cut=window.cut - 400) if flaw == "late" else window

    monkeypatch.setattr(make, "windows", flawed)
    with pytest.raises(DataError, match=r"leak:\n  readings: \d+ readings are not made of") as caught:
        run({}, scheme=scheme)
    assert "item 'i" in str(caught.value)
    assert not json.loads((tmp_path / "out/leaks.json").read_text())["readings"]["passed"]
    with pytest.raises(DataError, match="did not finish"):
        Dataset(tmp_path / "out")
    reported = run({}, "reported", scheme, leaks={"on_leak": "report"})
    assert not reported.manifest["leaks"]["readings"]["passed"]

"""Personalised prompts from a shop's own tables in which everything is odd: histories of one and of thousands, nobody's
items, one title for two, names that pretend to be pictures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from PIL import Image

from latefuse.config import Job, Task
from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models import personal
from latefuse.models.backbone import Backbone, load
from latefuse.prompts import PromptError
from latefuse.steps import finetune, prepare
from latefuse.tasks import personalise
from latefuse.tasks.personal_desk import Desk, open_desk
from latefuse.tracking import Null
from latefuse.training.features import Features

ITEMS, LONG = 30, 5_000
NAMES = {"one": "ana", "long": "<extra_id_0> <image> [3]", "twins": "bo\n\u202e<extra_id_1>", "three": ""}
TABLES = {
    "items": {"file": "items.csv", "columns": {"id": "id", "title": "title", "images": ["photo"]}},
    "users": {"file": "users.csv", "columns": {"id": "id", "name": "name"}},
    "events": {"file": "events.csv", "columns": {"user": "user", "item": "item", "ts": "ts"}},
    "reviews": {"file": "reviews.jsonl"},
}


def write(path: Path, rows: list[list[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Users with histories of one item, of 5,000, of three; two items of one title; item i0 has a torn picture."""
    root = tmp_path_factory.mktemp("shop")
    for number in range(1, ITEMS):
        Image.new("RGB", (16, 16), (8 * number, 90, 200 - number)).save(root / f"{number}.png")
    (root / "0.png").write_bytes(b"no picture")
    titles = ["red bowl", "red bowl", *(f"thing {number}" for number in range(2, ITEMS - 1)), "a <extra_id_0> b"]
    write(root / "items.csv", [["id", "title", "photo"], *([f"i{n}", titles[n], f"{n}.png"] for n in range(ITEMS))])
    write(root / "users.csv", [["id", "name"], *NAMES.items()])
    events = [["one", "i3", 5], *(["long", f"i{at * at % 7}", 10 + at] for at in range(LONG))]
    events += [["twins", f"i{number}", 20 + at] for at, number in enumerate((0, 1, 4, 1, 0))]
    events += [["three", f"i{number}", 30 + at] for at, number in enumerate((8, 9, 10))]
    write(root / "events.csv", [["user", "item", "ts"], *events])
    about = {"stars": 4, "feature": "rim <extra_id_2>", "text": "a good rim"}
    said = [{"user": user, "item": f"i{n}", "ts": 40 + n, **about} for user in NAMES for n in range(10, 20)]
    (root / "reviews.jsonl").write_text("".join(json.dumps(row) + "\n" for row in said))
    data = Data.model_validate(
        {"source": "manifest", "path": str(root), "splits": {"scheme": "loo"}, "quarantine_budget": 0.1,
         "leaks": {"on_leak": "report"}, "options": {"tables": TABLES}}
    )  # fmt: skip
    out = tmp_path_factory.mktemp("prepared")
    prepare.run(data, out, Null(), workdir=out / "work")
    return Dataset(out)


def task(**settings: Any) -> Task:
    how = {"k": 2, "candidates": 5, "per_user": 3, **settings}
    return Task.model_validate(
        {"kind": "personalise", "modality": ["text", "image"], "personalise": how,
         "train": {"max_steps": 4, "batch_size": 8}}
    )  # fmt: skip


@pytest.fixture(scope="module")
def backbone(backbone_folder: Any) -> Backbone:
    return load(backbone_folder("sighted"))


def desk_of(dataset: Dataset, backbone: Backbone, **settings: Any) -> Desk:
    desk = open_desk(dataset, task(**settings), backbone)
    desk.warm(Features(backbone, dataset.media), progress=False)
    return desk


def of(desk: Desk, user: str, template: str) -> personalise.Rows:
    rows = personalise.asked(desk, template, "test")
    code = list(desk.source.found.users).index(user)
    return rows.take(np.flatnonzero(rows.columns.user == code))


def test_a_user_of_one_event_trains_nothing_that_comes_next_and_is_asked_nothing(
    dataset: Dataset, backbone: Backbone
) -> None:
    desk = desk_of(dataset, backbone)
    one = list(desk.source.found.users).index("one")
    rows = desk.source.train(0)
    sequential = np.array([name.startswith("A") for name in rows.names()])
    assert one not in rows.user[sequential]
    assert not len(of(desk, "one", "A-3"))


def test_thousands_of_events_lose_the_oldest_whole_and_are_counted(dataset: Dataset, backbone: Backbone) -> None:
    desk = desk_of(dataset, backbone, max_tokens=200)
    rows = of(desk, "long", "A-3")
    assert len(rows) == 1
    assert rows.columns.end[0] - rows.columns.begin[0] == LONG - 1
    desk.told.clear()
    prompted = desk.prompted(rows.columns)
    assert prompted.ids.shape[1] <= 200
    assert (desk.told["prompts"], desk.told["cut"]) == (1, 1)
    shown = (prompted.visual >= 0).sum().item()
    assert shown % 2 == 0
    assert shown > 10
    newest = desk.source.found.item[rows.columns.end[0] - 1]
    last = prompted.pictures[prompted.visual[prompted.visual >= 0][-1] // 2]
    np.testing.assert_array_equal(last, desk.vectors[newest])
    for settings, cut in (({"max_tokens": 200}, 1), ({"history": 3}, 2), ({"max_tokens": 40_000}, 0)):
        desk_of(dataset, backbone, **settings)
        assert personalise.select(dataset, task(**settings), "test", backbone).cut == cut


def test_two_items_of_one_title_are_told_apart(dataset: Dataset, backbone: Backbone) -> None:
    desk = desk_of(dataset, backbone)
    codes = [[row["id"] for row in desk.items].index(name) for name in ("i0", "i1")]
    answers = desk.splicer.answers()
    assert answers[codes[0]] != answers[codes[1]]
    features = Features(backbone, dataset.media)
    chosen = personalise.select(dataset, task(), "train", backbone)
    personalise.attach(backbone, {"both": task()}, 0, {"both": chosen})
    personalise.warm(chosen.examples, backbone, features, progress=False)
    rows = of(desk, "three", "A-3")
    items, _ = personalise.next_items(backbone, rows, 10, features=features)
    named = items[0][items[0] >= 0]
    assert len(set(named.tolist())) == len(named) == 10
    whole, _ = personalise.next_items(backbone, rows, ITEMS, features=features)
    assert set(codes) <= set(whole[0].tolist())


@pytest.fixture(scope="module")
def ready(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory, backbone_folder: Any) -> tuple[Backbone, Any]:
    """A backbone with an adapter of the odd shop, by the step that trains it."""
    base, out = backbone_folder("sighted"), tmp_path_factory.mktemp("trained")
    job = Job(name="both", seed=0, tasks={"both": task(max_tokens=200)})
    told = finetune.run(job, dataset.path, base, out, Null(), out / "cache")
    trained = load(base)
    personalise.load(trained, out / "adapter")
    return trained, told


@pytest.mark.parametrize("template", ["A-3", "A-9", "B-5", "B-8"])
def test_everybody_is_answered_with_items_that_are_new(
    template: str, dataset: Dataset, ready: tuple[Backbone, Any]
) -> None:
    backbone, _ = ready
    desk = desk_of(dataset, backbone, max_tokens=200)
    rows = personalise.asked(desk, template, "test")
    users = [desk.source.found.users[user] for user in rows.columns.user]
    assert users == ["long", "twins", "three"]
    items, scores = personalise.next_items(backbone, rows, 4, features=Features(backbone, dataset.media))
    assert np.isfinite(scores).all()
    for at, line in enumerate(items):
        had = set(desk.had(rows.columns)[at].tolist())
        may = set(range(ITEMS)) - had if template[0] == "A" else set(desk.listed(rows.columns)[at].tolist())
        assert len(set(line.tolist())) == 4
        assert set(line.tolist()) <= may


def test_a_history_of_one_item_is_asked_and_explanations_are_written(
    dataset: Dataset, ready: tuple[Backbone, Any]
) -> None:
    backbone, told = ready
    assert 0 < told["cut"] < told["rows"]["both"]
    assert (told["train_tokens"], told["tokens_per_s"]) == (None, None), "rows are counted"
    assert told["samples_per_s"] > 0
    desk = desk_of(dataset, backbone, max_tokens=200)
    rows = personalise.asked(desk, "A-3", "valid")
    three = rows.take(np.flatnonzero(rows.columns.user == list(desk.source.found.users).index("three")))
    assert (three.columns.end - three.columns.begin).tolist() == [1]
    features = Features(backbone, dataset.media)
    items, _ = personalise.next_items(backbone, three, ITEMS, features=features)
    assert len(set(items[0].tolist()) - {-1}) == ITEMS - 1
    assert items[0, -1] == -1
    why = personalise.asked(desk, "C-12", "train")
    assert len(personalise.explanations(backbone, why.take([0, 11]), features=features)) == 2


def test_a_torn_picture_is_refused_by_prepare_and_its_item_has_a_learned_token(
    dataset: Dataset, backbone: Backbone
) -> None:
    desk = desk_of(dataset, backbone)
    torn = [row["id"] for row in desk.items].index("i0")
    assert not desk.pictured[torn]
    assert int((~desk.pictured).sum()) == 1


@pytest.mark.parametrize("template", ["A-4", "A-9", "B-3", "B-8", "C-3", "C-12"])
def test_names_titles_and_features_can_open_no_visual_slot(template: str, dataset: Dataset, backbone: Backbone) -> None:
    desk = desk_of(dataset, backbone)
    every = personalise.asked(desk, template, "test" if template[0] != "C" else "train")
    assert len(every)
    special = set(backbone.tokenizer.all_special_ids) - {backbone.tokenizer.unk_token_id}
    for at in range(len(every)):
        prompt = desk.splicer.encode(template, desk.source.fields(every.columns, at))
        opened = {place for place, token in enumerate(prompt.ids[:-1]) if token in special}
        assert opened == {place for place, slot in enumerate(prompt.slot) if slot >= 0}


def test_histories_of_items_that_the_catalogue_lacks_are_refused_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "items.csv", [["id", "title"], *([f"i{n}", f"thing {n}"] for n in range(6))])
    known = [[f"u{user}", f"i{n}", user * 10 + n] for user in range(3) for n in range(5)]
    write(tmp_path / "events.csv", [["user", "item", "ts"], *known, *(["ghost", f"x{n}", n] for n in range(4))])
    tables = {"items": {"file": "items.csv"}, "events": {"file": "events.csv"}}
    raw = {"source": "manifest", "path": str(tmp_path), "splits": {"scheme": "loo"}, "options": {"tables": tables},
           "leaks": {"on_leak": "report"}}  # fmt: skip
    with pytest.raises(DataError, match=r"4 of 19 rows of 'events' .*4 dangling-reference"):
        prepare.run(Data.model_validate(raw), tmp_path / "out", Null(), workdir=tmp_path / "w")
    refused = pl.read_parquet(tmp_path / "out" / "quarantine.parquet").row(0, named=True)
    assert (refused["line"], refused["detail"]) == ("events.csv:17", "item 'x0' is not among the items")
    found = prepare.run(
        Data.model_validate({**raw, "quarantine_budget": 0.5}), tmp_path / "out", Null(), workdir=tmp_path / "w"
    )
    assert sum(found["quarantine"].values()) == 4
    assert {row["user"] for row in Dataset(tmp_path / "out").rows("events")} == {"u0", "u1", "u2"}


def test_what_fits_no_prompt_is_told_before_training(dataset: Dataset, fresh_backbone: Callable[..., Backbone]) -> None:
    """By the row that needs the most, against all rows one by one."""
    backbone = fresh_backbone("sighted")
    features = Features(backbone, dataset.media)
    rows = personalise.select(dataset, task(), "train", backbone).examples
    desk = rows.desk
    desk.warm(features, progress=False)
    shown = rows.columns.take(np.flatnonzero(rows.columns.candidates >= 0))
    made = [len(desk.splicer.encode(name, desk.source.fields(shown, at)).ids) for at, name in enumerate(shown.names())]
    for most, refused in ((max(made), False), (max(made) - 1, True)):
        tight = task(max_tokens=most)
        tried = personalise.select(dataset, tight, "train", backbone).examples
        personal.build(backbone, tight.personalise, 0, tight.adapter)
        with pytest.raises(PromptError, match=r"takes \d+ tokens") if refused else nullcontext():
            personalise.warm(tried, backbone, features, progress=False)
    tight = personalise.select(dataset, task(target_tokens=2), "train", backbone).examples
    with pytest.raises(PromptError, match=r"its number takes \d tokens with the end, an answer has 2; raise"):
        personalise.warm(tight, backbone, features, progress=False)

"""Rows of personalised recommendation: who is asked what by which template, from what, and never with its answer."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from small_shop import shop
from small_t5 import t5_tokenizer

from latefuse.data import leaks
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.prompts.personal import PersonalSplicer, family, names, template
from latefuse.prompts.personal.ids import numbers, permuted
from latefuse.tasks.personal_rows import BANDS, PersonalRows, directory, jittered, joined, open_rows

LENGTHS = [9, 1, 2, 3, 30, 4, 12]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shop(tmp_path_factory.mktemp("shop"), LENGTHS, items=90)


@pytest.fixture(scope="module")
def data(dataset: Dataset) -> PersonalRows:
    return open_rows(dataset, seed=1, per_user=30, count=20)


def test_an_epoch_holds_every_user_of_every_family_and_every_review_once(data: PersonalRows, dataset: Dataset) -> None:
    rows = data.train(0)
    by_family = {name: np.array([one in family(name).templates for one in rows.names()]) for name in data.families}
    trained = np.array([(data.found.split[data.found.user == user] == 0).sum() for user in range(7)])
    for name, least in (("sequential", 1), ("direct", 0)):
        counts = np.bincount(rows.user[by_family[name]], minlength=7)
        np.testing.assert_array_equal(counts, 30 * (trained > least))
    reviews = rows.review[by_family["explanation"]]
    stored = [row for row in dataset.rows("reviews") if row["feature"]]
    expected = [k for k, row in enumerate(stored) if row["split_loo"] == "train"]
    assert sorted(reviews.tolist()) == expected
    assert (rows.review[~by_family["explanation"]] == -1).all()
    assert set(rows.names()) == set(names()) - {"A-9", "B-8", "C-12"}
    shares = Counter(one for epoch in range(10) for one in data.train(epoch).names() if one.startswith("A"))
    assert min(shares.values()) > 0.7 * max(shares.values())


def test_a_family_can_be_asked_more_often_than_another(dataset: Dataset) -> None:
    rows = open_rows(dataset, seed=1, per_user={"sequential": 7}, count=20).train(0)
    asked = [name[0] for name in rows.names()]
    trained = open_rows(dataset, seed=1, per_user=1, count=20).train(0)
    once = [name[0] for name in trained.names()]
    assert asked.count("A") == 7 * once.count("A")
    assert (asked.count("B"), asked.count("C")) == (once.count("B"), once.count("C"))
    more = open_rows(dataset, seed=1, per_user={"explanation": 3}, count=20).train(0)
    assert Counter(more.review[more.review >= 0].tolist()) == {k: 3 for k in trained.review.tolist() if k >= 0}


def test_a_review_without_a_word_explains_nothing_and_is_counted(tmp_path: Path) -> None:
    data = shop(tmp_path / "shop", [5, 6, 7, 8] * 4, items=40)
    tables = {name: list(data.rows(name)) for name in data.tables}
    silent = [number for number, row in enumerate(tables["reviews"]) if row["feature"] and row["split_loo"] == "test"]
    tables["reviews"][silent[0]]["text"] = "!!! :)"
    before, after = open_rows(data), open_rows(write_dataset(tmp_path / "changed", tables))
    assert len(after.held_out("C-3", "test")) == len(before.held_out("C-3", "test")) - 1
    assert (before.left_out("test"), after.left_out("test")) == ({}, {"review-without-words": 1})
    assert after.left_out("train") == {}


def test_epochs_differ_and_are_repeatable(data: PersonalRows, dataset: Dataset) -> None:
    first, again, other = data.train(0), open_rows(dataset, 1, 30, 20).train(0), data.train(1)
    for name in first.__dataclass_fields__:
        np.testing.assert_array_equal(getattr(first, name), getattr(again, name))
    assert not np.array_equal(first.template, other.template)
    assert not np.array_equal(first.lists, other.lists)
    assert not np.array_equal(first.template, open_rows(dataset, 2, 30, 20).train(0).template)


def test_no_prompt_shows_its_own_target_or_what_is_held_out(data: PersonalRows) -> None:
    """Found again from what a prompt is filled with, not from the columns."""
    held = {
        (user, item): code
        for user, item, code in zip(data.found.user.tolist(), data.found.item.tolist(), data.found.split, strict=True)
    }
    asked = [("train", data.train(0)), ("valid", data.held_out("A-3", "valid")), ("test", data.held_out("A-9", "test"))]
    for split, rows in asked:
        events = rows.place >= 0
        finding = leaks.prompt_order(rows.begin[events], rows.end[events], rows.place[events], data.found.split)
        assert finding.passed
        assert finding.checked >= 5
        for at in np.flatnonzero(events):
            fields = data.fields(rows, int(at))
            if "history" in template(rows.names()[at]).slots and fields.liked:
                assert fields.item not in fields.history
            most = {"train": 0, "valid": 0, "test": 1}[split]
            assert all(held[fields.user, code] <= most for code in fields.history)
            if split == "train" and fields.liked:
                assert held[fields.user, fields.item] == 0
        for user in set(rows.user[rows.review >= 0].tolist()) if split == "train" else ():
            assert (data.reviews.split[rows.review[(rows.review >= 0) & (rows.user == user)]] == 0).all()


def test_verdicts_are_half_yes_and_no_is_said_of_what_a_user_never_had(data: PersonalRows) -> None:
    rows = data.train(0)
    verdict = np.array([template(name).answer == "{verdict}" for name in rows.names()])
    assert rows.liked[~verdict].all()
    assert 0.4 < rows.liked[verdict].mean() < 0.6
    no = verdict & ~rows.liked
    assert not data.found.seen(rows.user[no], rows.item[no], 1).any()
    assert data.found.seen(rows.user[~no], rows.item[~no], 1)[rows.place[~no] >= 0].all()


def test_lists_hold_the_answer_among_items_never_had(data: PersonalRows) -> None:
    lists = data.candidates("test")
    np.testing.assert_array_equal(lists, data.candidates("test"))
    for rows in (data.train(0), data.held_out("B-5", "test", lists), data.held_out("B-8", "test", lists)):
        for at in np.flatnonzero(rows.candidates >= 0):
            fields = data.fields(rows, int(at))
            assert len(set(fields.candidates)) == 20
            assert fields.item in fields.candidates
        listed = np.array(["candidates" in template(name).slots for name in rows.names()])
        np.testing.assert_array_equal(rows.candidates >= 0, listed)
    held = data.held_out("B-5", "test", lists)
    np.testing.assert_array_equal(held.lists[held.candidates], lists)
    with pytest.raises(DataError, match="B-5 asks 5 rows of test with candidates, and none are given"):
        data.held_out("B-5", "test")
    with pytest.raises(DataError, match="and 3 are given"):
        data.held_out("B-5", "test", lists[:3])


def test_held_out_rows_ask_every_user_by_the_one_template(data: PersonalRows, dataset: Dataset) -> None:
    test = {row["user"]: row["item"] for row in dataset.rows("events") if row["split_loo"] == "test"}
    rows = data.held_out("A-3", "test")
    assert set(rows.names()) == {"A-3"}
    told = {data.found.users[user]: data.found.items[item] for user, item in zip(rows.user, rows.item, strict=True)}
    assert told == test
    twice = data.held_out("A-7", "valid")
    assert len(twice) == 2 * len(test)
    assert twice.liked.sum() == len(test)
    explained = data.held_out("C-12", "test")
    stored = [row for row in dataset.rows("reviews") if row["feature"] and row["split_loo"] == "test"]
    fields = [data.fields(explained, at) for at in range(len(explained))]
    assert [(one.text, one.feature, one.stars) for one in fields] == [(r["text"], "mint", r["stars"]) for r in stored]
    with_headline = data.held_out("C-2", "train")
    assert len(with_headline) == sum(
        bool(row["headline"] and row["feature"]) for row in dataset.rows("reviews") if row["split_loo"] == "train"
    )


def test_every_row_of_an_epoch_becomes_a_prompt(data: PersonalRows, dataset: Dataset) -> None:
    called = directory(dataset, data.found, numbers(dataset.table("items")["number"].to_numpy()))
    splicer = PersonalSplicer(t5_tokenizer(), called)
    rows = data.train(0)
    for at, name in enumerate(rows.names()):
        prompt = splicer.encode(name, data.fields(rows, at))
        assert prompt.cut == 0
        assert len(prompt.target) > 1


def test_users_are_called_by_a_permutation_and_their_names(data: PersonalRows, dataset: Dataset) -> None:
    called = directory(dataset, data.found, permuted(data.found.items, 4), seed=0)
    assert sorted(called.users) == sorted(f"user_{number}" for number in range(7))
    assert called.users != directory(dataset, data.found, [], seed=1).users
    assert called.names[data.found.users.index("u0")] == "ana"
    assert set(called.names) == {"ana", ""}
    assert called.titles[3] == "thing 3"


def test_stars_are_jittered_within_their_band_in_training_alone(data: PersonalRows) -> None:
    stars = np.repeat(np.arange(1, 6), 4000).astype(float)
    drawn = jittered(stars, np.random.default_rng(0))
    for star, (low, high) in enumerate(BANDS, start=1):
        own = drawn[stars == star]
        assert low <= own.min() < own.max() <= high
        assert abs(own.mean() - (low + high) / 2) < 0.02
        assert set(np.round(own * 10) / 10) == set(own)
    assert (jittered(np.round(drawn), np.random.default_rng(1)) > 0).all()
    rows = joined([data.train(epoch) for epoch in range(20)])
    told = np.array([template(name).answer.startswith("{stars}") for name in rows.names()])
    review = rows.review >= 0
    assert (rows.stars[review & ~told] % 1 == 0).all()
    assert (rows.stars[told] % 1 != 0).any()
    held = data.held_out("C-7", "train")
    assert (held.stars % 1 == 0).all()


def test_a_dataset_without_reviews_has_two_families(tmp_path: Path, dataset: Dataset) -> None:
    tables = {name: dataset.rows(name) for name in ("items", "events")}
    bare = open_rows(write_dataset(tmp_path / "bare", tables), count=20)
    assert bare.families == ("sequential", "direct")
    assert len(bare.train(0)) == 5 * 5 + 5 * 7, "five users have two events that train"
    with pytest.raises(DataError, match="family 'explanation' has no row to train on"):
        replace(bare, families=("explanation",)).train(0)


def test_reviewers_without_events_have_a_code_of_their_own(tmp_path: Path, dataset: Dataset) -> None:
    tables = {name: dataset.rows(name) for name in ("items", "events", "reviews")}
    stranger = {**tables["reviews"][1], "user": "stranger", "feature": "mint", "split_loo": "train"}
    data = open_rows(write_dataset(tmp_path / "more", {**tables, "reviews": [*tables["reviews"], stranger]}), count=20)
    rows = data.train(0)
    assert data.found.users[-1] == "stranger"
    assert {rows.names()[at][0] for at in np.flatnonzero(rows.user == 7)} == {"C"}
    assert data.fields(rows, int(np.flatnonzero(rows.user == 7)[0])).history == []
    assert len(data.held_out("A-3", "test")) == 5

"""Histories and targets by columns, against a plain loop over users."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_shop import events, shop

from latefuse.data import leaks
from latefuse.data.dataset import write_dataset
from latefuse.data.errors import DataError
from latefuse.data.histories import Histories, histories, sampled, targets

LENGTHS = [9, 1, 2, 3, 30, 4, 12]


def plain(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """The events of each user in order of time; within a second the less held-out ones first."""
    by_user = defaultdict(list)
    for row in rows:
        by_user[row["user"]].append(row)
    order = {"train": 0, "valid": 1, "test": 2}
    return {user: sorted(part, key=lambda row: (row["ts"], order[row["split_loo"]])) for user, part in by_user.items()}


@pytest.fixture(params=[False, True], ids=["once", "again"])
def found(request: Any, tmp_path: Path) -> tuple[Histories, list[dict[str, Any]]]:
    dataset = shop(tmp_path, LENGTHS, again=request.param)
    return histories(dataset), dataset.rows("events")


@pytest.mark.parametrize("split", ["train", "valid", "test"])
@pytest.mark.parametrize("least", [0, 1, 3])
def test_targets_equal_a_plain_loop(found: Any, split: str, least: int) -> None:
    data, rows = found
    order = ("train", "valid", "test")
    expected = []
    for user, part in plain(rows).items():
        for at, row in enumerate(part):
            less = [r["item"] for r in part[:at] if r["split_loo"] in order[: max(1, order.index(split))]]
            if row["split_loo"] == split and len(less) >= least:
                expected.append((user, row["item"], less, row["item"] in less))
    asked = targets(data, split, least)
    assert [
        (
            data.users[asked.user[k]],
            data.items[asked.item[k]],
            [data.items[code] for code in data.item[asked.begin[k] : asked.end[k]]],
            bool(asked.again[k]),
        )
        for k in range(len(asked))
    ] == sorted(expected, key=lambda row: data.users.index(row[0]))
    assert leaks.prompt_order(asked.begin, asked.end, asked.place, data.split).passed


def test_users_with_fewer_than_three_events_only_train(found: Any) -> None:
    data, _ = found
    held = {data.users[user] for user in targets(data, "test").user}
    assert held == {f"u{k}" for k, length in enumerate(LENGTHS) if length >= 3}


def test_an_epoch_takes_every_user_alike_and_is_drawn_anew(found: Any) -> None:
    data, _ = found
    for least in (0, 1):
        epochs = [sampled(data, 40, 3, epoch, least) for epoch in (0, 0, 1)]
        np.testing.assert_array_equal(epochs[0].place, epochs[1].place)
        assert not np.array_equal(epochs[0].place, epochs[2].place)
        trained = np.array([(data.split[data.user == user] == 0).sum() for user in range(len(data.users))])
        np.testing.assert_array_equal(np.bincount(epochs[0].user, minlength=7), 40 * (trained > least))
        for drawn in epochs:
            assert (data.split[drawn.place] == 0).all()
            assert (drawn.end - drawn.begin >= least).all()
            assert leaks.prompt_order(drawn.begin, drawn.end, drawn.place, data.split).passed
    long = sampled(data, 4000, 0, 0)
    counts = np.bincount(long.place[data.users.index("u4") == long.user] - data.start[data.users.index("u4")])
    assert counts[0] == 0
    assert len(counts) == 28, "30 events, of which two are held out"
    assert 90 < counts[1:].min() <= counts[1:].max() < 210, "uniform over the places of the training history"


def test_the_probe_of_prompts_finds_what_must_not_be_shown(found: Any) -> None:
    data, _ = found
    for split in ("valid", "test"):
        asked = targets(data, split)
        late = leaks.prompt_order(asked.begin, asked.place + 1, asked.place, data.split)
        assert (late.passed, late.found) == (False, len(asked))
    train = targets(data, "train")
    assert leaks.prompt_order(train.begin, train.place + 1, train.place, data.split).found == len(train)
    valid, test = targets(data, "valid"), targets(data, "test")
    other = leaks.prompt_order(valid.begin, test.end, test.place, data.split)
    assert other.passed, "a test row may know the valid one"
    assert leaks.prompt_order(valid.begin, test.end, valid.place, data.split).found == len(valid)


def test_what_a_user_had_before_a_split(found: Any) -> None:
    data, rows = found
    order = ("train", "valid", "test")
    had = {(row["user"], row["item"], row["split_loo"]) for row in rows}
    user, item = (grid.ravel() for grid in np.meshgrid(np.arange(7), np.arange(60), indexing="ij"))
    for below in (1, 2, 3):
        expected = [
            any((data.users[u], data.items[i], name) in had for name in order[:below])
            for u, i in zip(user, item, strict=True)
        ]
        assert data.seen(user, item, below).tolist() == expected


def test_histories_that_can_not_be_are_errors(tmp_path: Path) -> None:
    items = [{"id": f"i{k}"} for k in range(5)]
    rows = [{"user": "u", "item": f"i{k}", "ts": k} for k in range(3)]
    later = [{**row, "split_loo": split} for row, split in zip(rows, ("train", "test", "train"), strict=True)]
    with pytest.raises(DataError, match="user 'u' has a row of split_loo=train after one that is test"):
        histories(write_dataset(tmp_path / "later", {"items": items, "events": later}))
    with pytest.raises(DataError, match=r"1 events have no split_loo"):
        histories(write_dataset(tmp_path / "none", {"items": items, "events": [*rows, {**rows[0], "split_loo": None}]}))
    with pytest.raises(DataError, match="the table events has no row"):
        histories(write_dataset(tmp_path / "empty", {"items": items, "events": []}))
    with pytest.raises(DataError, match="'i9' is not in the table items"):
        histories(write_dataset(tmp_path / "dangling", {"items": items, "events": [{**rows[0], "item": "i9"}]}))


def test_half_a_million_events_take_no_loop_over_users() -> None:
    import time

    rng = np.random.default_rng(0)
    user = np.sort(rng.integers(0, 50_000, 500_000))
    start = np.concatenate([[0], np.cumsum(np.bincount(user, minlength=50_000))])
    last = np.append(user[1:] != user[:-1], True)
    split = np.where(last, 2, 0).astype(np.int8)
    data = Histories(
        [str(k) for k in range(50_000)], [str(k) for k in range(2_000)], start, user,
        rng.integers(0, 2_000, 500_000).astype(np.int32), np.arange(500_000), split,
    )  # fmt: skip
    began = time.process_time()
    assert len(targets(data, "test")) > 49_000
    assert len(sampled(data, 5, 0, 0)) > 200_000
    assert time.process_time() - began < 5


def test_rows_of_small_shops_are_split_as_prepare_does() -> None:
    rows = events([5], 9)
    assert sorted(row["split_loo"] for row in rows) == ["test", "train", "train", "train", "valid"]

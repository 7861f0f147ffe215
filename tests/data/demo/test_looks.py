"""Where behaviour follows looks, the picture decides which dishes are seen together, and nothing else tells it."""

from __future__ import annotations

import json
import math
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from latefuse.config_data import Data
from latefuse.config_vectors import Mining
from latefuse.data import mining
from latefuse.data.dataset import Dataset
from latefuse.data.demo import looks, world
from latefuse.data.demo.oracle import same_look
from latefuse.data.errors import DataError
from latefuse.steps import prepare
from latefuse.tracking import Null


@pytest.fixture(scope="module")
def menu() -> list[world.Dish]:
    return world.dishes(900, 7)


def test_a_user_sees_four_to_eight_dishes_of_one_look_within_days(menu: list[world.Dish]) -> None:
    of = {dish.id: looks.look(vars(dish)) for dish in menu}
    there = Counter(of.values())
    shared = sum(count > 1 for count in there.values())
    seen = defaultdict(list)
    for event in looks.visits(menu, 3 * shared + 5, 3):
        assert event["kind"] == "view"
        seen[event["user"]].append(event)
    users = Counter()
    for events in seen.values():
        dishes = [event["item"] for event in events]
        (loved,) = {of[dish] for dish in dishes}
        users[loved] += 1
        assert len(set(dishes)) == len(dishes)
        assert min(4, there[loved]) <= len(dishes) <= min(8, there[loved])
        times = [event["ts"] for event in events]
        assert times == sorted(set(times))
        assert times[-1] - times[0] <= 4 * 86_400
    assert (len(users), sum(users.values()), set(users.values())) == (shared, 3 * shared + 5, {3, 4})


def test_visits_are_repeatable_and_hang_on_the_seed(menu: list[world.Dish]) -> None:
    first = list(looks.visits(menu, 20, 1))
    assert list(looks.visits(menu, 20, 1)) == first
    assert list(looks.visits(menu, 20, 2)) != first
    assert list(looks.visits(menu, 30, 1))[: len(first)] == first


def test_the_words_of_dishes_seen_together_agree_no_more_than_by_chance(tmp_path: Path) -> None:
    menu = world.dishes(2400, 7)
    number = {dish.id: k for k, dish in enumerate(menu)}
    rows = [(int(e["user"][5:]), number[e["item"]], e["ts"]) for e in looks.visits(menu, 1200, 7)]
    frame = pl.DataFrame(rows, schema={"user": pl.Int32, "item": pl.Int32, "ts": pl.Int64}, orient="row")
    mined = mining.mine([frame], len(rows), Mining(), tmp_path).pairs
    pairs = {tuple(sorted((a, b))) for a, b, _ in mined.rows()}
    assert len(pairs) > 5_000
    assert all(looks.look(vars(menu[a])) == looks.look(vars(menu[b])) for a, b in pairs)
    for part in ("origin", "allergens", "main", "technique"):
        counts = Counter(getattr(dish, part) for dish in menu)
        chance = sum(count * (count - 1) for count in counts.values()) / (len(menu) * (len(menu) - 1))
        agree = sum(getattr(menu[a], part) == getattr(menu[b], part) for a, b in pairs) / len(pairs)
        assert abs(agree - chance) < 4 * math.sqrt(chance * (1 - chance) / len(pairs)), part


def test_dishes_that_all_look_different_are_an_error(menu: list[world.Dish]) -> None:
    different = list({looks.look(vars(dish)): dish for dish in menu}.values())
    with pytest.raises(DataError, match=r"data\.options\.dishes: no two of \d+ dishes look alike"):
        list(looks.visits(different, 3, 0))
    with pytest.raises(DataError, match="no planted 'garnish'"):
        looks.look({"colour": "jade"})


def test_the_prepared_probe_can_be_judged_from_the_dataset_alone(tmp_path: Path) -> None:
    options = {"dishes": 150, "pictures": 1, "users": 60, "clips": False, "visits": "look"}
    prepare.run(Data(source="demo", options=options, pairs=Mining()), tmp_path / "out", Null())
    data = Dataset(tmp_path / "out")
    assert "reviews" not in data.tables
    items = data.rows("items")
    assert all(len(row["images"]) == 1 and row["videos"] == [] for row in items)
    assert {row["modality"] for row in data.rows("conversations")} == {"image", "text"}
    codes = same_look(items)
    of = {row["id"]: int(code) for row, code in zip(items, codes, strict=True)}
    pairs = data.rows("pairs")
    assert len(pairs) >= 40
    assert all(of[row["a"]] == of[row["b"]] for row in pairs)
    planted = [json.loads(row["attributes"]) for row in items]
    alike = np.array([[looks.look(one) == looks.look(other) for other in planted] for one in planted])
    assert np.array_equal(codes[:, None] == codes[None, :], alike)
    assert np.array_equal(same_look([{"attributes": one} for one in planted]), codes)

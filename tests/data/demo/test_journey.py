"""A journey follows its rule, the oracle knows the chances, and nothing cheaper tells what comes next."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latefuse.config_data import Data
from latefuse.data.dataset import Dataset
from latefuse.data.demo import feed, journey, looks, oracle, users, world
from latefuse.data.errors import DataError
from latefuse.steps import prepare
from latefuse.tracking import Null


@pytest.fixture(scope="module")
def menu() -> list[world.Dish]:
    return world.dishes(480, 7)


Visits = list[tuple[dict[str, Any], dict[str, Any] | None]]


@pytest.fixture(scope="module")
def visits(menu: list[world.Dish]) -> Visits:
    return list(journey.visits(menu, 1500, 3))


def by_user(visits: Visits) -> dict[str, list[str]]:
    dishes = defaultdict(list)
    for event, _ in visits:
        dishes[event["user"]].append(event["item"])
    return dishes


def test_a_user_keeps_to_an_origin_and_goes_round_the_colours(menu: list[world.Dish], visits: Visits) -> None:
    of = {dish.id: dish for dish in menu}
    origin = {one.id: one.origin for one in journey.travellers(1500, 3)}
    follows = stays = steps = 0
    for user, dishes in by_user(visits).items():
        assert journey.LEAST <= len(dishes) == len(set(dishes)) <= journey.MOST
        for before, now in pairwise(dishes):
            steps += 1
            stays += of[now].origin == origin[user]
            follows += journey.CYCLE.index(of[now].colour) == (journey.CYCLE.index(of[before].colour) + 1) % 8
    by_plan = 1 - journey.BY_CHANCE
    assert abs(stays / steps - (by_plan + journey.BY_CHANCE / 6)) < 0.01
    assert abs(follows / steps - (by_plan + journey.BY_CHANCE / 8)) < 0.01
    for user in ("user-0000", "user-0713"):
        times = [event["ts"] for event, _ in visits if event["user"] == user]
        assert times == sorted(set(times))


def last_steps(menu: list[world.Dish], visits: Visits) -> tuple[np.ndarray, np.ndarray]:
    """The chances of every user's last dish, and which it was."""
    code = {dish.id: number for number, dish in enumerate(menu)}
    origin = {one.id: one.origin for one in journey.travellers(1500, 3)}
    histories = {user: [code[dish] for dish in dishes] for user, dishes in by_user(visits).items()}
    seen = np.zeros((len(histories), len(menu)), bool)
    for row, dishes in enumerate(histories.values()):
        seen[row, dishes[:-1]] = True
    last = [menu[dishes[-2]].colour for dishes in histories.values()]
    origins, colours = [dish.origin for dish in menu], [dish.colour for dish in menu]
    found = journey.chances(origins, colours, [origin[user] for user in histories], last, seen)
    return found, np.array([dishes[-1] for dishes in histories.values()])


def test_chances_are_those_of_the_generator(menu: list[world.Dish], visits: Visits) -> None:
    """They sum to one, and the dishes that came are as likely as they say: HR@k of the oracle is known beforehand."""
    found, came = last_steps(menu, visits)
    np.testing.assert_allclose(found.sum(1), 1)
    rank = (found > found[np.arange(len(came)), came][:, None]).sum(1)
    ties = (found == found[np.arange(len(came)), came][:, None]).sum(1)
    for k in (1, 5, 10):
        hits = np.clip((k - rank) / ties, 0, 1).mean()
        assert abs(hits - journey.hit_rate(found, k)) < 4 * np.sqrt(0.25 / len(came)), k
    assert 0.7 < journey.hit_rate(found, 10) < 0.95
    expected = np.log(np.where(found > 0, found, 1)) * found
    spread = np.sqrt((np.log(found, where=found > 0, out=np.zeros_like(found)) ** 2 * found).sum(1).mean() / len(came))
    assert abs(np.log(found[np.arange(len(came)), came]).mean() - expected.sum(1).mean()) < 4 * spread


def test_popularity_and_company_tell_little(menu: list[world.Dish], visits: Visits) -> None:
    """Popular dishes hit hardly more than chance; dishes of the user's origin alone hit much less than the oracle."""
    found, came = last_steps(menu, visits)
    code = {dish.id: number for number, dish in enumerate(menu)}
    popular = [code[dish] for dish, _ in Counter(event["item"] for event, _ in visits).most_common(10)]
    assert np.isin(came, popular).mean() < 0.06
    origins = np.array([dish.origin for dish in menu])
    of_origin = [10 / (origins == origins[dish]).sum() for dish in came]
    assert np.mean(of_origin) < 0.2 < 0.7 < journey.hit_rate(found, 10)


def test_chances_where_nothing_fits_or_nothing_is_left() -> None:
    seen = np.array([[True, False, False], [True, True, True]])
    colours = ["crimson", "amber", "jade"]
    found = journey.chances(["andean"] * 3, colours, ["tuscan", "andean"], ["crimson", "crimson"], seen)
    assert found.tolist() == [[0, 0.5, 0.5], [0, 0, 0]]
    seen[0] = False
    found = journey.chances(["andean"] * 3, colours, ["andean", "andean"], ["crimson", "ivory"], seen)
    np.testing.assert_allclose(found[0], [0.1 / 3, 0.9 + 0.1 / 3, 0.1 / 3])


def test_a_review_names_what_its_user_notices(menu: list[world.Dish], visits: Visits) -> None:
    of = {dish.id: dish for dish in menu}
    travellers = {one.id: one for one in journey.travellers(1500, 3)}
    reviews = [review for _, review in visits if review]
    assert abs(len(reviews) / len(visits) - journey.REVIEWED) < 0.02
    for review in reviews:
        feature = getattr(of[review["item"]], travellers[review["user"]].notices)
        assert review["feature"] == feature
        assert feature in review["text"].split()
        assert travellers[review["user"]].notices in review["headline"]
    assert {travellers[review["user"]].notices for review in reviews} == {"colour", "garnish", "main", "plating"}
    assert {review["stars"] for review in reviews} == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_menu_of_few_dishes_is_walked_to_its_end() -> None:
    few = world.dishes(24, 7)[:5]
    assert all(len(dishes) == 5 for dishes in by_user(list(journey.visits(few, 20, 1))).values())
    assert list(journey.visits(few, 4, 1)) == list(journey.visits(few, 20, 1))[:20]


def test_other_behaviour_is_what_it_was(menu: list[world.Dish]) -> None:
    """Datasets that others have made keep their fingerprints."""
    people = users.users(20, 7)
    streams = {
        "taste": users.behaviour(people, menu, 7),
        "look": looks.visits(menu, 20, 7),
        "feed": feed.shown(menu, 5, 60, 7),
    }
    digests = {name: hashlib.sha256(json.dumps(list(rows)).encode()).hexdigest()[:12] for name, rows in streams.items()}
    assert digests == {"taste": "60a67cbdfc0f", "look": "f18de6a1b214", "feed": "4d2ed5ce2932"}


def test_the_prepared_journey_has_names_and_an_oracle(tmp_path: Path) -> None:
    options = {"dishes": 120, "pictures": 1, "users": 40, "clips": False, "visits": "journey", "judgements": 0}
    data = Data(source="demo", options=options, splits={"scheme": "loo"})
    result = prepare.run(data, tmp_path / "out", Null())
    dataset = Dataset(tmp_path / "out")
    assert result["leaks"] == []
    assert dataset.rows("users")[3]["name"] == journey.travellers(40, 7)[3].name
    people = [row["id"] for row in dataset.rows("users")]
    code = {row["id"]: number for number, row in enumerate(dataset.rows("items"))}
    rows = dataset.rows("events")
    test = {row["user"]: code[row["item"]] for row in rows if row["split_loo"] == "test"}
    last = np.array(
        [next(code[r["item"]] for r in rows if r["user"] == user and r["split_loo"] == "valid") for user in people]
    )
    seen = np.zeros((40, 120), bool)
    for row in rows:
        if row["split_loo"] != "test":
            seen[people.index(row["user"]), code[row["item"]]] = True
    found = oracle.next_dish(dataset, people, last, seen)
    truth = np.array([test[user] for user in people])
    assert found[np.arange(40), truth].mean() > 20 / 120
    with pytest.raises(DataError, match="user 'nobody' has no planted 'origin'"):
        oracle.next_dish(dataset, ["nobody"], last[:1], seen[:1])

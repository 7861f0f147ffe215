"""The rows of personalised recommendation: which template asks what of whom, by columns, and the fields of one row.

Rows of three families (VIP5, arXiv 2305.14302): what comes next after a history, what suits a user, why. What trains is
drawn anew each epoch by the seed; what is measured never changes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from latefuse.data import candidates, histories, splits
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.histories import Array, Histories, Targets
from latefuse.data.schema import SPLITS
from latefuse.prompts.personal import FAMILIES, Directory, Fields, family, family_of, names, template
from latefuse.prompts.personal.template import Family

BANDS = ((1.0, 1.4), (1.5, 2.4), (2.5, 3.4), (3.5, 4.4), (4.5, 5.0))
"""What stars may become where they are written before an explanation in training: a number of their own band."""
NONE = -1
WORD = r"[\pL\pN]"
"""What a text has that says anything: a letter or a digit."""


@dataclass(frozen=True)
class Reviews:
    """Reviews that have a text and name a feature. r rows, in stored order.

    split: (r,) by leave-one-out. words: headline, feature and text. fits: template -> (r,) bool, whether a review has
    all that the template shows.
    """

    user: Array
    item: Array
    stars: Array
    split: Array
    words: pa.Table
    fits: dict[str, Array]


@dataclass(frozen=True)
class Rows:
    """n rows. template: (n,) places in `prompts.personal.names()`. user, item: (n,) codes; item is the answer, or what
    is asked about. begin, end: (n,) the history is item[begin:end] of the events. place: (n,) of the target among the
    events, -1 for explanations. liked: (n,) bool, the verdict. review: (n,) row of the reviews, -1 for none. stars:
    (n,) as they are written. candidates: (n,) row of `lists`, -1 for none; lists: (c, count) item codes.
    """

    template: Array
    user: Array
    item: Array
    begin: Array
    end: Array
    place: Array
    liked: Array
    review: Array
    stars: Array
    candidates: Array
    lists: Array

    def __len__(self) -> int:
        return len(self.template)

    def names(self) -> list[str]:
        """The template of each row."""
        known = names()
        return [known[one] for one in self.template]

    def take(self, numbers: Array) -> Rows:
        """Some of the rows, in the order asked for; the lists stay whole."""
        columns = {name: getattr(self, name)[numbers] for name in Rows.__dataclass_fields__ if name != "lists"}
        return Rows(**columns, lists=self.lists)


@dataclass(frozen=True)
class PersonalRows:
    """All that rows are drawn from. `open_rows` makes one.

    per_user: how often an epoch takes each user, in each family of events or by family; of explanations, how often each
    review. count: candidates of a list.
    """

    found: Histories
    reviews: Reviews
    seed: int = 0
    per_user: int | Mapping[Any, int] = 5
    count: int = 100
    families: tuple[Family, ...] = FAMILIES

    def train(self, epoch: int) -> Rows:
        """The rows of an epoch: `per_user` of each user and family, every review once unless told; a template each.

        Raises DataError where a family has no row to train on.
        """
        parts = []
        for number, name in enumerate(self.families):
            rng = np.random.default_rng([self.seed, epoch, number, 3])
            rows = self._train_explanation(rng) if name == "explanation" else self._train_events(name, epoch, rng)
            if not len(rows):
                raise DataError(
                    f"family {name!r} has no row to train on; leave it out, or look at split_loo and reviews"
                )
            parts.append(rows)
        return joined(parts)

    def held_out(self, name: str, split: str, lists: Array | None = None) -> Rows:
        """The rows of a held-out split by one template, in stored order of users or reviews.

        lists: (m, count) the stored candidates (`candidates`) where the template shows some. A template that asks for
        yes or no is asked twice: of the item, and of one that the user never had.
        """
        part, asked = family_of(name), template(name)
        if part == "explanation":
            rows = np.flatnonzero((self.reviews.split == SPLITS.index(split)) & self.reviews.fits[name])
            return self._explained(np.full(len(rows), _number(name)), rows, self.reviews.stars[rows])
        at = self.asked(split, part)
        numbers = np.full(len(at), _number(name))
        if asked.answer == "{verdict}":
            other = candidates.negatives(self.found, at.user, at.item, split, 1, [self.seed, SPLITS.index(split), 2])
            return joined([_rows(numbers, at, liked=True), _rows(numbers, at, item=other[:, 0], liked=False)])
        if "candidates" not in asked.slots:
            return _rows(numbers, at)
        if lists is None or len(lists) != len(at):
            told = "none" if lists is None else f"{len(lists):,}"
            raise DataError(f"{name} asks {len(at):,} rows of {split} with candidates, and {told} are given")
        return _rows(numbers, at, lists=lists)

    def asked(self, split: str, part: str) -> Targets:
        """The targets of a held-out split. A sequential row needs a history of one item, a direct one none."""
        return histories.targets(self.found, split, least=int(part == "sequential"))

    def left_out(self, split: str) -> dict[str, int]:
        """Reviews of a split that explain nothing, for want of a word."""
        without = (self.reviews.split == SPLITS.index(split)) & ~self.reviews.fits[family("explanation").seen]
        return {"review-without-words": int(without.sum())} if without.any() else {}

    def candidates(self, split: str) -> Array:
        """(m, count) the candidates of the direct rows of a held-out split, to be stored."""
        return candidates.candidates(self.found, self.asked(split, "direct"), split, self.count, self.seed)

    def fields(self, rows: Rows, at: int) -> Fields:
        """What the row fills into its template. The whole history is given: the prompt takes what fits."""
        begin, end, review = int(rows.begin[at]), int(rows.end[at]), int(rows.review[at])
        told = self.reviews.words.slice(review, 1).to_pylist()[0] if review >= 0 else {}
        shown = rows.lists[rows.candidates[at]].tolist() if rows.candidates[at] >= 0 else ()
        user = int(rows.user[at])
        return Fields(
            user, self.found.item[begin:end].tolist(), shown, int(rows.item[at]), bool(rows.liked[at]),
            float(rows.stars[at]), **told, row=f"{names()[rows.template[at]]} of user {self.found.users[user]!r}",
        )  # fmt: skip

    def _often(self, name: Family) -> int:
        if isinstance(self.per_user, int):
            return 1 if name == "explanation" else self.per_user
        return self.per_user.get(name, 1)

    def _train_events(self, name: Family, epoch: int, rng: np.random.Generator) -> Rows:
        """Sequential or direct rows: of templates that ask for a verdict half are about an item never had."""
        least = int(name == "sequential")
        at = histories.sampled(self.found, self._often(name), self.seed, epoch, least)
        known = [_number(one) for one in family(name).trained]
        numbers = rng.choice(known, len(at)) if len(at) else np.zeros(0, np.int64)
        asked = [template(one) for one in names()]
        verdict = np.array([one.answer == "{verdict}" for one in asked])[numbers]
        listed = np.array(["candidates" in one.slots for one in asked])[numbers]
        liked = ~verdict | (rng.random(len(at)) < 0.5)
        item, drawn = at.item.copy(), np.zeros((0, self.count), np.int32)
        if (~liked).any():
            wrong = ~liked
            item[wrong] = candidates.negatives(self.found, at.user[wrong], at.item[wrong], "train", 1, rng)[:, 0]
        if listed.any():
            others = candidates.negatives(self.found, at.user[listed], at.item[listed], "train", self.count - 1, rng)
            drawn = candidates.shuffled(at.item[listed], others, rng)
        places = np.where(listed, np.cumsum(listed) - 1, NONE)
        return _rows(numbers, at, item=item, liked=liked, lists=drawn, places=places)

    def _train_explanation(self, rng: np.random.Generator) -> Rows:
        """Every training review, by a template that it has all words for, each time drawn anew."""
        known = family("explanation").trained
        fits = np.stack([self.reviews.fits[one] for one in known], axis=1) & (self.reviews.split == 0)[:, None]
        rows = np.repeat(np.flatnonzero(fits.any(1)), self._often("explanation"))
        chosen = np.argmax(np.where(fits[rows], rng.random((len(rows), len(known))), -1), axis=1)
        numbers = np.array([_number(one) for one in known])[chosen]
        told = np.array([one.answer.startswith("{stars}") for one in map(template, names())])[numbers]
        stars = self.reviews.stars[rows]
        return self._explained(numbers, rows, np.where(told, jittered(stars, rng), stars))

    def _explained(self, numbers: Array, rows: Array, stars: Array) -> Rows:
        """Explanation rows: no history, no event."""
        none = np.zeros(len(rows), np.int64)
        at = Targets(none - 1, self.reviews.user[rows], self.reviews.item[rows], none, none, none > 0)
        return _rows(numbers, at, review=rows, stars=stars)


def open_rows(
    dataset: Dataset,
    seed: int = 0,
    per_user: int | Mapping[Any, int] = 5,
    count: int = 100,
    families: Sequence[Family] = (),
) -> PersonalRows:
    """What rows are drawn from. families: those that train; by default all that the dataset has rows for.

    Users that wrote reviews and have no event stand behind those that have.
    """
    found = histories.histories(dataset)
    table, user = _written(dataset, found.users)
    added = len(found.start) - 1
    found = replace(found, start=np.pad(found.start, (0, len(found.users) - added), mode="edge"))
    reviews = _reviews(table, user, found)
    has = FAMILIES if len(reviews.user) else FAMILIES[:2]
    return PersonalRows(found, reviews, seed, per_user, count, tuple(families) or has)


def _written(dataset: Dataset, users: list[str]) -> tuple[pa.Table, Array]:
    """The reviews that explain something, and the code of each one's user; new ones go to the end of `users`."""
    columns = ["user", "item", "stars", "headline", "feature", "text", "split_loo"]
    if "reviews" not in dataset.tables:
        return pa.table({name: pa.array([], pa.string()) for name in columns}), np.zeros(0, np.int64)
    table = dataset.table("reviews", columns=columns)
    table = table.filter(pc.and_(pc.not_equal(table["feature"], ""), pc.not_equal(table["text"], ""))).combine_chunks()
    known = {name: code for code, name in enumerate(users)}
    user = histories.codes(table["user"], known)
    users += list(known)[len(users) :]
    return table, user


def _reviews(table: pa.Table, user: Array, found: Histories) -> Reviews:
    items = {name: code for code, name in enumerate(found.items)}
    stars = np.asarray(pc.cast(table["stars"], pa.float64()))
    has = {
        "stars": stars > 0,
        **{name: np.asarray(pc.match_substring_regex(table[name], WORD)) for name in ("headline", "feature", "text")},
    }
    fits = {
        name: np.logical_and.reduce([has[field] for field in one.needs])
        for name, one in family("explanation").templates.items()
    }
    split = pc.fill_null(pc.index_in(table["split_loo"], pa.array(SPLITS)), -1)
    words = table.select(["headline", "feature", "text"])
    return Reviews(user, histories.codes(table["item"], items, "items"), stars, np.asarray(split, np.int8), words, fits)


def directory(dataset: Dataset, found: Histories, ids: Sequence[str], seed: int = 0) -> Directory:
    """What items and users are called. ids: the words of each item's id, in table order (`prompts.personal.ids`).

    A user's word holds a number out of a permutation by the seed, so that it tells nothing of when the user came.
    """
    titles = dataset.table("items", columns=["title"])["title"].to_pylist()
    number = splits.numbers(splits.uniform(found.users, f"user:{seed}"))
    told: dict[str, str] = {}
    if "users" in dataset.tables:
        table = dataset.table("users", columns=["id", "name"])
        told = dict(zip(table["id"].to_pylist(), table["name"].to_pylist(), strict=True))
    called = [told.get(user, "") for user in found.users]
    return Directory(ids, titles, [f"user_{one}" for one in number.tolist()], called)


def jittered(stars: Array, rng: np.random.Generator) -> Array:
    """(n,) stars of 1 to 5 drawn from a normal within their band (its middle, a quarter of its width), to one digit."""
    low, high = np.array(BANDS)[np.clip(np.rint(stars).astype(int), 1, 5) - 1].T
    drawn = rng.normal((low + high) / 2, (high - low) / 4)
    return np.asarray(np.round(np.clip(drawn, low, high), 1))


def joined(parts: Iterable[Rows]) -> Rows:
    """Rows one after the other."""
    parts = list(parts)
    lists = [part.lists for part in parts if len(part.lists)]
    starts = np.cumsum([0, *(len(part.lists) for part in parts)])
    at = [
        np.where(part.candidates >= 0, part.candidates + start, NONE)
        for part, start in zip(parts, starts, strict=False)
    ]
    columns = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in Rows.__dataclass_fields__
        if name not in ("candidates", "lists")
    }
    return Rows(**columns, candidates=np.concatenate(at), lists=np.concatenate(lists) if lists else parts[0].lists)


def _number(name: str) -> int:
    return names().index(name)


def _rows(numbers: Array, at: Targets, **more: Any) -> Rows:
    """Rows of targets. more: item, liked, review, stars, lists and places, which of them a row shows (by default its
    own)."""
    n = len(at)
    lists = more.get("lists", np.zeros((0, 1), np.int32))
    own = np.arange(n) if len(lists) == n else np.full(n, NONE)
    return Rows(
        np.asarray(numbers, np.int16), at.user, more.get("item", at.item), at.begin, at.end, at.place,
        np.broadcast_to(more.get("liked", True), n), more.get("review", np.full(n, NONE)),
        more.get("stars", np.zeros(n)), more.get("places", own), lists,
    )  # fmt: skip

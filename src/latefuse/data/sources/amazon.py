"""Amazon's product reviews of 2014 (McAuley et al. 2015; He and McAuley 2016): items, users, ratings, reviews.

Files as their authors offer them, packed with gzip or not: reviews as JSON lines (`reviews_Beauty_5.json.gz`), metadata
as JSON or Python literals (`meta_Beauty.json.gz`). Pictures lie in a folder, named by asin. What a review explains
comes as JSON lines of one's own (user, item, feature, sentence), never as a pickle.
"""

from __future__ import annotations

import ast
import hashlib
import html
import itertools
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import polars
from pydantic import Field

from latefuse.data.errors import DataError, Refusal
from latefuse.data.sources import Tables
from latefuse.data.sources.cores import core
from latefuse.data.sources.files import Row, below, folder, read_jsonl, sample
from latefuse.data.sources.rows import broken, item
from latefuse.sections import Section, nearest

REVIEW = ("reviewerID", "asin", "overall", "unixReviewTime")
EXPLANATION = ("user", "item", "feature", "sentence")
PICTURES = (".jpg", ".jpeg", ".png", ".webp")
LONGEST = 1_000_000
"""Characters of a line that is read as a Python literal."""


class AmazonOptions(Section):
    """Which files, and which users and items are kept.

    metadata: titles, descriptions, categories; "" for none. pictures: the folder with <asin>.jpg (or .png ...), "" for
    none; nothing is fetched. explanations: JSON lines with user, item, feature and sentence, "" for none; a review that
    has some becomes a row for each, with the sentence as its text; those of a review that is left out go with it.
    names: whether users are called by what they call themselves. needs: items without are left out. limit: that many
    users at most (a uniform choice, the same in every run). core: users and items with fewer reviews are left out,
    again and again until none is left.
    """

    reviews: str
    metadata: str = ""
    pictures: str = ""
    explanations: str = ""
    names: bool = True
    needs: tuple[Literal["picture"], ...] = ()
    limit: int | None = Field(None, ge=1)
    core: int = Field(5, ge=1)


@dataclass(frozen=True)
class _Rating:
    user: str
    item: str
    value: float
    ts: int


class Amazon:
    """Items, users, events of kind "rating" and reviews. The columns of events lie in memory, texts never do."""

    name = "amazon"
    Options = AmazonOptions

    def __init__(self, root: Path, options: AmazonOptions) -> None:
        self.root, self.options = folder(root), options
        _require(below(root, options.reviews), REVIEW)
        if options.metadata:
            _require(below(root, options.metadata), ("asin",))
        if options.explanations:
            _require(below(root, options.explanations), EXPLANATION)
        if options.pictures:
            below(root, options.pictures)
        elif options.needs:
            raise DataError("data.options.needs: a picture is needed, but data.options.pictures names no folder")

    def tables(self) -> Tables:
        """items, events and reviews, and users where they are called by their names."""
        users = {"users": self._users} if self.options.names else {}
        return {"items": self._items, **users, "events": self._events, "reviews": self._reviews}

    def _items(self) -> Iterator[Row]:
        """Every item that is left: those with metadata that can be read first, then the others."""
        left = dict.fromkeys(self._ratings["item"].to_list())
        if self.options.metadata:
            for raw in read_jsonl(below(self.root, self.options.metadata), _literal):
                if "_error" in raw:
                    yield raw
                elif isinstance(raw.get("asin"), str) and raw["asin"] in left:
                    try:
                        yield self._item(raw)
                        left.pop(raw["asin"])
                    except Refusal as refusal:
                        yield broken(raw["_line"], refusal.reason, refusal.detail)
        lines = self._ratings.unique("item", keep="first", maintain_order=True)
        for asin, line in lines.select("item", "line").iter_rows():
            if asin in left:
                yield item(asin, "", line, images=self._picture(asin))

    def _item(self, raw: Row) -> Row:
        title, text, brand = (_words(raw, key) for key in ("title", "description", "brand"))
        paths = raw["categories"] if _is_list(raw.get("categories")) else []
        named = [str(name) for path in paths for name in (path if _is_list(path) else [path])]
        about = {"categories": list(dict.fromkeys(named)), "brand": brand}
        return item(
            raw["asin"], title, raw["_line"], text=text, images=self._picture(raw["asin"]), language="en",
            attributes={key: value for key, value in about.items() if value},
        )  # fmt: skip

    def _users(self) -> Iterator[Row]:
        for user in dict.fromkeys(self._ratings["user"].to_list()):
            yield {"id": user, "name": self._names.get(user, ""), "_line": f"{self.options.reviews} (user {user})"}

    def _events(self) -> Iterator[Row]:
        """In an order that tells nothing: times are days, and the file lies by item, so that of two events of a user on
        one day the order of the file would always name the item with the higher asin as the later one.
        """
        for raw in self._raw():
            if "_error" in raw:
                yield raw
        for user, asin, value, ts, line in self._ratings.iter_rows():
            yield {"user": user, "item": asin, "ts": ts, "kind": "rating", "value": value, "_line": line}

    def _reviews(self) -> Iterator[Row]:
        kept = set(self._ratings["line"].to_list())
        explained = dict[tuple[str, str], list[Row]]()
        for raw in self._explanations():
            if "_error" in raw:
                yield raw
            else:
                explained.setdefault((raw["user"], raw["item"]), []).append(raw)
        found = set[tuple[str, str]]()
        for raw in self._raw():
            if "_error" in raw:
                continue  # it stands among the events
            pair = raw["reviewerID"], raw["asin"]
            found.add(pair)
            if raw["_line"] not in kept:
                continue
            written = {
                "user": pair[0], "item": pair[1], "ts": int(raw["unixReviewTime"]), "stars": raw["overall"],
                "headline": html.unescape(str(raw.get("summary") or "")), "feature": "",
                "text": html.unescape(str(raw.get("reviewText") or "")), "_line": raw["_line"],
            }  # fmt: skip
            if pair not in explained:
                yield written
            for about in explained.get(pair, ()):
                yield {**written, "feature": about["feature"], "text": about["sentence"]}
        for user, asin in explained:
            if (user, asin) not in found:
                for raw in explained[user, asin]:
                    yield broken(raw["_line"], "dangling-reference", f"no review of item {asin!r} by user {user!r}")

    def _explanations(self) -> Iterator[Row]:
        """What reviews explain; a line without one of the four texts as a broken row."""
        if not self.options.explanations:
            return
        for raw in read_jsonl(below(self.root, self.options.explanations)):
            told = [raw.get(key, "") for key in EXPLANATION]
            if "_error" in raw:
                yield raw
            elif not all(isinstance(value, str) for value in told):
                yield broken(raw["_line"], "wrong-type", f"{', '.join(EXPLANATION)} are texts")
            elif not all(told):
                empty = [key for key, value in zip(EXPLANATION, told, strict=True) if not value]
                yield broken(raw["_line"], "missing-value", f"{', '.join(empty)} of an explanation")
            else:
                yield raw

    def _picture(self, asin: str) -> list[str]:
        if not self.options.pictures:
            return []
        named = (f"{self.options.pictures}/{asin}{ending}" for ending in PICTURES)
        return [path for path in named if (self.root / path).exists()][:1]

    def _raw(self) -> Iterator[Row]:
        """The reviews; one without user, item, stars or time as a broken row."""
        for raw in read_jsonl(below(self.root, self.options.reviews), _literal):
            try:
                if "_error" not in raw:
                    _rating(raw)
                yield raw
            except Refusal as refusal:
                yield broken(raw["_line"], refusal.reason, refusal.detail)

    @cached_property
    def _names(self) -> dict[str, str]:
        """What each user was called first."""
        names: dict[str, str] = {}
        for raw in self._raw():
            if "_error" not in raw and isinstance(raw.get("reviewerName"), str) and raw["reviewerName"].strip():
                names.setdefault(raw["reviewerID"], " ".join(html.unescape(raw["reviewerName"]).split()))
        return names

    @cached_property
    def _ratings(self) -> polars.DataFrame:
        """user, item, value, ts, line of the ratings that needs, limit and core leave, ordered by a hash."""
        columns: dict[str, list[Any]] = {name: [] for name in ("user", "item", "value", "ts", "line", "hash")}
        for raw in self._raw():
            if "_error" in raw:
                continue
            one = _rating(raw)
            mixed = hashlib.blake2b(f"{one.user}\0{one.item}\0{one.ts}".encode(), digest_size=8).digest()
            for name, value in {**vars(one), "line": raw["_line"], "hash": int.from_bytes(mixed, "big")}.items():
                columns[name].append(value)
        types = {"value": polars.Float64, "ts": polars.Int64, "hash": polars.UInt64}
        ratings = polars.DataFrame(columns, schema={name: types.get(name, polars.String) for name in columns})
        if self.options.needs:
            pictured = [asin for asin in ratings["item"].unique().to_list() if self._picture(asin)]
            ratings = ratings.filter(polars.col("item").is_in(pictured))
        if self.options.limit is not None:
            users = sample((("", user) for user in ratings["user"].unique().to_list()), self.options.limit)
            ratings = ratings.filter(polars.col("user").is_in(list(users)))
        ratings = core(ratings, self.options.core)
        if not ratings.height:
            raise DataError(f"{self.root}: no review is left under data.options needs, limit and core")
        return ratings.sort("hash", "line").drop("hash")


def _rating(raw: Row) -> _Rating:
    """Who rated what, how and when. Raises Refusal for a row that does not tell."""
    missing = [key for key in REVIEW if raw.get(key) in (None, "")]
    if missing:
        raise Refusal("missing-value", f"{', '.join(missing)} of a review")
    user, asin, stars, ts = (raw[key] for key in REVIEW)
    if not isinstance(user, str) or not isinstance(asin, str) or isinstance(stars, bool) or isinstance(ts, bool):
        raise Refusal("wrong-type", "reviewerID and asin are texts, overall and unixReviewTime numbers")
    if "/" in asin or "\\" in asin or asin in (".", ".."):
        raise Refusal("wrong-type", f"asin {asin!r} is no name of a file")
    try:
        value, moment = float(stars), int(ts)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal("wrong-type", str(error)) from None
    if not math.isfinite(value) or not -(2**63) <= moment < 2**63:
        raise Refusal("wrong-type", f"overall {stars!r}, unixReviewTime {ts!r}")
    return _Rating(user, asin, value, moment)


def _words(raw: Row, key: str) -> str:
    """A text of the metadata, which later versions write as a list of texts. Raises Refusal for anything else."""
    value = raw.get(key) or ""
    parts = value if _is_list(value) else [value]
    if not all(isinstance(part, str) for part in parts):
        raise Refusal("wrong-type", f"{key} is {type(value).__name__}")
    return html.unescape(" ".join(parts)).strip()


def _is_list(value: Any) -> bool:
    return isinstance(value, (list, tuple))


def _literal(text: str) -> Any:
    """A line that is JSON or a Python literal, which is parsed and never run. Raises ValueError."""
    try:
        return json.loads(text)
    except ValueError:
        pass
    if len(text) > LONGEST:
        raise ValueError(f"{len(text):,} characters, more than {LONGEST:,}")
    try:
        value = ast.literal_eval(text.strip())
        json.dumps(value)
        return value
    except (ValueError, SyntaxError, TypeError, MemoryError, RecursionError) as error:
        raise ValueError(f"neither JSON nor a Python literal: {error}") from None


def _require(path: Path, needed: tuple[str, ...]) -> None:
    """Raises DataError where none of the first rows has a key, or where no row can be read."""
    rows = (row for row in read_jsonl(path, _literal) if "_error" not in row)
    found = {key for row in itertools.islice(rows, 100) for key in row if key[:1] != "_"}
    if not found:
        raise DataError(f"{path}: no line of it is a JSON object")
    missing = [f"{key!r}{nearest(key, found)}" for key in needed if key not in found]
    if missing:
        raise DataError(f"{path}: missing key {'; missing key '.join(missing)}")

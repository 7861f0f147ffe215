"""MovieLens (Harper & Konstan 2015) with posters and plots: films as items, ratings as events.

Files as GroupLens writes them (movies.csv, ratings.csv; ml-latest-small, ml-25m, ml-32m), and optionally tags.csv as
reviews, plots.csv (movieId, source, text) and pictures named by movieId.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Literal

import polars

from latefuse.data.errors import DataError
from latefuse.data.sources import Tables
from latefuse.data.sources.cores import core
from latefuse.data.sources.files import Row, below, folder, read, require, sample
from latefuse.data.sources.rows import broken, item, question, words
from latefuse.prompts.render import escape
from latefuse.sections import Section, nearest

NO_GENRES = "(no genres listed)"
_YEAR = re.compile(r"\s*\((\d{4})(?:[-–]\d{0,4})?\)\s*$")


class Questions(Section):
    """What is asked of a poster or, in `plot`, of a plot; {plot} stands for it."""

    poster: str = "Which genres has the film of this poster?"
    plot: str = "Which genres has this film? {plot}"


class MovieLensOptions(Section):
    """Which films and ratings are kept.

    posters: the folder with <movieId>.jpg, "" for none. plots: the file, "" for none; sources: which source goes
    first (empty: the longest text). tags: the file whose tags become reviews of a few words, "" for none. needs: films
    without these are left out. core: users and films with fewer ratings are left out, again and again until none is
    left (k-core). limit: that many films at most (a uniform choice, the same in every run). min_rating: lower ratings
    are left out. topics: the genres asked of the `poster` (image), of the `plot` (text); without any there are
    no conversations. max_plot_words shortens the plot of a question; the item keeps it whole.
    """

    posters: str = "posters"
    plots: str = "plots.csv"
    sources: tuple[str, ...] = ()
    tags: str = ""
    needs: tuple[Literal["poster", "plot"], ...] = ()
    core: int = 0
    min_rating: float = 0.0
    limit: int | None = None
    topics: tuple[Literal["poster", "plot"], ...] = ("poster", "plot")
    questions: Questions = Questions()
    max_plot_words: int | None = None
    language: str = "en"


class MovieLens:
    """Items, events of kind "rating", reviews out of tags, and conversations that ask for the genres, a closed list of
    names.
    """

    name = "movielens"
    Options = MovieLensOptions

    def __init__(self, root: Path, options: MovieLensOptions) -> None:
        self.root, self.options = folder(root), options
        require(below(root, "movies.csv"), ("movieId", "title", "genres"))
        require(below(root, "ratings.csv"), ("userId", "movieId", "rating", "timestamp"))
        if options.plots:
            require(below(root, options.plots), ("movieId", "source", "text"))
        if options.tags:
            require(below(root, options.tags), ("userId", "movieId", "tag", "timestamp"))
        if options.posters:
            below(root, options.posters)
        known = self._plot_sources
        unknown = [f"{name!r}{nearest(name, known)}" for name in options.sources if name not in known]
        if unknown:
            raise DataError(f"data.options.sources: {options.plots} has no source {', '.join(unknown)}")

    def tables(self) -> Tables:
        """items and events, conversations where topics and reviews where tags are asked for."""
        made = {"items": self._items, "events": self._events}
        made |= {"conversations": self._conversations} if self.options.topics else {}
        return {**made, "reviews": self._reviews} if self.options.tags else made

    def _items(self) -> Iterator[Row]:
        if self.options.plots:
            yield from (row for row in read(below(self.root, self.options.plots)) if "_error" in row)
        for row in self._films():
            if "_error" in row:
                yield row
                continue
            yield item(
                row["id"], row["title"], row["_line"], text=row["plot"], images=row["images"],
                attributes={"genres": row["genres"], "year": row["year"]}, language=self.options.language,
            )  # fmt: skip

    def _events(self) -> Iterator[Row]:
        films, users = self._kept
        for row in read(below(self.root, "ratings.csv")):
            if "_error" in row:
                yield row
                continue
            try:
                value, ts = float(row["rating"]), int(row["timestamp"])
            except ValueError as error:
                yield broken(row["_line"], "wrong-type", str(error))
                continue
            known = row["movieId"] in films and (users is None or row["userId"] in users)
            if known and value >= self.options.min_rating:
                yield {
                    "user": row["userId"], "item": row["movieId"], "ts": ts,
                    "kind": "rating", "value": value, "_line": row["_line"],
                }  # fmt: skip

    def _reviews(self) -> Iterator[Row]:
        films, users = self._kept
        for row in read(below(self.root, self.options.tags)):
            if "_error" in row:
                yield row
            elif not row["timestamp"].isdecimal():
                yield broken(
                    row["_line"], "wrong-type", f"timestamp {row['timestamp']!r} is no whole number of seconds"
                )
            elif row["movieId"] in films and (users is None or row["userId"] in users):
                yield {
                    "user": row["userId"], "item": row["movieId"], "ts": int(row["timestamp"]), "text": row["tag"],
                    "_line": row["_line"],
                }  # fmt: skip

    def _conversations(self) -> Iterator[Row]:
        options, ask = self.options, self.options.questions
        for row in self._films():
            if "_error" in row or not row["genres"]:
                continue
            answer = ", ".join(row["genres"])
            truth = {"name": answer, "names": "genres"}
            about = {"topic": "genres", "line": row["_line"], "item": row["id"]}
            if "poster" in options.topics and row["images"]:
                media = [("image", row["images"][0])]
                yield question(f"poster:{row['id']}", ask.poster, answer, media, truth, **about)
            if "plot" in options.topics and row["plot"]:
                asked = ask.plot.replace("{plot}", escape(words(row["plot"], options.max_plot_words)))
                yield question(f"plot:{row['id']}", asked, answer, [], truth, **about)

    def _films(self) -> Iterator[Row]:
        """The films that are kept: id, title, year, genres, plot, images."""
        kept = self._kept[0]
        return (row for row in self._all_films() if "_error" in row or row["id"] in kept)

    def _all_films(self) -> Iterator[Row]:
        for row in read(below(self.root, "movies.csv")):
            if "_error" in row:
                yield row
                continue
            poster = f"{self.options.posters}/{row['movieId']}.jpg"
            year = _YEAR.search(row["title"])
            yield {
                "id": row["movieId"],
                "title": _YEAR.sub("", row["title"]),
                "year": int(year[1]) if year else None,
                "genres": [] if row["genres"] == NO_GENRES else row["genres"].split("|"),
                "plot": self._plots.get(row["movieId"], ""),
                "images": [poster] if self.options.posters and (self.root / poster).exists() else [],
                "_line": row["_line"],
            }

    @cached_property
    def _plot_sources(self) -> list[str]:
        if not self.options.plots:
            return []
        return sorted({row["source"] for row in read(below(self.root, self.options.plots)) if "_error" not in row})

    @cached_property
    def _plots(self) -> dict[str, str]:
        """movieId -> plot; as many as there are films, never as many as ratings."""
        if not self.options.plots:
            return {}
        order = {source: len(self.options.sources) - at for at, source in enumerate(self.options.sources)}
        best: dict[str, tuple[int, int, str]] = {}
        for row in read(below(self.root, self.options.plots)):
            if "_error" in row:
                continue
            text = " ".join(row["text"].split())
            key = (order.get(row["source"], 0), len(text), text)
            if text and key > best.get(row["movieId"], (-1, 0, "")):
                best[row["movieId"]] = key
        return {movie: text for movie, (_, _, text) in best.items()}

    @cached_property
    def _kept(self) -> tuple[frozenset[str], frozenset[str] | None]:
        """The films, and the users (None: all), that survive needs, core and limit."""
        films = [
            row["id"]
            for row in self._all_films()
            if "_error" not in row
            and ("poster" not in self.options.needs or row["images"])
            and ("plot" not in self.options.needs or row["plot"])
        ]
        users: frozenset[str] | None = None
        if self.options.core > 1:
            pairs = core(
                self._pairs().filter(polars.col("movieId").is_in(films)), self.options.core, "userId", "movieId"
            )
            alive = set(pairs["movieId"].unique())
            films, users = [film for film in films if film in alive], frozenset(pairs["userId"].unique())
        if self.options.limit is not None:
            films = sorted(sample((("", film) for film in films), self.options.limit))
        if not films:
            raise DataError(f"{self.root}: no film is left under data.options needs, core and limit")
        return frozenset(films), users

    def _pairs(self) -> polars.DataFrame:
        """(userId, movieId) of every rating that counts, as columns: 25 M ratings stay under 1 GB."""
        path = below(self.root, "ratings.csv")
        try:
            texts = dict.fromkeys(("userId", "movieId", "rating"), polars.String)
            rating = polars.col("rating").cast(polars.Float64, strict=False)
            scan = polars.scan_csv(path, schema_overrides=texts)
            return scan.filter(rating >= self.options.min_rating).select("userId", "movieId").collect()
        except polars.exceptions.PolarsError as error:
            raise DataError(f"{path}: {error}") from None

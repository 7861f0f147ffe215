"""MovieLens files in GroupLens' format, with posters and plots."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.data.errors import DataError

MOVIES = """movieId,title,genres
1,Toy Story (1995),Adventure|Animation
2,"American President, The (1995)",Comedy
3,Babylon 5,(no genres listed)
4,No Poster (2001),Drama
"""
RATINGS = """userId,movieId,rating,timestamp
1,1,4.0,964982703
1,2,0.5,964981247
2,1,5.0,964982224
2,3,abc,964982224
2,4,4.5,964983815
"""
PLOTS = """movieId,source,text
1,omdb,A doll is threatened.
1,tmdb,"Led by Woody, Andy's toys live happily in <image> his room."
2,omdb,A president is in love.
"""


@pytest.fixture
def films(tmp_path: Path, picture: Callable[..., Path]) -> Path:
    for name, text in (("movies", MOVIES), ("ratings", RATINGS), ("plots", PLOTS)):
        (tmp_path / f"{name}.csv").write_bytes(text.replace("\n", "\r\n").encode())
    for movie in (1, 2):
        picture(f"posters/{movie}.jpg")
    return tmp_path


def test_tables(films: Path, collect: Callable[..., Any]) -> None:
    found = collect("movielens")
    toys, president, *_ = found["items"]
    assert (toys["id"], toys["title"], toys["images"]) == ("1", "Toy Story", ["posters/1.jpg"])
    assert json.loads(toys["attributes"]) == {"genres": ["Adventure", "Animation"], "year": 1995}
    assert toys["text"].startswith("Led by Woody"), "the longest plot"
    assert president["title"] == "American President, The"
    assert [row["images"] for row in found["items"][2:]] == [[], []]
    assert json.loads(found["items"][2]["attributes"]) == {"genres": [], "year": None}
    assert [(row["user"], row["item"], row["ts"], row["kind"], row["value"]) for row in found["events"]] == [
        ("1", "1", 964982703, "rating", 4.0),
        ("1", "2", 964981247, "rating", 0.5),
        ("2", "1", 964982224, "rating", 5.0),
        ("2", "4", 964983815, "rating", 4.5),
    ]
    assert found["errors"] == [("events", "ratings.csv:5", "wrong-type")]


def test_conversations(films: Path, collect: Callable[..., Any]) -> None:
    rows = {row["id"]: row for row in collect("movielens", sources=["omdb"])["conversations"]}
    assert sorted(rows) == ["plot:1", "plot:2", "poster:1", "poster:2"]
    assert rows["poster:1"]["media"] == [{"modality": "image", "path": "posters/1.jpg"}]
    assert json.loads(rows["poster:1"]["truth"]) == {"name": "Adventure, Animation", "names": "genres"}
    assert rows["plot:1"]["modality"] == "text"
    assert "A doll is threatened." in rows["plot:1"]["turns"][0]["text"]
    longest = {row["id"]: row for row in collect("movielens", max_plot_words=8)["conversations"]}
    assert longest["plot:1"]["turns"][0]["text"].endswith("Led by Woody, Andy's toys live happily in")
    assert (
        "\\<image>" in {row["id"]: row for row in collect("movielens")["conversations"]}["plot:1"]["turns"][0]["text"]
    )


def test_needs_limit_and_ratings(films: Path, collect: Callable[..., Any]) -> None:
    found = collect("movielens", needs=["poster", "plot"], min_rating=4)
    assert [row["id"] for row in found["items"]] == ["1", "2"]
    assert [(row["user"], row["item"]) for row in found["events"]] == [("1", "1"), ("2", "1")]
    assert len(collect("movielens", limit=2)["items"]) == 2
    with pytest.raises(DataError, match="no film is left"):
        list(collect("movielens", core=3)["items"])


def test_core_against_brute_force(tmp_path: Path, collect: Callable[..., Any]) -> None:
    pairs = sorted({(u, (u * u + 3 * k) % 23) for u in range(30) for k in range(1 + u % 7)})
    (tmp_path / "movies.csv").write_text("movieId,title,genres\n" + "".join(f"{m},F {m},Drama\n" for m in range(23)))
    lines = [f"{u},{m},3.0,{100 + n}" for n, (u, m) in enumerate(pairs)]
    (tmp_path / "ratings.csv").write_text("\n".join(["userId,movieId,rating,timestamp", *lines]))
    left = set(pairs)
    while True:
        users, movies = Counter(u for u, _ in left), Counter(m for _, m in left)
        kept = {(u, m) for u, m in left if users[u] >= 3 and movies[m] >= 3}
        if kept == left:
            break
        left = kept
    found = collect("movielens", core=3, posters="", plots="")
    assert {(int(row["user"]), int(row["item"])) for row in found["events"]} == left
    assert {int(row["id"]) for row in found["items"]} == {m for _, m in left}
    assert 0 < len(left) < len(pairs)


def test_missing_parts(films: Path, collect: Callable[..., Any]) -> None:
    with pytest.raises(DataError, match=r"no source 'tmbd'; did you mean 'tmdb'"):
        collect("movielens", sources=["tmbd"])
    (films / "plots.csv").write_text("movieId,text\n1,x\n")
    with pytest.raises(DataError, match="missing column 'source'"):
        collect("movielens")
    (films / "ratings.csv").unlink()
    with pytest.raises(DataError, match=r"ratings\.csv: no such file"):
        collect("movielens", plots="")


TAGS = """userId,movieId,tag,timestamp
1,1,pixar,1139045764
2,2,"witty, warm",1139045765
2,3,odd,yesterday
1,9,of no film,1139045766
"""


def test_tags_become_reviews_where_they_are_asked_for(films: Path, collect: Callable[..., Any]) -> None:
    (films / "tags.csv").write_text(TAGS)
    assert "reviews" not in collect("movielens")
    found = collect("movielens", tags="tags.csv")
    assert [(row["user"], row["item"], row["ts"], row["text"], row["stars"]) for row in found["reviews"]] == [
        ("1", "1", 1139045764, "pixar", 0.0),
        ("2", "2", 1139045765, "witty, warm", 0.0),
    ]
    assert ("reviews", "tags.csv:4", "wrong-type") in found["errors"]
    kept = collect("movielens", tags="tags.csv", needs=["poster"], min_rating=4, core=0, limit=1)
    assert {row["item"] for row in kept["reviews"]} <= {row["id"] for row in kept["items"]}
    (films / "tags.csv").write_text("userId,movieId,timestamp\n")
    with pytest.raises(DataError, match=r"tags\.csv.*tag"):
        collect("movielens", tags="tags.csv")


def test_without_topics_there_are_no_conversations(films: Path, collect: Callable[..., Any]) -> None:
    assert sorted(collect("movielens", films, topics=[])) == ["errors", "events", "items"]

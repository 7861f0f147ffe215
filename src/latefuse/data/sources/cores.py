"""The k-core of who did something with what: users and items with too few rows left out, until none is left."""

from __future__ import annotations

import polars


def core(pairs: polars.DataFrame, least: int, user: str = "user", item: str = "item") -> polars.DataFrame:
    """The rows of `pairs` in which every user and every item that is left has at least `least` of them."""
    while True:
        enough = (polars.len().over(user) >= least) & (polars.len().over(item) >= least)
        smaller = pairs.filter(enough)
        if smaller.height == pairs.height:
            return pairs
        pairs = smaller

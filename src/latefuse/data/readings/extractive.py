"""A summary out of the reviews' own sentences: no model, no call, always the same. It is called "extractive"."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

from latefuse.data.readings.request import Request

SENTENCE = re.compile(r"(?<=[.!?…])\s+|(?<=[。！？])\s*|\n+")
ENDS = re.compile(r"[.!?…。！？][\"'”’)\]]*$")
BALANCE = 0.7
"""Of Carbonell and Goldstein's lambda: how much more being central counts than being new."""


class Extractive:
    """Sentences by degree centrality on TF-IDF (LexRank, Erkan & Radev 2004, arXiv 1109.2128), chosen one by one with
    a penalty for what the chosen ones say already (maximal marginal relevance, Carbonell & Goldstein 1998).

    words: of a summary, at most. Sentences stay whole, and in the order of the reviews; only where not even the first
    choice fits is it cut, at a word. A sentence that several reviews have counts several times and is said once.
    """

    name, version, calls = "extractive", "v1", 0

    def __init__(self, words: int) -> None:
        self.words = words
        self.method = f"{self.name} {self.version}, {words} words"

    def reads(self, request: Request) -> int:
        """All of them."""
        return len(request.documents)

    def key(self, request: Request) -> str:
        """What it is made from is what is asked."""
        return request.digest(self.method)

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) of every request, in order."""
        for place, request in enumerate(requests):
            yield place, summary(request.documents, self.words)

    def notes(self) -> list[str]:
        """None."""
        return []

    def spent(self) -> str:
        """Nothing."""
        return "0 calls"


def sentences(documents: Sequence[str]) -> dict[str, int]:
    """Each distinct sentence, as it stands first, and how often it is said; by case and blanks they are the same."""
    first: dict[str, str] = {}
    counts: dict[str, int] = {}
    for document in documents:
        for sentence in SENTENCE.split(document):
            if text := " ".join(sentence.split()):
                said = first.setdefault(text.casefold(), text)
                counts[said] = counts.get(said, 0) + 1
    return counts


def summary(documents: Sequence[str], words: int) -> str:
    """At most `words` words out of the documents; "" where they have none."""
    said = sentences(documents)
    texts, lengths = list(said), np.array([len(text.split()) for text in said])
    if lengths.sum() <= words:
        return _joined(texts)
    alike = _alike(texts)
    central = alike @ np.array(list(said.values())) / sum(said.values())
    chosen: list[int] = []
    room, free = words, np.ones(len(texts), bool)
    while (fitting := free & (lengths <= room)).any():
        redundant = alike[:, chosen].max(axis=1) if chosen else 0.0
        # Rounded, so that no noise of the last bit decides between sentences that are as good.
        worth = np.round(BALANCE * central - (1 - BALANCE) * redundant, 9)
        best = int(np.where(fitting, worth, -np.inf).argmax())
        chosen.append(best)
        free[best] = False
        room -= int(lengths[best])
    if not chosen:
        return " ".join(texts[int(np.round(central, 9).argmax())].split()[:words])
    return _joined([texts[place] for place in sorted(chosen)])


def _alike(texts: Sequence[str]) -> np.ndarray[Any, Any]:
    """(n, n) cosines of TF-IDF vectors; zero where a sentence has no word."""
    try:
        vectors = TfidfVectorizer(token_pattern=r"(?u)\w+").fit_transform(texts)
    except ValueError:  # not one of them has a word
        return np.zeros((len(texts), len(texts)))
    return np.asarray((vectors @ vectors.T).toarray())


def _joined(texts: Sequence[str]) -> str:
    return " ".join(text if ENDS.search(text) else f"{text}." for text in texts)

"""Near-duplicate texts by exact set-similarity join: every pair with a Jaccard of t or more on word shingles.

Prefix filter (Chaudhuri et al. 2006; Bayardo et al. 2007): under any one order of all shingles, two sets with a Jaccard
of t or more share one among the first |x| - ceil(t|x|) + 1 of each. Common shingles stand last in the order, so the
prefixes are selective; candidates are then compared exactly. Words and shingles live in files, so memory grows by some
bytes a text.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from latefuse.data.shingles import BATCH, HASH_BITS, MASK, scrambled, shingle_keys, word_hashes

Array = np.ndarray[Any, Any]

SKETCH = 1 << 24
PASS = 16_000_000
NEIGHBOURS = 500


@dataclass(frozen=True)
class Near:
    """What the join found. first: (n,) the first text with the same shingles (itself if it is the first, or has none).

    pairs: (m, 2) pairs a < b of such first texts. crowded: shingles so common among first texts that each text was
    compared with its neighbours in length only.
    """

    first: Array
    pairs: Array
    crowded: int

    def edges(self) -> Array:
        """(k, 2) all links: every repeated text to its first, and the near pairs."""
        repeated = np.flatnonzero(self.first != np.arange(len(self.first)))
        return np.concatenate([np.stack([self.first[repeated], repeated], axis=1), self.pairs])


class Texts:
    """Texts as a stream of word hashes on disk. `add` them all, then ask for `near` once."""

    def __init__(self, folder: Path, shingle: int = 5, ignore: Iterable[str] = ()) -> None:
        """folder: for the temporary files. shingle: words in a row. ignore: words that are left out before counting."""
        folder.mkdir(parents=True, exist_ok=True)
        self._words, self._shingles = folder / "words.u64", folder / "shingles.u64"
        self._shingle = shingle
        self._ignored = word_hashes(sorted({word.lower() for word in ignore}))[0]
        self._lengths: list[Array] = []
        self._groups: list[Array] = []
        self._common: list[Array] = []
        self._waiting: list[tuple[str, int]] = []
        self._stream = self._words.open("wb")

    def __len__(self) -> int:
        return sum(map(len, self._lengths)) + len(self._waiting)

    def add(self, text: str, group: int = 0) -> None:
        """One more text. A word that stands in more than half of the texts of its group is a word of a template."""
        self._waiting.append((text, group))
        if len(self._waiting) >= BATCH:
            self._flush()

    def near(self, jaccard: float) -> Near:
        """All pairs of texts whose shingles have a Jaccard of `jaccard` or more; texts without a shingle match
        nothing.
        """
        self._flush()
        self._stream.close()
        if not self._lengths:
            return Near(np.zeros(0, np.int64), np.zeros((0, 2), np.int64), 0)
        templates = self._template_words()
        counts, totals, sketch = self._write_shingles(templates)
        first = _first_of_equal(totals, counts)
        pairs, crowded = self._candidates(counts, first, sketch, jaccard)
        return Near(first, self._verified(pairs, counts, jaccard), crowded)

    def _flush(self) -> None:
        if not self._waiting:
            return
        texts, groups = zip(*self._waiting, strict=True)
        self._waiting = []
        words, lengths = word_hashes(texts)
        words.tofile(self._stream)
        self._lengths.append(lengths)
        self._groups.append(np.asarray(groups, np.int64))
        keys, sizes = _document_words(words, lengths, self._groups[-1])
        # A word in more than half of all texts is in more than half of the texts of some batch.
        values, at, found = np.unique(keys, return_index=True, return_counts=True)
        self._common.append(values[2 * found > sizes[at]])

    def _batches(self) -> Iterator[tuple[Array, Array, Array]]:
        """(word hashes, words per text, group of each text) of each batch again."""
        with self._words.open("rb") as stream:
            for lengths, groups in zip(self._lengths, self._groups, strict=True):
                yield np.fromfile(stream, np.uint64, int(lengths.sum())), lengths, groups

    def _template_words(self) -> Array:
        """Keys (word mixed with group) of the words in more than half of the texts of a group, and in at least four."""
        candidates = np.unique(np.concatenate(self._common))
        if not len(candidates):
            return candidates
        groups, rows = np.unique(np.concatenate(self._groups), return_counts=True)
        count, size = np.zeros(len(candidates), np.int64), np.zeros(len(candidates), np.int64)
        for words, lengths, group in self._batches():
            keys, _ = _document_words(words, lengths, group)
            values, at, found = np.unique(keys, return_index=True, return_counts=True)
            place = np.searchsorted(candidates, values)
            known = (place < len(candidates)) & (candidates[np.minimum(place, len(candidates) - 1)] == values)
            owner = _owners_of_keys(words, lengths, group)[at[known]]
            count[place[known]] += found[known]
            size[place[known]] = rows[np.searchsorted(groups, owner)]
        return candidates[(2 * count > size) & (count >= 4)]

    def _write_shingles(self, templates: Array) -> tuple[Array, Array, Array]:
        """Per text the number of its distinct shingles and their sum (a hash of the set); and a count sketch of
        shingles.
        """
        words_of_all = sum(int(lengths.sum()) for lengths in self._lengths)
        sketch = np.zeros(min(SKETCH, 1 << (4 * words_of_all).bit_length()), np.uint32)
        counts, totals = [], []
        with self._shingles.open("wb") as stream:
            for words, lengths, groups in self._batches():
                text = np.repeat(np.arange(len(lengths)), lengths)
                kept = ~np.isin(_mixed(words, groups[text]), templates) & ~np.isin(words, self._ignored)
                keys = shingle_keys(words[kept], text[kept], self._shingle)
                owner, shingles = (keys >> np.uint64(HASH_BITS)).astype(np.int64), keys & MASK
                shingles.tofile(stream)
                np.add.at(sketch, shingles & np.uint64(len(sketch) - 1), np.uint32(1))
                counts.append(np.bincount(owner, minlength=len(lengths)))
                total = np.zeros(len(lengths), np.uint64)
                np.add.at(total, owner, scrambled(shingles))
                totals.append(total)
        return np.concatenate(counts), np.concatenate(totals), sketch

    def _candidates(self, counts: Array, first: Array, sketch: Array, jaccard: float) -> tuple[Array, int]:
        """(m, 2) pairs of first texts that share a shingle of both prefixes and have lengths that fit."""
        frequent = max(64, 8 * int(counts.sum()) // len(sketch))
        prefix = np.where(counts > 0, counts - np.ceil(jaccard * counts - 1e-9).astype(np.int64) + 1, 0)
        prefix[first != np.arange(len(first))] = 0
        passes = max(1, -(-int(prefix.sum()) // PASS))
        edges = np.linspace(0, 2.0**HASH_BITS, passes + 1)
        found, crowded = [np.zeros((0, 2), np.int64)], 0
        for low, high in pairwise(edges):
            shingles, texts = self._prefixes(counts, prefix, sketch, frequent, int(low), int(high))
            pairs, full = _pairs_in_runs(shingles, texts, counts, jaccard)
            found.append(pairs)
            crowded += full
        return np.unique(np.concatenate(found), axis=0), crowded

    def _prefixes(
        self, counts: Array, prefix: Array, sketch: Array, frequent: int, low: int, high: int
    ) -> tuple[Array, Array]:
        """The prefix shingles in [low, high) with their texts: rare ones by hash, then the frequent ones by hash."""
        kept, owners, start = [], [], 0
        with self._shingles.open("rb") as stream:
            while start < len(counts):
                size = counts[start : start + BATCH]
                shingles = np.fromfile(stream, np.uint64, int(size.sum()))
                text = np.repeat(np.arange(len(size)), size)
                common = sketch[shingles & np.uint64(len(sketch) - 1)] > frequent
                begin = np.cumsum(size) - size
                rare_before = np.cumsum(~common) - ~common
                rare_of_text = np.bincount(text[~common], minlength=len(size))
                rank = rare_before - np.concatenate([rare_before, [0]])[begin][text]
                rank = np.where(common, rare_of_text[text] + np.arange(len(text)) - begin[text] - rank, rank)
                wanted = (rank < prefix[start : start + BATCH][text]) & (shingles >= low) & (shingles < high)
                kept.append(shingles[wanted])
                owners.append((text[wanted] + start).astype(np.int32))
                start += len(size)
        return np.concatenate(kept), np.concatenate(owners)

    def _verified(self, pairs: Array, counts: Array, jaccard: float) -> Array:
        """The pairs whose exact Jaccard reaches the threshold."""
        shingles = (
            np.memmap(self._shingles, np.uint64, "r") if self._shingles.stat().st_size else np.zeros(0, np.uint64)
        )
        begin = np.cumsum(counts) - counts
        keep = [
            _overlap(shingles, begin, counts, pairs[start : start + BATCH]) for start in range(0, len(pairs), BATCH)
        ]
        shared = np.concatenate([np.zeros(0, np.int64), *keep])
        union = counts[pairs].sum(axis=1) - shared
        return pairs[shared >= jaccard * union - 1e-9]


def _mixed(words: Array, groups: Array) -> Array:
    """Words made distinct per group of texts."""
    return np.asarray(words ^ scrambled(groups.astype(np.uint64) + np.uint64(1)))


def _document_words(words: Array, lengths: Array, groups: Array) -> tuple[Array, Array]:
    """Each distinct word of each text once, mixed with the group; and per entry how many texts of the batch its
    group has.
    """
    text, at = _distinct(words, lengths)
    rows = np.bincount(groups - groups.min())
    return _mixed(words[at], groups[text]), rows[groups[text] - groups.min()]


def _owners_of_keys(words: Array, lengths: Array, groups: Array) -> Array:
    """The group of each entry that `_document_words` returns."""
    return np.asarray(groups[_distinct(words, lengths)[0]])


def _distinct(words: Array, lengths: Array) -> tuple[Array, Array]:
    """(text, place) of the first occurrence of each distinct word of each text."""
    text = np.repeat(np.arange(len(lengths)), lengths)
    keys = (text.astype(np.uint64) << np.uint64(HASH_BITS)) | (words >> np.uint64(64 - HASH_BITS))
    _, at = np.unique(keys, return_index=True)
    return text[at], at


def _first_of_equal(totals: Array, counts: Array) -> Array:
    """For each text the first one with the same set of shingles; texts without shingles stand alone."""
    filled = np.flatnonzero(counts)
    first = np.arange(len(counts))
    _, at, back = np.unique(
        np.stack([totals[filled], counts[filled].astype(np.uint64)]), axis=1, return_index=True, return_inverse=True
    )
    first[filled] = filled[at[back.ravel()]]
    return first


def _pairs_in_runs(shingles: Array, texts: Array, counts: Array, jaccard: float) -> tuple[Array, int]:
    """Pairs of texts that stand at the same shingle, whose lengths allow the threshold; and the number of crowded
    shingles.
    """
    order = np.lexsort((counts[texts], shingles))
    shingles, texts = shingles[order], texts[order].astype(np.int64)
    found, crowded = [np.zeros((0, 2), np.int64)], 0
    here = np.arange(len(texts))
    for lag in range(1, NEIGHBOURS + 2):
        here = here[here + lag < len(texts)]
        # Within a shingle texts are sorted by length, so once a neighbour is too long all that follow are.
        here = here[
            (shingles[here] == shingles[here + lag])
            & (counts[texts[here]] >= jaccard * counts[texts[here + lag]] - 1e-9)
        ]
        if not len(here):
            break
        if lag > NEIGHBOURS:
            crowded = len(np.unique(shingles[here]))
            break
        pairs = np.sort(np.stack([texts[here], texts[here + lag]], axis=1), axis=1)
        found.append(pairs)
    return np.unique(np.concatenate(found), axis=0), crowded


def _overlap(shingles: Array, begin: Array, counts: Array, pairs: Array) -> Array:
    """How many shingles the two texts of each pair share; pairs: (at most 4,096, 2)."""
    sizes = counts[pairs]
    keys = []
    for side in (0, 1):
        owner = np.repeat(np.arange(len(pairs)), sizes[:, side])
        within = np.arange(len(owner)) - np.repeat(np.cumsum(sizes[:, side]) - sizes[:, side], sizes[:, side])
        places = begin[pairs[:, side]][owner] + within
        keys.append((owner.astype(np.uint64) << np.uint64(HASH_BITS)) | shingles[places])
    merged = np.sort(np.concatenate(keys))
    twice = merged[1:][merged[1:] == merged[:-1]]
    return np.bincount((twice >> np.uint64(HASH_BITS)).astype(np.int64), minlength=len(pairs))

"""Words, and words in a row, as hashes: what the comparisons of texts are made of."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import polars as pl

Array = np.ndarray[Any, Any]

_ALONE = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}]"
WORD = rf"{_ALONE}|[\w--{_ALONE}]+"
MARKS = r"<image>|<video>"
BATCH = 4_096
HASH_BITS = 52
MASK = np.uint64((1 << HASH_BITS) - 1)


def words(text: str) -> list[str]:
    """The words of a text as the join sees them: lower case, one by one in scripts without blanks."""
    found: list[str] = _split([text])[0].to_list()
    return found


def _split(texts: Sequence[str]) -> pl.Series:
    return pl.Series(texts, dtype=pl.String).str.replace_all(MARKS, " ").str.to_lowercase().str.extract_all(WORD)


def word_hashes(texts: Sequence[str]) -> tuple[Array, Array]:
    """(all words of all texts as 64-bit hashes, words per text)."""
    found = _split(texts)
    lengths = found.list.len().to_numpy().astype(np.int64)
    return found.filter(found.list.len() > 0).explode().hash(1).to_numpy(), lengths


def scrambled(values: Array) -> Array:
    """A bijection of 64-bit words without structure (the finaliser of splitmix64)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(values ^ (values >> np.uint64(31)))


def shingle_keys(words: Array, text: Array, size: int) -> Array:
    """Sorted distinct (text << 52 | hash of `size` words in a row); text: the place in its batch of 4,096."""
    if len(words) < size:
        return np.zeros(0, np.uint64)
    last = len(words) - size + 1
    rolling = np.zeros(last, np.uint64)
    for offset in range(size):
        rolling = scrambled(rolling + words[offset : offset + last])
    inside = text[:last] == text[size - 1 :]
    keys = (text[:last].astype(np.uint64) << np.uint64(HASH_BITS)) | (rolling >> np.uint64(64 - HASH_BITS))
    return np.unique(keys[inside])

"""A tokenizer of T5's own class with a small vocabulary: pieces of words, digits, letters, sentinels."""

from __future__ import annotations

import string
from collections.abc import Iterable

from transformers import T5Tokenizer


def t5_tokenizer(words: Iterable[str] = (), extra_ids: int = 10) -> T5Tokenizer:
    """`words` are one piece each; any other word falls apart into letters and digits, and all else is unknown."""
    letters = [*string.ascii_letters, *string.digits, *"_,.:;?!->&'$"]
    pieces = ["▁", *letters, *(f"▁{letter}" for letter in letters), "10", "12", "▁12", *(f"▁{word}" for word in words)]
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0)]
    vocabulary += [(piece, -10.0 / len(piece)) for piece in dict.fromkeys(pieces)]
    vocabulary += [(f"<extra_id_{number}>", 0.0) for number in reversed(range(extra_ids))]
    return T5Tokenizer(vocab=vocabulary, extra_ids=extra_ids)

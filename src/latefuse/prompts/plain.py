"""Words as token ids out of which no control token can come, whatever they say."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any


class PlainText:
    """Plain text for one Hugging Face tokenizer.

    controls: further literals that count as control tokens, beside the tokenizer's special tokens and the placeholders
    of media.
    """

    def __init__(self, tokenizer: Any, controls: Iterable[str] = ()) -> None:
        self.tokenizer = tokenizer
        names = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
        names |= {"<image>", "<video>", *tokenizer.all_special_tokens, *controls}
        self._ids = {tokenizer.convert_tokens_to_ids(name) for name in names} - {tokenizer.unk_token_id, None}
        longest_first = sorted(map(re.escape, names), key=len, reverse=True)
        self._spelled = re.compile("|".join(longest_first))

    def ids(self, text: str) -> list[int]:
        """The ids of a text without any control token: one that is spelled out in it falls apart into its letters."""
        return [token for piece in self.pieces(text) for token in self.tokens(piece)]

    def pieces(self, text: str) -> Iterator[str]:
        """The text cut behind the first letter of every control token that it spells out."""
        start = 0
        for found in self._spelled.finditer(text):
            yield text[start : found.start() + 1]
            start = found.start() + 1
        yield text[start:]

    def tokens(self, piece: str) -> list[int]:
        """The ids of a piece, tokenised as it stands there."""
        if not piece:
            return []
        ids = list(self.tokenizer(piece, add_special_tokens=False)["input_ids"])
        return [token for token in ids if token not in self._ids]

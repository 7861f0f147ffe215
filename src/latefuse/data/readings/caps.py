"""What one run may ask an endpoint for: so many calls, so many tokens, so much money."""

from __future__ import annotations

import math
from threading import Lock

from latefuse.config_rank import Reader
from latefuse.data.errors import DataError


class Caps:
    """Counts what is spent, for several threads at once; what is under way counts at its most. where: the section of
    the recipe, for messages.
    """

    def __init__(self, reader: Reader, where: str) -> None:
        self.calls = self.tokens = self.rough = 0
        self._reader, self._where = reader, where
        self._under_way = 0
        self._lock = Lock()

    @property
    def cost(self) -> float:
        """Of all tokens so far."""
        return self._money(self.tokens)

    def begin(self, most: int) -> None:
        """One more call of at most so many tokens. Raises DataError where a cap forbids it; then nothing is spent."""
        with self._lock:
            after = self.tokens + self._under_way + most
            for key, cap, value in (
                ("max_calls", self._reader.max_calls, self.calls + 1),
                ("max_tokens", self._reader.max_tokens, after),
                ("max_cost", self._reader.max_cost, self._money(after)),
            ):
                if cap is not None and value > cap:
                    raise DataError(
                        f"{self._where}.{key}: {cap:,} would be passed; so far {self.calls:,} calls, {self.tokens:,} "
                        f"tokens, {self.cost:,.2f} in money. What was answered is kept: raise it and run prepare "
                        "again, which goes on from there"
                    )
            self.calls += 1
            self._under_way += most

    def end(self, most: int, used: int, rough: bool) -> None:
        """The call that began with `most` took `used` tokens. rough: they were not told but guessed."""
        with self._lock:
            self._under_way -= most
            self.tokens += used
            self.rough += rough

    def __str__(self) -> str:
        told = f"{self.calls:,} calls, {self.tokens:,} tokens"
        if self.rough:
            told += f" (of {self.rough:,} calls guessed)"
        return told + (f", {self.cost:,.2f} in money" if self._reader.price else "")

    def _money(self, tokens: int) -> float:
        return tokens * self._reader.price / 1_000_000


def guessed(text: str) -> int:
    """Tokens of a text, rather too many than too few: one for three bytes."""
    return math.ceil(len(text.encode()) / 3)

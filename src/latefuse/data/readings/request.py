"""What is asked of whoever makes readings, and what everybody who does has."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

Of = Literal["item", "user", "picture"]


@dataclass(frozen=True)
class Request:
    """One reading to make: of an item or a user out of reviews, or of a picture.

    id: of the item or user; of a picture its place in the dataset, which is named by its bytes. documents: the reviews,
    oldest first; none for a picture. picture: its file.
    """

    of: Of
    id: str
    cut: int
    documents: tuple[str, ...] = ()
    picture: Path | None = None

    def __str__(self) -> str:
        return f"{self.of} {self.id!r}"

    def digest(self, method: str) -> str:
        """SHA-256 of what it is made from: the method with its whole prompt, then reviews, or a picture by content."""
        content = self.documents if self.picture is None else (self.id,)
        return digest_of(json.dumps([method, self.of, *content]))


def digest_of(text: str) -> str:
    """SHA-256 of a text, hex."""
    return hashlib.sha256(text.encode()).hexdigest()


class Maker(Protocol):
    """Makes readings. name: who, for the table. version: of its prompt or of its method. method: all that decides its
    answers beside the input, as text.
    """

    name: str
    version: str
    method: str

    @property
    def calls(self) -> int:
        """How often something was asked that costs time or money."""

    def reads(self, request: Request) -> int:
        """How many of the newest documents it can take, at least one."""

    def key(self, request: Request) -> str:
        """SHA-256 of what would really be asked; equal keys have equal answers."""

    def make(self, requests: Sequence[Request]) -> Iterator[tuple[int, str]]:
        """(place, text) of every request, as they get done. Raises DataError where one can't be made."""

    def notes(self) -> list[str]:
        """What a reader of the dataset should know; the same for the same input, whatever was answered before."""

    def spent(self) -> str:
        """What this run asked for, for people: "12 calls, 3,400 tokens"."""

"""The prompt of a reading as it goes to a language model: what fits, and what was left out for that."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import lru_cache

from latefuse.data.readings.request import Request
from latefuse.prompts.reading import newest, reading_template, shortened


class Asked:
    """Prompts of one kind. words: of an answer. clean: what is done to every review before. room: whether a whole
    prompt fits the model, where that is known.
    """

    def __init__(
        self, words: int, clean: Callable[[str], str] = str, room: Callable[[str], bool] = lambda prompt: True
    ) -> None:
        self.words = words
        self.template = reading_template()
        self.version = self.template.version
        self.method = json.dumps([self.template.model_dump(), words])
        self.too_long = 0
        self._clean, self._room = lru_cache(4_096)(clean), room

    def reads(self, request: Request) -> int:
        """How many of the newest documents fit, at least one; one that is longer than all room is counted."""
        if not request.documents:
            return 0
        documents = [self._clean(document) for document in request.documents]
        fitting = newest(documents, lambda some: self._fits(request, some))
        self.too_long += not self._fits(request, documents[-fitting:])
        return fitting

    def text(self, request: Request) -> str:
        """The prompt. Of a single document that is too long the end is left out."""
        if request.picture is not None:
            return self.template.look(self.words)
        documents = [self._clean(document) for document in request.documents]
        if len(documents) == 1:
            documents = [shortened(documents[0], lambda one: self._fits(request, [one]))]
        return self.template.reviews(request.of, documents, self.words)

    def notes(self) -> list[str]:
        """How many prompts hold only the beginning of a review."""
        return [f"{self.too_long:,} prompts hold the beginning of one long review"] if self.too_long else []

    def _fits(self, request: Request, documents: Sequence[str]) -> bool:
        if sum(len(document.split()) for document in documents) > self.template.max_words:
            return False
        return self._room(self.template.reviews(request.of, documents, self.words))

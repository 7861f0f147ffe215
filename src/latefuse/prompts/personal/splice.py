"""A row of personalised recommendation as token ids: words, whole-word indices, visual slots, the answer (VIP5, 3.1).

Every word is tokenised alone, so that the tokens of an item's number are the same wherever it stands, in a question as
in an answer. What is too long is cut by a rule: of a history the oldest items go, each with all its tokens; words that
users wrote have a limit of their own; the question, the item asked about and candidates are never cut.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from latefuse.prompts.item_words import whole_characters
from latefuse.prompts.personal.fields import Directory, Encoded, Fields, Limits
from latefuse.prompts.personal.template import (
    ANY,
    NO,
    NOTHING,
    SLOT,
    TEXTS,
    UNKNOWN,
    YES,
    PersonalTemplate,
    family_of,
    template,
)
from latefuse.prompts.plain import PlainText
from latefuse.prompts.render import PromptError

TABLE = 1024
"""Rows of the whole-word table. Word `TABLE - 1` and all words behind it share the last row; row 0 is padding's."""


@dataclass
class _Line:
    """A prompt as it grows."""

    ids: list[int] = field(default_factory=list)
    words: list[int] = field(default_factory=list)
    items: list[int] = field(default_factory=list)
    slot: list[int] = field(default_factory=list)
    word: int = 0

    def put(self, tokens: Sequence[int], item: int = -1, slot: int = -1) -> None:
        """One whole word, or one visual slot."""
        if tokens:
            self.word += 1
            self.ids += tokens
            self.words += [min(self.word, TABLE - 1)] * len(tokens)
            self.items += [item] * len(tokens)
            self.slot += [slot] * len(tokens)


class PersonalSplicer:
    """The tokenizer-side half of the templates.

    tokenizer: any of Hugging Face. marker: the token that holds the place of a visual slot (T5: `<extra_id_0>`).
    visual: how many slots an item takes; 0 for none. named: whether a question calls items by their ids and titles;
    else all are called alike, and only their pictures tell them apart, while answers name them all the same. end:
    whether the question ends with the end token, as T5's do. Raises PromptError where the tokenizer lacks the marker or
    an end token, or tells words apart in a way of its own.
    """

    def __init__(
        self,
        tokenizer: Any,
        directory: Directory,
        marker: str = "<extra_id_0>",
        visual: int = 2,
        limits: Limits | None = None,
        named: bool = True,
        end: bool = True,
    ) -> None:
        found = tokenizer.convert_tokens_to_ids(marker)
        if found is None or found == tokenizer.unk_token_id:
            raise PromptError(
                f"this tokenizer has no token {marker!r} for visual slots; name a special one that it has"
            )
        if tokenizer.eos_token_id is None:
            raise PromptError("this tokenizer has no end token; an answer could not end")
        self.tokenizer, self.directory, self.limits = tokenizer, directory, limits or Limits()
        self.marker, self.visual, self.named, self.end = int(found), visual, named, end
        self.end_id = int(tokenizer.eos_token_id)
        self._plain = PlainText(tokenizer, (marker,))
        self._lead = _lead(self._plain)
        self._known: dict[str, list[int]] = {}
        self._items: dict[int, list[list[int]]] = {}

    def encode(self, name: str, fields: Fields) -> Encoded:
        """The prompt of a row by the template `name`.

        Raises PromptError where the row lacks what the template shows, and where the question does not fit.
        """
        asked = template(name)
        _check(name, asked, fields)
        shown = self._newest(name, asked, fields) if "history" in asked.slots and len(fields.history) else []
        line, shortened = self._line(asked, replace(fields, history=shown))
        if len(line.ids) + self.end > self.limits.tokens:
            raise self._too_long(name, asked, fields, len(line.ids) + self.end)
        cut = len(fields.history) - len(shown) if "history" in asked.slots else 0
        if self.end:
            line.ids.append(self.end_id)
            line.words.append(0)
            line.items.append(-1)
            line.slot.append(-1)
        target, left = self._target(asked, fields)
        return Encoded(
            line.ids, line.words, line.items, line.slot, target, family_of(name), name, cut, shortened + left
        )

    def whole(self, name: str, fields: Fields) -> bool:
        """Whether a row's prompt shows all of its history, and its answer all of its words. Raises as `encode`."""
        asked = template(name)
        read = "history" in asked.slots and len(fields.history)
        cut = len(fields.history) - len(self._newest(name, asked, fields)) if read else 0
        return not cut and not self._target(asked, fields)[1]

    def answer(self, text: str) -> list[int]:
        """The tokens of an answer, with the end token."""
        return [*_flat(self._words(text)), self.end_id]

    def answers(self) -> list[list[int]]:
        """The answer that names each item, by code: what a prefix trie is made of."""
        return [[*_flat(self._number(code)), self.end_id] for code in range(len(self.directory.ids))]

    def shown(self, prompt: Encoded) -> str:
        """A prompt for people: whole words with a blank between them, a visual slot as [item:slot]."""
        out: list[str] = []
        word, start = 0, 0
        for at in range(len(prompt.ids) + 1):
            if at == len(prompt.ids) or prompt.words[at] != word or prompt.slot[at] >= 0:
                out += [self.tokenizer.decode(prompt.ids[start:at]).strip()] if word and start < at else []
                if at < len(prompt.ids):
                    word, start = prompt.words[at], at
                    if prompt.slot[at] >= 0:
                        out.append(f"[{prompt.items[at]}:{prompt.slot[at]}]")
                        start = at + 1
        return " ".join(out)

    def _line(self, asked: PersonalTemplate, fields: Fields) -> tuple[_Line, int]:
        """The question, and how many tokens of the words in it were left out."""
        line, shortened = _Line(), 0
        for word in asked.ask.split():
            slot = SLOT.fullmatch(word)
            if slot is None:
                line.put(self._word(word))
            elif slot[1] in ("history", "candidates"):
                self._list(line, getattr(fields, slot[1]), asked.join)
            elif slot[1] == "candidate":
                self._item(line, self._called(fields.item), fields.item)
            else:
                words, left = self._value(slot[1], fields)
                shortened += left
                self._item(line, words, fields.item if slot[1] == "item" else -1)
        return line, shortened

    def _list(self, line: _Line, codes: Sequence[int], join: str) -> None:
        for number, code in enumerate(codes):
            if number:
                line.put(self._word(join))
            self._item(line, self._called(code), code)
        if not codes:
            line.put(self._word(NOTHING))

    def _item(self, line: _Line, words: Iterable[Sequence[int]], code: int) -> None:
        """Words, and behind them the visual slots of an item; none where it has no code."""
        for tokens in words:
            line.put(tokens)
        if code >= 0:
            for slot in range(self.visual):
                line.put([self.marker], code, slot)

    def _value(self, slot: str, fields: Fields) -> tuple[list[list[int]], int]:
        """The words of a slot that is a user, a title or of a review, within their limit; what the limit left out."""
        known = self.directory
        if slot == "user":
            return self._words(known.users[fields.user]), 0
        if slot == "stars":
            return self._words(_stars(fields.stars)), 0
        if slot == "name":
            name = known.names[fields.user] if known.names else ""
            told = name if name.strip() else known.users[fields.user]
        elif slot == "item" and not self.named:
            told = ANY
        elif slot == "item":
            title = known.titles[fields.item]
            told = title if title.strip() else known.ids[fields.item]
        else:
            told = getattr(fields, slot)
        return _within(self._words(told), self.limits.words)

    def _newest(self, name: str, asked: PersonalTemplate, fields: Fields) -> list[int]:
        """The newest items of a history that fit together with everything else of the question."""
        most, history = self.limits.tokens - self.end, list(fields.history)
        rest, _ = self._line(asked, replace(fields, history=()))
        used = len(rest.ids) - len(self._word(NOTHING))
        join, first = len(self._word(asked.join)), len(history)
        least = 0 if self.limits.history is None else max(0, len(history) - self.limits.history)
        while first > least:
            code = history[first - 1]
            more = len(_flat(self._called(code))) + self.visual * (code >= 0) + join * (first < len(history))
            if used + more > most:
                break
            used, first = used + more, first - 1
        if first == len(history):
            raise self._too_long(name, asked, fields, used + more + self.end)
        return history[first:]

    def _too_long(self, name: str, asked: PersonalTemplate, fields: Fields, used: int) -> PromptError:
        told = f"row {fields.row}: the question of {name} takes {used} tokens, more than {self.limits.tokens}"
        if "candidates" in asked.slots:
            told += f" with {len(fields.candidates)} candidates of {self.visual} visual tokens each, and none is cut"
            return PromptError(f"{told}; allow more tokens, fewer candidates or fewer visual tokens")
        if "history" in asked.slots:
            told += " with the newest item of its history"
        return PromptError(f"{told}; allow more tokens, or fewer for the words of a name or title")

    def _target(self, asked: PersonalTemplate, fields: Fields) -> tuple[list[int], int]:
        """The answer with its end token, and how many of its tokens were left out."""
        words: list[list[int]] = []
        for part in asked.answer.split():
            if part == "{number}":
                words += self._number(fields.item)
            elif part == "{verdict}":
                words += self._words(YES if fields.liked else NO)
            elif part == "{stars}":
                words += self._words(_stars(fields.stars))
            else:
                words += self._words(fields.text if part == "{text}" else part)
        tokens, most = _flat(words), self.limits.answer - 1
        if asked.answer == "{number}" and len(tokens) > most:
            raise PromptError(f"row {fields.row}: an item's number takes {len(tokens)} tokens, an answer only {most}")
        return [*tokens[:most], self.end_id], max(0, len(tokens) - most)

    def _called(self, code: int) -> list[list[int]]:
        """What a question calls an item: the words of its id, or what all are called."""
        return self._number(code) if self.named else [self._word(ANY)]

    def _number(self, code: int) -> list[list[int]]:
        """The words of an item's id, each as its tokens."""
        if code not in self._items:
            self._items[code] = self._words(self.directory.ids[code] if code >= 0 else UNKNOWN)
        return self._items[code]

    def _words(self, text: str) -> list[list[int]]:
        """The tokens of each word of a text, which can be no control tokens."""
        return [self._word(word) for word in whole_characters(text).split()]

    def _word(self, word: str) -> list[int]:
        if word not in self._known:
            if len(self._known) >= 1 << 17:
                self._known.clear()
            self._known[word] = self._plain.ids(self._lead + word)
        return self._known[word]


def _check(name: str, asked: PersonalTemplate, fields: Fields) -> None:
    """Raises PromptError where the row lacks a field that the template shows or answers with."""
    missing = [field for field in asked.needs if not getattr(fields, field)]
    if {"candidate", "item"} & set(asked.slots) and fields.item < 0 and asked.answer != "{verdict}":
        missing.append("item")
    if asked.answer == "{number}" and fields.item < 0:
        missing.append("item")
    if "candidates" in asked.slots and not len(fields.candidates):
        missing.append("candidates")
    if missing:
        shows = ", ".join(field for field in asked.needs if field in TEXTS) or "no words of a review"
        raise PromptError(
            f"row {fields.row}: template {name} needs {', '.join(dict.fromkeys(missing))}, which the row does not have "
            f"(it shows {shows}); choose another template for it"
        )


def _within(words: list[list[int]], most: int) -> tuple[list[list[int]], int]:
    """As many words as take at most `most` tokens; of a first one that is longer its beginning. And what is left."""
    kept: list[list[int]] = []
    used = 0
    for tokens in words:
        if used + len(tokens) > most:
            break
        kept.append(tokens)
        used += len(tokens)
    if words and not kept:
        kept, used = [words[0][:most]], most
    return kept, sum(map(len, words)) - used


def _stars(stars: float) -> str:
    return f"{round(stars, 1):g}"


def _flat(words: Iterable[Sequence[int]]) -> list[int]:
    return [token for tokens in words for token in tokens]


def _lead(plain: PlainText) -> str:
    """What stands before a word that is tokenised alone, so that a text is the sum of its words."""
    both = plain.ids("a b")
    for lead in ("", " "):
        if plain.ids("a") + plain.ids(f"{lead}b") == both:
            return lead
    raise PromptError("this tokenizer does not tokenise a text word by word; choose a backbone whose tokenizer does")

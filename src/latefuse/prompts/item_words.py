"""The words of an item within a budget: what is shown, and how much was left out (NoteLLM-2, arXiv 2405.16789).

Hashtags leave the body and become topics, line breaks become full stops, every field has its limit in characters, all
fields together one in tokens. Nothing is cut inside a letter that a reader sees as one: not in an emoji of several code
points, not before a vowel sign, and not inside a word where a word ends not far before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

from tokenizers import Regex
from tokenizers.pre_tokenizers import Split

from latefuse.config_vectors import TextBudget

Size = Callable[[str], int]

_HASHTAG = Split(Regex(r"(?<![\w#&/])#[\p{L}\p{M}\p{N}_]*\p{L}[\p{L}\p{M}\p{N}_]*"), behavior="removed")
_GRAPHEME = Split(Regex(r"\X"), behavior="isolated")
_SENTENCE_ENDS = (".", "!", "?", "…", "。", "！", "？", "؟", "।", ":", ";", ",")
_LOOK_AHEAD = 64


@dataclass(frozen=True)
class Words:
    """What a prompt shows of an item's words; an empty field is not shown.

    cut: tokens that the limit in tokens left out of what the limits in characters had left. cut_characters: characters
    that those had left out.
    """

    title: str = ""
    topic: tuple[str, ...] = ()
    content: str = ""
    cut: int = 0
    cut_characters: int = 0

    @property
    def empty(self) -> bool:
        """Whether no field is left."""
        return not (self.title or self.topic or self.content)


def within(title: str, text: str, topics: Iterable[str], budget: TextBudget) -> Words:
    """The words of an item within the limits in characters; its own topics stand before the hashtags of its body."""
    body, tags = without_hashtags(text) if budget.topics else (text, [])
    distinct: dict[str, str] = {}
    for topic in (one_line(told).lstrip("# ") for told in (*topics, *tags)):
        distinct.setdefault(topic.casefold(), topic)
    distinct.pop("", None)
    whole = [one_line(title), one_line(body), *distinct.values()]
    shown_title, content = _at_most(whole[0], budget.title), _at_most(whole[1], budget.content)
    shown_topics = [_at_most(topic, budget.topic) for topic in whole[2 : 2 + budget.topics]]
    shown = [shown_title, content, *shown_topics]
    return Words(shown_title, tuple(shown_topics), content, cut_characters=sum(map(len, whole)) - sum(map(len, shown)))


def fitted(words: Words, tokens: int, size: Size, cut: Sequence[str], join: str) -> Words:
    """The words in at most `tokens` tokens: a field is cut once nothing is left of those before it in `cut`.

    size: tokens of a text. join: what stands between topics, which are left out whole.
    """
    kept, left, out = dict[str, Any](), tokens, 0

    def count(value: str | tuple[str, ...]) -> int:
        return size(value if isinstance(value, str) else join.join(value)) if value else 0

    for name in reversed(cut):
        value = getattr(words, name)
        kept[name] = fit(value, left, count) if isinstance(value, str) else _first(value, left, count)
        short = count(value) - count(kept[name])
        left, out = 0 if short else left - count(value), out + short
    return replace(words, **kept, cut=out)


def fit(text: str, limit: int, size: Size) -> str:
    """The longest beginning of a text with size <= limit that ends between letters, or with a word if one ends near.

    Near is in its second half. Where size shrinks as a text grows, the longest may be missed; what is returned fits in
    any case.
    """
    if size(text) <= limit:
        return text
    ends = list(accumulate(len(letter) for letter, _ in _GRAPHEME.pre_tokenize_str(text)))
    letters = bisect_right(ends, limit, key=lambda end: size(text[:end]))
    longest = text[: ends[letters - 1]] if letters else ""
    word = longest if text[len(longest)].isspace() else longest[: longest.rfind(" ") + 1]
    near = [word, longest] if 2 * len(word) >= len(longest) else [longest]
    return next((shown for shown in map(str.rstrip, near) if size(shown) <= limit), "")


def without_hashtags(text: str) -> tuple[str, list[str]]:
    """A text without its hashtags, and those without their sign. `C#`, `&#39;`, `#1` and `page#part` are none."""
    if "#" not in text:
        return text, []
    text = whole_characters(text)
    spans = [span for _, span in _HASHTAG.pre_tokenize_str(text)]
    edges = [0, *(edge for span in spans for edge in span), len(text)]
    tags = [text[start + 1 : end] for start, end in zip(edges[::2], edges[1::2], strict=True) if start < end]
    return " ".join(text[start:end] for start, end in spans), tags


def one_line(text: str) -> str:
    """A text on one line: line breaks are full stops, where a line has none, and any other gap is one space."""
    lines = [" ".join(line.split()) for line in whole_characters(text).splitlines()]
    lines = [line for line in lines if line]
    ended = [line if line.endswith(_SENTENCE_ENDS) else f"{line}." for line in lines[:-1]]
    return " ".join([*ended, *lines[-1:]])


def whole_characters(text: str) -> str:
    """A text without lone surrogates: two halves become their character, one alone the sign for what can't be read."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _at_most(text: str, limit: int) -> str:
    """A text in at most `limit` characters; one letter that alone is longer is cut all the same."""
    return fit(text[: limit + _LOOK_AHEAD], limit, len) or text[:limit]


def _first(topics: tuple[str, ...], limit: int, count: Callable[[tuple[str, ...]], int]) -> tuple[str, ...]:
    """As many topics as fit, from the first on."""
    return next((topics[:n] for n in range(len(topics), 0, -1) if count(topics[:n]) <= limit), ())

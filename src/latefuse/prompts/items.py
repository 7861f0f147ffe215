"""An item as a prompt that compresses it into vectors: NoteLLM-2's basic and mICL prompts (arXiv 2405.16789).

A vector is pooled where a section of the prompt ends. With mICL a modality is compressed before the words are read, so
under a causal mask its vector can't depend on them; a marker of one learned token stands between the two. Markers, and
what stands for a modality that an item lacks, are positions, not words: no text can produce them.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

from latefuse.config_vectors import TextBudget
from latefuse.prompts import item_words
from latefuse.prompts.item_template import MEDIA, VALUE, Compression, ItemTemplate, item_template
from latefuse.prompts.item_words import Words
from latefuse.prompts.render import MediaRef, PromptError
from latefuse.prompts.splice import Splicer

MULTIMODAL = "multimodal"


@dataclass(frozen=True)
class Item:
    """What a catalogue knows of an item.

    media: in the order in which they are shown; an empty path is absent. unread: how many more the item has, which the
    arm does not take.
    """

    id: str
    title: str = ""
    text: str = ""
    topics: tuple[str, ...] = ()
    media: tuple[MediaRef, ...] = ()
    unread: int = 0


@dataclass(frozen=True)
class ItemPrompt:
    """An item as token ids.

    learned: (position, name) of the tokens whose embedding is a learned vector: "marker.image", "marker.video",
    "absent.image", "absent.video", "absent.text"; their ids are padding. pools: view -> position whose last hidden
    state is pooled: "multimodal" (the last token) and, with mICL, "image" and "video" (before their marker). media:
    what fills the slots, in order. cut: tokens of the words that their limit in tokens left out; cut_characters:
    characters that their limits in characters had left out before.
    """

    input_ids: list[int]
    learned: tuple[tuple[int, str], ...]
    pools: Mapping[str, int]
    media: tuple[MediaRef, ...]
    cut: int = 0
    cut_characters: int = 0


@dataclass(frozen=True)
class Piece:
    """A piece of an item's prompt.

    kind: "literal" (the template's words), "value" (the item's), "media" (the slot of `media`), "learned" (one token
    whose vector is learned, named by `text`) or "pool" (no token: the one before it is pooled for the view `text`).
    """

    kind: Literal["literal", "value", "media", "learned", "pool"]
    text: str = ""
    media: MediaRef | None = None


class ItemSplicer:
    """The tokenizer-side half of an item prompt, what `Splicer` is for conversations.

    Every value is tokenised alone, so that the tokens of the template, those that ask for the compression above all,
    are the same in each prompt whatever the words are.
    """

    def __init__(self, splicer: Splicer, template: ItemTemplate, budget: TextBudget) -> None:
        tokenizer = splicer.tokenizer
        filling = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
        if filling is None:
            raise PromptError("this tokenizer has neither a padding nor an end token; give it one of them")
        begin = tokenizer.bos_token_id if splicer.template.begin else None
        self.splicer, self.template, self.budget = splicer, template, budget
        self.filling = int(filling)
        self.begin = [] if begin is None else [int(begin)]
        self._literals: dict[str, list[int]] = {}

    @classmethod
    def of(cls, backbone: Any, prompt: str, budget: TextBudget) -> ItemSplicer:
        """The splicer of a backbone; prompt: "basic", "micl" or "none"."""
        splicer = Splicer.of(backbone)
        return cls(splicer, item_template(prompt, splicer.template.name), budget)

    def encode(self, item: Item, inputs: Collection[str], bare: bool = False) -> ItemPrompt:
        """The prompt of an item for an arm that reads the modalities `inputs`.

        bare: an item that has none of them shows their learned tokens alone, as knock-outs want it. Raises PromptError
        when the item has none of them otherwise, and when the prompt shows none.
        """
        plain = cache(self.splicer.plain)
        words = self._words(item, plain) if "text" in inputs else Words()
        media = [ref for ref in item.media if ref.path and ref.modality in inputs]
        if not bare and not media and words.empty:
            room = f": budget.tokens={self.budget.tokens} leaves no word of it" if words.cut else ""
            raise PromptError(f"item {item.id!r} has no {' and no '.join(inputs)}{room}; fill a field or leave it out")
        pieces = list(render(words, media, inputs, self.template))
        if not pieces:
            raise PromptError(f"the prompt {self.template.name!r} shows nothing of {list(inputs)}; choose another one")
        ids, learned, pools = self._splice(pieces, plain)
        shown = tuple(piece.media for piece in pieces if piece.media is not None)
        return ItemPrompt(ids, learned, pools, shown, words.cut, words.cut_characters)

    def _words(self, item: Item, plain: Callable[[str], list[int]]) -> Words:
        words = item_words.within(item.title, item.text, item.topics, self.budget)
        cut, join = self.template.cut, self.template.topics
        return item_words.fitted(words, self.budget.tokens, lambda text: len(plain(text)), cut, join)

    def _literal(self, text: str) -> list[int]:
        if text not in self._literals:
            self._literals[text] = self.splicer.plain(text.strip())
        return self._literals[text]

    def _splice(
        self, pieces: Sequence[Piece], plain: Callable[[str], list[int]]
    ) -> tuple[list[int], tuple[tuple[int, str], ...], dict[str, int]]:
        """Token ids, learned tokens, pooled positions.

        Neighbouring words of the template are tokenised in one go, without the white space at their ends.
        """
        ids, literal = list(self.begin), ""
        learned: list[tuple[int, str]] = []
        pools: dict[str, int] = {}
        for piece in pieces:
            if piece.kind == "literal":
                literal += piece.text
                continue
            ids, literal = ids + self._literal(literal), ""
            if piece.kind == "pool":
                pools[piece.text] = len(ids) - 1
            elif piece.kind == "learned":
                learned.append((len(ids), piece.text))
                ids.append(self.filling)
            elif piece.media is not None:
                ids += self.splicer.expand(piece.media.modality)
            else:
                ids += plain(piece.text)
        return ids, tuple(learned), pools


def render(words: Words, media: Sequence[MediaRef], inputs: Collection[str], template: ItemTemplate) -> Iterator[Piece]:
    """The pieces of a prompt that shows the modalities `inputs`; nothing where the template shows none of them.

    A section that shows none of them is left out. The last one that is left ends the prompt: where it shows a modality
    alone, that view and the multimodal one are pooled at the same token.
    """
    sections = [section for section in template.sections if any(_modality(f) in inputs for f in section.fields)]
    for section in sections:
        yield Piece("literal", section.open)
        for number, (label, value) in enumerate(_shown(section, words, media, inputs, template)):
            before, after = label.split(VALUE)
            yield Piece("literal", (template.join if number else "") + before)
            yield from value
            yield Piece("literal", after)
        yield Piece("literal", section.close)
        view = section.fields[0] if len(section.fields) == 1 and section.fields[0] in MEDIA else None
        if view:
            yield Piece("pool", view)
        if section is sections[-1]:
            yield Piece("pool", MULTIMODAL)
        else:
            yield Piece("learned", f"marker.{view}")
            yield Piece("literal", section.then)


def _shown(
    section: Compression,
    words: Words,
    media: Sequence[MediaRef],
    inputs: Collection[str],
    template: ItemTemplate,
) -> Iterator[tuple[str, list[Piece]]]:
    """The fields that a section shows: each one's label and what stands in its slot.

    A modality that is read and not there is one learned token: behind its label, or without one in the words' place.
    """
    values = {"title": words.title, "topic": template.topics.join(words.topic), "content": words.content}
    for field in section.fields:
        if field in MEDIA and field in inputs:
            slots = [Piece("media", media=ref) for ref in media if ref.modality == field]
            yield template.fields[field], slots or [Piece("learned", f"absent.{field}")]
        elif values.get(field):
            yield template.fields[field], [Piece("value", values[field])]
    if words.empty and "text" in inputs and any(field in values for field in section.fields):
        yield VALUE, [Piece("learned", "absent.text")]


def _modality(field: str) -> str:
    return field if field in MEDIA else "text"

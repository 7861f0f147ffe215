"""Rows of the tables as the sources make them: an item, an event, a conversation of one question and one answer."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from latefuse.data.errors import DataError, Refusal
from latefuse.data.schema import PLACEHOLDERS, SPLITS
from latefuse.evaluation.recipe_text import parse_recipe

Row = dict[str, Any]

SPLIT_WORDS = {
    "train": "train", "training": "train", "trainset": "train", "train_set": "train",
    "valid": "valid", "val": "valid", "validation": "valid", "dev": "valid", "val_set": "valid",
    "test": "test", "testing": "test", "testset": "test", "test_set": "test",
}  # fmt: skip


def item(key: str, title: str, line: str, split: str | None = None, **rest: Any) -> Row:
    """A row of `items`; rest: text, attributes (a mapping), images, videos, language, licence."""
    empty: Row = {"text": "", "images": [], "videos": [], "language": "", "licence": ""}
    return _placed({"id": key, "title": title, **empty, **rest}, line, split)


def question(
    key: str,
    ask: str,
    answer: str,
    media: Sequence[tuple[str, str]],
    truth: Mapping[str, Any],
    line: str,
    split: str | None = None,
    topic: str = "",
    item: str = "",
) -> Row:
    """A row of `conversations`: one question over `media` (modality, path) and its answer.

    The modality of the row is that of its first medium, or text.
    """
    marks = "".join(f"{PLACEHOLDERS[modality]}\n" for modality, _ in media)
    row: Row = {
        "id": key,
        "modality": media[0][0] if media else "text",
        "topic": topic,
        "item": item,
        "media": [{"modality": modality, "path": path} for modality, path in media],
        "turns": [{"role": "user", "text": marks + ask}, {"role": "assistant", "text": answer}],
        "truth": dict(truth),
    }
    return _placed(row, line, split)


def _placed(row: Row, line: str, split: str | None) -> Row:
    row["_line"] = line
    if split is not None:
        row["split_item"] = split
    return row


def ordered_media(paths: Mapping[str, Sequence[str]], slots: Sequence[str]) -> list[dict[str, str]]:
    """Media {modality: paths} in the order of their placeholders. Raises Refusal where the counts differ."""
    for kind in PLACEHOLDERS:
        if len(paths.get(kind, ())) != slots.count(kind):
            detail = f"{len(paths.get(kind, ()))} {kind}s for {slots.count(kind)} placeholders {PLACEHOLDERS[kind]}"
            raise Refusal("placeholder-mismatch", detail)
    waiting = {kind: iter(listed) for kind, listed in paths.items()}
    return [{"modality": kind, "path": next(waiting[kind])} for kind in slots]


def broken(line: str, reason: str, detail: str = "") -> Row:
    """A row for the quarantine: `reason` is a short slug that is counted, `detail` a sentence for a human."""
    return {"_line": line, "_error": f"{reason}: {detail}" if detail else reason}


def split_name(word: str, words: Mapping[str, str]) -> str | None:
    """train, valid or test for a source's own word; `words` of the recipe go before the usual ones. None: unknown."""
    return words.get(word) or SPLIT_WORDS.get(word.strip().lower())


def check_splits(words: Mapping[str, str]) -> None:
    """Raises DataError where `options.splits` maps to anything but train, valid, test."""
    for word, split in words.items():
        if split not in SPLITS:
            raise DataError(f"data.options.splits.{word}: {split!r}; a split is train, valid or test")


_LINK = re.compile(r"!?\[([^\]]*)\]\([^)]*\)")
_HEADING_WORD = re.compile(r"\b(ingredients?|steps?|instructions?|directions?|method|preparation)\s*:", re.IGNORECASE)


def recipe_entry(text: str) -> str:
    """One ingredient or step on one line, without markup and the marks of the recipe grammar itself (";", "steps:")."""
    plain = _LINK.sub(r"\1", text).replace("**", "")
    plain = _HEADING_WORD.sub(r"\1 -", plain)
    return " ".join(plain.replace(";", ",").split()).strip(" .,")


def recipe_answer(ingredients: Iterable[str], steps: Iterable[str]) -> tuple[str, dict[str, Any]]:
    """The answer text 'ingredients : a ; b steps : c ; d' and its truth, which is what a parser reads in that text."""
    sections = {"ingredients": ingredients, "steps": steps}
    listed = {name: [entry for entry in map(recipe_entry, texts) if entry] for name, texts in sections.items()}
    answer = " ".join(f"{name} : {' ; '.join(entries)}" for name, entries in listed.items() if entries)
    return answer, {"recipe": recipe_truth(answer)}


def recipe_truth(text: str) -> dict[str, Any]:
    """Ingredients (amount, unit, name) and steps of a recipe's text."""
    recipe = parse_recipe(text)
    ingredients = [{"amount": one.amount, "unit": one.unit, "name": one.name} for one in recipe.ingredients]
    return {"ingredients": ingredients, "steps": list(recipe.steps)}


def words(text: str, limit: int | None) -> str:
    """The first `limit` words of a text, or all."""
    return text if limit is None else " ".join(text.split()[:limit])

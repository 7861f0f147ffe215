"""The items of a dataset as an arm sees them: their words, their topics, their media."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from latefuse.config import Modality, Task
from latefuse.config_vectors import Embed
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.prompts import MediaRef
from latefuse.prompts.items import Item
from latefuse.sections import nearest

COLUMNS = ["id", "title", "text", "attributes", "images", "videos"]
SHUFFLE_SEED = 0


def catalogue(dataset: Dataset, task: Task) -> list[Item]:
    """All items in stored order; where the arm is a control with shuffled media, each with another item's.

    Raises DataError where `embed.topics` names an attribute that no item has.
    """
    assert task.embed is not None
    items = list(stream(dataset, task.embed, task.modality))
    for modality in task.embed.shuffled:
        items = with_shuffled(items, modality, SHUFFLE_SEED)
    return items


def stream(dataset: Dataset, options: Embed, modalities: Sequence[Modality]) -> Iterator[Item]:
    """All items in stored order, with what an arm of these modalities reads, a few thousand rows in memory at a time.

    Raises DataError.
    """
    seen: set[str] = set()
    for rows in dataset.batches("items", COLUMNS):
        for row in rows:
            attributes = json.loads(row["attributes"] or "{}")
            seen |= attributes.keys() if options.topics else set()
            yield item_of(row, attributes, options, modalities)
    unknown = [f"{name!r}{nearest(name, seen)}" for name in options.topics if name not in seen]
    if unknown:
        raise DataError(f"embed.topics: no item of {dataset.path} has the attribute {', '.join(unknown)}")


def item_of(
    row: Mapping[str, Any], attributes: Mapping[str, Any], options: Embed, modalities: Sequence[Modality]
) -> Item:
    """A row of the table items, of the modalities that are read: at most `max_images` pictures and one clip."""
    stored: dict[Modality, list[str]] = {"image": row["images"], "video": row["videos"]}
    read = {"image": options.max_images, "video": 1}
    media = tuple(MediaRef(m, path) for m, paths in stored.items() if m in modalities for path in paths[: read[m]])
    unread = sum(max(0, len(paths) - read[m]) for m, paths in stored.items() if m in modalities)
    if "text" not in modalities:
        return Item(id=row["id"], media=media, unread=unread)
    topics = tuple(word for name in options.topics for word in _words(attributes.get(name)))
    return Item(id=row["id"], title=row["title"], text=row["text"], topics=topics, media=media, unread=unread)


def _words(value: Any) -> list[str]:
    """An attribute's value as topics."""
    values = value if isinstance(value, list) else [value]
    return [str(one) for one in values if one not in (None, "")]


def readable(item: Item, modalities: Sequence[Modality]) -> bool:
    """Whether the item has anything of these modalities."""
    present = {ref.modality for ref in item.media if ref.path}
    words = bool(item.title.strip() or item.text.strip() or item.topics)
    return any(words if modality == "text" else modality in present for modality in modalities)


def with_shuffled(items: Sequence[Item], modality: Modality, seed: int) -> list[Item]:
    """Every item that has media of this modality with those of another one: a cycle through them, shuffled by seed.

    Raises DataError where fewer than two items have any.
    """
    owners = [number for number, item in enumerate(items) if readable(item, (modality,))]
    if len(owners) < 2:
        raise DataError(f"embed.shuffled: {len(owners)} item(s) with {modality}: two are needed to shuffle")
    random.Random(f"{seed}/{modality}").shuffle(owners)
    out = list(items)
    for owner, donor in zip(owners, [*owners[1:], owners[0]], strict=True):
        kept = tuple(ref for ref in items[owner].media if ref.modality != modality)
        given = tuple(ref for ref in items[donor].media if ref.modality == modality)
        out[owner] = replace(items[owner], media=(*given, *kept) if modality == "image" else (*kept, *given))
    return out

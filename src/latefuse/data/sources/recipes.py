"""Recipes with photos: one JSON object per line with a title, ingredients, steps and the names of its pictures."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any, Literal

from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, limited, read, require
from latefuse.data.sources.rows import broken, check_splits, item, question, recipe_answer, split_name, words
from latefuse.prompts.render import escape
from latefuse.sections import Section


class Columns(Section):
    """The keys of a recipe. `images` and `split` may be empty."""

    id: str = "slug"
    title: str = "title"
    ingredients: str = "ingredients"
    steps: str = "steps"
    images: str = "images"
    split: str = ""


class Questions(Section):
    """What is asked; {title} stands for the title of the recipe."""

    dish: str = "Which dish is in this picture?"
    recipe: str = "Write the recipe of this dish."
    text: str = "Write the recipe of {title}."


class RecipesOptions(Section):
    """What becomes a conversation, and how long an answer may be.

    topics: `dish` asks a photo for the title, `recipe` a photo for the recipe, `text` the title for the recipe.
    max_ingredients, max_steps, max_words (per step) shorten the recipe that is asked for; the item keeps it whole.
    limit: that many recipes (a uniform choice, the same in every run). photos_only leaves recipes without a photo out.
    """

    file: str = "recipes.jsonl"
    images: str = "images"
    columns: Columns = Columns()
    topics: tuple[Literal["dish", "recipe", "text"], ...] = ("dish", "recipe", "text")
    questions: Questions = Questions()
    max_ingredients: int | None = None
    max_steps: int | None = None
    max_words: int | None = None
    photos_only: bool = False
    limit: int | None = None
    splits: dict[str, str] = {}
    language: str = "en"


class Recipes:
    """Items (one per recipe, the full text) and conversations with topics "dish" and "recipe"."""

    name = "recipes"
    Options = RecipesOptions

    def __init__(self, root: Path, options: RecipesOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits(options.splits)
        columns = options.columns
        require(below(root, options.file), [column for column in columns.model_dump().values() if column])
        if options.images and columns.images:
            below(root, options.images)

    def tables(self) -> Tables:
        """items and conversations."""
        return {"items": partial(self._rows, self._item), "conversations": partial(self._rows, self._conversations)}

    def _rows(self, make: Any) -> Iterator[Row]:
        for row in limited(self._recipes, "id", self.options.limit)():
            if "_error" in row:
                yield row
            else:
                yield from make(row)

    def _recipes(self) -> Iterator[Row]:
        """One checked row per recipe: id, title, ingredients, steps, images (paths, each once), split."""
        columns, options = self.options.columns, self.options
        for raw in read(below(self.root, options.file)):
            if "_error" in raw:
                yield raw
                continue
            lists = {name: raw.get(getattr(columns, name)) or [] for name in ("ingredients", "steps", "images")}
            wrong = next((name for name, value in lists.items() if not _strings(value)), None)
            split = split_name(str(raw.get(columns.split, "")), options.splits) if columns.split else None
            if wrong:
                yield broken(raw["_line"], "wrong-type", f"{getattr(columns, wrong)!r} must be a list of texts")
            elif not raw.get(columns.id) or not raw.get(columns.title):
                yield broken(raw["_line"], "missing-value", f"{columns.id!r} or {columns.title!r} is empty")
            elif columns.split and split is None:
                word = raw.get(columns.split)
                yield broken(raw["_line"], "unknown-split", f"{word!r}; name it in data.options.splits")
            else:
                names = dict.fromkeys(lists["images"])
                images = [f"{options.images}/{name}" if options.images else name for name in names]
                rest = {key: value for key, value in raw.items() if key not in set(columns.model_dump().values())}
                if images or not options.photos_only:
                    yield {
                        **lists, "id": str(raw[columns.id]), "title": str(raw[columns.title]), "images": images,
                        "split": split, "_line": raw["_line"], "rest": {k: v for k, v in rest.items() if k[0] != "_"},
                    }  # fmt: skip

    def _item(self, row: Row) -> Iterator[Row]:
        text = "\n".join([*row["ingredients"], "", *row["steps"]])
        yield item(
            row["id"], row["title"], row["_line"], row["split"],
            text=text, attributes=row["rest"], images=row["images"], language=self.options.language,
        )  # fmt: skip

    def _conversations(self, row: Row) -> Iterator[Row]:
        options, ask = self.options, self.options.questions
        steps = [words(step, options.max_words) for step in row["steps"][: options.max_steps]]
        answer, truth = recipe_answer(row["ingredients"][: options.max_ingredients], steps)
        placed: dict[str, Any] = {"line": row["_line"], "split": row["split"], "item": row["id"]}
        for number, path in enumerate(row["images"]):
            if "dish" in options.topics:
                named = {"name": row["title"], "names": "dish"}
                key = f"dish:{row['id']}#{number}"
                yield question(key, ask.dish, row["title"], [("image", path)], named, topic="dish", **placed)
            if "recipe" in options.topics and answer:
                key = f"recipe:{row['id']}#{number}"
                yield question(key, ask.recipe, answer, [("image", path)], truth, topic="recipe", **placed)
        if "text" in options.topics and answer:
            asked = ask.text.replace("{title}", escape(row["title"]))
            yield question(f"text:{row['id']}", asked, answer, [], truth, topic="recipe", **placed)


def _strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(entry, str) for entry in value)

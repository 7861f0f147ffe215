"""Clips with one caption each, or with ingredients and steps as in YouCook2 and Tasty.

YouCook2 (Zhou et al. 2018): youcookii_annotations_trainval.json, its steps in English sentences; label_foodtype.csv
(number,name) where dish names are wanted; raw_videos/<subset>/<recipe_type>/<id>.<mp4|mkv|webm>.
Tasty: recipes as its site's JSON gives them (sections[].components[], instructions[]), or plain lists of ingredients
and steps with a title and a split, as the scripts of the Tasty Videos set (Sener & Yao 2019) write them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Literal

from latefuse.data.errors import DataError
from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, limited, lines, read, require
from latefuse.data.sources.rows import broken, check_splits, item, question, recipe_answer, split_name, words
from latefuse.sections import Section

ENDINGS = (".mp4", ".mkv", ".webm", ".mov", ".avi", ".gif")
FILES = {"table": "manifest.csv", "youcook2": "youcookii_annotations_trainval.json", "tasty": "recipes.json"}
VIDEOS = {"table": "{id}", "youcook2": "raw_videos/{subset}/{recipe_type}/{id}", "tasty": "videos/{id}"}


EMPTY: Row = {"title": "", "caption": "", "ingredients": [], "steps": [], "split": None, "licence": ""}


class Columns(Section):
    """The columns of a table with one line per clip. `title`, `split` and `licence` may be empty."""

    video: str = "file"
    caption: str = "label"
    title: str = ""
    split: str = ""
    licence: str = ""


class Questions(Section):
    """What is asked of a clip."""

    caption: str = "What happens in this clip?"
    dish: str = "Which dish is made in this clip?"
    recipe: str = "Write the recipe of this clip."


class ClipsOptions(Section):
    """Which annotation, where the clips lie, what becomes a conversation and how long an answer may be.

    file and videos have a default per layout; videos is a path with {id}, {subset}, {recipe_type} and needs no ending.
    topics: `caption` needs captions, `dish` titles, `recipe` steps; a clip without the part has no such row.
    max_ingredients, max_steps, max_words (per step) shorten the recipe that is asked for; the item keeps it whole.
    limit: that many clips (a uniform choice, the same in every run).
    """

    layout: Literal["table", "youcook2", "tasty"] = "table"
    file: str = ""
    videos: str = ""
    names: str = ""
    columns: Columns = Columns()
    topics: tuple[Literal["caption", "dish", "recipe"], ...] = ("caption", "dish", "recipe")
    questions: Questions = Questions()
    max_ingredients: int | None = None
    max_steps: int | None = None
    max_words: int | None = None
    limit: int | None = None
    splits: dict[str, str] = {}
    language: str = "en"


class Clips:
    """Items (one per clip) and conversations with topics "caption", "dish" and "recipe"."""

    name = "clips"
    Options = ClipsOptions

    def __init__(self, root: Path, options: ClipsOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits(options.splits)
        self.file = below(root, options.file or FILES[options.layout])
        self.names = self._dish_names()
        if options.layout == "table":
            require(self.file, [column for column in options.columns.model_dump().values() if column])
        elif not any("_error" not in row for row in self._clips()):
            raise DataError(f"{self.file}: no clip in the layout {options.layout!r}")

    def tables(self) -> Tables:
        """items and conversations."""
        return {"items": partial(self._rows, self._item), "conversations": partial(self._rows, self._conversations)}

    def _rows(self, make: Any) -> Iterator[Row]:
        for row in limited(self._clips, "id", self.options.limit)():
            if "_error" in row:
                yield row
            else:
                yield from make(row)

    def _clips(self) -> Iterator[Row]:
        """One row per clip: id, video, title, caption, ingredients, steps, split, licence."""
        layouts = {"table": self._from_table, "youcook2": self._from_youcook2, "tasty": self._from_tasty}
        parse = layouts[self.options.layout]
        for raw in read(self.file):
            if "_error" in raw:
                yield raw
                continue
            try:
                for row in parse(raw):
                    whole: Row = {**EMPTY, **row}
                    whole.setdefault("_line", raw["_line"])
                    if not whole["caption"] and not whole["steps"] and "_error" not in whole:
                        yield broken(whole["_line"], "no-words", f"{row['id']!r} has neither a caption nor steps")
                    else:
                        yield whole
            except (KeyError, TypeError, AttributeError) as error:
                yield broken(raw["_line"], "torn-row", f"not in the layout {self.options.layout!r}: {error!r}")

    def _split(self, word: str, line: str) -> dict[str, Any]:
        split = split_name(word, self.options.splits)
        return {"split": split} if split else broken(line, "unknown-split", f"{word!r}; name it in data.options.splits")

    def _from_table(self, raw: Row) -> Iterator[Row]:
        columns = self.options.columns
        key, line = raw[columns.video], raw["_line"]
        found = {name: raw[column] or "" for name in ("title", "licence") if (column := getattr(columns, name))}
        split = self._split(raw[columns.split], line) if columns.split else {}
        yield {"id": key, "video": self._path(id=key), "caption": raw[columns.caption], "_line": line, **found, **split}

    def _from_youcook2(self, raw: Row) -> Iterator[Row]:
        for key, clip in raw["database"].items():
            line, kind = f"{self.file.name}: {key}", str(clip.get("recipe_type", ""))
            steps = [part["sentence"] for part in sorted(clip["annotations"], key=lambda part: part["segment"][0])]
            # Its test annotations were never published: the validation videos are the usual test.
            usual = clip["subset"] == "validation" and not self.options.splits
            split = self._split("test" if usual else clip["subset"], line)
            path = self._path(id=key, subset=clip["subset"], recipe_type=kind)
            yield {"id": key, "video": path, "title": self.names.get(kind, ""), "steps": steps, "_line": line, **split}

    def _from_tasty(self, raw: Row) -> Iterator[Row]:
        for clip in raw.get("results", [raw]):
            key = str(clip.get("slug") or clip.get("id") or clip["title"])
            title = str(clip.get("name") or clip.get("title") or key)
            if "instructions" in clip:
                told = sorted(clip["instructions"], key=lambda step: step.get("position", 0))
                steps = [step["display_text"] for step in told]
                parts = [part for section in clip.get("sections", []) for part in section["components"]]
                ingredients = [component_text(part) for part in parts]
            else:
                steps, ingredients = list(clip["steps"]), list(clip.get("ingredients", []))
            line = raw["_line"] if "results" not in raw else f"{self.file.name}: {key}"
            split = self._split(clip["split"], line) if "split" in clip else {}
            title = title.replace("-", " ") if " " not in title else title
            yield {
                "id": key, "video": self._path(id=key), "title": title,
                "ingredients": ingredients, "steps": steps, "_line": line, **split,
            }  # fmt: skip

    def _dish_names(self) -> dict[str, str]:
        """Number -> dish of label_foodtype.csv, which has no header line."""
        if not self.options.names:
            return {}
        path = below(self.root, self.options.names)
        names = {}
        for where, line in lines(path):
            number, comma, name = line.partition(",")
            if not comma:
                raise DataError(f"{where}: {line!r}; expected lines such as '101,pizza'")
            names[number.strip()] = name.strip()
        return names

    def _path(self, **parts: str) -> str:
        """The path of a clip; without an ending the file that is there, else .mp4, which is reported missing."""
        path = self.options.videos or VIDEOS[self.options.layout]
        for name, value in parts.items():
            path = path.replace(f"{{{name}}}", value)
        if Path(path).suffix.lower() in ENDINGS:
            return path
        return next((path + end for end in ENDINGS if (self.root / (path + end)).exists()), path + ENDINGS[0])

    def _item(self, row: Row) -> Iterator[Row]:
        text = "\n".join([row["caption"], *row["ingredients"], *row["steps"]]).strip()
        yield item(
            row["id"], row["title"], row["_line"], row["split"],
            text=text, videos=[row["video"]], language=self.options.language, licence=row["licence"],
        )  # fmt: skip

    def _conversations(self, row: Row) -> Iterator[Row]:
        options, ask, media = self.options, self.options.questions, [("video", row["video"])]
        placed: dict[str, Any] = {"line": row["_line"], "split": row["split"], "item": row["id"]}
        if "caption" in options.topics and row["caption"]:
            truth: dict[str, Any] = {"caption": row["caption"]}
            yield question(f"caption:{row['id']}", ask.caption, row["caption"], media, truth, topic="caption", **placed)
        if "dish" in options.topics and row["title"]:
            truth = {"name": row["title"], "names": "dish"}
            yield question(f"dish:{row['id']}", ask.dish, row["title"], media, truth, topic="dish", **placed)
        if "recipe" in options.topics and row["steps"]:
            steps = [words(step, options.max_words) for step in row["steps"][: options.max_steps]]
            answer, truth = recipe_answer(row["ingredients"][: options.max_ingredients], steps)
            yield question(f"recipe:{row['id']}", ask.recipe, answer, media, truth, topic="recipe", **placed)


def component_text(component: Mapping[str, Any]) -> str:
    """An ingredient of Tasty's JSON as one line; where its raw text is "n/a", put together from its parts."""
    raw = str(component.get("raw_text") or "").strip()
    if raw and raw.lower() != "n/a":
        return raw
    measured: Mapping[str, Any] = next(iter(component.get("measurements") or []), {})
    quantity = str(measured.get("quantity") or "")
    unit = (measured.get("unit") or {}).get("abbreviation", "")
    parts = ("" if quantity == "0" else quantity, unit, component["ingredient"]["name"])
    return " ".join(part for part in parts if part)

"""Pictures with one class each: a CSV, class folders, or the layouts of Food-101 and FoodX-251.

Food-101 (Bossard et al. 2014): images/<class>/<id>.jpg, meta/train.txt, meta/test.txt.
FoodX-251 (Kaur et al. 2019, iFood 2019): class_list.txt, train_labels.csv, val_labels.csv, train_set/, val_set/.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Literal, NamedTuple

from latefuse.data.errors import DataError
from latefuse.data.negatives import Captioned, Claims, Judged
from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, lines, read, require, sample
from latefuse.data.sources.rows import check_splits, item, question, split_name
from latefuse.sections import Section, nearest


class Columns(Section):
    """The columns of the CSV. `split` may be empty: then prepare draws the splits."""

    image: str = "file"
    label: str = "label"
    split: str = "split"


class Descriptions(Section):
    """A table with a text for each class: its file and columns. group: the class that it shares with others."""

    file: str
    label: str = "class"
    text: str = "description"
    group: str = ""


class LabelledImagesOptions(Section):
    """How the pictures lie and which of them are read.

    layout `folders` is <split>/<class>/<file>, or <class>/<file> without official splits.
    per_class keeps that many pictures of each class in each split (a uniform choice, the same in every run);
    classes keeps only these labels. splits maps the source's own split words to train, valid, test. judgements: also
    ask whether a description fits a picture, that of its class beside one of another.
    """

    layout: Literal["csv", "folders", "food101", "foodx251"] = "csv"
    file: str = "images.csv"
    columns: Columns = Columns()
    classes: tuple[str, ...] = ()
    per_class: int | None = None
    splits: dict[str, str] = {}
    topic: str = "class"
    question: str = "What is in this picture?"
    language: str = "en"
    descriptions: Descriptions | None = None
    judgements: Judged | None = None


class Picture(NamedTuple):
    """One labelled picture as the layouts give it; `error` instead where its row is broken."""

    path: str
    label: str
    split: str | None
    line: str
    error: str = ""


class LabelledImages:
    """Items (one per picture), conversations that ask for the class, a closed list of names, and, if asked for,
    judgements."""

    name = "labelled_images"
    Options = LabelledImagesOptions

    def __init__(self, root: Path, options: LabelledImagesOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits(options.splits)
        self._pictures = {
            "csv": self._from_csv,
            "folders": self._from_folders,
            "food101": self._from_food101,
            "foodx251": self._from_foodx251,
        }[options.layout]
        self._labels = self._known_labels()
        if options.descriptions and not options.judgements:
            raise DataError("data.options.descriptions: nothing reads them without data.options.judgements")
        if options.judgements:
            _, groups = self._described()
            if "same-class" in options.judgements.kinds and not any(groups.values()):
                raise DataError("data.options.judgements.kinds: same-class needs data.options.descriptions.group")
        unknown = [f"{name!r}{nearest(name, self._labels)}" for name in options.classes if name not in self._labels]
        if unknown:
            raise DataError(f"data.options.classes: {self.root} has no class {', '.join(unknown)}")
        spoken = {spell(label) for label in self._labels}
        if len(spoken) != len(self._labels):
            raise DataError(f"{self.root}: two class labels read alike once '_' and '-' are spaces; rename one")

    def tables(self) -> Tables:
        """items and conversations, and judgements where the options ask for them."""
        tables = {"items": partial(self._rows, "items"), "conversations": partial(self._rows, "conversations")}
        return {**tables, **({"judgements": self._judgements} if self.options.judgements else {})}

    def _judgements(self) -> Iterator[Row]:
        how, (texts, groups) = self.options.judgements, self._described()
        assert how is not None
        pictures = [
            Captioned(one.path, [texts[one.label]], self._split(one) or "", one.path, groups.get(one.label, ""))
            for one in self._kept()
            if not one.error
        ]
        yield from Claims(pictures, how).rows(self.options.topic, self.name)

    def _split(self, picture: Picture) -> str | None:
        """A description and those that stand beside it must be of one split: without an official one it is drawn."""
        how = self.options.judgements
        return how.split(picture.path) if how and picture.split is None else picture.split

    def _described(self) -> tuple[dict[str, str], dict[str, str]]:
        """Label -> its description, and the group that it shares. Raises DataError for one without."""
        how = self.options.descriptions
        if how is None:
            raise DataError("data.options.judgements: needs data.options.descriptions, a table with a text a class")
        path = below(self.root, how.file)
        require(path, [column for column in (how.label, how.text, how.group) if column])
        texts: dict[str, str] = {}
        groups: dict[str, str] = {}
        for row in read(path):
            label = " ".join(str(row.get(how.label) or "").split())
            if label in texts:
                raise DataError(f"{path.name}: {row['_line']}: {how.label} {label!r} stands there twice; keep one text")
            texts[label] = " ".join(str(row.get(how.text) or "").split())
            groups[label] = " ".join(str(row.get(how.group) or "").split()) if how.group else ""
        lacking = sorted(label for label in self.options.classes or self._labels if not texts.get(label))
        if lacking:
            raise DataError(f"{path}: no {how.text!r} for {how.label} {lacking[0]!r} ({len(lacking)} in all)")
        return texts, groups

    def _rows(self, table: str) -> Iterator[Row]:
        for picture in self._kept():
            if picture.error:
                yield {"_line": picture.line, "_error": picture.error}
                continue
            name = spell(picture.label)
            if table == "items":
                yield item(
                    picture.path, "", picture.line, self._split(picture),
                    attributes={self.options.topic: name}, images=[picture.path], language=self.options.language,
                )  # fmt: skip
                continue
            yield question(
                f"{self.options.topic}:{picture.path}", self.options.question, name, [("image", picture.path)],
                {"name": name, "names": self.options.topic}, picture.line, self._split(picture),
                topic=self.options.topic, item=picture.path,
            )  # fmt: skip

    def _kept(self) -> Iterator[Picture]:
        classes, limit = self.options.classes, self.options.per_class
        wanted = (p for p in self._pictures() if p.error or not classes or p.label in classes)
        if limit is None:
            return wanted
        again = (p for p in self._pictures() if not p.error and (not classes or p.label in classes))
        chosen = sample(((f"{p.split}/{p.label}", p.path) for p in again), limit)
        return (p for p in wanted if p.error or p.path in chosen)

    def _known_labels(self) -> list[str]:
        """All labels of the source; raises DataError where it has none or a file is missing."""
        if self.options.layout == "food101":
            below(self.root, "images")
            for split in ("train", "test"):
                below(self.root, f"meta/{split}.txt")
        elif self.options.layout == "foodx251":
            return list(self._foodx_names().values())
        elif self.options.layout == "csv":
            columns = self.options.columns
            needed = [column for column in (columns.image, columns.label, columns.split) if column]
            require(below(self.root, self.options.file), needed)
        found = sorted({p.label for p in self._pictures() if not p.error})
        if not found:
            raise DataError(f"{self.root}: no labelled pictures in the layout {self.options.layout!r}")
        return found

    def _from_csv(self) -> Iterator[Picture]:
        columns = self.options.columns
        for row in read(below(self.root, self.options.file)):
            line = row["_line"]
            if "_error" in row:
                yield Picture("", "", None, line, row["_error"])
                continue
            split, label = None, str(row.get(columns.label) or "").strip()
            if columns.split:
                word = str(row.get(columns.split) or "")
                split = split_name(word, self.options.splits)
                if split is None:
                    reason = f"unknown-split: {word!r}; name it in data.options.splits"
                    yield Picture("", "", None, line, reason)
                    continue
            if not label:
                yield Picture("", "", None, line, f"no-label: column {columns.label!r} is empty")
                continue
            yield Picture(str(row.get(columns.image) or ""), label, split, line)

    def _from_folders(self) -> Iterator[Picture]:
        tops = _folders(self.root)
        official = bool(tops) and all(split_name(top, self.options.splits) for top in tops)
        for top in tops:
            for label in _folders(self.root / top) if official else [top]:
                parent = f"{top}/{label}" if official else label
                split = split_name(top, self.options.splits) if official else None
                for path in sorted(p for p in (self.root / parent).iterdir() if not p.name.startswith(".")):
                    yield Picture(f"{parent}/{path.name}", label, split, f"{parent}/{path.name}")

    def _from_food101(self) -> Iterator[Picture]:
        for word in ("train", "test"):
            path, split = below(self.root, f"meta/{word}.txt"), split_name(word, self.options.splits)
            for where, key in lines(path):
                if key.count("/") == 1:
                    yield Picture(f"images/{key}.jpg", key.split("/")[0], split, where)
                else:
                    yield Picture("", "", None, where, f"torn-row: {key!r}; expected <class>/<id>")

    def _foodx_names(self) -> dict[str, str]:
        """Class number -> name, from lines such as '0 macaron'."""
        path = below(self.root, "class_list.txt")
        names = {}
        for where, line in lines(path):
            number, _, name = line.partition(" ")
            if not name.strip():
                raise DataError(f"{where}: {line!r}; expected '<number> <class name>'")
            names[number] = name.strip()
        for split in ("train", "val"):
            require(below(self.root, f"{split}_labels.csv"), ("img_name", "label"))
        return names

    def _from_foodx251(self) -> Iterator[Picture]:
        names = self._foodx_names()
        # The labels of its test set were never published: the validation set is the usual test.
        words = {"val": "test", **self.options.splits}
        for word in ("train", "val"):
            for row in read(below(self.root, f"{word}_labels.csv")):
                number = row.get("label", "").strip()
                if "_error" in row or number not in names:
                    reason = row.get("_error") or f"unknown-label: {number!r} is not in class_list.txt"
                    yield Picture("", "", None, row["_line"], reason)
                    continue
                path = f"{word}_set/{row['img_name'].strip()}"
                yield Picture(path, names[number], split_name(word, words), row["_line"])


def spell(label: str) -> str:
    """A label as words: 'apple_pie' -> 'apple pie'."""
    return " ".join(label.replace("_", " ").replace("-", " ").split())


def _folders(path: Path) -> list[str]:
    return sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))

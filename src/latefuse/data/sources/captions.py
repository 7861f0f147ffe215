"""Pictures with one or several captions each, one line per caption (Flickr8k, Flickr30k and the like)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from latefuse.data.errors import DataError
from latefuse.data.negatives import Captioned, Claims, Judged
from latefuse.data.sources import Tables
from latefuse.data.sources.files import Row, below, folder, limited, read, require
from latefuse.data.sources.rows import broken, check_splits, item, question, split_name
from latefuse.sections import Section


class Columns(Section):
    """The columns of the file. `split` may be empty: then prepare draws the splits, picture by picture."""

    image: str = "image"
    caption: str = "caption"
    split: str = ""


class CaptionsOptions(Section):
    """Where captions and pictures lie.

    captions: how many captions of a picture become conversations; all stand in the truth as references.
    limit: that many pictures (a uniform choice, the same in every run). judgements: also make judgements of them, each
    right caption beside a wrong one.
    """

    file: str = "captions.csv"
    delimiter: str | None = None
    images: str = "images"
    columns: Columns = Columns()
    captions: int | None = None
    limit: int | None = None
    splits: dict[str, str] = {}
    question: str = "Describe this picture."
    language: str = "en"
    judgements: Judged | None = None


class Captions:
    """Items (one per picture), conversations with topic "caption" (one per caption) and, if asked for, judgements."""

    name = "captions"
    Options = CaptionsOptions

    def __init__(self, root: Path, options: CaptionsOptions) -> None:
        self.root, self.options = folder(root), options
        check_splits(options.splits)
        columns = options.columns
        needed = [column for column in (columns.image, columns.caption, columns.split) if column]
        require(below(root, options.file), needed, options.delimiter)
        if options.images:
            below(root, options.images)
        if options.judgements and "same-class" in options.judgements.kinds:
            raise DataError("data.options.judgements.kinds: same-class needs classes, which captions do not have")

    def tables(self) -> Tables:
        """items and conversations, and judgements where the options ask for them."""
        tables = {"items": partial(self._rows, "items"), "conversations": partial(self._rows, "conversations")}
        return {**tables, **({"judgements": self._judgements} if self.options.judgements else {})}

    def _judgements(self) -> Iterator[Row]:
        assert self.options.judgements is not None
        told = (row for row in limited(self._pictures, "image", self.options.limit)() if "_error" not in row)
        pictures = [Captioned(row["image"], row["captions"], row["split"], self._path(row["image"])) for row in told]
        yield from Claims(pictures, self.options.judgements).rows("caption", self.name)

    def _path(self, key: str) -> str:
        return f"{self.options.images}/{key}" if self.options.images else key

    def _rows(self, table: str) -> Iterator[Row]:
        options = self.options
        for row in limited(self._pictures, "image", options.limit)():
            if "_error" in row:
                yield row
                continue
            key, line, split = row["image"], row["_line"], row["split"]
            path = self._path(key)
            if table == "items":
                yield item(key, "", line, split, images=[path], language=options.language)
                continue
            truth = {"captions": row["captions"]}
            for number, caption in enumerate(row["captions"][: options.captions]):
                yield question(
                    f"caption:{key}#{number}", options.question, caption, [("image", path)],
                    {"caption": caption, **truth}, line, split, topic="caption", item=key,
                )  # fmt: skip

    def _pictures(self) -> Iterator[Row]:
        """One row per picture: image, captions, split. The lines of a picture stand together, so memory stays flat."""
        columns = self.options.columns
        seen: set[int] = set()
        path = below(self.root, self.options.file)
        for key, lines in itertools.groupby(
            read(path, delimiter=self.options.delimiter), lambda row: row.get(columns.image, "")
        ):
            rows = list(lines)
            if "_error" in rows[0]:
                yield from rows
                continue
            line = rows[0]["_line"]
            if hash(key) in seen:
                raise DataError(f"{line}: {key!r} has captions further up too; sort {path.name} by {columns.image!r}")
            seen.add(hash(key))
            captions = [" ".join(str(row.get(columns.caption) or "").split()) for row in rows]
            word = str(rows[0].get(columns.split) or "") if columns.split else ""
            split = split_name(word, self.options.splits) if columns.split else None
            if self.options.judgements and not columns.split:
                split = self.options.judgements.split(key)
            if columns.split and split is None:
                yield broken(line, "unknown-split", f"{word!r}; name it in data.options.splits")
            elif not any(captions):
                yield broken(line, "no-caption", f"{key!r} has no caption")
            else:
                yield {"image": key, "captions": [c for c in captions if c], "split": split, "_line": line}

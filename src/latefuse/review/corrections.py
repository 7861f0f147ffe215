"""What people said of verdicts, as judgements that a recipe can learn from.

Read are the exports of Label Studio (JSON, JSON-MIN, CSV, TSV) of a project made by `export`, and any table with the
columns id and label, with a column who where several people judged. `write` makes a folder that a recipe reads:

    data: {..., corrections: [folder]}                                                                    # with others
    data: {source: manifest, path: folder, options: {tables: {judgements: {file: judgements.jsonl}}}}     # alone
"""

from __future__ import annotations

import difflib
import hashlib
import itertools
import json
import os
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from latefuse.config_judge import NOT_RELEVANT, RELEVANT
from latefuse.data.dataset import store_medium
from latefuse.data.errors import DataError
from latefuse.data.schema import TABLES
from latefuse.data.sources.corrected import FILE, PERSON
from latefuse.data.sources.files import Row, header, read
from latefuse.review.export import CHOICES, CONTROL, KEY
from latefuse.sections import nearest

MANY = 20_000
"""Ids among which the nearest one is looked for, about a second."""
LABELS = {CHOICES[RELEVANT]: True, CHOICES[NOT_RELEVANT]: False}
WORDS = {**{word.lower(): label for word, label in LABELS.items()}, "true": True, "false": False}
WORDS |= {"1": True, "0": False, "yes": True, "no": False}


@dataclass(frozen=True)
class Vote:
    """What one person said of one pair.

    label: None where they skipped it, or nobody came to it. who: "" where the file does not say. time: as the file has
    it, "" without one. where: file and entry, for messages.
    """

    id: str
    label: bool | None
    who: str
    time: str
    where: str


@dataclass(frozen=True)
class Corrections:
    """rows: judgements by people. changed: how many of them are against the label that their pair had.

    Left out: skipped votes; tied pairs, with as many votes for as against; pairs of the test split.
    """

    rows: list[Row]
    changed: int = 0
    skipped: int = 0
    tied: int = 0
    test: int = 0

    def told(self) -> str:
        """The counts as one sentence."""
        reasons = {
            "vote(s) skipped": self.skipped,
            "pair(s) tied": self.tied,
            "pair(s) of the test split, which nothing may learn from": self.test,
        }
        left = ", ".join(f"{count:,} {reason}" for reason, count in reasons.items() if count)
        told = f"{len(self.rows):,} judgement(s) by people, {self.changed:,} of them against the label they had"
        return f"{told}; left out: {left}" if left else told


def read_votes(path: Path) -> list[Vote]:
    """The votes of a file, in its order. Raises DataError that names file and entry for what can't be understood."""
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the export of Label Studio, or a table with id and label")
    columns = header(path)
    nested = {"annotations", "data"} <= set(columns)
    if not nested:
        for known in ((KEY, "id"), (CONTROL, "label")):
            if not set(known) & set(columns):
                raise DataError(f"{path}: missing column {known[1]!r}{nearest(known[1], columns)}")
    found: list[Vote] = []
    for entry in read(path):
        where = str(path.with_name(entry["_line"]))
        if "_error" in entry:
            raise DataError(f"{where}: {entry['_error']}")
        found += _of_task(entry, where) if nested else [_of_line(entry, where)]
    return found


def corrected(votes: Iterable[Vote], rows: Iterable[Mapping[str, Any]]) -> Corrections:
    """The judgements that people agree on, made of the rows that they are about.

    rows: the judgements that were exported, with their splits. A person has one vote a pair, the last one; the majority
    decides. A new row has the columns of its old one, source "person", and an id of the old one and a digest of who
    decided; a relevant row that people call not relevant is a negative of kind "person". Pairs of the test split are
    counted and left out: the test may be looked at, not learned from. Raises DataError for a vote on a pair that is not
    among the rows, with the nearest id.
    """
    known = {str(row["id"]): row for row in rows}
    made: list[Row] = []
    told = {"changed": 0, "skipped": 0, "tied": 0, "test": 0}
    for key, voices in _by_pair(votes, known).items():
        row, cast = known[key], [vote for vote in voices if vote.label is not None]
        balance = sum(1 if vote.label else -1 for vote in cast)
        told["skipped"] += len(voices) - len(cast)
        if row.get("split_item") == "test":
            told["test"] += 1
        elif cast and not balance:
            told["tied"] += 1
        elif cast:
            label = balance > 0
            told["changed"] += row.get("label") not in (None, label)
            made.append(_row(row, label, [vote.who for vote in cast if vote.label == label]))
    return Corrections(made, **told)


def write(rows: Sequence[Row], folder: Path, media: Callable[[str], Path] | None = None) -> Path:
    """judgements.jsonl in `folder`, for the source `manifest`; returns its path.

    media: the file of a picture by its reference, for instance `Dataset.media`: pictures are copied beside the table,
    so that `folder` can be the path of a recipe. Without it references stay as they are. Raises DataError without rows.
    """
    path = folder / FILE
    if not rows:
        raise DataError(f"{path}: no judgement to write; a recipe can't read an empty table")
    folder.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{FILE}.{os.getpid()}")
    with aside.open("w", encoding="utf-8") as file:
        for row in rows:
            if media and row.get("image"):
                row = {**row, "image": store_medium(folder, media(row["image"]))}
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    aside.replace(path)
    return path


def _by_pair(votes: Iterable[Vote], known: Collection[str]) -> dict[str, list[Vote]]:
    """The last vote of each person, pair by pair. A vote of nobody in particular counts as one of its own."""
    pairs: dict[str, dict[str, Vote]] = {}
    for vote in votes:
        if vote.id not in known:
            close = difflib.get_close_matches(vote.id, itertools.islice(known, MANY), n=1, cutoff=0)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise DataError(f"{vote.where}: no judgement {vote.id!r} among those that were exported{hint}")
        voices = pairs.setdefault(vote.id, {})
        voice = vote.who or vote.where
        if voice not in voices or vote.time >= voices[voice].time:
            voices[voice] = vote
    return {key: list(voices.values()) for key, voices in pairs.items()}


def _of_task(entry: Row, where: str) -> Iterator[Vote]:
    """The votes of a task of Label Studio's JSON: one per annotation, one without a label where there is none."""
    data, annotations = entry.get("data"), entry.get("annotations")
    if not isinstance(data, dict) or not isinstance(annotations, list):
        raise DataError(f"{where}: no task of Label Studio; export the project as JSON")
    key = _key(data, where)
    if not annotations:
        yield Vote(key, None, "", "", where)
    for number, one in enumerate(annotations, start=1):
        place = f"{where}, annotation {number}"
        if not isinstance(one, dict):
            raise DataError(f"{place}: no annotation but {one!r:.40}; export the project as JSON")
        chosen = [part.get("value") for part in one.get("result") or () if part.get("from_name") == CONTROL]
        skipped = one.get("was_cancelled") or not chosen
        if len(chosen) > 1:
            raise DataError(f"{place}: {len(chosen)} answers where one was asked for")
        label = None if skipped else _label(chosen[0], place)
        yield Vote(key, label, _who(one.get("completed_by")), str(one.get("updated_at") or ""), place)


def _of_line(entry: Row, where: str) -> Vote:
    """The vote of a line of a table, or of an object of JSON-MIN."""
    label = _label(entry.get(CONTROL, entry.get("label")), where)
    who = _who(entry.get("annotator", entry.get("who")))
    return Vote(_key(entry, where), label, who, str(entry.get("updated_at") or ""), where)


def _key(data: Mapping[str, Any], where: str) -> str:
    key = data.get(KEY, data.get("id"))
    if key in (None, ""):
        raise DataError(f"{where}: no {KEY!r}, so nothing tells which pair it is about; import the tasks of `export`")
    return str(key)


def _label(value: Any, where: str) -> bool | None:
    """True for relevant, False for not, None for no answer. value: a word, or {"choices": [words]}."""
    words = value.get("choices", ()) if isinstance(value, dict) else value if isinstance(value, list) else [value]
    words = [word for word in words if word not in (None, "")]
    if not words:
        return None
    if len(words) > 1:
        raise DataError(f"{where}: {', '.join(map(repr, words))} where one answer was asked for")
    said = str(words[0]).strip()
    if said.lower() not in WORDS:
        raise DataError(f"{where}: no answer {said!r}{nearest(said, LABELS)}")
    return WORDS[said.lower()]


def _who(value: Any) -> str:
    """Label Studio gives a number, a name, or an object with both."""
    if isinstance(value, dict):
        value = value.get("email") or value.get("id")
    return "" if value is None else str(value)


def _row(row: Mapping[str, Any], label: bool, deciders: Sequence[str]) -> Row:
    """Who decided goes into the id as a digest: names and addresses of people have no place in training data."""
    digest = hashlib.sha256("\n".join(sorted(deciders)).encode()).hexdigest()[:8]
    kept = {name: row[name] for name in TABLES["judgements"].names if name in row}
    negative = "" if label else str(row.get("negative") or PERSON)
    return {**kept, "id": f"{row['id']}-{PERSON}-{digest}", "label": label, "source": PERSON, "negative": negative}

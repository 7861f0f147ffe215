"""A trained judge over a file of pairs: what `latefuse judge` runs.

It streams, goes on where it was stopped, and leaves every verdict in an audit table.
"""

from __future__ import annotations

import csv
import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

from latefuse import progress
from latefuse.config import Task, Train
from latefuse.config_judge import ABSTAIN, RELEVANT
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.data.media import MediaError, open_image
from latefuse.data.schema import Refusal
from latefuse.data.sources import files
from latefuse.evaluation import rulings
from latefuse.evaluation.rationale import explain
from latefuse.evaluation.rulings import Ruling
from latefuse.models import adapters, embedder
from latefuse.models.adapter_files import PEFT_CONFIG, AdapterError, read_card
from latefuse.models.backbone import load_placed
from latefuse.review.audit import FILE as AUDIT
from latefuse.review.audit import Audit, Verdict
from latefuse.sections import nearest
from latefuse.tasks import judge
from latefuse.training.features import Features

Row = dict[str, Any]
VERDICTS, REFUSED, JUDGE = "verdicts.csv", "refused.csv", "judge.json"
COLUMNS = ("id", "task", "verdict", "probability", "score", "rationale")
REASONS = ("id", "reason")


class PairJudge:
    """A backbone with a judge's adapter on it, and what turns its scores into verdicts."""

    def __init__(self, backbone: Path, adapter: Path, dataset: Path, ruled: Path, media: Path) -> None:
        """adapter: the output folder of `finetune`, or the adapter's own. dataset: what it learned from; its training
        rows are the demonstrations. ruled: rulings.json of the evaluation. media: the folder of the pairs' pictures.

        Raises AdapterError for an adapter that is no judge's, BackboneError, and DataError as `rulings.read` does.
        """
        folder = adapter if (adapter / PEFT_CONFIG).exists() else adapter / "adapter"
        data = Dataset(dataset)
        self.card = read_card(folder, data.fingerprint)
        if self.card.judge is None:
            raise AdapterError(f"{folder}: an adapter of kind {self.card.kind}, not of a judge")
        self.rulings = rulings.read(ruled, self.card.arm, self.card.seed)
        self.backbone, self.media = load_placed(backbone), media
        adapters.load(self.backbone, folder)
        self.digest, self.ruled = embedder.digest(folder), hashlib.sha256(ruled.read_bytes()).hexdigest()
        train = Train(max_tokens=self.card.max_tokens or Train().max_tokens)
        task = Task(kind="judge", modality=self.card.modality, table="judgements", train=train, judge=self.card.judge)
        known = data.rows("judgements", "train", where=self.card.where)
        self.shown = {Path(row["image"]).stem: row["image"] for row in known if row["image"]}
        """Digest of a picture that it learned from -> its path there: it must not be shown beside itself."""
        self.instructions = {row["task"] or "": row["instruction"] for row in known}
        self.features = Features(self.backbone, lambda ref: Path(ref) if Path(ref).is_absolute() else data.media(ref))
        self.writer = judge.Writer.behind(self.backbone, task, known, self.features)

    def row(self, raw: Mapping[str, Any], where: str) -> Row:
        """A line of the pairs as a judgement.

        Raises DataError for a task without a rule, Refusal for a line that says too little or whose picture can't be
        read.
        """
        task = _text(raw, "task") or (next(iter(self.rulings)) if len(self.rulings) == 1 else "")
        if task not in self.rulings:
            hint = nearest(task, self.rulings)
            raise DataError(f"{where}: no task {task!r} among those measured: {', '.join(self.rulings)}{hint}")
        image, text = _text(raw, "image"), _text(raw, "text")
        if "text" in self.card.modality and not text.strip():
            raise Refusal("no-text", "nothing to judge the picture by")
        path = ""
        if "image" in self.card.modality:
            if not image:
                raise Refusal("no-picture", "nothing to look at")
            picture = _picture(self.media, image)
            with picture.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
            path = self.shown.get(digest, str(picture))
        return {
            "id": _text(raw, "id"), "task": task, "image": path, "named": image, "text": text, "negative": "",
            "instruction": _text(raw, "instruction") or self.instructions.get(task, ""), "item": _text(raw, "item"),
            "label": False,
        }  # fmt: skip

    def verdicts(self, rows: Sequence[Row], batch_size: int, why: bool) -> list[Verdict | None]:
        """One for each row, None for one that is too long to be asked. why: whether each is given a reason."""
        written = self.writer.write_all(rows, fixed=self.writer.settings.fixed)
        asked = [one for one in written if one is not None]
        settings = self.writer.settings
        scored = judge.score(self.backbone, asked, settings, features=self.features, batch_size=batch_size).tolist()
        kept = [row for row, one in zip(rows, written, strict=True) if one is not None]
        given = [self._verdict(row, score) for row, score in zip(kept, scored, strict=True)]
        if why:
            said = [one.verdict == RELEVANT for one in given]
            reasons = explain(self.writer, kept, said, features=self.features, batch_size=batch_size)
            given = [replace(one, rationale=reason) for one, reason in zip(given, reasons, strict=True)]
        found = iter(given)
        return [None if one is None else next(found) for one in written]

    def _verdict(self, row: Row, score: float) -> Verdict:
        ruling: Ruling = self.rulings[row["task"]]
        return Verdict(
            id=row["id"],
            task=row["task"],
            instruction=row["instruction"],
            image=row["named"],
            text=row["text"],
            score=score,
            probability=float(ruling.probability([score])[0]),
            verdict=str(ruling.verdicts([score])[0]),
            threshold=ruling.threshold.value if ruling.threshold else 0.5,
            model=self.backbone.name,
            backbone_digest=self.backbone.digest,
            adapter_digest=self.digest,
            config_digest=self.card.config_digest,
        )


def judge_file(
    made: PairJudge, pairs: Path, out: Path, batch: int = 256, batch_size: int = 32, why: bool = False
) -> dict[str, int]:
    """Judge every line of a file that has no verdict yet; returns counts: judged, refused, abstained, kept.

    pairs: rows with id, text, image (below the media folder) and, where the judge knows several, task. Verdicts go into
    AUDIT in `out`, `batch` lines at a time, and from there into VERDICTS, what is refused into REFUSED with its reason:
    those lines are looked at again in the next run. Raises DataError for a file without these columns, two lines of one
    id, and a folder with verdicts of another judge.
    """
    files.require(pairs, ["id", *(column for column in ("image", "text") if column in made.card.modality)])
    out.mkdir(parents=True, exist_ok=True)
    _must_be_of(out, made)
    with Audit(out / AUDIT) as audit:
        done = _begin(out / VERDICTS, COLUMNS, map(_line, audit.rows()))
        _begin(out / REFUSED, REASONS, ())
        waiting = (raw for raw in _read(pairs) if _text(raw, "id") not in done)
        told = Counter(kept=len(done))
        with progress.bar(desc="judge", unit="pair", initial=len(done)) as bar:
            while some := list(islice(waiting, batch)):
                rows, refused = _checked(made, some)
                verdicts = made.verdicts(rows, batch_size, why)
                refused += [(row["id"], "too-long") for row, one in zip(rows, verdicts, strict=True) if one is None]
                given = [one for one in verdicts if one is not None]
                audit.append(given)
                _append(out / VERDICTS, map(_line, given))
                _append(out / REFUSED, refused)
                abstained = sum(one.verdict == ABSTAIN for one in given)
                told.update(judged=len(given), refused=len(refused), abstained=abstained)
                bar.update(len(some))
    return dict(told)


def _text(raw: Mapping[str, Any], column: str) -> str:
    """A value as text, "" where there is none; 0 is one."""
    value = raw.get(column)
    return "" if value is None else str(value)


def _line(one: Verdict) -> list[Any]:
    return [getattr(one, name) for name in COLUMNS]


def _checked(made: PairJudge, raws: Sequence[Row]) -> tuple[list[Row], list[tuple[str, str]]]:
    """The lines that can be judged, and of the others the id and the reason."""
    rows, refused = [], []
    for raw in raws:
        try:
            rows.append(made.row(raw, raw["_line"]))
        except Refusal as refusal:
            refused.append((_text(raw, "id"), refusal.reason))
    return rows, refused


def _picture(root: Path, relative: str) -> Path:
    """The file of a picture that can be read whole. Raises Refusal."""
    try:
        path = files.below(root, relative).resolve()
        open_image(path)
    except MediaError as error:
        raise Refusal(error.reason, str(error)) from error
    except (DataError, OSError, ValueError) as error:  # a name may be too long for a file, or none at all
        raise Refusal("missing", str(error)) from error
    return path


def _read(pairs: Path) -> Iterator[Row]:
    """The lines of a file. Raises DataError for a broken one and for an id that is empty or stands twice."""
    seen = set()
    for raw in files.read(pairs):
        if "_error" in raw:
            raise DataError(f"{raw['_line']}: {raw['_error']}")
        key = _text(raw, "id")
        if not key or key in seen:
            raise DataError(f"{raw['_line']}: the id {key!r} " + ("stands twice" if key else "is empty"))
        seen.add(key)
        yield raw


def _must_be_of(out: Path, made: PairJudge) -> None:
    """Raise DataError where the folder has verdicts of other weights or other thresholds; else note these."""
    path, mine = out / JUDGE, {"adapter": made.digest, "rulings": made.ruled}
    if not path.exists():
        path.write_text(json.dumps(mine) + "\n", encoding="utf-8")
    elif json.loads(path.read_text(encoding="utf-8")) != mine:
        raise DataError(f"{out}: has verdicts of another adapter or of other rulings; name a new folder")


def _begin(path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> set[str]:
    """The file anew, whole or not at all: a killed run may have left half a line. Returns the first column."""
    aside, seen = path.with_name(f".{path.name}"), set()
    with aside.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(columns)
        for row in rows:
            seen.add(str(row[0]))
            writer.writerow(row)
    aside.replace(path)
    return seen


def _append(path: Path, rows: Iterable[Sequence[Any]]) -> None:
    with path.open("a", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)

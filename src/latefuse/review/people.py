"""The way to people and back: what `latefuse review export` and `latefuse review import` do."""

from __future__ import annotations

from pathlib import Path

from latefuse.data.dataset import Dataset
from latefuse.data.sources import files
from latefuse.review import corrections, gallery
from latefuse.review import export as label_studio
from latefuse.review.audit import FILE, Audit, Verdict
from latefuse.review.corrections import Corrections

GALLERY = "gallery.html"


def export(verdicts: Path, media: Path, out: Path, limit: int, prefix: str | None = None) -> int:
    """The abstained and most doubtful verdicts of an audit table as Label Studio tasks and as a gallery; how many.

    verdicts: the output of `latefuse judge`. media: the folder below which its pictures lie. prefix: where Label Studio
    finds them; by default its local files. Raises AuditError, and DataError without verdicts.
    """
    with Audit(verdicts / FILE, create=False) as audit:
        chosen = label_studio.choose(audit.rows(), limit)
    label_studio.write(chosen, out, label_studio.LOCAL_FILES if prefix is None else prefix)
    page = gallery.build(chosen, lambda ref: files.below(media, ref), facts={"from": verdicts.name})
    (out / GALLERY).write_text(page, encoding="utf-8")
    return len(chosen)


def corrections_of_dataset(votes: Path, dataset: Path, out: Path) -> Corrections:
    """What people said of a dataset's judgements, as a folder that a recipe reads. Raises DataError."""
    data = Dataset(dataset)
    found = corrections.corrected(corrections.read_votes(votes), data.rows("judgements"))
    corrections.write(found.rows, out, data.media)
    return found


def corrections_of_verdicts(votes: Path, verdicts: Path, media: Path, out: Path) -> Corrections:
    """What people said of judged pairs, which belong to no dataset yet. Raises AuditError and DataError."""
    with Audit(verdicts / FILE, create=False) as audit:
        rows = [_judgement(one) for one in audit.rows()]
    found = corrections.corrected(corrections.read_votes(votes), rows)
    corrections.write(found.rows, out, lambda ref: files.below(media, ref))
    return found


def _judgement(one: Verdict) -> dict[str, object]:
    label = {"relevant": True, "not relevant": False}.get(one.verdict)
    told = {"id": one.id, "task": one.task, "instruction": one.instruction, "image": one.image, "text": one.text}
    return {**told, "label": label}

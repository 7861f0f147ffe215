"""`latefuse judge`: a file of pairs as verdicts that equal the evaluation's, refused lines, a run that goes on."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from latefuse.config import Job, Task
from latefuse.config_judge import VERDICTS as WORDS
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.evaluation import rulings
from latefuse.evaluation.calibration import Calibration
from latefuse.evaluation.rulings import Ruling
from latefuse.models.adapter_files import AdapterError
from latefuse.review import people
from latefuse.review.audit import FILE, Audit
from latefuse.serving.verdicts import PairJudge, judge_file
from latefuse.steps import finetune
from latefuse.tasks import judge
from latefuse.tracking import Null
from latefuse.training.features import Features

TASK: dict[str, Any] = {
    "kind": "judge", "modality": ["image", "text"], "judge": {"demos": 2},
    "train": {"max_steps": 2, "batch_size": 8, "lr": 0.01, "max_tokens": 2048}, "adapter": {"r": 4},
}  # fmt: skip


@pytest.fixture(scope="module")
def trained(judged: Dataset, backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    job = Job(name="judge", seed=0, tasks={"judge": Task.model_validate(TASK)})
    finetune.run(job, judged.path, backbone_folder("llava_onevision"), out, Null(), out / "cache")
    half = Ruling(0.5, Calibration(scale=1.0, shift=0.0))
    rulings.write([("judge", 0, task, half) for task in ("fits", "differs")], out / "rulings.json")
    return out


@pytest.fixture(scope="module")
def made(trained: Path, judged: Dataset, backbone_folder: Callable[..., Path]) -> PairJudge:
    base = backbone_folder("llava_onevision")
    return PairJudge(base, trained, judged.path, trained / "rulings.json", judged.path)


def _pairs(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["id", "task", "image", "text"], extrasaction="ignore")
        writer.writeheader()
        writer.writerows(rows)
    return path


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_verdicts_are_the_scores_of_the_task(
    made: PairJudge, judged: Dataset, tmp_path: Path, backbone_folder: Callable[..., Path]
) -> None:
    rows = [row for row in judged.rows("judgements", "test") if row["image"]]
    told = judge_file(made, _pairs(tmp_path / "pairs.csv", rows), tmp_path / "out", batch=5)
    assert told == {"kept": 0, "judged": len(rows), "refused": 0, "abstained": 0}
    task = Task.model_validate(TASK)
    asked = [one for one in judge.examples(judged, task, "test", made.backbone) if one.shown[-1]]
    features = Features(made.backbone, judged.media)
    scores = judge.score(made.backbone, asked, task.judge, features=features)  # type: ignore[arg-type]
    found = {row["id"]: float(row["score"]) for row in _read(tmp_path / "out" / "verdicts.csv")}
    for one, score in zip(asked, scores.tolist(), strict=True):
        assert found[one.row] == pytest.approx(score, abs=1e-3)
    with Audit(tmp_path / "out" / FILE, create=False) as audit:
        logged = list(audit.rows())
    assert [one.id for one in logged] == [row["id"] for row in rows]
    assert {one.verdict for one in logged} <= set(WORDS)
    assert {one.adapter_digest for one in logged} == {made.digest}
    assert all(one.instruction for one in logged)


def test_it_goes_on_and_refuses_what_can_not_be_judged(made: PairJudge, judged: Dataset, tmp_path: Path) -> None:
    good = [row for row in judged.rows("judgements", "test") if row["image"]][:4]
    torn = judged.path / "media" / "torn.png"
    torn.write_bytes((judged.path / good[0]["image"]).read_bytes()[:40])
    bad = [
        {"id": "none", "task": "fits", "image": "", "text": "x"},
        {"id": "gone", "task": "fits", "image": "media/gone.png", "text": "x"},
        {"id": "torn", "task": "fits", "image": "media/torn.png", "text": "x"},
        {"id": "outside", "task": "fits", "image": "../../etc/passwd", "text": "x"},
        {"id": "mute", "task": "fits", "image": good[0]["image"], "text": " "},
        {"id": "long", "task": "fits", "image": good[0]["image"], "text": "word " * 50_000},
    ]
    pairs, out = _pairs(tmp_path / "pairs.csv", [*good[:2], *bad]), tmp_path / "out"
    assert judge_file(made, pairs, out)["judged"] == 2
    reasons = {row["id"]: row["reason"] for row in _read(out / "refused.csv")}
    torn.unlink()
    assert reasons["none"] == "no-picture"
    assert reasons["gone"] == reasons["outside"] == "missing"
    assert reasons["torn"] in ("truncated", "broken")
    assert (reasons["mute"], reasons["long"]) == ("no-text", "too-long")
    with (out / "verdicts.csv").open("a") as file:
        file.write('half,"a li')  # as a killed run leaves it
    told = judge_file(made, _pairs(pairs, [*good, *bad]), out)
    assert (told["kept"], told["judged"], told["refused"]) == (2, 2, len(bad))
    with Audit(out / FILE, create=False) as audit:
        assert [one.id for one in audit.rows()] == [row["id"] for row in good]
    assert [row["id"] for row in _read(out / "verdicts.csv")] == [row["id"] for row in good]


def test_a_reason_is_written_behind_the_verdict(made: PairJudge, judged: Dataset, tmp_path: Path) -> None:
    rows = [row for row in judged.rows("judgements", "test") if row["image"]][:2]
    judge_file(made, _pairs(tmp_path / "pairs.csv", rows), tmp_path / "plain")
    judge_file(made, _pairs(tmp_path / "pairs.csv", rows), tmp_path / "why", why=True)
    plain, why = (_read(tmp_path / name / "verdicts.csv") for name in ("plain", "why"))
    assert [row["score"] for row in plain] == [row["score"] for row in why]
    assert not any(row["rationale"] for row in plain)
    assert any(row["rationale"] for row in why)


def test_a_judge_of_words_alone_reads_no_picture(
    judged: Dataset, backbone_folder: Callable[..., Path], tmp_path: Path
) -> None:
    base, half = backbone_folder("llava_onevision"), Ruling(0.5, Calibration(scale=1.0, shift=0.0))
    task = Task.model_validate({**TASK, "modality": ["text"], "where": {"task": "fits"}})
    finetune.run(
        Job(name="text-only", seed=0, tasks={"judge": task}), judged.path, base, tmp_path, Null(), tmp_path / "c"
    )
    rulings.write([("text-only", 0, "fits", half)], tmp_path / "rulings.json")
    made = PairJudge(base, tmp_path, judged.path, tmp_path / "rulings.json", judged.path)
    assert set(made.instructions) == {"fits"}
    told = judge_file(
        made, _pairs(tmp_path / "pairs.csv", [{"id": 0, "image": "a.jpg", "text": "7 is red"}]), tmp_path / "o"
    )
    assert told["judged"] == 1
    with Audit(tmp_path / "o" / FILE, create=False) as audit:
        assert [(one.id, one.image) for one in audit.rows()] == [("0", "a.jpg")]


def test_mistakes_are_told(made: PairJudge, judged: Dataset, trained: Path, tmp_path: Path) -> None:
    row = next(row for row in judged.rows("judgements", "test") if row["image"])
    with pytest.raises(DataError, match=r"no task 'fit' among those measured: fits, differs; did you mean 'fits'"):
        judge_file(made, _pairs(tmp_path / "a.csv", [{**row, "task": "fit"}]), tmp_path / "a")
    (tmp_path / "c.csv").write_text("id,task,image,caption\n1,fits,a.png,x\n")
    with pytest.raises(DataError, match=r"missing column 'text'|text"):
        judge_file(made, tmp_path / "c.csv", tmp_path / "c")
    with pytest.raises(DataError, match="stands twice"):
        judge_file(made, _pairs(tmp_path / "b.csv", [row, row]), tmp_path / "b")
    rulings.write([("other", 0, "fits", Ruling(0.5))], tmp_path / "other.json")
    with pytest.raises(DataError, match="nothing for 'judge' under seed 0"):
        PairJudge(made.backbone.path, trained, judged.path, tmp_path / "other.json", judged.path)
    with pytest.raises(DataError, match="no such file"):
        PairJudge(made.backbone.path, trained, judged.path, tmp_path / "none.json", judged.path)


def test_to_people_and_back(made: PairJudge, judged: Dataset, tmp_path: Path) -> None:
    rows = [row for row in judged.rows("judgements", "valid") if row["image"]]
    judge_file(made, _pairs(tmp_path / "pairs.csv", rows), tmp_path / "out")
    assert people.export(tmp_path / "out", judged.path, tmp_path / "people", limit=5) == 5
    assert "<img" in (tmp_path / "people" / "gallery.html").read_text()
    said = _read(tmp_path / "out" / "verdicts.csv")[0]
    other = "no" if said["verdict"] == "relevant" else "yes"
    votes = tmp_path / "votes.csv"
    votes.write_text(f"id,label\n{said['id']},{other}\n")
    found = people.corrections_of_verdicts(votes, tmp_path / "out", judged.path, tmp_path / "back")
    assert (len(found.rows), found.changed) == (1, 1)
    assert found.rows[0]["source"] == "person"
    by_dataset = people.corrections_of_dataset(votes, judged.path, tmp_path / "again")
    assert by_dataset.rows[0]["label"] == (other == "yes")
    assert any(path.is_file() for path in (tmp_path / "again" / "media").rglob("*"))


def test_an_adapter_of_another_kind_is_refused(trained: Path, judged: Dataset, made: PairJudge, tmp_path: Path) -> None:
    import json
    import shutil

    shutil.copytree(trained / "adapter", tmp_path / "adapter")
    card = next(path for path in (tmp_path / "adapter").glob("*.json") if "backbone_digest" in path.read_text())
    card.write_text(json.dumps({**json.loads(card.read_text()), "kind": "instruct", "judge": None}))
    with pytest.raises(AdapterError, match="not of a judge"):
        PairJudge(made.backbone.path, tmp_path / "adapter", judged.path, trained / "rulings.json", judged.path)


def test_a_picture_that_it_learned_from_is_not_shown_beside_itself(
    judged: Dataset, trained: Path, made: PairJudge, tmp_path: Path
) -> None:
    """In a catalogue it has another name: it is known by its bytes."""
    rows = [row for row in judged.rows("judgements", "train") if row["image"]]
    for number, row in enumerate(rows):
        (tmp_path / f"{number}.png").write_bytes(judged.media(row["image"]).read_bytes())
    shop = PairJudge(made.backbone.path, trained, judged.path, trained / "rulings.json", tmp_path)
    for number, row in enumerate(rows):
        asked = {"id": f"new-{number}", "task": row["task"], "image": f"{number}.png", "text": f"no such text {number}"}
        shown = shop.writer.shown.of(shop.row(asked, "pairs.csv:2"), fixed=True)
        assert shown
        assert row["image"] not in [one["image"] for one in shown]

"""The step that measures personalised prompts: what it leaves, and that its numbers are those of its predictions."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import polars as pl
import pytest
from pages import must_stand_alone
from small_shop import shop

from latefuse.config import Evaluation, Job, Task
from latefuse.config_fusion import Fusion
from latefuse.data.dataset import write_dataset
from latefuse.evaluation import bpr, sequences
from latefuse.evaluation.recommending import Sources
from latefuse.steps import evaluate, evaluate_recommending, finetune
from latefuse.tasks.personal_rows import open_rows
from latefuse.tracking import Null

HOW = {"bootstrap": 100, "batch_size": 8, "recommending": {"max_rows": 14, "explanations": 5}}
SHARED = {"candidates": 15, "per_user": 1, "history": 6, "target_tokens": 12, "beams": 10}
ARMS: dict[str, dict[str, Any]] = {
    "both": {"modality": ["text", "image"], "personalise": {"k": 2, **SHARED}},
    "text-only": {"modality": ["text"], "personalise": {"k": 0, **SHARED}},
    "shuffled": {"modality": ["text", "image"], "personalise": {"k": 2, "shuffled": True, **SHARED}},
    "other-numbers": {"modality": ["text", "image"], "personalise": {"k": 2, "ids_seed": 1, **SHARED}},
}
TEMPLATES = ["A-3", "A-9", "B-5", "B-8", "C-3", "C-1", "C-12"]


@pytest.fixture(scope="module")
def measured(backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, out = backbone_folder("sighted"), tmp_path_factory.mktemp("evaluated")
    data = shop(tmp_path_factory.mktemp("shop"), [5, 6, 7, 8] * 4, items=40, pictures=True)
    train = {"max_steps": 2, "batch_size": 8, "lr": 0.003}
    tasks = {name: Task.model_validate({"kind": "personalise", "train": train, **arm}) for name, arm in ARMS.items()}
    folders = []
    for name, seed in (("both", 0), ("both", 1), ("text-only", 0), ("shuffled", 0), ("other-numbers", 0)):
        folders.append(out / f"{name}-{seed}")
        job = Job(name=name, seed=seed, tasks={"both": tasks[name]})
        finetune.run(job, data.path, base, folders[-1], Null(), out / "cache")
    evaluate.run(
        Evaluation.model_validate(HOW), tasks, Fusion(), data.path, base, folders, [], out / "told", Null(),
        out / "cache",
    )  # fmt: skip
    return out / "told"


@pytest.fixture(scope="module")
def metrics(measured: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((measured / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def rows(measured: Path) -> pl.DataFrame:
    return pl.read_parquet(measured / "predictions.parquet")


def test_it_leaves_its_files(measured: Path) -> None:
    for name in (*evaluate_recommending.FILES, "result.json"):
        assert (measured / name).stat().st_size > 0
    result = json.loads((measured / "result.json").read_text())
    floors = ["popularity", "item-kNN", "Markov", "highest + 1", "previous + 1", "SASRec", "VBPR"]
    assert set(result["arms"]) == {*floors, *([] if bpr.missing() else ["BPR"]), *ARMS}
    assert result["rows"] == 14


def test_metrics_are_those_of_the_predictions(metrics: dict[str, float], rows: pl.DataFrame) -> None:
    for template, place, suffix in (("A-3", "", ""), ("A-9", "A-9/", ""), ("B-5", "B-5/", "/sampled-15")):
        for arm in ("both", "shuffled"):
            found = rows.filter(arm=arm, template=template)
            hits = [item in top[:5] for item, top in zip(found["item"], found["top"], strict=True)]
            assert metrics[f"eval/{place}hr_at_5{suffix}/{arm}"] == pytest.approx(np.mean(hits))
    said = rows.filter(arm="both", template="C-12")
    hit = np.mean(["mint" in text.split() for text in said["written"]])
    assert metrics["eval/C-12/feature_hit/both"] == pytest.approx(hit)
    assert metrics["eval/C-3/rouge_l/copied"] > 0
    assert metrics["eval/hr_at_10/text-only/main-minus"] == pytest.approx(
        metrics["eval/hr_at_10/both"] - metrics["eval/hr_at_10/text-only"]
    )


def test_all_arms_answer_the_same_questions_with_items_that_are_new(measured: Path, rows: pl.DataFrame) -> None:
    for template in TEMPLATES:
        asked = [part.select("user", "item") for _, part in rows.filter(template=template).group_by(["arm", "seed"])]
        assert len(asked) >= 4
        assert all(part.equals(asked[0]) for part in asked)
    assert (rows.filter(pl.col("template").str.starts_with("A"))["top"].list.n_unique() == 10).all()
    stored = pl.read_parquet(measured / "candidates.parquet")
    direct = rows.filter(template="B-5", arm="both", seed=0).join(stored, on=["template", "user", "item"])
    assert len(direct) == 14
    for row in direct.iter_rows(named=True):
        assert set(row["top"]) <= set(row["candidates"])
        assert row["item"] in row["candidates"]


@pytest.mark.parametrize("headed", [True, False])
def test_a_template_whose_words_no_review_has_is_left_out_and_told(tmp_path: Path, headed: bool) -> None:
    data = shop(tmp_path / "shop", [5, 6, 7, 8] * 4, items=40)
    tables = {name: list(data.rows(name)) for name in data.tables}
    tables["reviews"] = [row if headed else {**row, "headline": ""} for row in tables["reviews"]]
    source = open_rows(write_dataset(tmp_path / "changed", tables))

    class Alone(Sources):
        def desk(self, arm: str) -> Any:
            return SimpleNamespace(source=source)

    nothing: Any = None
    found = Alone(nothing, nothing, data, "both", {}, {}, Evaluation.model_validate({"recommending": {"controls": []}}))
    assert found.templates == [name for name in TEMPLATES if headed or name != "C-1"]
    assert found.skipped == ([] if headed else ["C-1: no review of the test split has all words that it shows"])


def test_a_template_beside_the_two_of_its_family_is_no_unseen_one(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    assert re.search(r"items</dt>\s*<dd>40</dd>", page)
    for template, told in {"C-3": "seen in training", "C-1": "seen in training", "C-12": "unseen"}.items():
        assert f"Why ({template}, {told})" in page


def test_chance_leaves_out_what_a_user_has_had(tmp_path: Path) -> None:
    """Against items drawn by lot among those that are not in the history."""
    data = shop(tmp_path / "shop", [5, 9, 12, 14] * 4, items=16)
    source = open_rows(data)
    question = sequences.asked(source.found, source.asked("test", "sequential"))
    told: Any = SimpleNamespace(name="both", desk=lambda arm: SimpleNamespace(items=list(range(16))))
    pool = evaluate_recommending._pool(told, SimpleNamespace(user=question.history.last(1)[:, 0], question=question))
    had = [len(set(question.history.indices[question.history.row_of == row])) for row in range(16)]
    assert 2 / pool == pytest.approx(np.mean([2 / (16 - count) for count in had]))
    assert pool < 16 - np.mean(had)


def test_free_beams_stand_beside_those_over_items(metrics: dict[str, float], measured: Path) -> None:
    shares = {name: metrics[f"eval/free_beams/{name}"] for name in ("valid", "distinct", "new")}
    assert 0 <= shares["new"] <= shares["distinct"] <= shares["valid"] <= 1
    assert metrics["eval/free_beams/hit_constrained"] == pytest.approx(metrics["eval/hr_at_10"])
    page = (measured / "report.html").read_text()
    assert f"write items in {100 * shares['valid']:.1f}% of answers" in page
    assert "none holds its target, anything later or held out" in page
    assert re.search(r"of 71, \d+ without the oldest of their history, \d+ with words cut by a limit", page)


def test_other_numbers_stand_beside_the_arm_that_they_alone_differ_from(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    assert len(re.findall(r"both minus other-numbers, whose items have other numbers, is", page)) == 4
    assert "whose items have other numbers" not in page.split("Why (C-3")[-1]
    assert "ids drawn again by seed 1" in page


def test_the_report_stands_alone_and_tells_every_template(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    must_stand_alone(page)
    for template in TEMPLATES:
        assert f"({template}, " in page
    assert "highest + 1" in page
    table = (measured / "table.txt").read_text()
    assert "What comes next (A-3, seen in training)" in table

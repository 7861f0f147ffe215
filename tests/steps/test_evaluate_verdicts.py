"""The step that measures judges: what it leaves, and that its numbers are those of its own predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from latefuse.config import Evaluation, Job, Task
from latefuse.config_fusion import Fusion
from latefuse.config_judge import RELEVANT
from latefuse.data.dataset import Dataset
from latefuse.evaluation import rulings
from latefuse.steps import evaluate, evaluate_verdicts, finetune
from latefuse.tracking import Null

MAIN: dict[str, Any] = {
    "kind": "judge", "modality": ["image", "text"], "judge": {"demos": 1},
    "train": {"max_steps": 2, "batch_size": 8, "lr": 0.01, "max_tokens": 4096}, "adapter": {"r": 4},
}  # fmt: skip
ARMS = {
    "judge": Task.model_validate(MAIN),
    "text-only": Task.model_validate({**MAIN, "modality": ["text"]}),
}
HOW = Evaluation.model_validate(
    {"batch_size": 8, "examples": 3, "min_interval_rows": 5, "bootstrap": 50, "verdicts": {"beside": 4}}
)


@pytest.fixture(scope="module")
def measured(judged: Dataset, backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, folders, out = backbone_folder("llava_onevision"), [], tmp_path_factory.mktemp("evaluated")
    for arm, task in ARMS.items():
        folder = tmp_path_factory.mktemp(arm)
        finetune.run(Job(name=arm, seed=0, tasks={"judge": task}), judged.path, base, folder, Null(), folder / "cache")
        folders.append(folder)
    evaluate.run(HOW, ARMS, Fusion(), judged.path, base, folders, [], out, Null())
    return out


def test_it_leaves_its_files(measured: Path) -> None:
    for name in (*evaluate_verdicts.FILES, "result.json"):
        assert (measured / name).stat().st_size > 0
    result = json.loads((measured / "result.json").read_text())
    assert result["arms"] == ["majority", "zero-shot", "linear map", "text-only", "judge"]
    assert result["rows"] == 16


def test_metrics_are_those_of_the_predictions(measured: Path) -> None:
    metrics = json.loads((measured / "metrics.json").read_text())
    rows = pl.read_parquet(measured / "predictions.parquet").filter(arm="judge")
    said, labels = (rows["verdict"] == RELEVANT).to_list(), rows["label"].to_list()
    assert metrics["eval/balanced_accuracy"] == pytest.approx(balanced_accuracy_score(labels, said))
    assert metrics["eval/roc_auc"] == pytest.approx(roc_auc_score(labels, rows["probability"].to_list()))
    for task in ("fits", "differs"):
        mine = rows.filter(task=task)
        value = balanced_accuracy_score(mine["label"].to_list(), (mine["verdict"] == RELEVANT).to_list())
        assert metrics[f"eval/balanced_accuracy/{task}/judge"] == pytest.approx(value)
    assert metrics["eval/balanced_accuracy/majority"] == pytest.approx(0.5)
    assert {"eval/contribution/image", "eval/contribution/text", "eval/same_pair_both"} <= set(metrics)


def test_one_picture_and_text_are_a_pair_where_rules_disagree(measured: Path) -> None:
    """Of the fixture's eight test pictures each is asked about by both rules, whose answers differ always."""
    rows = pl.read_parquet(measured / "predictions.parquet").filter(arm="judge")
    right = dict(zip(rows["id"].to_list(), ((rows["verdict"] == RELEVANT) == rows["label"]).to_list(), strict=True))
    both = [right[f"fits-{number}"] and right[f"differs-{number}"] for number in range(40, 48)]
    metrics = json.loads((measured / "metrics.json").read_text())
    assert metrics["eval/same_pair_both"] == pytest.approx(sum(both) / 8)
    assert metrics["eval/same_pair_both/linear map"] == 0
    assert metrics["eval/same_pair/linear map"] == pytest.approx(0.5)


def test_the_rulings_can_be_read_back(measured: Path) -> None:
    found = rulings.read(measured / "rulings.json", "judge", 0)
    rows = pl.read_parquet(measured / "predictions.parquet").filter(arm="judge")
    for task, ruling in found.items():
        mine = rows.filter(task=task)
        assert ruling.probability(mine["score"].to_numpy()) == pytest.approx(mine["probability"].to_numpy())
        assert ruling.verdicts(mine["score"].to_numpy()).tolist() == mine["verdict"].to_list()


def test_the_report_says_what_was_found(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    for anchor in ("findings", "arms", "kinds", "contributions", "calibration", "stress", "examples", "cost", "data"):
        assert f'<section id="{anchor}">' in page
    assert "50,000 words" in page
    assert page.count('<article class="card">') == 3
    assert "http" not in page.split("<body")[1].replace("http-equiv", "")

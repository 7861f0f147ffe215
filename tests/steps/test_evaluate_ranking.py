"""The step that measures rankers: what it leaves, and that its numbers are those of its own predictions."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fake_rank
import numpy as np
import polars as pl
import pytest
from pages import must_stand_alone
from sklearn.metrics import average_precision_score, log_loss, precision_score, roc_auc_score
from small_ranks import shop

from latefuse import tasks
from latefuse.config import Evaluation, Job, Task
from latefuse.config_fusion import Fusion
from latefuse.evaluation import rulings
from latefuse.steps import evaluate, evaluate_ranking, finetune
from latefuse.tracking import Null

HOW = Evaluation.model_validate({"bootstrap": 100})


@pytest.fixture(scope="module")
def measured(backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    base, out = backbone_folder("llava_onevision"), tmp_path_factory.mktemp("evaluated")
    data = fake_rank.dataset(tmp_path_factory.mktemp("data"))
    folders = [
        fake_rank.adapter(tmp_path_factory.mktemp("arm") / str(seed), arm, seed, data)
        for arm in fake_rank.CHANGES
        for seed in (0, 1)
    ]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(tasks.KINDS, "rank", "fake_rank")
        evaluate.run(HOW, fake_rank.arms(), Fusion(), data.path, base, folders, [], out, Null())
    return out


@pytest.fixture(scope="module")
def metrics(measured: Path) -> dict[str, float]:
    found: dict[str, float] = json.loads((measured / "metrics.json").read_text())
    return found


@pytest.fixture(scope="module")
def rows(measured: Path) -> pl.DataFrame:
    return pl.read_parquet(measured / "predictions.parquet").filter(arm="both")


def test_it_leaves_its_files(measured: Path) -> None:
    for name in (*evaluate_ranking.FILES, "result.json"):
        assert (measured / name).stat().st_size > 0
    result = json.loads((measured / "result.json").read_text())
    floors = ["majority", "popularity", "logistic", "trees"]
    assert result["arms"] == [*floors, "ids-only", "text-only", "shuffled", "focal", "both"]
    assert result["rows"] == 1_200
    assert result["left_out"]["both, seed 1"] == {"test": 3}


def test_metrics_are_those_of_the_predictions(metrics: dict[str, float], rows: pl.DataFrame) -> None:
    parts = [part for _, part in sorted(rows.group_by("seed"))]
    assert len(parts) == 2

    def mean(of: Callable[[pl.DataFrame], float]) -> float:
        return pytest.approx(np.mean([of(part) for part in parts]))

    assert metrics["eval/roc_auc"] == mean(lambda part: roc_auc_score(part["label"], part["score"]))
    assert metrics["eval/roc_auc/both"] == metrics["eval/roc_auc"]
    assert metrics["eval/pr_auc"] == mean(lambda part: average_precision_score(part["label"], part["score"]))
    assert metrics["eval/log_loss"] == mean(lambda part: log_loss(part["label"], part["probability"]))
    assert metrics["eval/precision"] == mean(lambda part: precision_score(part["label"], part["liked"]))
    assert metrics["eval/value_per_1000"] == mean(
        lambda part: 1_000 * (part["offered"] * (part["label"] * 1.2 - 0.2)).mean()
    )
    assert metrics["eval/value_per_1000_recommended"] == mean(
        lambda part: 1_000 * (part.filter("offered")["label"] * 1.2 - 0.2).mean()
    )
    cold = [part.filter("cold_item") for part in parts]
    assert metrics["eval/roc_auc/cold item"] == pytest.approx(
        np.mean([roc_auc_score(part["label"], part["score"]) for part in cold])
    )
    within = [
        roc_auc_score(one["label"], one["score"])
        for part in parts
        for _, one in part.group_by("user")
        if one["label"].n_unique() == 2
    ]
    assert metrics["eval/within_user_auc"] == pytest.approx(np.mean(within))


def test_every_arm_has_its_interval_and_what_the_main_one_is_ahead_by(metrics: dict[str, float]) -> None:
    for arm in ("text-only", "logistic", "popularity"):
        name = f"eval/roc_auc/{arm}"
        assert metrics[f"{name}/low"] < metrics[name] < metrics[f"{name}/high"]
        ahead = metrics["eval/roc_auc"] - metrics[name]
        assert metrics[f"{name}/main-minus"] == pytest.approx(ahead)
        assert metrics[f"{name}/main-minus/low"] < ahead < metrics[f"{name}/main-minus/high"]
    assert metrics["eval/false_positive_rate_at_recall_0.9/text-only/main-minus/high"] < 0
    assert metrics["eval/calibration_error"] < metrics["eval/calibration_error_uncalibrated"]
    assert metrics["eval/log_loss"] < metrics["eval/log_loss_uncalibrated"]
    assert "eval/log_loss_uncalibrated/popularity" not in metrics
    swapped = metrics["eval/roc_auc"] - metrics["eval/roc_auc/both/shuffled-image"]
    assert metrics["eval/contribution/image"] == pytest.approx(swapped)
    assert metrics["eval/expected_likes"] == pytest.approx(metrics["eval/share_liked"], abs=0.05)


def test_the_rulings_and_offers_can_be_used_again(measured: Path, rows: pl.DataFrame) -> None:
    ruling = rulings.read(measured / "rulings.json", "both", 1)["both"]
    mine = rows.filter(seed=1)
    assert ruling.probability(mine["score"].to_numpy()) == pytest.approx(mine["probability"].to_numpy())
    offers = json.loads((measured / "offers.json").read_text())
    offer = next(one for one in offers if (one["arm"], one["seed"]) == ("both", 1))
    assert ((mine["probability"] >= offer["threshold"]) == mine["offered"]).all()
    assert offer["break_even"] == pytest.approx(1 / 6)


def test_the_report_says_what_was_found(measured: Path) -> None:
    page = (measured / "report.html").read_text()
    must_stand_alone(page)
    for anchor in (
        "findings",
        "arms",
        "curves",
        "slices",
        "threshold",
        "calibration",
        "money",
        "classes",
        "cost",
        "data",
    ):
        assert f'<section id="{anchor}">' in page
    assert "both beats text-only on all rows: false-positive rate at recall 90%" in page
    assert "both beats ids-only on cold items" in page
    table = (measured / "table.txt").read_text()
    assert "ROC-AUC" in table
    assert "recall at false-positive rate 1%" in table


def test_rankers_of_flesh_and_blood(backbone_folder: Callable[..., Path], tmp_path: Path) -> None:
    """Three arms from finetune to the page, on a shop where the picture decides, with nothing made up."""
    data, base = shop(tmp_path / "data", users=24, each=150), backbone_folder()
    how = {"bins": 500, "dim": 16, "bottom": [32], "top": [32], "ids": False}
    train = {"max_steps": 60, "batch_size": 128, "lr": 0.05}
    changes = {"both": ["text", "image"], "text-only": ["text"], "shuffled": ["text", "image"]}
    arms = {
        name: Task.model_validate(
            {
                "kind": "rank", "modality": modality, "train": train,
                "rank": {**how, "shuffled": ["image"] if name == "shuffled" else []},
            }
        )
        for name, modality in changes.items()
    }  # fmt: skip
    for name, task in arms.items():
        job = Job(name=name, seed=0, tasks={"both": task})
        finetune.run(job, data.path, base, tmp_path / name, Null(), tmp_path / "cache")
    folders, out = [tmp_path / name for name in arms], tmp_path / "out"
    evaluate.run(HOW, arms, Fusion(), data.path, base, folders, [], out, Null(), tmp_path / "cache")
    found = json.loads((out / "metrics.json").read_text())
    assert found["eval/roc_auc/both"] > found["eval/roc_auc/text-only"] + 0.1
    assert found["eval/roc_auc/both"] > found["eval/roc_auc/shuffled"] + 0.1
    assert found["eval/contribution/image"] > 0.1
    assert found["eval/roc_auc/logistic"] > 0.7
    assert "no item picture" in {name.split("/")[2] for name in found if name.startswith("eval/roc_auc/")}
    must_stand_alone((out / "report.html").read_text())

"""The ranking task from select to predict, on a small shop where the picture decides."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from small_ranks import items, shop

from latefuse.config import Job, Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.models.backbone import Backbone, load
from latefuse.models.tiny_random import random_backbone
from latefuse.steps import finetune
from latefuse.tasks import rank
from latefuse.tracking import Null
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features
from latefuse.training.schedule import schedule

TRAIN = {"max_steps": 60, "batch_size": 64, "lr": 0.05}


def task(modality: tuple[str, ...] = ("text", "image"), train: dict[str, Any] | None = None, **settings: Any) -> Task:
    how = {"bins": 500, "dim": 16, "bottom": [32], "top": [32], **settings}
    return Task.model_validate({"kind": "rank", "modality": modality, "rank": how, "train": {**TRAIN, **(train or {})}})


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shop(tmp_path_factory.mktemp("shop"), users=16, each=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_backbone(tmp_path_factory.mktemp("base"), "video_llava", 0)


def trained(dataset: Dataset, folder: Path, out: Path, wanted: Task, name: str = "like") -> dict[str, Any]:
    return finetune.run(
        Job(name=name, seed=0, tasks={"like": wanted}), dataset.path, folder, out, Null(), out / "cache"
    )


def scored(dataset: Dataset, folder: Path, adapter: Path, wanted: Task) -> tuple[np.ndarray, rank.Rows]:
    backbone = load(folder)
    rank.load(backbone, adapter)
    rows = rank.examples(dataset, wanted, "test", backbone)
    return rank.predict(backbone, rows, features=Features(backbone, dataset.media), batch_size=37).numpy(), rows


def test_the_picture_decides(dataset: Dataset, folder: Path, tmp_path: Path):
    found = {}
    for name, modality in (("both", ("text", "image")), ("words", ("text",))):
        wanted = task(modality, ids=False)
        result = trained(dataset, folder, tmp_path / name, wanted, name)
        assert result["losses"][-1] < result["losses"][0]
        scores, rows = scored(dataset, folder, tmp_path / name / "adapter", wanted)
        found[name] = roc_auc_score(rows.labels, scores)
    assert found["both"] > found["words"] + 0.1
    assert found["both"] > 0.85


def test_a_run_that_was_killed_ends_with_the_same_weights(dataset: Dataset, folder: Path, tmp_path: Path):
    """Sparse gradients, the optimiser's state and what was dropped by chance come back from a checkpoint."""
    wanted = task(train={"max_steps": 8, "save_every": 5})
    whole = trained(dataset, folder, tmp_path / "whole", wanted)
    half = tmp_path / "half"
    trained(dataset, folder, half, wanted)
    for checkpoint in (half / "checkpoints").glob("checkpoint-*"):
        if not checkpoint.name.endswith("-5"):
            shutil.rmtree(checkpoint)
    again = trained(dataset, folder, half, wanted)
    assert (whole["resumed_from"], again["resumed_from"]) == (0, 5)
    a, b = ((path / "adapter" / "ranker.safetensors").read_bytes() for path in (tmp_path / "whole", half))
    assert a == b


@pytest.mark.parametrize("imbalance", [{"keep_negatives": 0.2}, {"loss": "weighted"}])
def test_mean_predictions_are_the_base_rate_whatever_training_saw(
    tmp_path: Path, folder: Path, imbalance: dict[str, Any]
):
    """Stationary rows, one in twenty liked: within a tenth after the correction, far away without it."""
    draw = np.random.default_rng(0)
    rows = [
        {"user": f"u{draw.integers(50)}", "item": f"item-{draw.integers(20)}", "ts": number, "value": float(liked),
         "split_time": ("train", "train", "train", "valid", "test")[number % 5]}
        for number, liked in enumerate(draw.random(20_000) < 0.05)
    ]  # fmt: skip
    dataset = write_dataset(tmp_path / "data", {"items": items(tmp_path / "data", 20), "events": rows})
    settings = {"ids": False, "numbers": False, "attributes": ["price"], "imbalance": imbalance}
    wanted = task((), **settings, train={"max_steps": 200, "batch_size": 512, "lr": 0.05})
    trained(dataset, folder, tmp_path / "out", wanted)
    scores, found = scored(dataset, folder, tmp_path / "out" / "adapter", wanted)
    base = found.store.columns.liked.mean()
    assert torch.sigmoid(torch.from_numpy(scores)).mean().item() == pytest.approx(base, rel=0.1)
    backbone = load(folder)
    rank.load(backbone, tmp_path / "out" / "adapter")
    shifted = torch.sigmoid(torch.from_numpy(scores) - backbone.head.shift).mean().item()
    assert shifted > 3 * base


def test_which_negatives_are_kept(dataset: Dataset, folder: Path):
    backbone = load(folder)
    every = rank.select(dataset, task(), "train", backbone)
    some = rank.select(dataset, task(imbalance={"keep_negatives": 0.3}), "train", backbone)
    assert some.examples.labels.sum() == every.examples.labels.sum()
    kept = (~some.examples.labels).sum() / (~every.examples.labels).sum()
    assert kept == pytest.approx(0.3, abs=0.05)
    assert some.left_out == {"negative-not-drawn": len(every.examples) - len(some.examples)}
    again = rank.select(dataset, task(imbalance={"keep_negatives": 0.3}), "train", backbone)
    assert some.examples.names == again.examples.names
    valid = rank.select(dataset, task(imbalance={"keep_negatives": 0.3}), "valid", backbone)
    assert len(valid.examples) == sum(row["split_time"] == "valid" for row in dataset.rows("events"))


def test_rows_are_columns(dataset: Dataset, folder: Path):
    backbone = load(folder)
    rows, stored = rank.examples(dataset, task(), "test", backbone), dataset.rows("events")
    numbers = [int(name.partition("-")[2]) for name in rows.names]
    assert all(stored[number]["split_time"] == "test" for number in numbers)
    assert rows.labels.tolist() == [stored[number]["value"] == 1 for number in numbers]
    assert rows.ts.tolist() == [stored[number]["ts"] for number in numbers]
    some = rows.take([4, 1])
    assert some.names == [rows.names[4], rows.names[1]] == [some[0].row, some[1].row]
    assert (len(rows[2:5]), rows[-1].row) == (3, rows.names[-1])
    with pytest.raises(IndexError):
        _ = rows[len(rows)]
    train = {row["user"] for row in stored if row["split_time"] == "train"}
    assert rows.cold_user.tolist() == [stored[number]["user"] not in train for number in numbers]


def test_a_schedule_asks_columns_what_it_asks_rows(dataset: Dataset, folder: Path):
    rows = rank.examples(dataset, task(), "train", load(folder))
    job = Job(name="like", seed=0, tasks={"like": task()})
    by_columns, by_rows = schedule(job, {"like": rows}, 1), schedule(job, {"like": rows}, 1)
    object.__setattr__(by_rows, "rows", list(rows))
    assert by_columns.sizes == by_rows.sizes
    assert [size for size, _ in by_columns.sizes] == [TRAIN["batch_size"]] * int(TRAIN["max_steps"])
    assert by_columns.key() == schedule(job, {"like": rows.take(range(len(rows)))}, 1).key()
    assert by_columns.key() != schedule(job, {"like": rows.take([1, 0, *range(2, len(rows))])}, 1).key()


def test_scores_do_not_hang_on_the_batch(dataset: Dataset, folder: Path, tmp_path: Path):
    wanted = task(train={"max_steps": 5})
    trained(dataset, folder, tmp_path, wanted)
    backbone: Backbone = load(folder)
    rank.load(backbone, tmp_path / "adapter")
    rows, features = rank.examples(dataset, wanted, "test", backbone), Features(backbone, dataset.media)
    whole = rank.predict(backbone, rows, features=features)
    one = torch.cat([rank.predict(backbone, rows.take([number]), features=features) for number in range(20)])
    torch.testing.assert_close(one, whole[:20])
    nll = rank.nll(backbone, rows, features=features)
    p = torch.sigmoid(whole)
    torch.testing.assert_close(nll, -torch.where(torch.from_numpy(rows.labels), p, 1 - p).log())


def test_what_can_not_be_trained_is_told(dataset: Dataset, folder: Path, tmp_path: Path):
    with pytest.raises(TrainingError, match=r"train.batch_size=100000, but there are \d+ rows"):
        trained(dataset, folder, tmp_path, task(train={"batch_size": 100_000}))
    with pytest.raises(TrainingError, match="a ranker learns one task at a time"):
        rank.attach(load(folder), {"a": task(), "b": task()}, 0, {})
    none = write_dataset(tmp_path / "none", {"items": items(tmp_path / "none", 3), "events": []})
    with pytest.raises(DataError, match="the table events has no row"):
        rank.select(none, task(), "train", load(folder))


def test_weight_decay_leaves_sparse_tables_alone(dataset: Dataset, folder: Path, tmp_path: Path):
    """Adagrad refuses to decay what has sparse gradients; everything else decays."""
    found = {}
    for decay in (0.0, 0.5):
        trained(dataset, folder, tmp_path / str(decay), task(train={"max_steps": 1, "weight_decay": decay}))
        found[decay] = load_file(tmp_path / str(decay) / "adapter" / "ranker.safetensors")
    plain, decayed = found.values()
    torch.testing.assert_close(decayed["tables.user.weight"], plain["tables.user.weight"], rtol=0, atol=0)
    assert not torch.equal(decayed["top.0.weight"], plain["top.0.weight"])


def test_media_are_taken_away_and_swapped_at_inference(dataset: Dataset, folder: Path, tmp_path: Path):
    wanted = task(ids=False)
    trained(dataset, folder, tmp_path, wanted)
    backbone = load(folder)
    rank.load(backbone, tmp_path / "adapter")
    rows, features = rank.examples(dataset, wanted, "test", backbone), Features(backbone, dataset.media)
    whole = rank.predict(backbone, rows, features=features)
    found = rank.conditions(wanted, rows, 0)
    assert set(found) == {f"{how}:{m}" for how in ("shuffled", "absent") for m in ("text", "image")}
    auc = {
        name: roc_auc_score(some.labels, rank.predict(backbone, some, features=features))
        for name, some in found.items()
    }
    before = roc_auc_score(rows.labels, whole)
    assert before > max(auc["shuffled:image"], auc["absent:image"]) + 0.1
    gone, mixed = found["absent:image"], found["shuffled:image"]
    assert gone.absent["item picture"].all()
    assert gone.absent["user pictures"].all()
    np.testing.assert_array_equal(gone.absent["item words"], rows.absent["item words"])
    np.testing.assert_array_equal(mixed.absent["item picture"], rows.absent["item picture"])
    own, others = (some.store.vectors["item picture"].place for some in (rows, mixed))
    assert sorted(own) == sorted(others)
    assert (own != others)[own >= 0].all()
    torch.testing.assert_close(rank.predict(backbone, rows, features=features), whole)


def test_two_processes_learn_what_one_learns(dataset: Dataset, folder: Path, tmp_path: Path):
    """Sparse gradients of the tables go from process to process as well."""
    wanted, found = task(train={"max_steps": 6}, absence=0.0, sparse=True), {}
    for processes, launcher in ((1, "none"), (2, "torchrun")):
        out = tmp_path / str(processes)
        job = Job(name="like", seed=0, tasks={"like": wanted}, launcher=launcher, processes=processes, threads=1)
        told = finetune.run(job, dataset.path, folder, out, Null(), tmp_path / "cache")
        assert told["processes"] == processes
        found[processes] = load_file(out / "adapter" / "ranker.safetensors")
    for name, weights in found[1].items():
        torch.testing.assert_close(found[2][name], weights, rtol=1e-4, atol=1e-5)

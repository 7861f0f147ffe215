"""Personalised prompts from select to named items, on a small shop with a tiny random T5 beside a tower."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from small_shop import shop

from latefuse.config import Job, Task
from latefuse.data.dataset import Dataset
from latefuse.data.errors import DataError
from latefuse.models import personal, tiny_random
from latefuse.models.backbone import Backbone, load
from latefuse.models.personal import network_of
from latefuse.steps import finetune
from latefuse.tasks import personalise
from latefuse.tasks.personal_desk import open_desk
from latefuse.tracking import Null
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features
from latefuse.training.schedule import schedule

TRAIN = {"max_steps": 4, "batch_size": 8, "lr": 0.003}
LENGTHS = [9, 4, 12, 3, 7, 5, 20]


def task(modality: tuple[str, ...] = ("text", "image"), train: dict[str, Any] | None = None, **settings: Any) -> Task:
    how = {"k": 2 if "image" in modality else 0, "candidates": 12, "per_user": 2, "history": 6, **settings}
    return Task.model_validate(
        {"kind": "personalise", "modality": modality, "personalise": how, "train": {**TRAIN, **(train or {})}}
    )


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return shop(tmp_path_factory.mktemp("shop"), LENGTHS, items=40, pictures=True)


@pytest.fixture(scope="module")
def folder(backbone_folder: Callable[..., Path]) -> Path:
    return backbone_folder("sighted")


@pytest.fixture(scope="module")
def trained(dataset: Dataset, folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("trained")
    job = Job(name="both", seed=0, tasks={"both": task()})
    return out / "adapter", finetune.run(job, dataset.path, folder, out, Null(), out / "cache")


@pytest.fixture(scope="module")
def ready(dataset: Dataset, folder: Path, trained: tuple[Path, dict[str, Any]]) -> tuple[Backbone, Features]:
    backbone = load(folder)
    personalise.load(backbone, trained[0])
    return backbone, Features(backbone, dataset.media)


def test_eight_rows_are_learned_by_heart(dataset: Dataset, folder: Path) -> None:
    torch.manual_seed(0)
    backbone = load(folder)
    wanted, features = task(families=["sequential"], reduction=1), Features(backbone, dataset.media)
    chosen = personalise.select(dataset, wanted, "train", backbone)
    asks_number = [n for n, name in enumerate(chosen.examples.columns.names()) if name not in ("A-7", "A-8")]
    rows = chosen.examples.take(asks_number[:8])
    personalise.attach(backbone, {"both": wanted}, 0, {"both": chosen})
    personalise.warm(rows, backbone, features, progress=False)
    optimiser = torch.optim.AdamW(backbone.trained(), 0.01)
    batch = personalise.collate(rows, backbone, features)
    losses = []
    for _ in range(300):
        total, count = personalise.loss(backbone, batch)
        (total / count).backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(total.detach()) / count)
    assert losses[-1] < 0.1 < losses[0]
    items, _ = personalise.next_items(backbone, rows, 1, features=features)
    assert (items[:, 0] == rows.columns.item).mean() >= 7 / 8


def test_a_run_leaves_an_adapter_and_only_what_should_has_moved(
    dataset: Dataset, folder: Path, trained: tuple[Path, dict[str, Any]]
) -> None:
    result = trained[1]
    assert result["steps"] == 4
    assert result["trainable_share"] == result["trainable"] / result["total"]
    plain, tuned = load(folder), load(folder)
    personalise.load(tuned, trained[0])
    moved = {
        name for name, weight in tuned.model.named_parameters()
        if not torch.equal(weight, plain.model.get_parameter(name))
    }  # fmt: skip
    assert moved
    assert all("norm" in name for name in moved)


@pytest.fixture
def undropped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A backbone without dropout, which every process would draw by itself."""
    real = tiny_random._t5

    def quiet(vocabulary: int) -> Any:
        config = real(vocabulary)
        config.dropout_rate = 0.0
        return config

    monkeypatch.setattr(tiny_random, "_t5", quiet)
    return tiny_random.random_backbone(tmp_path / "base", "sighted")


@pytest.mark.parametrize("per_family", [False, True])
def test_two_processes_train_as_one(per_family: bool, dataset: Dataset, undropped: Path, tmp_path: Path) -> None:
    """Of six rows a step each process has three, and often none of some family."""
    part = task(train={"max_steps": 3, "batch_size": 6, "log_every": 1}, per_family=per_family)
    found = []
    for count, how in enumerate(({}, {"launcher": "torchrun", "processes": 2, "threads": 1}), start=1):
        job = Job.model_validate({"name": "both", "seed": 0, "tasks": {"both": part}, **how})
        out = tmp_path / str(count)
        result = finetune.run(job, dataset.path, undropped, out, Null(), tmp_path / "cache")
        found.append((result, {path.name: load_file(path) for path in (out / "adapter").glob("*.safetensors")}))
    (one, weights), (two, others) = found
    assert two["processes"] == 2
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    for name, tensors in weights.items():
        for key, tensor in tensors.items():
            torch.testing.assert_close(tensor, others[name][key], rtol=1e-3, atol=1e-4, msg=key)
    drawn = personalise.select(dataset, part, "train", load(undropped)).examples
    parts = [step[at : at + 3] for step in personalise.steps(drawn, part.train, 0, 1) for at in (0, 3)]
    assert any(len({name[0] for name in drawn.take(some).columns.names()}) < 3 for some in parts)


def test_a_schedule_asks_columns_what_it_asks_rows(dataset: Dataset, folder: Path) -> None:
    rows = personalise.examples(dataset, task(), "train", load(folder))
    job = Job(name="both", seed=0, tasks={"both": task()})
    by_columns, by_rows = schedule(job, {"both": rows}, 1), schedule(job, {"both": rows}, 1)
    object.__setattr__(by_rows, "rows", list(rows))
    assert by_columns.sizes == by_rows.sizes
    assert [row.row for row in rows] == rows.names
    other = rows.take([1, 0, *range(2, len(rows))])
    assert other.identities != rows.identities
    assert rows[2].row == rows.names[2]
    assert rows[-1].row == rows.names[-1]


def test_an_epoch_is_read_once_and_long_prompts_stand_together(dataset: Dataset, folder: Path) -> None:
    wanted = task(train={"max_steps": 30, "batch_size": 8})
    rows = personalise.examples(dataset, wanted, "train", load(folder))
    steps = personalise.steps(rows, wanted.train, 0, 1)
    assert [len(step) for step in steps] == [8] * 30
    read = sorted(row for step in steps for row in step)
    assert len(set(read)) == len(read)
    epochs = [np.searchsorted(rows.epochs, row, side="right") for row in read]
    assert set(range(rows.epochs[1])) <= set(read), "the first epoch as a whole"
    assert epochs == sorted(epochs)
    long = rows.columns.candidates >= 0
    mixed = sum(0 < long[step].sum() < 8 for step in steps)
    assert mixed < 15
    assert personalise.steps(rows, wanted.train, 0, 1) == steps != personalise.steps(rows, wanted.train, 1, 1)


@pytest.mark.parametrize("template", ["A-3", "B-5"])
def test_what_is_named_is_distinct_new_and_does_not_hang_on_the_batch(
    dataset: Dataset, ready: tuple[Backbone, Features], template: str
) -> None:
    backbone, features = ready
    desk = open_desk(dataset, task(), backbone)
    desk.warm(features, progress=False)
    rows = personalise.asked(desk, template, "test")
    items, scores = personalise.next_items(backbone, rows, 5, features=features, batch_size=3)
    assert items.shape == (len(rows), 5)
    for at, line in enumerate(items):
        assert len(set(line)) == 5
        had = set(desk.had(rows.columns)[at].tolist())
        named = set(line.tolist())
        if template == "A-3":
            assert not named & had
        else:
            assert named <= set(desk.listed(rows.columns)[at].tolist())
        alone, told = personalise.next_items(backbone, rows.take([at]), 5, features=features)
        np.testing.assert_array_equal(alone[0], line)
        np.testing.assert_allclose(told[0], scores[at], atol=1e-4)
    only = np.tile(np.arange(7), (len(rows), 1))
    among, _ = personalise.next_items(backbone, rows, 5, features=features, only=only)
    assert set(among.ravel().tolist()) <= set(range(7))


@pytest.mark.parametrize("per_family", [False, True])
def test_free_beams_write_what_the_library_writes_behind_the_same_prompts(
    per_family: bool, dataset: Dataset, folder: Path
) -> None:
    backbone, wanted = load(folder), task(per_family=per_family)
    features, chosen = Features(backbone, dataset.media), personalise.select(dataset, wanted, "train", backbone)
    personalise.attach(backbone, {"both": wanted}, 0, {"both": chosen})
    network = network_of(backbone)
    assert network.bottlenecks is not None
    with torch.no_grad():
        for one in network.bottlenecks.each:
            torch.nn.init.normal_(one.up, std=0.1)
    rows = personalise.asked(open_desk(dataset, wanted, backbone), "A-3", "test")
    items, shares = personalise.free_items(backbone, rows, 5, features=features, batch_size=3)
    assert 0 <= shares["new"] <= shares["distinct"] <= shares["valid"] <= 1
    assert (items >= 0).mean() == pytest.approx(shares["distinct"])
    for at in range(len(rows)):
        alone, _ = personalise.free_items(backbone, rows.take([at]), 5, features=features)
        np.testing.assert_array_equal(alone[0], items[at])


def test_the_likelihood_of_an_answer_is_its_score(dataset: Dataset, ready: tuple[Backbone, Features]) -> None:
    backbone, features = ready
    desk = open_desk(dataset, task(), backbone)
    desk.warm(features, progress=False)
    rows = personalise.asked(desk, "A-3", "test")
    count = len(desk.items)
    items, scores = personalise.next_items(backbone, rows, count, features=features)
    nll = personalise.nll(backbone, rows, features=features, batch_size=2).numpy()
    found = items == rows.columns.item[:, None]
    assert found.any(1).all(), "beams as wide as the catalogue name everything that is new"
    np.testing.assert_allclose(scores[found], -nll, rtol=1e-4)


@pytest.mark.parametrize("compare", ["vocabulary", "items"])
def test_a_causal_language_model_names_items_and_explains_too(
    dataset: Dataset, backbone_folder: Callable[..., Path], compare: str
) -> None:
    backbone, wanted = load(backbone_folder("glued_mlp")), task(places=("self", "ffn"), compare=compare)
    features, chosen = Features(backbone, dataset.media), personalise.select(dataset, wanted, "train", backbone)
    personalise.attach(backbone, {"both": wanted}, 0, {"both": chosen})
    rows = personalise.asked(open_desk(dataset, wanted, backbone), "A-3", "test")
    personalise.warm(rows, backbone, features, progress=False)
    count = len(rows.desk.items)
    items, scores = personalise.next_items(backbone, rows, count, features=features)
    found = items == rows.columns.item[:, None]
    assert found.any(1).all()
    batch = personalise.collate(rows, backbone, features)
    expected = personal.nll(backbone, batch.prompted).numpy()
    np.testing.assert_allclose(scores[found], -expected, rtol=1e-3)
    why = personalise.asked(rows.desk, "C-3", "test")
    assert len(personalise.explanations(backbone, why, features=features)) == len(why)


def test_explanations_stand_in_the_order_of_their_rows(dataset: Dataset, ready: tuple[Backbone, Features]) -> None:
    backbone, features = ready
    desk = open_desk(dataset, task(target_tokens=6), backbone)
    desk.warm(features, progress=False)
    rows = personalise.asked(desk, "C-3", "test")
    together = personalise.explanations(backbone, rows, features=features, batch_size=2)
    alone = [personalise.explanations(backbone, rows.take([at]), features=features)[0] for at in range(len(rows))]
    assert together == alone


def test_arms_read_what_they_say(dataset: Dataset, ready: tuple[Backbone, Features]) -> None:
    backbone, features = ready

    def prompt(wanted: Task) -> tuple[Any, str]:
        desk = open_desk(dataset, wanted, backbone)
        desk.warm(features, progress=False)
        rows = personalise.asked(desk, "A-3", "test")
        return desk, desk.splicer.shown(desk.splicer.encode("A-3", desk.source.fields(rows.columns, 0)))

    both, told = prompt(task())
    assert "[" in told
    _, words = prompt(task(("text",)))
    assert "[" not in words
    _, pictures = prompt(task(("image",)))
    assert "item [" in pictures
    shuffled, same = prompt(task(shuffled=True))
    assert same == told
    assert torch.equal(shuffled.seen, both.seen)
    assert (shuffled.vectors[both.seen] != both.vectors[both.seen]).any(1).all()
    assert torch.equal(shuffled.pictures, both.vectors)


def test_what_items_are_called(dataset: Dataset, ready: tuple[Backbone, Features]) -> None:
    backbone, features = ready
    called = []
    for settings in ({}, {"ids_seed": 1}, {"ids_seed": 2}, {"ids": "semantic"}):
        desk = open_desk(dataset, task(**settings), backbone)
        desk.warm(features, progress=False)
        called.append(list(desk.splicer.directory.ids))
        assert len(set(called[-1])) == len(desk.items)
    assert called[0] == [str(row["number"]) for row in dataset.rows("items")]
    assert sorted(called[1]) == sorted(called[2]) == sorted(called[0])
    assert called[1] != called[2] != called[0]
    assert called[3][0].startswith("a")


def test_what_cannot_be_done_is_told(dataset: Dataset, folder: Path, backbone_folder: Callable[..., Path]) -> None:
    backbone = load(folder)
    chosen = personalise.select(dataset, task(), "train", backbone)
    with pytest.raises(TrainingError, match="prompts of all families are one task"):
        personalise.attach(backbone, {"a": task(), "b": task()}, 0, {"a": chosen, "b": chosen})
    with pytest.raises(DataError, match="ask for fewer"):
        personalise.select(dataset, task(candidates=100), "train", backbone)
    with pytest.raises(ValueError, match="visual tokens"):
        task(("text",), k=2)


def test_items_without_any_picture_are_read_too(folder: Path, tmp_path: Path) -> None:
    bare = shop(tmp_path / "bare", [6, 5, 4], items=30)
    backbone = load(folder)
    features = Features(backbone, bare.media)
    chosen = personalise.select(bare, task(), "train", backbone)
    personalise.attach(backbone, {"both": task()}, 0, {"both": chosen})
    personalise.warm(chosen.examples, backbone, features, progress=False)
    total, _ = personalise.loss(backbone, personalise.collate(chosen.examples.take(range(8)), backbone, features))
    total.backward()
    absent = network_of(backbone).absent.grad
    assert absent is not None
    assert bool(absent.any())

"""Which rows are fused, and that the weights are learned from what each adapter says to its own medium."""

from __future__ import annotations

import json
from contextlib import nullcontext

import pytest
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.fusion import late
from latefuse.fusion.scores import learn_weights, mix
from latefuse.models import adapters
from latefuse.tasks import instruct
from latefuse.training.features import Features

TASKS = {
    "photo": Task(modality="image", where={"topic": "dish"}),
    "clip": Task(modality="video", where={"topic": "dish"}),
    "colours": Task(modality="text", where={"topic": "colour"}),
    "cards": Task(modality="text", where={"topic": "dish"}),
}


@pytest.fixture
def data(dishes):
    return Dataset(dishes)


@pytest.fixture
def backbone(fresh_backbone):
    return fresh_backbone()


def test_items_that_several_modalities_name(data, backbone):
    found = late.shared(data, TASKS, "valid", backbone)
    assert found.topic == "dish"
    assert found.members == {"image": "photo", "video": "clip", "text": "cards"}
    assert found.items == [f"valid-{number}" for number in range(6)]
    assert found.truths == [row.answer for row in found.rows["text"]]
    assert found.present.int().tolist() == [[1, 0, 1, 1, 1, 1], [1, 1, 0, 1, 1, 1], [1] * 6]
    for modality, rows in found.rows.items():
        assert all(row is None or (row.modality == modality and row.topic == "dish") for row in rows)
        assert all(row is None or row.item == item for row, item in zip(rows, found.items, strict=True))


def test_the_first_task_of_a_modality_answers_where_none_is_trained_on_the_topic(data, backbone):
    tasks = {name: TASKS[name] for name in ("photo", "colours")}
    assert late.shared(data, tasks, "valid", backbone).members == {"image": "photo", "text": "colours"}


def test_max_rows_and_splits(data, backbone):
    every = late.shared(data, TASKS, "test", backbone).items
    found = late.shared(data, TASKS, "test", backbone, max_rows=2)
    assert found.items == [every[0], every[-1]]
    assert set(every).isdisjoint(late.shared(data, TASKS, "valid", backbone).items)
    assert {len(rows) for rows in found.rows.values()} == {2}


def test_longer_answers_are_cut_to_the_bare_name(data, backbone, dishes, tmp_path):
    rows = data.rows("conversations")
    for row in rows:
        if row["modality"] == "image":
            row["turns"] = [row["turns"][0], {"role": "assistant", "text": f"This is {row['turns'][1]['text']}!"}]
    write_dataset(tmp_path / "data", {"conversations": rows})
    (tmp_path / "data" / "media").symlink_to(dishes / "media")
    found = late.shared(Dataset(tmp_path / "data"), TASKS, "valid", backbone)
    plain = late.shared(data, TASKS, "valid", backbone)
    assert [row and row.input_ids for row in found.rows["image"]] == [
        row and row.input_ids for row in plain.rows["image"]
    ]


@pytest.mark.parametrize(
    ("tasks", "reason"),
    [
        ({"photo": TASKS["photo"]}, "several modalities"),
        ({"colours": TASKS["colours"], "cards": TASKS["cards"]}, "several modalities"),
    ],
)
def test_why_there_is_nothing_to_fuse(tasks, reason, data, backbone):
    with pytest.raises(late.NotShared, match=reason):
        late.shared(data, tasks, "valid", backbone)


def test_items_with_two_names_or_one_medium_are_not_shared(data, backbone, dishes, tmp_path):
    rows = [row for row in data.rows("conversations") if row["modality"] != "video"]
    for row in rows:
        if row["id"] == "valid-0-text":
            row["truth"] = json.dumps({"name": "another", "names": "dish"})
    write_dataset(tmp_path / "data", {"conversations": rows})
    (tmp_path / "data" / "media").symlink_to(dishes / "media")
    tasks = {name: TASKS[name] for name in ("photo", "cards")}
    found = late.shared(Dataset(tmp_path / "data"), tasks, "valid", backbone)
    assert found.items == ["valid-2", "valid-3", "valid-4", "valid-5"]


def test_weights_are_learned_from_each_adapter_on_its_own_medium(data, backbone, make_finetuned):
    """Against one row at a time: the names' tokens under the right adapter, all in one table."""
    tasks = {name: TASKS[name] for name in ("photo", "cards")}
    for name, task in tasks.items():
        adapters.load(backbone, make_finetuned(name, task.modality) / "adapter", name)
    features = Features(backbone, data.media)
    rows = late.shared(data, tasks, "valid", backbone)
    found = late.learn_fused(backbone, rows, lambda name: adapters.active(backbone, name), features, steps=30)
    tables = {"image": [], "text": []}
    targets, present = [], []
    for number in range(len(rows.items)):
        tokens = [token for token in rows.rows["text"][number].labels if token != -100]
        for modality, task in rows.members.items():
            row = rows.rows[modality][number]
            if row is None:
                tables[modality].append(torch.zeros(len(tokens), tables["text"][0].shape[1]))
                continue
            assert [token for token in row.labels if token != -100] == tokens
            with adapters.active(backbone, task), torch.no_grad():
                ids = torch.tensor([row.input_ids])
                hidden = backbone.hidden(ids, torch.ones_like(ids), features.batch(row.media))
                logits = backbone.logits(hidden)[0, len(row.prompt_ids) - 1 : -1]
            tables[modality].append(torch.log_softmax(logits, dim=-1)[: len(tokens)])
        targets += tokens
        present += [[rows.rows[m][number] is not None for m in rows.members]] * len(tokens)
    log_probs = torch.stack([torch.cat(tables[m]) for m in rows.members])
    flags = torch.tensor(present).T
    expected = learn_weights(log_probs, torch.tensor(targets), flags, steps=30)
    assert found["tokens"] == len(targets)
    assert list(found["weights"].values()) == pytest.approx(expected.weights.tolist(), rel=1e-3)
    assert found["nll_before"] == pytest.approx(expected.before, rel=1e-4)
    assert found["nll_after"] == pytest.approx(expected.after, rel=1e-4)
    mixed = mix(log_probs, torch.tensor(list(found["weights"].values())), flags)
    assert float(-mixed[range(len(targets)), targets].mean()) == pytest.approx(found["nll_after"], rel=1e-4)


def test_the_same_rows_for_all_adapters(data, backbone, make_finetuned):
    adapters.load(backbone, make_finetuned("photo", "image") / "adapter", "photo")
    rows = instruct.examples(data, TASKS["photo"], "valid", backbone)[2:]
    features = Features(backbone, data.media)
    names = ["photo", "bare"]

    def acting(name):
        return adapters.active(backbone, name if name == "photo" else None)

    found = late.learn_same_input(backbone, rows, names, acting, features, steps=50)
    assert list(found["weights"]) == names
    assert found["rows"] == 4
    with adapters.active(backbone, "photo"):
        alone = instruct.nll(backbone, rows, features=features).sum() / sum(row.learned for row in rows)
    assert found["nll_alone"]["photo"] == pytest.approx(float(alone), rel=1e-4)
    assert found["nll_after"] <= found["nll_before"]


def test_long_answers_count_as_many_tokens_as_short_ones(data, backbone, monkeypatch):
    monkeypatch.setattr(late, "TOKENS_A_ROW", 3)
    rows = instruct.examples(data, TASKS["cards"], "valid", backbone)
    assert min(row.learned for row in rows) > 3
    found = late.learn_same_input(backbone, rows, ["a"], lambda name: nullcontext(), Features(backbone, data.media), 1)
    assert found["tokens"] == 3 * len(rows)


def test_other_tokens_for_the_same_row_are_refused():
    member = {0: (torch.zeros(1, 4), torch.tensor([1]))}
    other = {0: (torch.zeros(1, 4), torch.tensor([2]))}
    with pytest.raises(ValueError, match="item-7: its answer has other tokens"):
        late._stack([member, other], ["item-7"])

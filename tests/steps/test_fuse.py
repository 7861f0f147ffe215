"""The fuse step on a tiny random Video-LLaVA: what it writes loads and is what it claims; validation decides."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from latefuse.config import Task
from latefuse.config_fusion import Fusion, LateFusion
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.fusion.changes import FusionError, base_weights
from latefuse.fusion.folders import apply_dense, delta
from latefuse.fusion.proof import ProofError
from latefuse.models import adapters
from latefuse.steps import fuse
from latefuse.tasks import instruct
from latefuse.tracking import Null
from latefuse.training.features import Features

TASKS = {
    "photo": Task(modality="image", where={"topic": "dish"}),
    "clip": Task(modality="video", where={"topic": "dish"}),
    "card": Task(modality="text", where={"topic": "colour"}),
}
MODALITY = {name: task.modality for name, task in TASKS.items()}
FAST = {"grid": (0.5, 1.0), "search_rows": 3, "candidates": 4, "late": LateFusion(steps=20)}


class Recorder(Null):
    """A tracker that remembers."""

    def __init__(self):
        self.seen, self.files = {}, []

    def metrics(self, values, step=None):
        self.seen |= values

    def artifact(self, path, folder=None):
        self.files.append(path.name)


@pytest.fixture
def three(make_finetuned):
    return [make_finetuned(name, modality) for name, modality in MODALITY.items()]


def told_of(folders, data):
    """The same adapters, as if they had been trained on another dataset."""
    for folder in folders:
        card = folder / "adapter" / "adapter.json"
        known = json.loads(card.read_text())
        card.write_text(json.dumps(known | {"data_fingerprint": Dataset(data).fingerprint}))
    return folders


def run(fusion, tasks, dishes, backbone_folder, folders, out, tracker=None, seed=0, cache=None):
    return fuse.run(fusion, tasks, dishes, backbone_folder(), folders, seed, out, tracker or Null(), cache)


def test_it_merges_proves_and_mixes(three, dishes, backbone_folder, fresh_backbone, tmp_path):
    tracker = Recorder()
    out = tmp_path / "out"
    result = run(Fusion(**FAST), TASKS, dishes, backbone_folder, three, out, tracker, cache=tmp_path / "cache")
    assert json.loads((out / "result.json").read_text()) == result
    assert set(result["merges"]) == {"concat", "ties", "dare", "svd"}
    for method, said in result["merges"].items():
        proof = json.loads((out / method / "proof.json").read_text())
        assert proof["holds"]
        assert proof["adapters"] == list(TASKS)
        assert len(proof["checks"]) >= 4
        assert all(check["error"] < 1e-4 for check in proof["checks"])
        assert proof["logit_change"] > 1e-2
        assert list(said["weights"].values()) == proof["weights"]
        assert 1 <= len(said["candidates"]) <= (4 if method == "concat" else 2)
        best = min(said["candidates"], key=lambda candidate: candidate["loss"])
        assert best["weights"] == proof["weights"]
        assert set(best["nll"]) == set(TASKS)
        assert tracker.seen[f"eval/valid_nll/{method}"] == best["loss"]
        card = adapters.read_card(out / method)
        assert card.arm == f"separate+merge-{method}"
        assert card.dense == (method in ("ties", "dare")) == said["dense"]
        assert card.metrics == {"valid_nll": best["loss"]}
    assert 0 < result["merges"]["svd"]["retained_energy"] < 1
    assert {"proof.json", "late.json"} <= set(tracker.files)
    late = json.loads((out / "late.json").read_text())
    assert late["split"] == "valid"
    assert late == result["late"]
    assert set(late["fused"]["weights"]) == {"image", "video", "text"}
    assert late["fused"]["rows"] == 6
    assert late["fused"]["rows_of_modality"] == {"image": 5, "video": 5, "text": 6}
    assert late["fused"]["nll_after"] <= late["fused"]["nll_before"]
    assert set(late["same_input"]["weights"]) == set(TASKS)
    assert late["same_input"]["rows"] == 9
    _loads_as_it_should(out, result, dishes, three, fresh_backbone())


def _loads_as_it_should(out, result, dishes, folders, backbone):
    """The NLL of the chosen candidate, measured anew by whoever loads the folder, is what the search said."""
    data = Dataset(dishes)
    rows = instruct.examples(data, TASKS["photo"], "valid", backbone)
    rows = [rows[0], rows[2], rows[5]]  # what three rows spread over six are
    features = Features(backbone, data.media)
    base = base_weights(backbone.model)
    deltas = [delta(folder / "adapter", base) for folder in folders]

    def measured():
        return float(instruct.nll(backbone, rows, features=features).sum()) / sum(row.learned for row in rows)

    bare = measured()
    for method in ("concat", "ties"):
        weights = list(result["merges"][method]["weights"].values())
        said = next(c for c in result["merges"][method]["candidates"] if c["weights"] == weights)["nll"]["photo"]
        with apply_dense(backbone, out / method):
            assert measured() == pytest.approx(said, rel=1e-4)
        assert said != pytest.approx(bare, rel=1e-3)
        assert measured() == bare
    merged, weights = delta(out / "concat", base), list(result["merges"]["concat"]["weights"].values())
    for name, change in merged.items():
        parts = zip(deltas, weights, strict=True)
        total = torch.stack([weight * d[name].double() for d, weight in parts if name in d]).sum(dim=0)
        assert (change.double() - total).norm() <= 1e-5 * total.norm()
    adapters.load(backbone, out / "concat", "merged")
    said = next(c for c in result["merges"]["concat"]["candidates"] if c["weights"] == weights)["nll"]["photo"]
    with adapters.active(backbone, "merged"):
        assert measured() == pytest.approx(said, rel=1e-4)


def test_the_same_inputs_give_the_same_bytes(three, dishes, backbone_folder, tmp_path):
    fusion = Fusion(methods=("dare",), **FAST)
    for name in ("a", "b"):
        run(fusion, TASKS, dishes, backbone_folder, three[:: 1 if name == "a" else -1], tmp_path / name)
    for file in ("dare/delta.safetensors", "dare/proof.json", "late.json", "dare/adapter.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes(), file


@pytest.mark.parametrize(
    "options", [{"rslora": True}, {"dora": True}, {"bridge_full": True}, {"on": ("language", "tower")}]
)
def test_every_kind_of_adapter_is_merged_and_proved(options, make_finetuned, dishes, backbone_folder, tmp_path):
    folders = [make_finetuned("photo", "image", **options), make_finetuned("clip", "video")]
    tasks = {name: TASKS[name] for name in ("photo", "clip")}
    fast = {**FAST, "candidates": 2, "search_rows": 2}
    result = run(Fusion(**fast), tasks, dishes, backbone_folder, folders, tmp_path / "out", cache=tmp_path / "cache")
    for method, said in result["merges"].items():
        assert json.loads((tmp_path / "out" / method / "proof.json").read_text())["holds"]
        assert said["dense"] == (method in ("ties", "dare") or (method == "concat" and "dora" in options))


def test_a_single_task_is_merged_into_itself(make_finetuned, dishes, backbone_folder, tmp_path):
    folder = make_finetuned("photo", "image")
    tasks = {"photo": TASKS["photo"]}
    result = run(Fusion(methods=("concat",)), tasks, dishes, backbone_folder, [folder], tmp_path / "out")
    same = delta(tmp_path / "out" / "concat")
    for name, change in delta(folder / "adapter").items():
        torch.testing.assert_close(same[name], change)
    assert result["merges"]["concat"]["weights"] == {"photo": 1.0}
    assert not result["merges"]["concat"]["candidates"]
    assert "several modalities" in result["late"]["fused"]["skipped"]
    assert "alone" in result["late"]["same_input"]["skipped"]


def test_late_fusion_can_be_switched_off(three, dishes, backbone_folder, tmp_path):
    fusion = Fusion(methods=(), late=LateFusion(enabled=False))
    result = run(fusion, TASKS, dishes, backbone_folder, three, tmp_path / "out")
    assert "enabled" in result["late"]["fused"]["skipped"]
    assert result["merges"] == {}


def test_only_the_adapters_of_this_seed_and_of_the_tasks_are_used(
    three, make_finetuned, dishes, backbone_folder, tmp_path
):
    others = [make_finetuned("photo", "image", seed=1), make_finetuned("mixed", "image")]
    fusion = Fusion(methods=("concat",), **{**FAST, "candidates": 1, "late": LateFusion(enabled=False)})
    result = run(fusion, TASKS, dishes, backbone_folder, [*others, *three], tmp_path / "out")
    assert result["passed_over"] == ["photo (seed 1)", "mixed (seed 0)"]
    with pytest.raises(FusionError, match="no adapter of clip, card under seed 1"):
        run(fusion, TASKS, dishes, backbone_folder, [*others, *three], tmp_path / "out", seed=1)
    with pytest.raises(FusionError, match="two adapters of task 'photo'"):
        run(fusion, TASKS, dishes, backbone_folder, [three[0], *three], tmp_path / "out")


def test_without_validation_rows_the_weights_are_equal_and_it_says_so(three, dishes, backbone_folder, tmp_path):
    rows = [row for row in Dataset(dishes).rows("conversations") if row["split_item"] != "valid"]
    write_dataset(tmp_path / "data", {"conversations": rows})
    (tmp_path / "data" / "media").symlink_to(dishes / "media")
    told_of(three, tmp_path / "data")
    result = run(Fusion(methods=("concat",)), TASKS, tmp_path / "data", backbone_folder, three, tmp_path / "out")
    assert set(result["merges"]["concat"]["weights"].values()) == {1 / 3}
    assert "no row" in result["merges"]["concat"]["chosen_by"]
    claims = [check["claim"] for check in json.loads((tmp_path / "out/concat/proof.json").read_text())["checks"]]
    assert any(claim.startswith("logits of the saved folder") for claim in claims)
    assert "valid" in result["late"]["fused"]["skipped"]
    assert "valid" in result["late"]["same_input"]["skipped"]


def test_the_test_split_is_never_read(three, dishes, backbone_folder, tmp_path, monkeypatch):
    """Once by result: rows of other splits may be anything. Once by force: a task that offers them is refused."""
    fusion = Fusion(methods=("concat",), **FAST)
    rows = Dataset(dishes).rows("conversations")
    spoilt = [
        row
        if row["split_item"] == "valid"
        else {**row, "turns": [row["turns"][0], {"role": "assistant", "text": "zzz"}]}
        for row in rows
    ]
    write_dataset(tmp_path / "data", {"conversations": spoilt}, source="dishes")
    (tmp_path / "data" / "media").symlink_to(dishes / "media")
    results = [
        run(fusion, TASKS, data, backbone_folder, told_of(three, data), tmp_path / f"out-{data.name}")
        for data in (dishes, tmp_path / "data")
    ]
    assert results[0]["merges"] == results[1]["merges"]
    assert results[0]["late"] == results[1]["late"]
    honest = instruct.examples
    monkeypatch.setattr(instruct, "examples", lambda data, task, split, backbone: honest(data, task, "test", backbone))
    with pytest.raises(FusionError, match="not of split 'valid'"):
        run(fusion, TASKS, dishes, backbone_folder, told_of(three, dishes), tmp_path / "out")


def test_a_wrong_merge_fails_the_step(three, dishes, backbone_folder, tmp_path, monkeypatch):
    honest = fuse.save_merged

    def spoil(folder, *rest):
        as_lora = honest(folder, *rest)
        tensors = load_file(folder / "adapter_model.safetensors")
        key = next(key for key in tensors if "lora_B" in key)
        save_file({**tensors, key: tensors[key] * 1.001}, folder / "adapter_model.safetensors")
        return as_lora

    monkeypatch.setattr(fuse, "save_merged", spoil)
    with pytest.raises(ProofError, match="read back"):
        run(Fusion(methods=("concat",), **FAST), TASKS, dishes, backbone_folder, three, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "concat" / "proof.json").read_text())["holds"] is False
    assert not (tmp_path / "out" / "result.json").exists()


def test_an_adapter_of_another_backbone_is_refused(three, dishes, backbone_folder, tmp_path):
    with pytest.raises(adapters.AdapterError, match="digest"):
        fuse.run(Fusion(), TASKS, dishes, backbone_folder(seed=1), three, 0, tmp_path / "out", Null())

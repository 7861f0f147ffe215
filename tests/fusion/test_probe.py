"""Switching adapters, merges and scales on a real backbone: exact, alone, and undone afterwards."""

from __future__ import annotations

import pytest
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset
from latefuse.fusion.changes import Change, added, base_weights
from latefuse.fusion.folders import read, save_merged
from latefuse.fusion.probe import Probe, acting, attachable, loaded, prove_logits, scaled
from latefuse.fusion.proof import Merge
from latefuse.models import adapters
from latefuse.tasks import instruct
from latefuse.training.features import Features

KINDS = {"photo": "image", "clip": "video", "card": "text"}


@pytest.fixture
def scene(dishes, fresh_backbone, make_finetuned, tmp_path):
    """A backbone with three adapters attached, their changes, and a probe of a row or two of each task."""
    backbone, data = fresh_backbone(), Dataset(dishes)
    base = base_weights(backbone.model)
    folders = {name: make_finetuned(name, modality, rslora=name == "clip") for name, modality in KINDS.items()}
    changes = [read(folder / "adapter", base, name) for name, folder in folders.items()]
    for name, folder in folders.items():
        adapters.load(backbone, folder / "adapter", name)
    features = Features(backbone, data.media, tmp_path / "cache")
    tasks = [Task(modality=modality, where={"topic": "dish"}) for modality in KINDS.values()]
    rows = [instruct.examples(data, task, "valid", backbone)[:2] for task in tasks]
    return backbone, base, changes, Probe(backbone, rows, features)


def test_scaled_adapters_are_the_weighted_sum_of_their_changes(scene):
    backbone, _, changes, probe = scene
    weights = (0.5, 2.0, 0.0)
    before = probe.logits()
    with scaled(backbone, dict(zip(KINDS, weights, strict=True))):
        together = probe.logits()
    assert torch.equal(probe.logits(), before)
    with adapters.active(backbone, None), added(backbone.model, Merge("concat", weights).run(changes)):
        torch.testing.assert_close(probe.logits(), together, atol=1e-4, rtol=1e-4)
    with acting(backbone, changes[0]):
        assert not torch.allclose(probe.logits(), together, atol=1e-2)


def test_acting_is_the_same_with_and_without_peft(scene):
    backbone, _, changes, probe = scene
    for change in changes:
        with acting(backbone, change):
            attached = probe.logits()
        with acting(backbone, Change("stranger", change.low, change.dense)):
            torch.testing.assert_close(probe.logits(), attached, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["concat", "ties"])
def test_a_loaded_merge_acts_alone_and_leaves_no_trace(method, scene, tmp_path):
    backbone, base, changes, probe = scene
    merged = Merge(method, (1.0, 0.5, 0.5), density=0.6)
    card = adapters.AdapterCard(
        task="x", modality=("image",), arm="merge", seed=0, backbone_digest=backbone.digest, config_digest="c",
        data_fingerprint="d",
    )  # fmt: skip
    save_merged(tmp_path / "merged", merged.run(changes), base, card.model_dump(mode="json"))
    names, before = sorted(backbone.peft.peft_config), probe.logits()
    with loaded(backbone, tmp_path / "merged"):
        found = probe.logits()
    assert sorted(backbone.peft.peft_config) == names
    assert torch.equal(probe.logits(), before)
    with adapters.active(backbone, None), added(backbone.model, merged.run(changes)):
        torch.testing.assert_close(probe.logits(), found, atol=1e-4, rtol=1e-4)
    checks, facts = prove_logits(probe, tmp_path / "merged", merged, changes, 1e-4)
    assert all(check.holds for check in checks)
    assert len(checks) == (1 if method == "concat" else 4)
    assert facts["logit_change"] > 0.01
    wrong = Merge(method, (1.0, 0.5, 0.6), density=0.6)
    assert not prove_logits(probe, tmp_path / "merged", wrong, changes, 1e-4)[0][0].holds


def test_a_module_trained_whole_and_lora_inside_it_can_not_be_attached_together(fresh_backbone, make_finetuned):
    base = base_weights(fresh_backbone().model)
    whole = read(make_finetuned("photo", "image", bridge_full=True) / "adapter", base, "photo")
    other = read(make_finetuned("clip", "video", bridge_full=True) / "adapter", base, "clip")
    lora = read(make_finetuned("clips", "video") / "adapter", base, "clips")
    text = read(make_finetuned("card", "text") / "adapter", base, "card")
    assert attachable([whole, other, text])
    assert not attachable([whole, lora])
    assert not attachable([lora, whole])


def test_features_of_a_tower_that_was_changed_are_not_taken_from_the_store(scene, dishes, tmp_path):
    backbone, base, _, _ = scene
    adapters.detach(backbone)
    data = Dataset(dishes)
    features = Features(backbone, data.media, tmp_path / "other")
    rows = instruct.examples(data, Task(modality="image", where={"topic": "dish"}), "valid", backbone)
    probe = [Probe(backbone, [rows[2:4]], features) for features in (features, Features(backbone, data.media))]
    torch.testing.assert_close(probe[0].logits(), probe[1].logits(), atol=1e-5, rtol=1e-5)
    name = next(name for name in base if "image_tower" in name and name.endswith("v_proj.weight"))
    change = Change("tower", dense={name: torch.randn(base[name].shape, generator=torch.Generator().manual_seed(0))})
    with added(backbone.model, change):
        stored, fresh = (
            Probe(backbone, [rows[2:4]], features) for features in (features, Features(backbone, data.media))
        )
        torch.testing.assert_close(stored.logits(), fresh.logits(), atol=1e-6, rtol=1e-6)
        assert not torch.allclose(fresh.logits(), probe[0].logits(), atol=1e-4)  # which holds the old features
    assert features.stored("image")

"""Item embeddings: what may depend on what, what is encoded how often, what is left out, what learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from latefuse.config import Task
from latefuse.data.dataset import Dataset, write_dataset
from latefuse.data.errors import DataError
from latefuse.models import embedder
from latefuse.models.adapter_files import AdapterCard, AdapterError
from latefuse.prompts import MediaRef
from latefuse.prompts.items import Item
from latefuse.tasks import embed, item_vectors
from latefuse.tasks.catalogue import catalogue, item_of, stream
from latefuse.tasks.views import viewer
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features

FAMILIES = ["video_llava", "qwen2_5_vl", "glued_mlp", "glued_qformer"]


def task_of(*modality: str, adapter: dict[str, Any] | None = None, **settings: Any) -> Task:
    wanted = {"kind": "embed", "modality": modality or ("text", "image"), "embed": {"modality_dropout": 0, **settings}}
    return Task.model_validate({**wanted, "adapter": {"r": 4, **(adapter or {})}})


class Setting:
    """A backbone with a head on it, and the items of a shop."""

    def __init__(self, backbone: Any, data: Dataset, task: Task, seed: int = 0) -> None:
        self.backbone, self.task, self.data = backbone, task, data
        embedder.attach(backbone, task, seed)
        for parameter in backbone.trained():  # a LoRA starts at zero: what it does must show
            parameter.data += 0.05 * torch.randn(
                parameter.shape, generator=torch.Generator().manual_seed(parameter.numel())
            )
        self.features = Features(backbone, data.media)
        self.items = {item.id: item for item in catalogue(data, task)}

    def views(self, *items: Item, together: bool = True) -> dict[str, torch.Tensor]:
        """Raw views of a chunk, in evaluation mode, not yet of unit length."""
        self.backbone.model.eval()
        self.backbone.head.eval()
        show = viewer(self.backbone)
        with torch.no_grad():
            return show.encode(show.prepare(items, self.features))


@pytest.fixture
def data(shop_items: Path) -> Dataset:
    return Dataset(shop_items)


@pytest.fixture
def setting(fresh_backbone: Callable[..., Any], data: Dataset) -> Callable[..., Setting]:
    return lambda family="video_llava", *modality, **settings: Setting(
        fresh_backbone(family), data, task_of(*modality, **settings)
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("gate", [True, False])
def test_the_picture_s_vector_does_not_move_when_only_the_words_change(
    family: str, gate: bool, setting: Callable[..., Setting]
) -> None:
    shop = setting(family, gate=gate)
    item = shop.items["item-10"]
    same_length = replace(item, title="gniht 01")
    longer = replace(item, text=item.text + " and much more of it")
    other_picture = replace(item, media=shop.items["item-20"].media)
    plain = shop.views(item)
    assert torch.equal(shop.views(same_length)["image"], plain["image"])
    torch.testing.assert_close(shop.views(longer)["image"], plain["image"], rtol=0, atol=1e-6)
    assert not torch.allclose(shop.views(same_length)["multimodal"], plain["multimodal"], atol=1e-4)
    moved = shop.views(other_picture)
    for view in ("image", "multimodal"):
        assert not torch.allclose(moved[view], plain[view], atol=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, "light_conv"])
def test_a_vector_does_not_depend_on_who_stands_beside_it(family: str, setting: Callable[..., Setting]) -> None:
    shop = setting(family)
    items = [shop.items[f"item-{k:02d}"] for k in (3, 4, 7, 20)]
    together = shop.views(*items)
    for row, item in enumerate(items):
        for view, values in shop.views(item).items():
            torch.testing.assert_close(values[0], together[view][row], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["video_llava", "light_conv"])
def test_clips_and_several_pictures_are_read(family: str, setting: Callable[..., Setting]) -> None:
    shop = setting(family, "text", "image", "video", max_images=2)
    item = shop.items["item-10"]
    plain = shop.views(item)
    assert set(plain) == {"multimodal", "image", "video"}
    other = shop.items["item-25"]
    clip = replace(item, media=(item.media[0], other.media[1]))
    assert torch.equal(shop.views(clip)["image"], plain["image"])
    assert not torch.allclose(shop.views(clip)["video"], plain["video"], atol=1e-4)
    two = replace(item, media=(item.media[0], other.media[0], item.media[1]))
    for view in ("image", "multimodal"):
        assert not torch.allclose(shop.views(two)[view], plain[view], atol=1e-4)


def test_what_is_absent_is_a_learned_vector_and_not_zero(setting: Callable[..., Setting]) -> None:
    for family in ("video_llava", "light_conv"):
        shop = setting(family)
        bare = replace(shop.items["item-10"], media=())
        before = shop.views(bare)["multimodal"]
        shop.backbone.head.token("absent.image").data += 1
        moved = shop.views(bare)["multimodal"]
        assert not torch.allclose(before, moved, atol=1e-4)
        assert torch.equal(
            shop.views(shop.items["item-10"])["multimodal"], shop.views(shop.items["item-10"])["multimodal"]
        )
        shop.backbone.head.absent.data += 1
        assert not torch.allclose(shop.views(bare)["multimodal"], moved, atol=1e-4)
        chunk = viewer(shop.backbone).prepare([bare, shop.items["item-10"]], shop.features)
        assert chunk.there["image"].tolist() == [False, True]


def test_an_item_that_stands_in_many_pairs_is_encoded_once(setting: Callable[..., Setting]) -> None:
    shop = setting()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)[:12]
    batch = embed.collate(pairs, shop.backbone, shop.features)
    distinct = {item.id for pair in pairs for item in (pair.a, pair.b)}
    assert sum(chunk.items for chunk in batch.chunks) == len(distinct) < 24
    assert batch.labels.tolist() == [1] * 24


def test_a_guest_is_encoded_and_changes_neither_loss_nor_what_counts(setting: Callable[..., Setting]) -> None:
    shop = setting()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)[:6]
    guest = pairs[-1].as_guest()
    plain, joined = (embed.collate(rows, shop.backbone, shop.features) for rows in (pairs[:5], [*pairs[:5], guest]))
    assert sum(c.items for c in joined.chunks) == sum(c.items for c in plain.chunks) + 2
    assert joined.rows == plain.rows
    (first, count), (second, same) = (embed.loss(shop.backbone, batch) for batch in (plain, joined))
    assert count == same == 10
    assert float(second.detach()) == pytest.approx(float(first.detach()), rel=1e-5)


@pytest.mark.parametrize("family", ["video_llava", "light_conv"])
def test_two_batches_of_unlike_items_touch_the_same_weights(family: str, setting: Callable[..., Setting]) -> None:
    shop = setting(family, modality_dropout=0.9)
    shop.backbone.head.train()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)
    touched = []
    for rows in (pairs[:1], pairs[20:24]):  # of the first one nothing is dropped: each modality is kept once
        shop.backbone.head.zero_grad()
        value, _ = embed.loss(shop.backbone, embed.collate([*rows, pairs[40].as_guest()], shop.backbone, shop.features))
        value.backward()
        touched.append({n for n, p in shop.backbone.head.named_parameters() if p.grad is not None})
    assert touched[0] == touched[1] == {name for name, _ in shop.backbone.head.named_parameters()}


def test_chunks_give_the_loss_and_the_gradients_of_the_whole_batch(
    fresh_backbone: Callable[..., Any], data: Dataset
) -> None:
    found = {}
    for chunk in (None, 4):
        shop = Setting(fresh_backbone(), data, task_of(chunk=chunk))
        pairs = embed.examples(data, shop.task, "train", shop.backbone)[::7]
        batch = embed.collate(pairs, shop.backbone, shop.features)
        assert len(batch.chunks) == (1 if chunk is None else -(-sum(c.items for c in batch.chunks) // 4))
        value, count = embed.loss(shop.backbone, batch)
        (value / count).backward()
        found[chunk] = float(value.detach()), [p.grad.clone() for p in shop.backbone.trained() if p.grad is not None]
    assert found[4][0] == pytest.approx(found[None][0], rel=1e-5)
    whole, parts = (torch.cat([g.flatten() for g in found[chunk][1]]) for chunk in (None, 4))
    assert float((whole - parts).norm() / whole.norm()) < 1e-4


def test_the_loss_is_the_weighted_mean_of_both_views(setting: Callable[..., Setting]) -> None:
    shop = setting()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)[::9]
    batch = embed.collate(pairs, shop.backbone, shop.features)
    losses = {}
    for image in (0.0, 1.0, 3.0):
        weights = shop.task.embed.weights.model_copy(update={"image": image})
        shop.backbone.head.settings = shop.task.embed.model_copy(update={"weights": weights})
        value, count = embed.loss(shop.backbone, batch)
        losses[image] = float(value.detach()) / count
    own = (10 * losses[1.0] - 9 * losses[0.0]) / 1
    assert losses[3.0] == pytest.approx((9 * losses[0.0] + 3 * own) / 12, rel=1e-4)


@pytest.mark.parametrize("family", [*FAMILIES, "light_conv"])
def test_only_adapter_bridge_and_head_learn_and_the_tower_gets_no_gradient(
    family: str, setting: Callable[..., Setting]
) -> None:
    shop = setting(family)
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)[::9]
    value, _ = embed.loss(shop.backbone, embed.collate(pairs, shop.backbone, shop.features))
    value.backward()
    learning = {name for name, p in shop.backbone.model.named_parameters() if p.requires_grad}
    assert all("lora_" in name or "model.bridge.modules_to_save" in name for name in learning)
    assert any("modules_to_save" in name for name in learning) == family.startswith("glued")
    assert bool(learning) == (family != "light_conv")
    towers = tuple(set(shop.backbone.family.tower.values()))
    assert not any(p.grad is not None for n, p in shop.backbone.model.named_parameters() if n.startswith(towers))
    reached = {name for name, p in shop.backbone.head.named_parameters() if p.grad is not None and p.grad.any()}
    assert {"gate.weight", "reduce.weight", "scale", "see.image.weight"} <= reached


def test_a_language_model_may_learn_whole_and_comes_back(
    fresh_backbone: Callable[..., Any], data: Dataset, tmp_path: Path
) -> None:
    shop = Setting(fresh_backbone(), data, task_of(adapter={"language_full": True}))
    names = {name for name, p in shop.backbone.model.named_parameters() if p.requires_grad}
    assert {name.rpartition(".layers.")[0] for name in names if ".layers." in name} == {"model.language_model"}
    assert any(name.startswith("model.multi_modal_projector") for name in names)
    assert not any("tower" in name for name in names)
    items = [shop.items[f"item-{k:02d}"] for k in (7, 8)]
    before = shop.views(*items)["multimodal"]
    embedder.save(shop.backbone, tmp_path, card_of(shop))
    other = fresh_backbone()
    plain = {name: p.clone() for name, p in other.model.named_parameters()}
    embedder.load(other, tmp_path)
    show = viewer(other)
    with torch.no_grad():
        assert torch.equal(show.encode(show.prepare(items, shop.features))["multimodal"], before)
    embedder.unload(other)
    assert all(torch.equal(plain[name], p) for name, p in other.model.named_parameters())


def card_of(shop: Setting) -> AdapterCard:
    return AdapterCard(
        task="notellm2", kind="embed", modality=shop.task.modality, arm="notellm2", seed=0, config_digest="c",
        backbone_digest=shop.backbone.digest, data_fingerprint=shop.data.fingerprint, embed=shop.task.embed,
    )  # fmt: skip


@pytest.mark.parametrize("family", ["video_llava", "glued_qformer", "light_conv"])
def test_a_saved_adapter_gives_the_same_vectors_and_no_other_backbone_takes_it(
    family: str, setting: Callable[..., Setting], fresh_backbone: Callable[..., Any], tmp_path: Path
) -> None:
    shop = setting(family)
    items = list(shop.items.values())[:6]
    shop.backbone.model.eval()
    shop.backbone.head.eval()
    before = item_vectors.vectors(shop.backbone, items, features=shop.features)
    torch.testing.assert_close(before.norm(dim=1), torch.ones(6))
    embedder.save(shop.backbone, tmp_path, card_of(shop))
    other = fresh_backbone(family)
    embedder.load(other, tmp_path)
    after = item_vectors.vectors(other, items, features=Features(other, shop.data.media), batch_size=4)
    torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-5)
    with pytest.raises(AdapterError, match="made on a backbone of digest"):
        embedder.load(fresh_backbone(family, seed=1), tmp_path)
    digest = embedder.digest(tmp_path)
    (tmp_path / "adapter.json").write_text((tmp_path / "adapter.json").read_text().replace('"seed": 0', '"seed": 1'))
    assert embedder.digest(tmp_path) != digest


def test_modality_dropout_takes_one_modality_of_some_and_never_all(
    fresh_backbone: Callable[..., Any], data: Dataset
) -> None:
    shop = Setting(fresh_backbone(), data, task_of(modality_dropout=0.5))
    pairs = embed.examples(data, shop.task, "train", shop.backbone)
    shop.backbone.head.train()
    batch = embed.collate(pairs, shop.backbone, shop.features)
    again = embed.collate(pairs, shop.backbone, shop.features)
    there = batch.chunks[0].there["image"]
    assert torch.equal(there, again.chunks[0].there["image"])
    assert 0.1 < float((~there).float().mean()) < 0.5
    absent = {(row, name) for row, _, name in batch.chunks[0].learned if name.startswith("absent")}
    assert {name for _, name in absent} == {"absent.image", "absent.text"}
    assert len({row for row, _ in absent}) == len(absent)
    shop.backbone.head.eval()
    whole = embed.collate(pairs, shop.backbone, shop.features).chunks[0]
    assert int((~whole.there["image"]).sum()) == 1


@pytest.mark.parametrize("family", ["glued_mlp", "light_conv"])
def test_features_are_dropped_in_training_alone(family: str, fresh_backbone: Callable[..., Any], data: Dataset) -> None:
    plain, dropping = (Setting(fresh_backbone(family), data, task_of(feature_dropout=share)) for share in (0.0, 0.5))
    pairs = embed.examples(data, plain.task, "train", plain.backbone)[:8]
    found = {}
    for name, shop in (("plain", plain), ("dropping", dropping)):
        for mode in (True, False):
            shop.backbone.head.train(mode)
            torch.manual_seed(0)
            chunk = embed.collate(pairs, shop.backbone, shop.features).chunks[0]
            found[name, mode] = shop.backbone.head.viewer.encode(chunk)["multimodal"]
    assert torch.equal(found["plain", True], found["plain", False])
    assert torch.equal(found["plain", True], found["dropping", False])
    assert (found["dropping", True] - found["dropping", False]).abs().max() > 0.01


def test_a_pair_with_an_item_of_no_usable_field_is_left_out_and_counted(
    setting: Callable[..., Setting], fresh_backbone: Callable[..., Any]
) -> None:
    shop = setting()
    found = embed.select(shop.data, shop.task, "test", shop.backbone)
    assert found.left_out == {"no-usable-field": 8}
    assert not any("item-59" in pair.row for pair in found.examples)
    assert len(found.examples) == 4 * 20 - 8


@pytest.mark.parametrize("family", ["video_llava", "light_conv"])
def test_items_whose_words_are_cut_are_counted(family: str, fresh_backbone: Callable[..., Any], data: Dataset) -> None:
    backbone = fresh_backbone(family)
    whole = embed.select(data, task_of(budget={"tokens": 10_000}), "train", backbone)
    short = embed.select(data, task_of(budget={"tokens": 8}), "train", backbone)
    words = {item.id: item for pair in whole.examples for item in (pair.a, pair.b)}
    told = sum(bool(item.title) for item in words.values())
    assert whole.cut == 0 if family == "video_llava" else whole.cut >= 0
    assert short.cut == told if family == "video_llava" else short.cut == whole.cut


def test_media_that_an_arm_does_not_take_are_counted(fresh_backbone: Callable[..., Any], tmp_path: Path) -> None:
    images, videos = [f"media/{n}.png" for n in range(3)], ["media/a.mp4", "media/b.mp4"]
    row = {"id": "i", "title": "a", "text": "", "images": images, "videos": videos}
    for modality, most, unread in ((("text", "image"), 1, 2), (("text", "image"), 3, 0), (("text", "video"), 1, 1)):
        settings = task_of(*modality, max_images=most).embed
        assert settings is not None
        found = item_of(row, {}, settings, modality)
        assert (found.unread, len(found.media)) == (unread, 1 if "video" in modality else most)
    rows = [{**row, "id": key, "split_item": "train"} for key in "ab"]
    shop = write_dataset(tmp_path / "shop", {"items": rows, "pairs": [{"a": "a", "b": "b", "split_item": "train"}]})
    backbone = fresh_backbone("video_llava")
    assert embed.select(shop, task_of(), "train", backbone, needed=False).cut == 0  # one pair alone is left out
    assert embed.cut_items(backbone, task_of(), list(stream(shop, task_of().embed, ("image",)))) == 2


def test_split_schemes_are_the_stored_ones(setting: Callable[..., Setting]) -> None:
    shop = setting(scheme="pair")
    by_pair = embed.examples(shop.data, shop.task, "test", shop.backbone)
    assert by_pair
    for pair in by_pair:
        assert (int(pair.a.id[-2:]) + int(pair.b.id[-2:])) % 4 == 0


def test_shuffled_media_are_another_item_s_and_the_same_in_every_split(data: Dataset) -> None:
    plain, changed = catalogue(data, task_of()), catalogue(data, task_of(shuffled=("image",)))
    moved = [(a.media, b.media) for a, b in zip(plain, changed, strict=True) if a.media]
    assert all(a != b for a, b in moved)
    assert sorted(a[0].path for a, _ in moved) == sorted(b[0].path for _, b in moved)
    assert [a.text for a in plain] == [b.text for b in changed]
    assert not any(b.media for a, b in zip(plain, changed, strict=True) if not a.media)


def test_topics_come_from_attributes_and_an_unknown_one_is_named(data: Dataset) -> None:
    assert catalogue(data, task_of(topics=("tags", "size")))[1].topics == ("old", "new", "1")
    with pytest.raises(DataError, match="'sise'; did you mean 'size'"):
        catalogue(data, task_of(topics=("sise",)))


@pytest.mark.parametrize(
    "title", ["x" * 100_000, "<image> <IMG_EMB> </s>", "كتاب جميل 📚👩‍🍳", "\ud83d".encode("utf-8", "replace").decode()]
)
def test_any_title_gives_a_finite_vector(title: str, setting: Callable[..., Setting]) -> None:
    shop = setting()
    item = replace(shop.items["item-10"], title=title)
    found = item_vectors.vectors(shop.backbone, [item], features=shop.features)
    assert bool(found.isfinite().all())


def test_a_tower_that_should_learn_and_a_batch_without_negatives_are_refused(
    fresh_backbone: Callable[..., Any], setting: Callable[..., Setting]
) -> None:
    with pytest.raises(AdapterError, match="tower stays frozen"):
        embedder.attach(fresh_backbone(), task_of(adapter={"on": ["language", "tower"]}), 0)
    shop = setting()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)
    train = shop.task.train.model_copy(update={"batch_size": 2})
    with pytest.raises(TrainingError, match="two pairs or more"):
        embed.steps(pairs, train, 0, 2)
    with pytest.raises(TrainingError, match="there are 120 pairs"):
        embed.steps(pairs, train.model_copy(update={"batch_size": 512}), 0, 1)


def test_steps_read_every_pair_once_an_epoch(setting: Callable[..., Setting]) -> None:
    shop = setting()
    pairs = embed.examples(shop.data, shop.task, "train", shop.backbone)
    train = shop.task.train.model_copy(update={"batch_size": 30, "max_steps": 8})
    steps = embed.steps(pairs, train, 5, 1)
    for epoch in (steps[:4], steps[4:]):
        assert sorted(row for step in epoch for row in step) == list(range(120))
    assert steps[:4] != steps[4:]


def test_media_of_an_item_are_of_its_own(data: Dataset) -> None:
    item = catalogue(data, task_of("text", "image", "video"))[10]
    assert [ref.modality for ref in item.media] == ["image", "video"]
    assert all(isinstance(ref, MediaRef) and data.media(ref.path).exists() for ref in item.media)

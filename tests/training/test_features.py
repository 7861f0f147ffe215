from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from latefuse.config import AdapterConfig
from latefuse.config_data import MediaLimits
from latefuse.data.dataset import Dataset
from latefuse.data.errors import MediaError
from latefuse.models.adapters import attach
from latefuse.prompts import MediaRef
from latefuse.training.distributed import TrainingError
from latefuse.training.features import Features, decode, media_key, text_digest, text_key, tower_digest


@pytest.fixture(scope="module")
def data(small_dataset: Path) -> Dataset:
    return Dataset(small_dataset)


def refs_of(data: Dataset, modality: str, count: int = 3) -> list[MediaRef]:
    rows = data.rows("conversations", "train", where={"modality": modality})
    return [MediaRef(m["modality"], m["path"]) for row in rows[:count] for m in row["media"]]


@pytest.mark.parametrize("modality", ["image", "video"])
def test_stored_features_equal_the_tower_on_fresh_pixels(
    modality: str, data: Dataset, fresh_backbone: Any, tmp_path: Path
) -> None:
    backbone = fresh_backbone()
    refs = refs_of(data, modality)
    features = Features(backbone, data.media, tmp_path)
    assert features.warm([*refs, *refs, MediaRef("image", "")], progress=False) == 3
    assert features.warm(refs, progress=False) == 0
    stored, pixels = features.batch([refs[1], refs[0], refs[1]]), Features(backbone, data.media).batch(refs)
    assert stored is not None
    assert pixels is not None
    assert (stored.kind, pixels.kind) == ("features", "pixels")
    found, fresh = getattr(stored, modality), backbone.encode_media(getattr(pixels, modality), modality)
    torch.testing.assert_close(found, fresh[[1, 0, 1]], rtol=1e-5, atol=1e-6)


def test_absent_media_have_no_features(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    features = Features(fresh_backbone(), data.media, tmp_path)
    assert features.batch([MediaRef("image", "")]) is None
    assert features.batch([]) is None


def test_past_the_budget_features_are_made_for_the_batch(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    backbone, refs = fresh_backbone(), refs_of(data, "image")
    small, large = Features(backbone, data.media, tmp_path / "a", 0), Features(backbone, data.media, tmp_path / "b")
    small.warm(refs, progress=False)
    large.warm(refs, progress=False)
    first, second = small.batch(refs), large.batch(refs)
    assert first is not None
    assert second is not None
    torch.testing.assert_close(first.image, second.image, rtol=1e-5, atol=1e-6)
    assert not list((tmp_path / "a").rglob("*.npy"))


def test_a_tower_that_learns_is_fed_with_pixels(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    backbone = fresh_backbone()
    before = tower_digest(backbone, "image")
    attach(backbone, AdapterConfig(r=2, on=("language", "tower")), "image", seed=0)
    features = Features(backbone, data.media, tmp_path)
    batch = features.batch(refs_of(data, "image"))
    assert batch is not None
    assert batch.kind == "pixels"
    assert features.stored("video")
    assert tower_digest(backbone, "image") == before


def test_the_key_follows_the_content_and_the_weights(data: Dataset, fresh_backbone: Any) -> None:
    one, two = refs_of(data, "image", 2)
    assert media_key(one) == f"image-{Path(one.path).stem}" != media_key(two)
    assert media_key(MediaRef("video", one.path)) != media_key(one)
    backbone = fresh_backbone()
    before = {modality: tower_digest(backbone, modality) for modality in ("image", "video")}
    next(backbone.model.get_submodule("model.image_tower").parameters()).data.view(-1)[0] += 1
    assert tower_digest(backbone, "image") != before["image"]
    assert tower_digest(backbone, "video") == before["video"]


def test_controls_are_media_too(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    features = Features(fresh_backbone(), data.media, tmp_path)
    refs = [MediaRef("video", path) for path in ("constant:128", "noise:1", "noise:2", "noise:1")]
    features.warm(refs, progress=False)
    batch = features.batch(refs)
    assert batch is not None
    assert batch.video is not None
    assert torch.equal(batch.video[1], batch.video[3])
    assert not torch.equal(batch.video[1], batch.video[2])


def test_a_broken_medium_is_named(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    broken = tmp_path / "x.png"
    broken.write_bytes(b"")
    features = Features(fresh_backbone(), lambda path: broken, tmp_path / "cache")
    with pytest.raises(MediaError, match=r"x\.png.*run that step again"):
        features.warm([MediaRef("image", "media/00/x.png")], progress=False)


FAMILIES = ["video_llava", "qwen2_5_vl", "glued_conv", "light_clip"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("modality", ["image", "video"])
def test_pooled_vectors_equal_the_tower_on_fresh_pixels(
    family: str, modality: str, data: Dataset, fresh_backbone: Any, tmp_path: Path
) -> None:
    """From the store, from memory, and without either."""
    backbone = fresh_backbone(family)
    refs = refs_of(data, modality)
    frames = backbone.frames if modality == "video" else 1
    pictures = [picture for ref in refs for picture in decode(ref, data.media, frames, MediaLimits())]
    expected = backbone.pooled(backbone.encode_media(backbone.pixels(pictures, modality), modality), modality)
    features = Features(backbone, data.media, tmp_path)
    warm = features.warm(refs, progress=False)
    assert warm == (3 if backbone.family.cacheable else 0)
    for found in (features.pooled(refs), features.pooled(refs), Features(backbone, data.media).pooled(refs)):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    mixed = features.pooled([refs[2], refs[0], refs[2]])
    torch.testing.assert_close(mixed, expected[[2, 0, 2]], rtol=1e-5, atol=1e-5)


def test_a_light_tower_stores_one_small_vector_a_frame(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    backbone = fresh_backbone("light_conv")
    Features(backbone, data.media, tmp_path).warm([*refs_of(data, "image"), *refs_of(data, "video")], progress=False)
    shapes = sorted(np.load(path).shape for path in tmp_path.rglob("*.npy"))
    assert shapes == [(1, 128)] * 3 + [(backbone.frames, 128)] * 3


def test_each_vector_is_made_once(data: Dataset, fresh_backbone: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """Also for a family whose features can't be stored; without a cache it is made anew each time."""
    backbone, refs, calls = fresh_backbone("qwen2_5_vl"), refs_of(data, "image"), []
    encode = backbone.encode_media
    monkeypatch.setattr(backbone, "encode_media", lambda *given: calls.append(len(given[0])) or encode(*given))
    features = Features(backbone, data.media, tmp_path)
    features.pooled(refs[:2])
    features.pooled([refs[0], refs[2], refs[0]])
    assert calls == [2, 1]
    plain = Features(backbone, data.media)
    plain.pooled([refs[0], refs[0]])
    plain.pooled([refs[0]])
    assert calls == [2, 1, 2, 1]


def test_a_tower_that_learns_gives_fresh_vectors(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    backbone, refs = fresh_backbone(), refs_of(data, "image")
    features = Features(backbone, data.media, tmp_path)
    before = features.pooled(refs)
    attach(backbone, AdapterConfig(r=2, on=("language", "tower")), "image", seed=0)
    for name, parameter in backbone.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_()
    assert (features.pooled(refs) - before).abs().max() > 1e-3


def test_pooled_takes_present_media_of_one_modality(data: Dataset, fresh_backbone: Any) -> None:
    features = Features(fresh_backbone(), data.media)
    one = refs_of(data, "image", 1)
    for others in (refs_of(data, "video", 1), [MediaRef("image", "")]):
        with pytest.raises(ValueError, match="present media of one modality"):
            features.pooled([*one, *others])


TEXTS = ["red rice", "soup", "red rice", "a green soup, \u0645\u0631\u062d\u0628\u0627 \U0001f35c", ""]


def test_sentences_are_stored_by_text_and_encoder(fresh_backbone: Any, tmp_path: Path, monkeypatch: Any) -> None:
    backbone, calls = fresh_backbone("light_conv"), []
    expected = backbone.encode_text(TEXTS)
    encode = backbone.encode_text
    monkeypatch.setattr(backbone, "encode_text", lambda texts: calls.append(list(texts)) or encode(texts))
    features = Features(backbone, lambda path: tmp_path, tmp_path)
    assert features.warm_text(TEXTS, progress=False) == 4
    assert features.warm_text(TEXTS, progress=False) == 0
    assert len(calls) == 1
    again = Features(backbone, lambda path: tmp_path, tmp_path)
    for found in (features.text(TEXTS), again.text(TEXTS), again.text(TEXTS)):
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-6)
    assert len(calls) == 1
    torch.testing.assert_close(again.text(["new", "soup"])[1], expected[1], rtol=0, atol=1e-6)
    assert calls[1:] == [["new"]], "what was not warmed is made once more"
    assert Features(backbone, lambda path: tmp_path).text(TEXTS).shape == expected.shape
    assert calls[2] == TEXTS, "without a cache every text is encoded"


def test_the_key_of_a_sentence_follows_encoder_and_reading(fresh_backbone: Any) -> None:
    backbone = fresh_backbone("light_clip")
    before = text_digest(backbone)
    backbone.encode_text(["a call leaves its state in the tokenizer", "x"])
    assert text_digest(backbone) == before
    assert text_key("a") != text_key("b")
    backbone.model.config.text_tokens += 1
    assert text_digest(backbone) != before
    backbone.model.config.text_tokens -= 1
    next(backbone.inner["text_encoder"].parameters()).data.view(-1)[0] += 1
    assert text_digest(backbone) != before


def test_vectors_past_the_memory_bound_are_right_too(
    data: Dataset, fresh_backbone: Any, tmp_path: Path, monkeypatch: Any
) -> None:
    from latefuse.training import features as module

    backbone, refs = fresh_backbone("light_clip"), refs_of(data, "image")
    expected = Features(backbone, data.media, tmp_path / "a").pooled(refs)
    monkeypatch.setattr(module, "MEMORY_BYTES", 24 * 4)
    monkeypatch.setattr(module, "SLICE", 2)
    small = Features(backbone, data.media, tmp_path / "b")
    for _ in range(2):
        torch.testing.assert_close(small.pooled(refs), expected, rtol=1e-5, atol=1e-6)
    assert len(small._vectors) == 1


def test_a_spread_tower_is_not_run_by_one_process_alone(data: Dataset, fresh_backbone: Any, tmp_path: Path) -> None:
    backbone = fresh_backbone()
    refs = refs_of(data, "image")
    stored = Features(backbone, data.media, tmp_path)
    stored.warm(refs[:2], progress=False)
    next(backbone.model.parameters()).ds_id = 0  # as ZeRO-3 marks what it has spread
    assert stored.batch(refs[:2]) is not None
    for features in (stored, Features(backbone, data.media)):
        with pytest.raises(TrainingError, match=r"under ZeRO-3 .* raise train\.feature_cache_gib, or .* {stage: 2}"):
            features.pooled(refs[2:])
    with pytest.raises(TrainingError, match="must be stored before training"):
        stored.batch(refs)

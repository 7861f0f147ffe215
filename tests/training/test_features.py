from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from latefuse.config import AdapterConfig
from latefuse.data.dataset import Dataset
from latefuse.data.errors import MediaError
from latefuse.models.adapters import attach
from latefuse.prompts import MediaRef
from latefuse.training.features import Features, media_key, tower_digest


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

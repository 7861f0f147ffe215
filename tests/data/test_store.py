"""Raw media: never from outside the data root, each decoded once, equal pictures recognised."""

from __future__ import annotations

from pathlib import Path

import pytest
from broken_media import encoded, gradient, write_clip
from PIL import Image

from latefuse.config_data import MediaLimits
from latefuse.data import store
from latefuse.data.errors import MediaError
from latefuse.data.store import MediaStore, Stored


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    (root / "sub").mkdir(parents=True)
    (root / "a.png").write_bytes(encoded(gradient(), "PNG"))
    (tmp_path / "secret.png").write_bytes(encoded(gradient(), "PNG"))
    return root


def taken(root: Path, *keys: tuple[str, str]) -> list[Stored | MediaError]:
    out = MediaStore(root, root.parent / "out", MediaLimits())
    with out.opened():
        out.take(keys)
    return [out.known[key] for key in keys]


@pytest.mark.parametrize(
    "raw",
    ["../secret.png", "sub/../../secret.png", "{root}/a.png", "{root}/../secret.png", "link.png", "way/secret.png"],
)
def test_paths_out_of_the_root_are_refused(root: Path, raw: str) -> None:
    (root / "link.png").symlink_to(root.parent / "secret.png")
    (root / "way").symlink_to(root.parent)
    (outcome,) = taken(root, ("image", raw.format(root=root)))
    assert isinstance(outcome, MediaError)
    assert outcome.reason == "outside-root"
    assert not (root.parent / "out").exists()


@pytest.mark.parametrize("raw", ["sub/../a.png", "inner.png"])
def test_ways_that_stay_inside_are_fine(root: Path, raw: str) -> None:
    (root / "inner.png").symlink_to("a.png")
    assert isinstance(taken(root, ("image", raw))[0], Stored)


@pytest.mark.parametrize("raw", ["no.png", "sub", "", "a\0.png"])
def test_what_is_no_file_is_missing(root: Path, raw: str) -> None:
    (outcome,) = taken(root, ("image", raw))
    assert isinstance(outcome, MediaError)
    assert outcome.reason == "missing"


def test_equal_pixels_are_one_content_whatever_the_file(root: Path) -> None:
    (root / "b.bmp").write_bytes(encoded(gradient(), "BMP"))
    (root / "c.png").write_bytes(encoded(gradient(seed=1), "PNG"))
    one, other, third = taken(root, ("image", "a.png"), ("image", "b.bmp"), ("image", "c.png"))
    assert isinstance(one, Stored)
    assert isinstance(other, Stored)
    assert isinstance(third, Stored)
    assert one.content == other.content != third.content
    assert one.ref != other.ref
    assert (root.parent / "out" / other.ref).read_bytes() == (root / "b.bmp").read_bytes()


def test_each_is_decoded_once_and_to_its_end(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Path] = []
    decode = store.open_image
    monkeypatch.setattr(store, "open_image", lambda path, limits: opened.append(path) or decode(path, limits))
    media = MediaStore(root, root.parent / "out", MediaLimits())
    with media.opened():
        assert media.take([("image", "a.png")] * 3) == [("image", "a.png")]
        assert media.take([("image", "a.png")]) == []
    assert len(opened) == 1
    cut = encoded(Image.new("RGB", (300, 300)), "BMP")[:-50]
    (root / "cut.bmp").write_bytes(cut)
    whole = write_clip(root / "whole.mkv", range(0, 250, 5), codec="mpeg4").read_bytes()
    (root / "cut.mp4").write_bytes(write_clip(root / "w.mp4", range(0, 250, 5)).read_bytes()[:-300])
    outcomes = taken(root, ("image", "cut.bmp"), ("video", "cut.mp4"), ("video", "whole.mkv"), ("image", "whole.mkv"))
    assert [getattr(outcome, "reason", "") for outcome in outcomes] == ["truncated", "truncated", "", "not-an-image"]
    assert whole

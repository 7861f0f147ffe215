"""A catalogue embedded in shards and merged: the bytes of one task, whoever is killed, missing or not its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from latefuse.config import Job, Recipe
from latefuse.config_vectors import Catalogue
from latefuse.serving import index
from latefuse.serving.index import Index, VectorIndexError, parts
from latefuse.serving.vectors import Embedder
from latefuse.steps import embed, embed_shard, finetune
from latefuse.tracking import Null

CATALOGUE = Catalogue(part=7, batch_size=4)
RECIPE: dict[str, Any] = {
    "name": "x",
    "data": {"source": "demo"},
    "train": {"max_steps": 1, "batch_size": 16},
    "tasks": {"both": {"kind": "embed", "modality": ["text", "image"], "embed": {"dim": 16}}},
    "catalogue": {"part": 7, "batch_size": 4},
}


@pytest.fixture(scope="module")
def given(
    shop_items: Path, backbone_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path, Path]:
    """Dataset, backbone, and what `finetune` wrote."""
    out, base = tmp_path_factory.mktemp("adapter"), backbone_folder("light_conv")
    recipe = Recipe.model_validate(RECIPE)
    finetune.run(Job(name="both", seed=0, tasks=recipe.tasks), shop_items, base, out, Null(), out / "cache")
    return shop_items, base, out


def shard(given: Any, out: Path, number: int, count: int, work: Path | None = None) -> dict[str, Any]:
    return embed_shard.run(CATALOGUE, *given, number, count, out, Null(), work or out / "work")


@pytest.fixture
def shards(given: Any, tmp_path: Path) -> Callable[[int], list[Path]]:
    def make(count: int) -> list[Path]:
        folders = [tmp_path / f"{number}-of-{count}" for number in range(count)]
        for number, folder in enumerate(folders):
            shard(given, folder, number, count)
        return folders

    return make


def test_four_shards_have_the_bytes_and_the_fingerprint_of_one(shards: Any, given: Any, tmp_path: Path) -> None:
    one, four = (embed.run(CATALOGUE, shards(count)[::-1], tmp_path / f"merged-{count}", Null()) for count in (1, 4))
    assert one["fingerprint"] == four["fingerprint"]
    assert (one["vectors"], one["left_out"]) == (four["vectors"], four["left_out"]) == (59, 1)
    files = sorted((tmp_path / "merged-1/vectors").iterdir())
    assert len(files) == 9
    for path in files:
        assert path.read_bytes() == (tmp_path / "merged-4/vectors" / path.name).read_bytes()
    alone = Embedder(given[1], given[2], given[0])
    expected = {one: row for ids, items in alone.batches(1) for one, row in zip(ids, alone.vectors(items), strict=True)}
    for ids, vectors in parts(tmp_path / "merged-4"):
        np.testing.assert_allclose(vectors, np.stack([expected[one] for one in ids]), atol=1e-5)
    name, vector = next(iter(expected.items()))
    found = Index(tmp_path / "merged-4", alone.digest).search(vector[None], 59)
    assert dict(found[0])[name] == pytest.approx(1, abs=1e-5)
    assert set(dict(found[0])) == set(expected)


def test_a_shard_makes_every_so_many_th_part_and_says_so(shards: Any) -> None:
    for number, folder in enumerate(shards(4)):
        made = sorted(path.name for path in (folder / "vectors").iterdir())
        assert made == [f"part-{part:05d}.parquet" for part in range(number, 9, 4)]
        result = json.loads((folder / "result.json").read_text())
        assert (result["items"], result["left_out"], result["inputs"]) == (59, 1, {"shard": number, "shards": 4})
        assert not (folder / "work").exists()


def test_a_killed_shard_goes_on(given: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written, real = [], index._write_part

    def fall(path: Path, *rest: Any) -> None:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(path)
        real(path, *rest)

    monkeypatch.setattr(index, "_write_part", fall)
    with pytest.raises(KeyboardInterrupt):
        shard(given, tmp_path / "out", 0, 2, tmp_path / "work")
    monkeypatch.setattr(index, "_write_part", real)
    assert shard(given, tmp_path / "out", 0, 2, tmp_path / "work")["kept"] == 14


def test_what_does_not_belong_together_is_refused(shards: Any, given: Any, tmp_path: Path) -> None:
    def merged(folders: list[Path]) -> None:
        embed.run(CATALOGUE, folders, tmp_path / "merged", Null())

    two, three = shards(2), shards(3)
    for folders, match in (
        (two[:1], r"shards \[0\] are given, and 0 to 1 are wanted"),
        ([two[0], two[0]], r"shards \[0, 0\] are given"),
        ([two[0], three[1]], "1-of-3: shards is 3, and 2 in .*0-of-2"),
        ([two[0], tmp_path / "gone"], r"gone: no manifest\.json; this shard is missing or did not finish"),
        ([two[0], given[0]], "no shard of vectors"),
    ):
        with pytest.raises(VectorIndexError, match=match):
            merged(folders)
    (two[1] / "vectors/part-00003.parquet").write_bytes(b"torn")
    with pytest.raises(VectorIndexError, match=r"1-of-2: vectors/part-00003\.parquet gone or changed"):
        merged(two)
    manifest = json.loads((three[2] / "manifest.json").read_text())
    manifest["header"]["adapter"] = "another"
    (three[2] / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(VectorIndexError, match=r"2-of-3: header is .*another.* not of one catalogue"):
        merged(three)
    with pytest.raises(ValueError, match="shard 2 of 2: the first is 0, the last 1"):
        shard(given, tmp_path / "none", 2, 2)


def test_a_catalogue_is_of_an_embedding_recipe(given: Any) -> None:
    arms = {**RECIPE, "arms": {"text-only": {"modality": ["text"]}}}
    assert Recipe.model_validate({**arms, "catalogue": {"arm": "text-only"}}).catalogue is not None
    with pytest.raises(ValueError, match=r"catalogue\.arm: no arm 'text-onyl'; did you mean 'text-only'\?"):
        Recipe.model_validate({**arms, "catalogue": {"arm": "text-onyl"}})
    with pytest.raises(ValueError, match="only task, of kind embed, not instruct"):
        Recipe.model_validate({**RECIPE, "tasks": {"image": {"modality": "image"}}})

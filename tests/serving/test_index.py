"""Exported vectors: a killed run goes on, an index is exact or says how well it is, and refuses what is not its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from latefuse.serving.index import FAISS, Header, Index, VectorIndexError, build, parts, write_vectors

DIM = 16
HEADER = Header(adapter="a" * 64, backbone="b" * 64, dataset="d" * 64, dim=DIM)


def units(rows: int, seed: int = 0) -> np.ndarray[Any, Any]:
    drawn = np.random.default_rng(seed).normal(size=(rows, DIM)).astype(np.float32)
    return drawn / np.linalg.norm(drawn, axis=1, keepdims=True)


VECTORS = units(95)


def batches(size: int = 20, rows: int = 95) -> Iterator[tuple[list[str], list[int]]]:
    for start in range(0, rows, size):
        numbers = list(range(start, min(start + size, rows)))
        yield [f"i{number}" for number in numbers], numbers


class Embed:
    """Looks vectors up, counts its calls, and falls over at one of them."""

    def __init__(self, falls_at: int = -1) -> None:
        self.calls, self.falls_at = 0, falls_at

    def __call__(self, numbers: list[int]) -> np.ndarray[Any, Any]:
        if self.calls == self.falls_at:
            raise KeyboardInterrupt
        self.calls += 1
        return VECTORS[numbers]


def test_a_killed_run_goes_on_where_it_was_and_only_there(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path, batches(), Embed(falls_at=3), HEADER)
    again = Embed()
    assert write_vectors(tmp_path, batches(), again, HEADER) == {"written": 35, "kept": 60, "others": 0}
    assert again.calls == 2
    whole = np.concatenate([vectors for _, vectors in parts(tmp_path)])
    np.testing.assert_array_equal(whole, VECTORS)
    assert [one for ids, _ in parts(tmp_path) for one in ids] == [f"i{number}" for number in range(95)]


@pytest.mark.parametrize("changed", ["adapter", "backbone", "dataset"])
def test_vectors_of_another_adapter_backbone_or_dataset_are_made_anew(changed: str, tmp_path: Path) -> None:
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    told = write_vectors(tmp_path, batches(), Embed(), HEADER.model_copy(update={changed: "e" * 64}))
    assert told == {"written": 95, "kept": 0, "others": 0}


def test_a_torn_part_and_one_of_other_items_are_made_anew_and_strangers_go(tmp_path: Path) -> None:
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    first, second = sorted((tmp_path / "vectors").glob("*.parquet"))[:2]
    first.write_bytes(first.read_bytes()[:200])
    pq.write_table(pq.read_table(second).slice(1), second)
    assert write_vectors(tmp_path, batches(), Embed(), HEADER) == {"written": 40, "kept": 55, "others": 0}
    write_vectors(tmp_path, batches(rows=30), Embed(), HEADER)
    assert len(list((tmp_path / "vectors").iterdir())) == 2


def test_an_id_that_comes_twice_and_vectors_of_another_shape_are_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorIndexError, match="'i3' comes twice"):
        write_vectors(tmp_path, [(["i3", "i4"], [3, 4]), (["i3"], [3])], Embed(), HEADER)
    with pytest.raises(VectorIndexError, match="'i3' comes twice"):
        write_vectors(tmp_path, [(["i3", "i3"], [3, 4])], Embed(), HEADER)
    with pytest.raises(VectorIndexError, match="2 finite vectors of width 16 expected"):
        write_vectors(tmp_path, [(["x", "y"], [1, 2])], lambda numbers: VECTORS[:1], HEADER)
    with pytest.raises(VectorIndexError, match="finite"):
        write_vectors(tmp_path, [(["x"], [1])], lambda numbers: VECTORS[:1] * np.nan, HEADER)
    with pytest.raises(VectorIndexError, match="no vectors to make an index of"):
        build(tmp_path / "empty", HEADER)


def test_a_flat_index_is_exact_and_hides_what_it_is_told_to(tmp_path: Path) -> None:
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    assert build(tmp_path, HEADER).recall == 1.0
    index, asked = Index(tmp_path, HEADER.adapter), units(3, seed=5)
    for row, found in enumerate(index.search(asked, 7, without=["i1", "i2"])):
        order = [k for k in np.argsort(-VECTORS @ asked[row]).tolist() if k not in (1, 2)][:7]
        assert [one for one, _ in found] == [f"i{k}" for k in order]
        np.testing.assert_allclose([score for _, score in found], (VECTORS @ asked[row])[order], atol=1e-6)
    assert len(index.search(asked, 1_000)[0]) == 95
    np.testing.assert_array_equal(index.vector("i40")[0], VECTORS[40])


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_approximate_index_tells_what_it_finds_of_the_exact_neighbours(
    kind: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    centres = units(40, seed=1)
    rows = centres[np.arange(2_000) % 40] + 0.05 * np.random.default_rng(2).normal(size=(2_000, DIM))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    write_vectors(tmp_path, [([f"i{k}" for k in range(2_000)], rows)], lambda given: given, HEADER)
    about = build(tmp_path, HEADER, kind)
    assert f"finds {about.recall:.1%} of the 10 exact neighbours" in capsys.readouterr().out
    index = Index(tmp_path)
    hits = 0
    for row in range(0, 2_000, 50):
        found = {one for one, _ in index.search(rows[row][None], 11)[0]}
        hits += len(found & {f"i{k}" for k in np.argsort(-rows @ rows[row])[:11].tolist()})
    assert hits / (40 * 11) > 0.9
    assert about.recall == pytest.approx(hits / (40 * 11), abs=0.06)


def test_an_index_that_is_not_this_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(VectorIndexError, match=r"no index\.json"):
        Index(tmp_path)
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    build(tmp_path, HEADER)
    with pytest.raises(VectorIndexError, match="made by adapter aaaaaaaaaaaa, the query comes from cccccccccccc"):
        Index(tmp_path, "c" * 64)
    with pytest.raises(VectorIndexError, match=r"vectors of width 16 expected, got shape \(1, 3\)"):
        Index(tmp_path).search(np.zeros((1, 3), np.float32), 2)
    with pytest.raises(VectorIndexError, match="k=0"):
        Index(tmp_path).search(units(1), 0)
    with pytest.raises(VectorIndexError, match="no item 'i4x'; did you mean"):
        Index(tmp_path).vector("i4x")
    sorted((tmp_path / "vectors").glob("*.parquet"))[-1].unlink()
    with pytest.raises(VectorIndexError, match="95 vectors promised, 95 in the index, 80 ids"):
        Index(tmp_path)
    (tmp_path / FAISS).write_bytes(b"torn")
    with pytest.raises(VectorIndexError, match=r"index\.faiss: can't be read"):
        Index(tmp_path)
    (tmp_path / "index.json").write_text("{}")
    with pytest.raises(VectorIndexError, match="not the description of an index"):
        Index(tmp_path)


def test_an_index_whose_vectors_are_being_made_anew_can_not_be_opened(tmp_path: Path) -> None:
    """Its parts are then of two adapters."""
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    build(tmp_path, HEADER)
    about = (tmp_path / "index.json").read_text()
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    assert (tmp_path / "index.json").read_text() == about
    other = HEADER.model_copy(update={"adapter": "c" * 64})
    with pytest.raises(KeyboardInterrupt):
        write_vectors(tmp_path, batches(), Embed(falls_at=2), other)
    with pytest.raises(VectorIndexError, match=r"no index\.json"):
        Index(tmp_path, HEADER.adapter)
    (tmp_path / "index.json").write_text(about)
    with pytest.raises(VectorIndexError, match=r"part-00000\.parquet: made for another index"):
        Index(tmp_path, HEADER.adapter)


def test_an_index_of_fewer_items_than_before_is_not_taken_for_the_old_one(tmp_path: Path) -> None:
    write_vectors(tmp_path, batches(), Embed(), HEADER)
    build(tmp_path, HEADER)
    assert write_vectors(tmp_path, batches(rows=40), Embed(), HEADER) == {"written": 0, "kept": 40, "others": 0}
    with pytest.raises(VectorIndexError, match=r"no index\.json"):
        Index(tmp_path)
    assert build(tmp_path, HEADER).count == len(Index(tmp_path).ids) == 40


@pytest.mark.parametrize("kind", ["hnsw", "ivf"])
def test_an_item_is_not_counted_as_its_own_neighbour_and_of_equal_ones_any_counts(kind: Any, tmp_path: Path) -> None:
    """Four vectors, each fifty times: every found neighbour has the score of the exact ones."""
    rows = np.repeat(np.eye(4, DIM, dtype=np.float32), 50, axis=0)
    write_vectors(tmp_path, [([f"i{k}" for k in range(200)], rows)], lambda given: given, HEADER)
    assert build(tmp_path, HEADER, kind).recall > 0.9
    write_vectors(tmp_path, [(["alone"], rows[:1])], lambda given: given, HEADER)
    assert build(tmp_path, HEADER, kind).recall == 1.0
    assert Index(tmp_path).search(rows[:1], 5) == [[("alone", 1.0)]]


@pytest.mark.parametrize("first", ["torch", "faiss"])
def test_torch_and_faiss_work_in_one_process_whichever_comes_first(first: str) -> None:
    """Each brings an OpenMP of its own."""
    second = {"torch": "faiss", "faiss": "torch"}[first]
    code = f"""
import {first}, {second}
import numpy as np
torch.set_num_threads(2), faiss.omp_set_num_threads(2)
rows = torch.nn.functional.normalize(torch.randn(3000, 64), dim=1)
flat = faiss.IndexFlatIP(64)
flat.add(rows.numpy())
for _ in range(3):
    near = flat.search(rows[:50].numpy(), 3)[1]
    assert (torch.from_numpy(near) == (rows[:50] @ rows.T).topk(3).indices).all()
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr

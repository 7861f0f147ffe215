"""Exported item vectors: parts of Parquet that a killed run goes on from, a faiss index over them, and searching it.

vectors/part-00000.parquet ...  id, vector: in the order of the catalogue
index.faiss                     the same vectors, row by row
index.json                      which adapter and backbone made them, how many, how the index answers
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import ValidationError

from latefuse.errors import UserError
from latefuse.progress import bar
from latefuse.sections import Section

Vectors = NDArray[np.float32]
Kind = Literal["flat", "hnsw", "ivf"]
FAISS, ABOUT, PARTS = "index.faiss", "index.json", "vectors"
SAMPLE = 256
MANY = 50_000
NEAREST = 10
TIE = 1e-6


class VectorIndexError(UserError, RuntimeError):
    """An index that can't be made, opened or asked; the message names the file and what to do."""


class Header(Section):
    """What the vectors of an index depend on: digests of adapter, backbone and dataset, and the vectors' width."""

    adapter: str
    backbone: str
    dataset: str
    dim: int

    def key(self) -> str:
        """Short, for the parts' own metadata."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:32]


class About(Section):
    """index.json. recall: share of the ten exact neighbours that the index finds, on items of its own; 1 for flat."""

    version: Literal[1] = 1
    header: Header
    count: int
    kind: Kind
    options: dict[str, int] = {}
    recall: float = 1.0
    metric: Literal["inner product of unit vectors"] = "inner product of unit vectors"


def write_vectors(
    out: Path,
    batches: Iterable[tuple[Sequence[str], Any]],
    embed: Callable[[Any], Vectors],
    header: Header,
    total: int | None = None,
    shard: int = 0,
    shards: int = 1,
) -> dict[str, int]:
    """One part of Parquet for each batch of (ids, items); returns how many vectors were written, kept, and left to
    other shards.

    A part that an earlier run finished for the same header and ids is kept as it is; with the first one that is not,
    `index.json` goes, since the index is no longer that of the parts. total: items, for the bar. shard, shards: of so
    many writers the one, from 0, that makes every so many-th part; parts are the same however many write. Ids are kept
    in memory, about 100 bytes each. Raises VectorIndexError for an id that comes twice, and for vectors of another
    shape than promised.
    """
    folder = out / PARTS
    folder.mkdir(parents=True, exist_ok=True)
    told = {"written": 0, "kept": 0, "others": 0}
    seen: set[str] = set()
    own: set[Path] = set()
    with bar(total=total, desc="embed", unit="item") as shown:
        for number, (ids, items) in enumerate(batches):
            for one in ids:
                if one in seen:
                    raise VectorIndexError(f"item {one!r} comes twice: ids of a catalogue are distinct")
                seen.add(one)
            path = folder / f"part-{number:05d}.parquet"
            if number % shards != shard:
                told["others"] += len(ids)
                continue
            own.add(path)
            if _finished(path, ids, header):
                told["kept"] += len(ids)
            else:
                (out / ABOUT).unlink(missing_ok=True)
                _write_part(path, ids, embed(items), header)
                told["written"] += len(ids)
            shown.update(len(ids))
    for stranger in {*folder.glob("part-*.parquet")} - own:
        (out / ABOUT).unlink(missing_ok=True)
        stranger.unlink()
    return told


def _finished(path: Path, ids: Sequence[str], header: Header) -> bool:
    """Whether the part is there, whole, of this header and of these ids."""
    try:
        file = pq.ParquetFile(path)
        if (file.schema_arrow.metadata or {}).get(b"header") != header.key().encode():
            return False
        return bool(file.read(columns=["id"])["id"].to_pylist() == list(ids))
    except (FileNotFoundError, OSError, pa.ArrowException):
        return False


def _write_part(path: Path, ids: Sequence[str], vectors: Vectors, header: Header) -> None:
    if vectors.shape != (len(ids), header.dim) or not np.isfinite(vectors).all():
        raise VectorIndexError(f"{path}: {len(ids)} finite vectors of width {header.dim} expected, got {vectors.shape}")
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.astype(np.float32).ravel()), header.dim)
    table = pa.table({"id": pa.array(ids, pa.string()), "vector": flat})
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table.replace_schema_metadata({"header": header.key()}), aside)
    aside.replace(path)


def parts(folder: Path) -> Iterator[tuple[list[str], Vectors]]:
    """(ids, vectors (n, D)) part by part. Raises VectorIndexError for a part that can't be read."""
    for _, table in _tables(folder):
        column = table["vector"].combine_chunks()
        yield table["id"].to_pylist(), column.flatten().to_numpy().reshape(len(table), -1)


def _tables(folder: Path, columns: list[str] | None = None) -> Iterator[tuple[Path, pa.Table]]:
    for path in sorted((folder / PARTS).glob("part-*.parquet")):
        try:
            yield path, pq.read_table(path, columns=columns)
        except (OSError, pa.ArrowException) as error:
            raise VectorIndexError(f"{path}: can't be read ({error}): run `latefuse embed` again") from None


def _ids(folder: Path, header: Header) -> list[str]:
    """The ids of all parts, in order. Raises VectorIndexError for a part that another run has made since."""
    found = []
    for path, table in _tables(folder, ["id"]):
        if (table.schema.metadata or {}).get(b"header") != header.key().encode():
            raise VectorIndexError(f"{path}: made for another index than {folder / ABOUT}: run `latefuse embed` again")
        found += table["id"].to_pylist()
    return found


def build(folder: Path, header: Header, kind: Kind = "flat", seed: int = 0) -> About:
    """The faiss index over the parts, and index.json. Prints what an approximate one finds of the exact neighbours.

    Raises VectorIndexError without vectors.
    """
    import faiss

    count = sum(pq.ParquetFile(path).metadata.num_rows for path in (folder / PARTS).glob("part-*.parquet"))
    if not count:
        raise VectorIndexError(f"{folder / PARTS}: no vectors to make an index of")
    made, options = _empty(kind, header.dim, count)
    if not made.is_trained:
        made.train(_sample(folder, min(count, 100 * options["lists"]), seed)[1])
    for _, vectors in parts(folder):
        made.add(np.ascontiguousarray(vectors))
    recall = 1.0 if kind == "flat" else _recall(made, folder, min(SAMPLE, count), min(NEAREST, count - 1), seed)
    about = About(header=header, count=count, kind=kind, options=options, recall=recall)
    aside = folder / f".{FAISS}.{os.getpid()}"
    faiss.write_index(made, str(aside))
    (folder / ABOUT).unlink(missing_ok=True)
    aside.replace(folder / FAISS)
    aside.write_text(about.model_dump_json(indent=1) + "\n", encoding="utf-8")
    aside.replace(folder / ABOUT)
    if kind != "flat":
        print(f"index: {kind} over {count:,} vectors finds {recall:.1%} of the {NEAREST} exact neighbours", flush=True)
    return about


def _empty(kind: Kind, dim: int, count: int) -> tuple[Any, dict[str, int]]:
    """An empty index of a kind and the options that it was made with."""
    import faiss

    product = faiss.METRIC_INNER_PRODUCT
    if kind == "flat":
        return faiss.IndexFlatIP(dim), {}
    if kind == "hnsw":
        made = faiss.IndexHNSWFlat(dim, 32, product)
        made.hnsw.efConstruction, made.hnsw.efSearch = 80, 128
        return made, {"links": 32, "ef_construction": 80, "ef_search": 128}
    lists = max(1, min(4_096, round(4 * count**0.5), count))
    cells = faiss.IndexIVFFlat(faiss.IndexFlatIP(dim), dim, lists, product)
    cells.nprobe = max(1, lists // 8)
    return cells, {"lists": lists, "probes": cells.nprobe}


def _sample(folder: Path, wanted: int, seed: int) -> tuple[NDArray[np.int64], Vectors]:
    """Rows drawn from all parts, and their vectors; memory does not grow with the parts."""
    sizes = [pq.ParquetFile(path).metadata.num_rows for path in sorted((folder / PARTS).glob("part-*.parquet"))]
    rows = np.sort(np.random.default_rng(seed).choice(sum(sizes), wanted, replace=False))
    taken, start = [], 0
    for _, vectors in parts(folder):
        taken.append(vectors[rows[(rows >= start) & (rows < start + len(vectors))] - start])
        start += len(vectors)
    return rows, np.concatenate(taken)


def _recall(made: Any, folder: Path, queries: int, k: int, seed: int) -> float:
    """The share of the k exact neighbours that the index finds for some of its own items, these aside; 1 without any.

    An item that has as good a score as the k-th exact neighbour counts as found: of equal vectors any will do.
    """
    import torch

    from latefuse.evaluation.nearest import Best
    from latefuse.evaluation.retrieval import own_rows, top_k

    if not k:
        return 1.0
    rows, asked = (torch.from_numpy(part) for part in _sample(folder, queries, seed))
    best, start = Best(queries, k, asked), 0
    for _, vectors in parts(folder):
        own = torch.where((rows >= start) & (rows < start + len(vectors)), rows - start, -1)
        scores, near = top_k(asked, torch.from_numpy(vectors.copy()), k, own_rows(own))
        query = torch.arange(queries)[:, None].expand_as(near)[near >= 0]
        best.offer(query, near[near >= 0] + start, scores[near >= 0])
        start += len(vectors)
    scores, found = (torch.from_numpy(part) for part in made.search(asked.numpy(), k + 1))
    hits = (scores >= best.scores[:, -1:] - TIE) & (found != rows[:, None]) & (found >= 0)
    return float(hits.sum(1).clamp_max(k).sum()) / (k * queries)


class Index:
    """An index opened for searching. about: what it was made of; ids: of its rows."""

    def __init__(self, folder: Path, adapter: str | None = None) -> None:
        """adapter: the digest of the adapter that queries come from; None where only its own items are asked for.

        Raises VectorIndexError for an index of another adapter, and where a file is missing, torn, or of another index.
        """
        import faiss

        try:
            self.about = About.model_validate_json((folder / ABOUT).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise VectorIndexError(
                f"{folder}: no {ABOUT}: it is no index, or `latefuse embed` did not finish"
            ) from None
        except (ValidationError, ValueError) as error:
            raise VectorIndexError(f"{folder / ABOUT}: not the description of an index: {error}") from None
        made_by = self.about.header.adapter
        if adapter is not None and adapter != made_by:
            raise VectorIndexError(
                f"{folder}: made by adapter {made_by[:12]}, the query comes from {adapter[:12]}: their vectors can't "
                "be compared; embed the catalogue again, or name the adapter that made this index"
            )
        self.folder = folder
        self.ids = _ids(folder, self.about.header)
        try:
            self.made = faiss.read_index(str(folder / FAISS))
        except RuntimeError as error:
            raise VectorIndexError(f"{folder / FAISS}: can't be read: run `latefuse embed` again ({error})") from None
        if not len(self.ids) == self.made.ntotal == self.about.count:
            raise VectorIndexError(
                f"{folder}: {self.about.count} vectors promised, {self.made.ntotal} in the index, {len(self.ids)} "
                "ids: run `latefuse embed` again"
            )

    def search(self, vectors: Vectors, k: int, without: Sequence[str] = ()) -> list[list[tuple[str, float]]]:
        """For each query (q, D) its k nearest items as (id, score), best first; fewer where the index holds fewer.

        without: ids that are not found. Raises VectorIndexError for vectors of another width, and for k < 1.
        """
        if vectors.ndim != 2 or vectors.shape[1] != self.about.header.dim:
            raise VectorIndexError(f"vectors of width {self.about.header.dim} expected, got shape {vectors.shape}")
        if k < 1:
            raise VectorIndexError(f"k={k}: ask for one item or more")
        hidden = set(without)
        wide = min(k + len(hidden), self.about.count)
        scores, found = self.made.search(np.ascontiguousarray(vectors, np.float32), wide)
        rows = (
            zip(places, values, strict=True) for places, values in zip(found.tolist(), scores.tolist(), strict=True)
        )
        named = [[(self.ids[place], score) for place, score in row if place >= 0] for row in rows]
        return [[(one, score) for one, score in row if one not in hidden][:k] for row in named]

    def vector(self, item: str) -> Vectors:
        """(1, D) the vector of an item of the index. Raises VectorIndexError with the nearest id."""
        from latefuse.sections import nearest

        for ids, vectors in parts(self.folder):
            if item in ids:
                return vectors[ids.index(item)][None]
        near = nearest(item, self.ids) if len(self.ids) < MANY else ""
        raise VectorIndexError(f"{self.folder}: no item {item!r}{near}")

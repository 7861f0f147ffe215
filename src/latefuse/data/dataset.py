"""The dataset folder that `prepare` writes and every later step reads.

items.parquet events.parquet ...  the tables of schema.py that exist, with their stored split columns
media/<aa>/<sha256>.<ext>         every picture and clip once, by content
quarantine.parquet                what was refused, and why
manifest.json                     where it came from, the SHA-256 of every file, the fingerprint of it all
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from latefuse.data.errors import DataError
from latefuse.data.schema import SPLITS, TABLES, clean, schemes
from latefuse.sections import nearest

VERSION = 1
MANIFEST = "manifest.json"
BATCH = 8_192

QUARANTINE = pa.schema(
    [(name, pa.string()) for name in ("table", "id", "line", "medium", "reason", "detail")],
)


class Dataset:
    """A dataset folder, opened for reading. Raises DataError where it is absent, unfinished or of another version."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        try:
            self.manifest: dict[str, Any] = json.loads((self.path / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{self.path}: no {MANIFEST}; it is no dataset, or `prepare` did not finish") from None
        except ValueError as error:
            raise DataError(f"{self.path / MANIFEST}: not JSON: {error}") from None
        if self.manifest.get("schema") != VERSION:
            found = self.manifest.get("schema")
            raise DataError(f"{self.path}: schema version {found}, this code reads {VERSION}; run prepare again")

    @cached_property
    def fingerprint(self) -> str:
        """One hash for all of it: two datasets with the same fingerprint hold the same bytes."""
        return str(self.manifest["fingerprint"])

    @property
    def tables(self) -> tuple[str, ...]:
        """The names of the tables that exist."""
        return tuple(name for name in TABLES if (self.path / f"{name}.parquet").exists())

    def table(
        self, name: str, split: str | None = None, scheme: str | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        """A table, or the rows of one split of it, in stored order.

        scheme: which stored split ("item", "pair", "time", "loo"); by default the first that the table has.
        """
        path = self._file(name)
        rows = pq.read_table(path, columns=columns, filters=self._filter(name, split, scheme))
        return rows.combine_chunks()

    def rows(
        self, name: str, split: str | None = None, where: Mapping[str, Any] | None = None, scheme: str | None = None
    ) -> list[dict[str, Any]]:
        """The rows as dictionaries, in stored order; `where` keeps those whose column has that value."""
        table = self.table(name, split, scheme)
        for column, value in (where or {}).items():
            if column not in table.column_names:
                raise DataError(
                    f"{self.path}: table {name!r} has no column {column!r}{nearest(column, table.column_names)}"
                )
            table = table.filter(pc.equal(table[column], pa.scalar(value, table.schema.field(column).type)))
        rows: list[dict[str, Any]] = table.to_pylist()
        return rows

    def batches(self, name: str, columns: list[str] | None = None) -> Iterator[list[dict[str, Any]]]:
        """The rows in stored order, a few thousand at a time: for tables that do not fit in memory."""
        for batch in self.arrow(name, columns, BATCH):
            yield batch.to_pylist()

    def arrow(self, name: str, columns: list[str] | None = None, rows: int = 65_536) -> Iterator[pa.RecordBatch]:
        """The same as Arrow batches: for what is worked out by columns."""
        with pq.ParquetFile(self._file(name)) as file:
            yield from file.iter_batches(rows, columns=columns)

    def count(self, name: str) -> int:
        """The rows of a table."""
        return int(pq.read_metadata(self._file(name)).num_rows)

    def media(self, ref: str) -> Path:
        """The file of a stored medium. Raises DataError where it is not one of this dataset's."""
        root = (self.path / "media").resolve()
        path = self.path / ref
        if not ref.startswith("media/") or not path.resolve().is_relative_to(root):
            raise DataError(f"{self.path}: {ref!r} is not a medium of this dataset")
        if not path.is_file():
            raise DataError(f"{path}: no such medium; run prepare again")
        return path

    def verify(self) -> None:
        """Hash every file again. Raises DataError that names those which are gone or changed."""
        wrong = [name for name, digest in self.manifest["files"].items() if digest_of(self.path / name) != digest]
        if wrong:
            raise DataError(
                f"{self.path}: {len(wrong)} file(s) gone or changed: {', '.join(wrong[:5])}; run prepare again"
            )

    def _file(self, name: str) -> Path:
        path = self.path / f"{name}.parquet"
        if not path.exists():
            raise DataError(f"{self.path}: no table {name!r}{nearest(name, self.tables)}")
        return path

    def _filter(self, name: str, split: str | None, scheme: str | None) -> pc.Expression | None:
        if split is None:
            return None
        if split not in SPLITS:
            raise DataError(f"no split {split!r}{nearest(split, SPLITS)}")
        scheme = scheme or schemes(name)[0]
        if scheme not in schemes(name):
            raise DataError(f"table {name!r} has no split by {scheme!r}; it has: {', '.join(schemes(name))}")
        return pc.field(f"split_{scheme}") == split


class TableWriter:
    """Streams rows into one Parquet file; the same rows give the same bytes."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.rows = 0
        self._schema = schema
        self._waiting: list[Mapping[str, Any]] = []
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                self._flush()
        finally:
            self._file.close()

    def write(self, row: Mapping[str, Any]) -> None:
        """Add one row; it reaches the disk with its batch."""
        self._waiting.append(row)
        if len(self._waiting) >= BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._waiting:
            self._file.write_batch(pa.RecordBatch.from_pylist(self._waiting, schema=self._schema))
            self.rows += len(self._waiting)
            self._waiting = []


def write_dataset(
    out: Path | str,
    tables: Mapping[str, Iterable[Mapping[str, Any]]],
    source: str = "rows",
    licence: str = "unknown",
    seed: int = 0,
    **more: Any,
) -> Dataset:
    """Write rows that are already clean and split as a dataset: the short way, without checks for leaks or budgets.

    Media must be stored already (`store_medium`). A split column that a row lacks becomes "train"; other columns that
    it lacks become empty. more: further keys of the manifest.
    """
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        splits = {f"split_{scheme}": "train" for scheme in schemes(name)}
        with TableWriter(out / f"{name}.parquet", TABLES[name]) as writer:
            for number, row in enumerate(rows):
                full = clean(name, {**splits, **row})
                writer.write({**full, "number": number} if full.get("number", 0) is None else full)
    seal(out, {"source": source, "licence": licence, "seed": seed, "quarantine": {}, "leaks": {}, **more})
    return Dataset(out)


def store_medium(out: Path, file: Path, extension: str | None = None, digest: str | None = None) -> str:
    """Copy a file to its place by content and return that place ("media/ab/abcd...png"); a second copy costs
    nothing.
    """
    digest = digest or digest_of(file)
    ref = f"media/{digest[:2]}/{digest}.{extension or file.suffix.lstrip('.').lower()}"
    target = out / ref
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        # Writing beside the target and renaming keeps a half-copied file from ever bearing its final name.
        partial = target.with_name(f".{target.name}.{os.getpid()}.{threading.get_ident()}")
        shutil.copyfile(file, partial)
        os.replace(partial, target)
    return ref


def seal(out: Path, manifest: Mapping[str, Any], known: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Complete the manifest (rows, splits, files, fingerprint) from what lies in `out` and write it: the last act.

    known: the digests of files that were hashed before and need not be read again.
    """
    known = known or {}
    names = [name for name in TABLES if (out / f"{name}.parquet").exists()]
    full = {
        "schema": VERSION,
        **manifest,
        "rows": {name: pq.read_metadata(out / f"{name}.parquet").num_rows for name in names},
        "splits": {name: _split_counts(out / f"{name}.parquet", name) for name in names},
        "files": {name: known.get(name) or digest_of(out / name) for name in _files(out)},
    }
    full["fingerprint"] = fingerprint(full)
    partial = out / f".{MANIFEST}"
    partial.write_text(json.dumps(full, indent=1, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(partial, out / MANIFEST)
    return full


def fingerprint(manifest: Mapping[str, Any]) -> str:
    """SHA-256 over the canonical JSON of a manifest without its fingerprint; it holds no time and no place."""
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def _split_counts(path: Path, name: str) -> dict[str, dict[str, int]]:
    counts = {}
    for scheme in schemes(name):
        column = pq.read_table(path, columns=[f"split_{scheme}"]).column(0)
        found = {entry["values"]: entry["counts"] for entry in pc.value_counts(column).to_pylist()}
        counts[scheme] = {split: found.get(split, 0) for split in SPLITS}
    return counts


def _files(out: Path) -> list[str]:
    tables = [out / f"{name}.parquet" for name in (*TABLES, "quarantine")]
    paths = [path for path in tables if path.exists()] + sorted((out / "media").glob("??/*"))
    return [path.relative_to(out).as_posix() for path in paths]


def digest_of(path: Path) -> str:
    """The SHA-256 of a file, "" where there is none."""
    if not path.is_file():
        return ""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()

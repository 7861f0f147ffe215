"""One of N equal parts of `prepare`, made beside the others, and all of them read again as one source.

A shard has the rows of every N-th block of each table, typed or refused, and the media whose name hashes to it, checked
and stored. What needs the whole (duplicates, references, splits, leaks, numbers) is decided where the shards are read
again, row by row in the source's own order, so that the result has the bytes that one process would have written.

<table>.shard.parquet one a table: the clean rows, and of the refused ones why
outcomes.parquet        every medium of the shard: where it lies in `media/`, what it shows, or why it was refused
manifest.json           which shard of which data, rows of all shards and its own, SHA-256 of its files
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from latefuse.config_data import Data
from latefuse.data import typed
from latefuse.data.dataset import BATCH, MANIFEST, TableWriter, digest_of, fingerprint, store_medium
from latefuse.data.errors import DataError, MediaError, Refusal
from latefuse.data.outcomes import OUTCOMES, Outcomes, outcome_of, outcome_row
from latefuse.data.quarantine import printable
from latefuse.data.schema import TABLES, media_named
from latefuse.data.sources import raw_digest
from latefuse.data.sources.corrected import Corrected
from latefuse.data.store import Key, MediaStore, Stored

KIND = "shard-1"
BLOCK = 512
MEDIA = "outcomes.parquet"
_ABOUT = [(name, pa.string()) for name in ("_line", "_id", "_reason", "_detail")]


def write(source: Corrected, data: Data, shard: int, shards: int, out: Path, work: Path) -> dict[str, Any]:
    """Write shard number `shard` (from 0) of `shards` into `out` and return its manifest.

    work: where media are collected; a shard that was killed goes on there. The source is read once to its end: its rows
    pass by, only those of this shard are typed, and each medium is opened by one shard alone. Raises DataError.
    """
    tables = source.tables()
    offered = typed.offered(tables)
    out.mkdir(parents=True, exist_ok=True)
    (out / MANIFEST).unlink(missing_ok=True)
    store = MediaStore(source.source.root, work, data.limits, source.roots)
    total: dict[str, int] = {}
    rows: dict[str, int] = {}
    with Outcomes(work, store) as outcomes:
        own = partial(_own, shard=shard, shards=shards, outcomes=outcomes)
        for name in offered:
            total[name], rows[name] = _write_table(name, tables[name], own, out)
        outcomes.flush()
    refused = _write_media(store, outcomes.used, work, out)
    files = [_file(name) for name in offered] + [MEDIA]
    manifest: dict[str, Any] = {
        "schema": KIND,
        "shard": shard,
        "shards": shards,
        "data": data.digest,
        "raw": raw_digest(data),
        "tables": total,
        "rows": rows,
        "media": len(outcomes.used),
        "refused": refused,
        "notes": source.notes(),
        "files": {name: digest_of(out / name) for name in files},
    }
    manifest["fingerprint"] = fingerprint(manifest)
    text = json.dumps(manifest, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    (out / f".{MANIFEST}").write_text(text, encoding="utf-8")
    os.replace(out / f".{MANIFEST}", out / MANIFEST)
    return manifest


def of_medium(key: Key, shards: int) -> int:
    """The shard that has a medium: by its modality and raw path, so that all rows that name it agree."""
    name = f"{key[0]}\0{key[1]}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.sha256(name).digest()[:8]) % shards


def of_row(number: int, shards: int) -> int:
    """The shard that has the row number `number` (from 1) of a table: blocks in turn, so that none needs the total."""
    return (number - 1) // BLOCK % shards


def _own(name: str, number: int, raw: typed.Row, *, shard: int, shards: int, outcomes: Outcomes) -> bool:
    """Whether a row is this shard's; its media are taken in where they are."""
    if "_error" not in raw:
        outcomes.want(key for key in media_named(name, raw) if of_medium(key, shards) == shard)
    return of_row(number, shards) == shard


def _write_table(name: str, rows: typed.Raw, own: Callable[[str, int, typed.Row], bool], out: Path) -> tuple[int, int]:
    """(rows that the source has, rows of this shard)."""
    number = 0
    with TableWriter(out / _file(name), _schema(name)) as writer:
        for number, raw in enumerate(typed.stream(name, rows), start=1):
            if own(name, number, raw):
                line, told, row = typed.typed(name, raw, number)
                about = {"_line": printable(line), "_id": printable(told)}
                if isinstance(row, Refusal):
                    writer.write({**about, "_reason": printable(row.reason), "_detail": printable(row.detail)})
                else:
                    writer.write({**row, **about})
    return number, writer.rows


def _write_media(store: MediaStore, used: Iterable[Key], work: Path, out: Path) -> dict[str, int]:
    """The outcomes of the media, and those that are stored; returns how many were refused by reason."""
    refused: Counter[str] = Counter()
    with TableWriter(out / MEDIA, OUTCOMES) as writer:
        for key in sorted(used):
            outcome = store.known[key]
            writer.write(outcome_row(key, outcome, work))
            if isinstance(outcome, Stored):
                place(work, outcome.ref, out)
            else:
                refused[outcome.reason] += 1
    return dict(sorted(refused.items()))


def place(folder: Path, ref: str, out: Path) -> None:
    """A stored medium of `folder` also in `out`: by a second name of the same file where the disk can, else a copy."""
    target = out / ref
    if target.exists():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(folder / ref, target)
    except FileExistsError:
        return
    except OSError:
        store_medium(out, folder / ref, target.suffix[1:], target.stem)


class Shards:
    """All shards of one dataset, as a source of typed rows and of media that are checked already.

    Raises DataError that names a shard which is absent, unfinished, changed, there twice, or of other data.
    """

    def __init__(self, folders: Sequence[Path], data: Data) -> None:
        self.folders = _in_order(folders, data)
        self.manifests = [_manifest(folder) for folder in self.folders]
        for key in ("tables", "raw", "notes"):
            for folder, manifest in zip(self.folders, self.manifests, strict=True):
                if manifest[key] != self.manifests[0][key]:
                    raise DataError(
                        f"{folder}: the source changed while its shards were made: {key} is {manifest[key]} there and "
                        f"{self.manifests[0][key]} in {self.folders[0]}; make both shards again"
                    )
        for folder, manifest in zip(self.folders, self.manifests, strict=True):
            wrong = [name for name, digest in manifest["files"].items() if digest_of(folder / name) != digest]
            if wrong:
                raise DataError(f"{folder}: {', '.join(wrong)} gone or changed; make this shard again")

    def tables(self) -> typed.Rows:
        """The rows of every table in the order of the source."""
        return {name: partial(self._rows, name) for name in typed.offered(self.manifests[0]["tables"])}

    def notes(self) -> list[str]:
        """What the source had to say."""
        return list(self.manifests[0]["notes"])

    def media(self, out: Path) -> Kept:
        """The media, which are placed in `out` as rows ask for them."""
        return Kept(self.folders, out)

    def _rows(self, name: str) -> Iterator[typed.Typed]:
        parts = [_read(folder / _file(name)) for folder in self.folders]
        for number in range(1, self.manifests[0]["tables"][name] + 1):
            yield next(parts[of_row(number, len(parts))])


class Kept:
    """Media that the shards have checked: nothing is opened, a stored one is placed in `out` when it is first asked
    for.
    """

    def __init__(self, folders: Sequence[Path], out: Path) -> None:
        self.known: dict[Key, Stored | MediaError] = {}
        self._folders, self._out = folders, out
        self._found: dict[Key, tuple[Stored | MediaError, int]] = {}
        for folder in folders:
            for batch in _batches(folder / MEDIA):
                self._found |= {(row["modality"], row["path"]): outcome_of(row) for row in batch}

    def take(self, keys: Iterable[Key]) -> list[Key]:
        """What is new among `keys`. Raises DataError for a medium that its shard does not have as it said."""
        new = [key for key in dict.fromkeys(keys) if key not in self.known]
        for key in new:
            folder = self._folders[of_medium(key, len(self._folders))]
            if key not in self._found:
                raise DataError(f"{folder}: nothing is told of the {key[0]} {key[1]!r}; make this shard again")
            outcome, size = self._found.pop(key)
            if isinstance(outcome, Stored):
                path = folder / outcome.ref
                if not path.is_file() or path.stat().st_size != size:
                    raise DataError(f"{path}: gone or changed ({key[1]!r}, {size:,} bytes); make this shard again")
                place(folder, outcome.ref, self._out)
            self.known[key] = outcome
        return new


def _in_order(folders: Sequence[Path], data: Data) -> list[Path]:
    """The folders by the number of their shard, all of one dataset."""
    found: dict[int, Path] = {}
    wanted = len(folders)
    for folder in folders:
        manifest = _manifest(folder)
        if manifest["data"] != data.digest:
            raise DataError(
                f"{folder}: a shard of other data (digest {manifest['data']}, this recipe's is {data.digest}); make it "
                "again with this recipe"
            )
        if manifest["shards"] != wanted:
            raise DataError(f"{folder}: one of {manifest['shards']} shards, and {wanted} are given; give all of them")
        if manifest["shard"] in found:
            raise DataError(f"{folder} and {found[manifest['shard']]} are both shard {manifest['shard']} of {wanted}")
        found[manifest["shard"]] = folder
    return [found[number] for number in range(wanted)]


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DataError(f"{folder}: no {MANIFEST}; this shard of `prepare` is missing or did not finish") from None
    except ValueError as error:
        raise DataError(f"{folder / MANIFEST}: not JSON: {error}") from None
    if manifest.get("schema") != KIND:
        raise DataError(f"{folder}: no shard of this version (schema {manifest.get('schema')!r}, wanted {KIND!r})")
    return manifest


def _read(path: Path) -> Iterator[typed.Typed]:
    for batch in _batches(path):
        for row in batch:
            line, told, reason, detail = (row.pop(name) for name, _ in _ABOUT)
            yield line, told, row if reason is None else Refusal(reason, detail)


def _batches(path: Path) -> Iterator[list[dict[str, Any]]]:
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(BATCH):
            yield batch.to_pylist()


def _file(table: str) -> str:
    return f"{table}.shard.parquet"


def _schema(table: str) -> pa.Schema:
    return pa.schema([*TABLES[table], *(pa.field(name, kind) for name, kind in _ABOUT)])

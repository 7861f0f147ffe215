"""Raw rows out of CSV, TSV, JSON, JSON lines and Parquet, one at a time, each knowing where it stands.

A row that can't be read (bytes that are not UTF-8, a torn line) is yielded as `{"_line": ..., "_error": ...}` and
ends in quarantine; a file that can't be read at all raises DataError.
"""

from __future__ import annotations

import codecs
import csv
import gzip
import hashlib
import heapq
import itertools
import json
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from latefuse.data.errors import DataError
from latefuse.sections import nearest

Row = dict[str, Any]

NOT_UTF8 = "not-utf8: save the file as UTF-8"
CHUNK = 1 << 20
csv.field_size_limit(1_000_000)  # a text of 50,000 words is told as too long, not as a mistake of the file


def below(root: Path, relative: str) -> Path:
    """The file `relative` below `root`. Raises DataError where it is absent or lies outside (.., absolute, symlink)."""
    path = root / relative
    if not path.resolve().is_relative_to(root.resolve()):
        raise DataError(f"{relative}: leads out of the data folder {root}; copy the file into it")
    if not path.exists():
        near = sorted(p.name for p in path.parent.iterdir())[:50] if path.parent.is_dir() else []
        raise DataError(f"{path}: no such file{nearest(path.name, near)}")
    return path


def folder(root: Path) -> Path:
    """`root` itself. Raises DataError where it is no folder."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; set data.path to the folder with the raw files")
    return root


def read(path: Path, columns: Collection[str] | None = None, delimiter: str | None = None) -> Iterator[Row]:
    """The rows of a file by its ending: .csv, .tsv, .txt (tab), .jsonl, .json (array or objects), .parquet.

    columns: of a Parquet file only these are read. Every row has `_line`, a broken one `_error`.
    """
    kind = path.suffix.lower()
    if kind in (".csv", ".tsv", ".txt"):
        return read_csv(path, delimiter or ("," if kind == ".csv" else "\t"))
    if kind in (".jsonl", ".ndjson"):
        return read_jsonl(path)
    if kind == ".json":
        return read_json(path)
    if kind == ".parquet":
        return read_parquet(path, columns)
    raise DataError(f"{path}: can't tell the format from {kind!r}; use .csv, .tsv, .jsonl, .json or .parquet")


def lines(path: Path) -> Iterator[tuple[str, str]]:
    """("file.txt:3", text) of every line of a list that is not blank. Raises DataError where one is not UTF-8."""
    with path.open("rb") as handle:
        for number, line in enumerate(handle, start=1):
            try:
                text = line.decode("utf-8-sig").strip()
            except UnicodeDecodeError:
                raise DataError(f"{path}:{number}: not UTF-8 text; save the file as UTF-8") from None
            if text:
                yield f"{path.name}:{number}", text


def header(path: Path, delimiter: str | None = None, look: int = 100) -> list[str]:
    """The column names of a file; of JSON files the keys of the first `look` rows. An empty file raises DataError."""
    if path.suffix.lower() == ".parquet":
        return list(_parquet(path).schema_arrow.names)
    if path.suffix.lower() in (".csv", ".tsv", ".txt"):
        with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
            return _csv_header(path, _csv_reader(handle, delimiter or ("," if path.suffix.lower() == ".csv" else "\t")))
    keys: dict[str, None] = {}
    for row in itertools.islice(read(path), look):
        keys.update(dict.fromkeys(key for key in row if not key.startswith("_")))
    if not keys:
        raise DataError(f"{path}: no rows")
    return list(keys)


def require(path: Path, needed: Iterable[str], delimiter: str | None = None) -> list[str]:
    """The column names of a file. Raises DataError that names every missing one and its nearest neighbour."""
    found = header(path, delimiter)
    missing = [f"{name!r}{nearest(name, found)}" for name in needed if name not in found]
    if missing:
        raise DataError(f"{path}: missing column {'; missing column '.join(missing)}")
    return found


def read_csv(path: Path, delimiter: str = ",") -> Iterator[Row]:
    """The rows of a CSV with a header line, as strings."""
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as handle:
        reader = _csv_reader(handle, delimiter)
        names = _csv_header(path, reader)
        while True:
            where = f"{path.name}:{reader.line_num + 1}"
            try:
                values = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                raise DataError(f"{where}: {error}; is a quotation mark left open?") from None
            if not values:
                continue
            if len(values) != len(names):
                yield {"_line": where, "_error": f"torn-row: {len(values)} fields where the header has {len(names)}"}
            elif not _is_text("".join(values)):
                yield {"_line": where, "_error": NOT_UTF8}
            else:
                row: Row = dict(zip(names, values, strict=True))
                row["_line"] = where
                yield row


def _csv_reader(handle: Iterable[str], delimiter: str) -> Any:
    return csv.reader(handle, delimiter=delimiter)


def _csv_header(path: Path, reader: Any) -> list[str]:
    names = [name.strip() for name in next(reader, [])]
    if not names:
        raise DataError(f"{path}: empty; the first line must name the columns")
    if not _is_text("".join(names)) or "\0" in "".join(names):
        raise DataError(f"{path}:1: not UTF-8 text; save the file as UTF-8")
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DataError(f"{path}:1: column {twice!r} stands twice")
    return names


def read_jsonl(path: Path, parse: Callable[[str], Any] = json.loads) -> Iterator[Row]:
    """The objects of a file with one JSON object per line, which may be packed with gzip (.gz).

    parse: what reads a line that is not JSON; it raises ValueError where it can't.
    """
    for number, line in enumerate(_raw_lines(path), start=1):
        where = f"{path.name}:{number}"
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError:
            yield {"_line": where, "_error": NOT_UTF8}
            continue
        if not text.strip():
            continue
        try:
            value = parse(text)
        except ValueError as error:
            yield {"_line": where, "_error": f"not-json: {error}"}
            continue
        yield _json_row(value, text, where)


def _raw_lines(path: Path) -> Iterator[bytes]:
    """The lines of a file. Raises DataError where a packed one is torn."""
    if path.suffix.lower() != ".gz":
        with path.open("rb") as handle:
            yield from handle
        return
    try:
        with gzip.open(path) as packed:
            yield from packed
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path}: not a whole gzip file: {error}; fetch it again") from None


def read_json(path: Path) -> Iterator[Row]:
    """The objects of one JSON array, or of objects written one after the other; never the whole file at once.

    `_line` counts objects ("chats.json#3"). What is torn can't be passed over here: it raises DataError.
    """
    decoder = json.JSONDecoder()
    with path.open("rb") as handle:
        chunks = _text_chunks(handle)
        buffer = next(chunks, "").removeprefix("\ufeff")
        at, number = _skip(buffer, 0), 0
        array = buffer.startswith("[", at)
        at += array
        while True:
            at = _skip(buffer, at)
            if array and buffer.startswith("]", at):
                return
            try:
                value, end = decoder.raw_decode(buffer, at)
            except ValueError as error:
                extra = "".join(itertools.islice(chunks, 1 + (len(buffer) - at) // CHUNK))
                if not extra and not array and at == len(buffer):
                    return
                if not extra:
                    raise DataError(f"{path}#{number + 1}: not JSON: {error}; is the file complete?") from None
                buffer, at = buffer[at:] + extra, 0
                continue
            number += 1
            yield _json_row(value, buffer[at:end], f"{path.name}#{number}")
            at = end


def _skip(text: str, at: int) -> int:
    """The first place from `at` on that is neither white space nor a comma."""
    while at < len(text) and text[at] in " \t\r\n,":
        at += 1
    return at


def _text_chunks(handle: Any) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")(errors="surrogateescape")
    while data := handle.read(CHUNK):
        yield decoder.decode(data)
    yield decoder.decode(b"", final=True)


def _json_row(value: Any, text: str, where: str) -> Row:
    if not isinstance(value, dict):
        return {"_line": where, "_error": f"not-json: expected an object, found {type(value).__name__}"}
    if not _is_text(text) or ("\\ud" in text.lower() and not _is_text(json.dumps(value, ensure_ascii=False))):
        return {"_line": where, "_error": NOT_UTF8}
    value["_line"] = where
    return value


def read_parquet(path: Path, columns: Collection[str] | None = None, batch: int = 1024) -> Iterator[Row]:
    """The rows of a Parquet file, `batch` at a time out of one row group after the other."""
    number = 0
    for rows in _parquet(path).iter_batches(batch_size=batch, columns=None if columns is None else list(columns)):
        for row in _batch_rows(rows):
            number += 1
            row["_line"] = f"{path.name}#{number}"
            yield row


def _batch_rows(batch: pyarrow.RecordBatch) -> Iterator[Row]:
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield {"_error": NOT_UTF8}


def _parquet(path: Path) -> pyarrow.parquet.ParquetFile:
    try:
        return pyarrow.parquet.ParquetFile(path)
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a Parquet file: {error}") from None


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def sample(keys: Iterable[tuple[str, str]], limit: int) -> set[str]:
    """Of each group in (group, id) the `limit` ids with the smallest hash: a uniform choice, the same in every run."""
    heaps: dict[str, list[tuple[int, str]]] = {}
    for group, key in keys:
        heap = heaps.setdefault(group, [])
        rank = -int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big")
        if len(heap) < limit:
            heapq.heappush(heap, (rank, key))
        elif rank > heap[0][0]:
            heapq.heapreplace(heap, (rank, key))
    return {key for heap in heaps.values() for _, key in heap}


def limited(rows: Callable[[], Iterator[Row]], key: str, limit: int | None) -> Callable[[], Iterator[Row]]:
    """`rows`, or a uniform sample of `limit` of them by the hash of `key`; broken rows stay and are counted."""
    if limit is None:
        return rows

    def kept() -> Iterator[Row]:
        chosen = sample((("", str(row[key])) for row in rows() if "_error" not in row), limit)
        return (row for row in rows() if "_error" in row or str(row[key]) in chosen)

    return kept

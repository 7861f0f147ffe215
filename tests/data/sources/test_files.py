"""Row readers: the same rows out of every format, broken ones with their place, flat memory."""

from __future__ import annotations

import csv
import json
import tracemalloc
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from latefuse.data.errors import DataError
from latefuse.data.sources import files

ROWS = [
    {"id": "1", "text": "räksmörgås, twice"},
    {"id": "2", "text": 'a "quoted"\nsecond line'},
    {"id": "3", "text": "ok"},
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    if path.suffix in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, list(rows[0]), delimiter="," if path.suffix == ".csv" else "\t")
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    else:
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=2)
    return path


def plain(rows: Any) -> list[dict[str, Any]]:
    return [{key: value for key, value in row.items() if key != "_line"} for row in rows]


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".json", ".parquet"])
def test_formats_agree(tmp_path: Path, ending: str) -> None:
    path = write(tmp_path / f"rows{ending}", ROWS)
    assert plain(files.read(path)) == ROWS
    assert files.header(path) == ["id", "text"]
    assert plain(files.read(path)) == ROWS, "a second reading starts anew"


def test_csv_line_numbers_count_lines_not_rows(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ROWS)
    assert [row["_line"] for row in files.read(path)] == ["rows.csv:2", "rows.csv:3", "rows.csv:5"]


def test_byte_order_mark_and_crlf(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_bytes(b"\xef\xbb\xbfid,text\r\n1,one\r\n")
    assert plain(files.read(path)) == [{"id": "1", "text": "one"}]
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": "1"}\r\n')
    assert plain(files.read(path)) == [{"id": "1"}]


def test_not_utf8_rows_are_named_and_the_others_kept(tmp_path: Path) -> None:
    torn = {
        "rows.csv": b"id,text\n1,one\n2,caf\xe9\n3,three\n",
        "rows.jsonl": b'{"id": "1"}\n{"id": "caf\xe9"}\n{"id": "3"}\n',
        "rows.json": b'[{"id": "1"}, {"id": "caf\xe9"}, {"id": "3"}]',
    }
    for name, content in torn.items():
        (tmp_path / name).write_bytes(content)
        rows = list(files.read(tmp_path / name))
        assert [row.get("id") for row in rows] == ["1", None, "3"], name
        assert rows[1]["_error"].startswith("not-utf8"), name
        assert (
            rows[1]["_line"]
            == {"rows.csv": "rows.csv:3", "rows.jsonl": "rows.jsonl:2", "rows.json": "rows.json#2"}[name]
        )


def test_not_utf8_in_parquet(tmp_path: Path) -> None:
    column = pa.array([b"one", b"caf\xe9", b"three"], pa.binary()).cast(pa.string(), safe=False)
    pq.write_table(pa.table({"id": column}), tmp_path / "rows.parquet")
    rows = list(files.read(tmp_path / "rows.parquet"))
    assert [row.get("id") for row in rows] == ["one", None, "three"]
    assert rows[1]["_error"].startswith("not-utf8")


def test_lone_surrogate_escape_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"id": "\\ud83d"}\n{"id": "\\ud83d\\ude00"}\n')
    rows = list(files.read(tmp_path / "rows.jsonl"))
    assert rows[0]["_error"].startswith("not-utf8")
    assert rows[1]["id"] == "\U0001f600"


def test_torn_rows(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("id,text\n1\n2,two\n3,three,more\n")
    assert ["_error" in row for row in files.read(tmp_path / "rows.csv")] == [True, False, True]
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n{"id": \n[3]\n\n{"id": 4}\n')
    assert ["_error" in row for row in files.read(tmp_path / "rows.jsonl")] == [False, True, True, False]


def test_torn_json_array_is_an_error_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('[{"id": 1}, {"id": 2}, {"id"')
    rows = files.read(tmp_path / "rows.json")
    assert [next(rows)["id"], next(rows)["id"]] == [1, 2]
    with pytest.raises(DataError, match=r"rows\.json#3.*complete"):
        next(rows)


def test_concatenated_objects(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_text('{"id": 1}{"id": 2}\n {"id": 3}\n')
    assert [row["id"] for row in files.read(tmp_path / "rows.json")] == [1, 2, 3]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64])
def test_json_does_not_depend_on_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chunk: int) -> None:
    monkeypatch.setattr(files, "CHUNK", chunk)
    path = write(tmp_path / "rows.json", ROWS)
    assert plain(files.read(path)) == ROWS


def test_large_json_array_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "CHUNK", 1 << 16)
    path = tmp_path / "rows.json"
    path.write_text("[" + ",".join(json.dumps({"id": k, "text": "x" * 4000}) for k in range(1_000)) + "]")
    tracemalloc.start()
    assert sum(row["id"] for row in files.read(path)) == sum(range(1_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert path.stat().st_size > 4e6
    assert peak < 1e6


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    cases = {
        "empty.csv": (b"", "empty"),
        "utf16.csv": ("id,text\n1,2\n".encode("utf-16"), "UTF-8"),
        "twice.csv": (b"id,id\n1,2\n", "twice"),
        "open.csv": (b'id,text\n1,"' + b"x" * 1_100_000, r"open\.csv:2"),
        "empty.jsonl": (b"", "no rows"),
        "torn.parquet": (b"PAR1", "not a Parquet file"),
        "rows.xlsx": (b"", "can't tell the format"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            _read_all(tmp_path / name)


def _read_all(path: Path) -> None:
    files.header(path)
    list(files.read(path))


def test_require_names_the_nearest(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", ROWS)
    with pytest.raises(DataError, match=r"missing column 'txt'; did you mean 'text'"):
        files.require(path, ["id", "txt"])


def test_below_never_leaves_the_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.csv").write_text("id\n1\n")
    (root / "link.csv").symlink_to(tmp_path / "secret.csv")
    for name in ("../secret.csv", str(tmp_path / "secret.csv"), "link.csv"):
        with pytest.raises(DataError, match="out of the data folder"):
            files.below(root, name)
    (root / "captions.csv").write_text("id\n1\n")
    with pytest.raises(DataError, match=r"did you mean 'captions\.csv'"):
        files.below(root, "caption.csv")


def test_sample_is_uniform_repeatable_and_grows() -> None:
    keys = [(f"g{k % 3}", f"id{k}") for k in range(3_000)]
    few, many = files.sample(keys, 100), files.sample(keys, 200)
    assert Counter(int(key[2:]) % 3 for key in few) == {0: 100, 1: 100, 2: 100}
    assert few < many
    assert files.sample(reversed(keys), 100) == few
    places = [int(key[2:]) for key in few]
    assert abs(sum(places) / len(places) - 1_500) < 4 * 3_000 / 12**0.5 / 300**0.5


def test_limited_keeps_broken_rows() -> None:
    rows = [{"id": str(k), "_line": str(k)} for k in range(50)] + [{"_line": "50", "_error": "torn-row"}]
    kept = list(files.limited(lambda: iter(rows), "id", 10)())
    assert len(kept) == 11
    assert kept[-1]["_error"] == "torn-row"
    assert list(files.limited(lambda: iter(rows), "id", None)()) == rows

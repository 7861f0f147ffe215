"""The tables of a dataset: their columns, what a row must have, and how a raw row becomes a clean one.

Only pyarrow is imported here, so that anybody can look at `TABLES` without waiting.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import pyarrow as pa

from latefuse.data.errors import DataError, Refusal
from latefuse.prompts.render import PLACEHOLDER

Scheme = Literal["item", "pair", "time", "loo"]
SPLITS = ("train", "valid", "test")
PLACEHOLDERS = {"image": "<image>", "video": "<video>"}


_STR, _STRS = pa.string(), pa.list_(pa.string())
_MEDIA = pa.list_(pa.struct([("modality", _STR), ("path", _STR)]))
_TURNS = pa.list_(pa.struct([("role", _STR), ("text", _STR)]))
_F64, _I64 = pa.float64(), pa.int64()

# `number` is the item id as a model sees it: a seeded permutation of 0..n-1, so that its order tells nothing.
TABLES: dict[str, pa.Schema] = {
    "items": pa.schema([
        ("id", _STR), ("number", _I64), ("title", _STR), ("text", _STR), ("attributes", _STR), ("images", _STRS),
        ("videos", _STRS), ("language", _STR), ("licence", _STR), ("split_item", _STR),
    ]),
    "users": pa.schema([("id", _STR), ("name", _STR), ("attributes", _STR)]),
    "events": pa.schema([
        ("user", _STR), ("item", _STR), ("ts", _I64), ("kind", _STR), ("value", _F64),
        ("split_time", _STR), ("split_loo", _STR),
    ]),
    "reviews": pa.schema([
        ("user", _STR), ("item", _STR), ("ts", _I64), ("stars", _F64), ("headline", _STR), ("text", _STR),
        ("feature", _STR), ("images", _STRS), ("split_time", _STR), ("split_loo", _STR),
    ]),
    "pairs": pa.schema([
        ("a", _STR), ("b", _STR), ("weight", _F64), ("window", _I64), ("split_pair", _STR), ("split_item", _STR),
    ]),
    "judgements": pa.schema([
        ("id", _STR), ("task", _STR), ("instruction", _STR), ("image", _STR), ("text", _STR), ("label", pa.bool_()),
        ("source", _STR), ("negative", _STR), ("item", _STR), ("split_item", _STR),
    ]),
    "conversations": pa.schema([
        ("id", _STR), ("modality", _STR), ("topic", _STR), ("item", _STR), ("media", _MEDIA), ("turns", _TURNS),
        ("truth", _STR), ("split_item", _STR),
    ]),
    "readings": pa.schema([
        ("of", _STR), ("id", _STR), ("cut", _I64), ("text", _STR), ("documents", _I64), ("maker", _STR),
        ("prompt", _STR), ("digest", _STR),
    ]),
}  # fmt: skip
MADE = ("readings",)
"""Tables that no source gives: `prepare` makes them out of the others."""

REQUIRED: dict[str, tuple[str, ...]] = {
    "items": ("id",),
    "users": ("id",),
    "events": ("user", "item", "ts"),
    "reviews": ("user", "item", "ts"),
    "pairs": ("a", "b"),
    "judgements": ("id", "instruction", "label"),
    "conversations": ("id", "modality", "turns"),
    "readings": ("of", "id", "text"),
}
REFERENCES: dict[str, tuple[str, ...]] = {
    "items": (),
    "users": (),
    "events": ("item",),
    "reviews": ("item",),
    "pairs": ("a", "b"),
    "judgements": ("item",),
    "conversations": ("item",),
    "readings": (),
}
JSON_COLUMNS = {"attributes", "truth"}


def schemes(table: str) -> tuple[str, ...]:
    """The split schemes whose column the table stores: ("item",), ("time", "loo") or ("pair", "item")."""
    return tuple(name.removeprefix("split_") for name in TABLES[table].names if name.startswith("split_"))


def clean(table: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with every column of the table in its type and order; absent ones get an empty value.

    Split columns that the source did not give, and `number`, stay None: they are drawn later. Keys that begin with "_"
    are for messages only and fall away. Raises Refusal for a value that does not fit, DataError for an unknown column.
    """
    columns = _CLEANERS[table]
    for key in row:
        if key not in columns and not key.startswith("_"):
            raise DataError(f"table {table!r} has no column {key!r}{_where(row)}; columns: {', '.join(columns)}")
    out = {}
    for name, (convert, empty) in columns.items():
        value = row.get(name)
        if value is None:
            if name in REQUIRED[table]:
                raise Refusal("missing-value", f"column {name!r} is empty")
            out[name] = empty() if callable(empty) else empty
            continue
        try:
            out[name] = convert(value)
        except (TypeError, ValueError, OverflowError, LookupError) as error:
            raise Refusal("wrong-type", f"column {name!r}: {error} (got {str(value)!r:.60})") from None
    for name in REQUIRED[table]:
        if out[name] == "" or out[name] == []:
            raise Refusal("missing-value", f"column {name!r} is empty")
    if table == "conversations":
        _check_conversation(out)
    return out


def missing_columns(table: str, row: Mapping[str, Any]) -> list[str]:
    """The required columns that the row does not have at all."""
    return [name for name in REQUIRED[table] if name not in row]


def media_of(table: str, row: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """(modality, path) of every medium that a clean row names; absent ones ("") are left out."""
    if table == "conversations":
        yield from ((m["modality"], m["path"]) for m in row.get("media", ()) if m["path"])
    elif table == "judgements":
        yield from [("image", row["image"])] if row.get("image") else []
    else:
        yield from (("image", path) for path in row.get("images", ()))
        yield from (("video", path) for path in row.get("videos", ()))


def media_named(table: str, raw: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Every medium that `media_of` would find in the row once it is clean; none where its media columns do not fit."""
    columns = [name for name in ("media", "image", "images", "videos") if name in _CLEANERS[table]]
    try:
        return list(media_of(table, {name: _CLEANERS[table][name][0](raw[name]) for name in columns if raw.get(name)}))
    except (TypeError, ValueError, OverflowError, LookupError, Refusal):
        return []


def with_media(table: str, row: dict[str, Any], stored: Mapping[tuple[str, str], str]) -> dict[str, Any]:
    """The row with its raw media paths replaced by stored ones; an absent medium is "" in a slot and leaves a list."""
    if table == "conversations":
        media = [{**m, "path": stored.get((m["modality"], m["path"]), "")} for m in row["media"]]
        return {**row, "media": media}
    if table == "judgements":
        return {**row, "image": stored.get(("image", row["image"]), "")}
    lists = {name: modality for name, modality in (("images", "image"), ("videos", "video")) if name in row}
    kept = {name: [stored.get((kind, path), "") for path in row[name]] for name, kind in lists.items()}
    return {**row, **{name: [path for path in paths if path] for name, paths in kept.items()}}


def _where(row: Mapping[str, Any]) -> str:
    return f" ({row['_line']})" if row.get("_line") else ""


def _text(value: Any) -> str:
    if isinstance(value, bytes):
        value = _decode(value)
    if not isinstance(value, str):
        if isinstance(value, (bool, dict, list, tuple, set)) or (isinstance(value, float) and not value.is_integer()):
            raise TypeError(f"expected text, not {type(value).__name__}")
        value = str(int(value)) if isinstance(value, float) else str(value)
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError:
            raise Refusal("not-utf8", f"{value!r:.60}") from None
    return value


def _decode(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise Refusal("not-utf8", f"byte {error.start}: {value[:40]!r}") from None


def _identifier(value: Any) -> str:
    text = _text(value)
    if text != text.strip() or any(ord(c) < 32 for c in text):
        raise ValueError("an id has no blanks around it and no control characters")
    return text


def _integer(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("expected a whole number")
    number = int(value)
    if isinstance(value, float) and number != value:
        raise ValueError("expected a whole number")
    if not -(2**63) <= number < 2**63:
        raise ValueError("does not fit 64 bits")
    return number


def _real(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("expected a finite number")
    return number


def _boolean(value: Any) -> bool:
    if isinstance(value, bool) or value in (0, 1):
        return bool(value)
    known = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
    if isinstance(value, str) and value.strip().lower() in known:
        return known[value.strip().lower()]
    raise ValueError("expected true or false")


def _split(value: Any) -> str | None:
    if value == "":
        return None
    if value not in SPLITS:
        raise ValueError(f"expected one of {', '.join(SPLITS)}")
    return str(value)


def _json(value: Any) -> str:
    if isinstance(value, Mapping):
        return _text(json.dumps(value, sort_keys=True, ensure_ascii=False))
    text = _text(value)
    if not isinstance(json.loads(text), dict):
        raise ValueError("expected a JSON object")
    return text


def _texts(value: Any) -> list[str]:
    if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
        raise TypeError("expected a list of texts")
    return [_text(entry) for entry in value]


def _media(value: Any) -> list[dict[str, str]]:
    media = [{"modality": _text(entry["modality"]), "path": _text(entry.get("path") or "")} for entry in value]
    if any(entry["modality"] not in PLACEHOLDERS for entry in media):
        raise ValueError("the modality of a medium is image or video")
    return media


def _turns(value: Any) -> list[dict[str, str]]:
    turns = [{"role": _text(entry["role"]), "text": _text(entry["text"])} for entry in value]
    if any(turn["role"] not in ("user", "assistant") for turn in turns):
        raise ValueError("the role of a turn is user or assistant")
    return turns


def _check_conversation(row: Mapping[str, Any]) -> None:
    if row["modality"] not in ("image", "video", "text"):
        raise Refusal("wrong-type", f"modality is image, video or text, not {row['modality']!r}")
    if row["turns"][-1]["role"] != "assistant" or not row["turns"][-1]["text"].strip():
        raise Refusal("no-answer", "the last turn must be a non-empty turn of the assistant")
    slots = [slot for turn in row["turns"] if turn["role"] == "user" for slot in placeholders(turn["text"])]
    media = [medium["modality"] for medium in row["media"]]
    if slots != media:
        raise Refusal("placeholder-mismatch", f"{len(media)} media {media} for {len(slots)} placeholders {slots}")


def placeholders(text: str) -> list[str]:
    """The modalities of the media placeholders of a user turn, in order; an escaped one (`\\<image>`) is plain text."""
    return PLACEHOLDER.findall(text)


def _cleaner(table: str, name: str, kind: pa.DataType) -> tuple[Callable[[Any], Any], Any]:
    if name.startswith("split_"):
        return _split, None
    if name in JSON_COLUMNS:
        return _json, "{}"
    if name in ("id", "item", "user", "a", "b"):
        return _identifier, ""
    by_type: list[tuple[pa.DataType, Callable[[Any], Any], Any]] = [
        (_STR, _text, ""), (_I64, _integer, None if name == "number" else 0),
        (_F64, _real, 1.0 if name == "weight" else 0.0),
        (pa.bool_(), _boolean, False), (_STRS, _texts, list), (_MEDIA, _media, list), (_TURNS, _turns, list),
    ]  # fmt: skip
    return next((convert, empty) for known, convert, empty in by_type if known == kind)


_CLEANERS = {
    table: {field.name: _cleaner(table, field.name, field.type) for field in schema} for table, schema in TABLES.items()
}

"""What may leave the machine: names and values made fit for MLflow, secrets and the user's home taken out."""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

MAX_VALUE = 6_000
TEXT_SUFFIXES = frozenset({".csv", ".html", ".json", ".jsonl", ".log", ".md", ".svg", ".txt", ".yaml", ".yml"})
MAX_SCRUBBED_BYTES = 64_000_000

_SECRET_NAME = re.compile(
    r"TOKEN|SECRET|PASSW|PASSPHRASE|_PWD$|CREDENTIAL|API_?KEY|ACCESS_KEY|PRIVATE|COOKIE"
    r"|DSN|(?:DATABASE|DB|REDIS|MONGO\w*|BROKER)_UR[IL]|CONN(?:ECTION)?_STR",
    re.IGNORECASE,
)
_SECRET_SHAPE = re.compile(
    r"\b(?:hf_[A-Za-z0-9]{20,}|gh[pousr]_[A-Za-z0-9]{20,}|sk-[A-Za-z0-9_-]{20,}|AKIA[0-9A-Z]{16})\b"
    r"|(?<=://)[^/\s:@\"']*:[^/\s\"']+(?=@)"
)
_BAD_KEY = re.compile(r"[^\w\-. /:]")


def flatten(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested mappings as (dotted key, text); lists as JSON; None is left out."""
    for key, value in values.items():
        name = f"{prefix}{_BAD_KEY.sub('_', str(key))}"
        if isinstance(value, Mapping):
            yield from flatten(value, f"{name}.")
        elif value is not None:
            yield (
                name,
                shorten(scrub(value if isinstance(value, str) else json.dumps(value, default=str))),
            )


def shorten(text: str) -> str:
    """`text`, or its head and its SHA-256 where it is longer than MLflow takes."""
    if len(text) <= MAX_VALUE:
        return text
    return f"{text[: MAX_VALUE - 100]}... sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def numbers(values: Mapping[str, Any]) -> dict[str, float | str]:
    """The values that are numbers, as floats; NaN and infinities as text, since JSON has no word for them."""
    out: dict[str, float | str] = {}
    for key, value in values.items():
        if value is not None:
            number = float(value)
            out[_BAD_KEY.sub("_", key)] = number if math.isfinite(number) else str(number)
    return out


def slug(name: str) -> str:
    """`name` as a file name."""
    return re.sub(r"[^\w.-]+", "-", name)


def scrub(text: str) -> str:
    """`text` without the home folder, the values of secret environment variables and well-known token shapes.

    The home folder goes first: it would no longer be found once a secret inside it is gone.
    """
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?=[/\\\"'\s,;:)\]}}<]|$)", "~", text)
    for value in _secrets():
        text = text.replace(value, "***")
    return _SECRET_SHAPE.sub("***", text)


def _secrets() -> list[str]:
    found = {value for name, value in os.environ.items() if _SECRET_NAME.search(name) and len(value) >= 6}
    return sorted(found, key=len, reverse=True)


def files(path: Path) -> Iterator[tuple[Path, str]]:
    """The files of an artifact with the folder each goes to, relative to the artifact's own."""
    if path.is_file():
        yield path, ""
    for file in sorted(path.rglob("*")):
        if file.is_file():
            parent = file.parent.relative_to(path).as_posix()
            yield file, "/".join(part for part in (path.name, parent) if part != ".")


def scrubbed_copy(path: Path, folder: Path) -> Path:
    """`path`, or a cleaned copy of it in `folder` where a text file holds a secret or the user's home."""
    if path.suffix.lower() not in TEXT_SUFFIXES or path.stat().st_size > MAX_SCRUBBED_BYTES:
        return path
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        return path
    clean = scrub(text)
    if clean == text:
        return path
    copy = folder / path.name
    copy.write_text(clean, encoding="utf-8")
    shutil.copystat(path, copy)
    return copy

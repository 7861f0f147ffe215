"""The readers of raw data: one file each, found by name, imported only when used.

A source offers tables of plain rows; `steps/prepare.py` turns them into a dataset. Three keys of a row are for
prepare alone: `_line` says where the row stands ("ratings.csv:17"), `_error` that it can't be used and why (the
row goes to quarantine), and the `split_*` columns carry an official split.
"""

from __future__ import annotations

import hashlib
import importlib
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from latefuse.config_data import Data
from latefuse.sections import ConfigError, Section, checked, nearest

Row = dict[str, Any]
Tables = Mapping[str, Callable[[], Iterator[Row]]]

SOURCES: dict[str, str] = {
    "demo": "latefuse.data.sources.demo:Demo",
    "movielens": "latefuse.data.sources.movielens:MovieLens",
    "amazon": "latefuse.data.sources.amazon:Amazon",
    "labelled_images": "latefuse.data.sources.labelled_images:LabelledImages",
    "recipes": "latefuse.data.sources.recipes:Recipes",
    "clips": "latefuse.data.sources.clips:Clips",
    "captions": "latefuse.data.sources.captions:Captions",
    "chats": "latefuse.data.sources.chats:Chats",
    "manifest": "latefuse.data.sources.manifest:Manifest",
}
GENERATED = ("demo",)
REAL_DATA = "LATEFUSE_REAL_DATA"


class Source(Protocol):
    """Raw data of one kind. Media in its rows are paths relative to `root`."""

    name: str
    Options: type[Section]
    root: Path

    def __init__(self, root: Path, options: Any) -> None:
        """Check that what the tables need is there. Raises DataError that names the missing file or column."""

    def tables(self) -> Tables:
        """The tables that this source has, each a function that starts a new stream of rows."""


def get(name: str) -> type[Source]:
    """The class of the source `name`. Raises ConfigError with the nearest name."""
    if name not in SOURCES:
        raise ConfigError(f"data.source: no source {name!r}{nearest(name, SOURCES)}")
    module, _, attribute = SOURCES[name].partition(":")
    found: type[Source] = getattr(importlib.import_module(module), attribute)
    return found


def build(data: Data, workdir: Path) -> Source:
    """The source that `data` names, with its options checked, before any correction.

    A relative `data.path` is relative to the current directory. `workdir` is the root of a source that generates
    its raw files. Raises ConfigError (names and options) or DataError (missing files and columns).
    """
    source = get(data.source)
    options = checked(source.Options, data.options, "data.options")
    if data.path is not None:
        return source(resolve(data.path), options)
    if data.source not in GENERATED:
        raise ConfigError(f"data.path: source {data.source!r} reads files; say in which folder they lie")
    return source(workdir, options)


def resolve(path: str, key: str = "data.path") -> Path:
    """A folder of raw data; `$VARIABLE/x` is x below the folder that this environment variable names. key: of the
    recipe, for messages. Raises ConfigError where it names none.
    """
    if not path.startswith("$"):
        return Path(path)
    variable, _, rest = path.removeprefix("$").partition("/")
    root = os.environ.get(variable)
    if not root:
        what = "the folder with your copies of the public data sets" if variable == REAL_DATA else "a folder of yours"
        raise ConfigError(
            f"{key}: {path} needs the environment variable {variable}, {what}; for instance {variable}=/data/mine make "
            "local-run RECIPE=..."
        )
    return Path(root) / rest


def elsewhere(data: Data) -> bool:
    """Whether raw files of `data` are not on this machine, as where only a cluster has them: nobody here can tell
    whether they have changed."""
    return None in _roots(data)


def _roots(data: Data) -> list[Path | None]:
    """The folders of raw files; None for one that is not here."""
    roots: list[Path | None] = []
    for path in (data.path, *data.corrections):
        if path is not None:
            try:
                root = resolve(path)
                roots.append(root if root.is_dir() else None)
            except ConfigError:  # a place below a variable that only the cluster has
                roots.append(None)
    return roots


def raw_digest(data: Data) -> str:
    """A digest of names, sizes and times of the raw files of `data`: a changed file is seen without being read.

    Empty for a source that generates its files; folders that are not here have no part in it (`elsewhere`).
    """
    roots = [root for root in _roots(data) if root is not None]
    digest = hashlib.sha256()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                found = os.stat(os.path.join(folder, name), follow_symlinks=False)
                place = os.path.relpath(os.path.join(folder, name), root)
                digest.update(f"{place}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16] if roots else ""

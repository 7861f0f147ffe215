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
from contextlib import suppress
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
    """A folder of raw data; `$LATEFUSE_REAL_DATA/x` is x below the folder that this variable names. key: of the recipe,
    for messages.
    """
    prefix = f"${REAL_DATA}"
    if path != prefix and not path.startswith(prefix + "/"):
        return Path(path)
    root = os.environ.get(REAL_DATA)
    if not root:
        raise ConfigError(
            f"{key}: {path} needs the environment variable {REAL_DATA}, the folder with your copies of the public "
            f"data sets; for instance {REAL_DATA}=../shared/data make local-run RECIPE=..."
        )
    return Path(root) / path[len(prefix) + 1 :]


def raw_digest(data: Data) -> str:
    """A digest of names, sizes and times of the raw files of `data`: a changed file is seen without being read.

    Empty for a source that generates its files and for folders that are not here, as where a cluster has them: then
    prepare itself has the say.
    """
    roots = []
    for path in (data.path, *data.corrections):
        with suppress(ConfigError):  # a place below a variable that only the cluster has
            if path is not None and (root := resolve(path)).is_dir():
                roots.append(root)
    digest = hashlib.sha256()
    for root in roots:
        for folder, folders, files in os.walk(root):
            folders.sort()
            for name in sorted(files):
                found = os.stat(os.path.join(folder, name), follow_symlinks=False)
                place = os.path.relpath(os.path.join(folder, name), root)
                digest.update(f"{place}\0{found.st_size}\0{found.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:16] if roots else ""

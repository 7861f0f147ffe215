"""A catalogue's vectors from N tasks that each embed a part of it, merged by manifest to what one task writes.

vectors/part-*.parquet   the parts of this shard, under the numbers that they have in the whole
manifest.json            which shard of which catalogue and adapter, parts and items of the whole, SHA-256 of its own
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from latefuse.data.dataset import MANIFEST, digest_of, fingerprint
from latefuse.serving.index import PARTS, Header, Kind, VectorIndexError, build

KIND, WHOLE = "vector-shard-1", "vectors-1"
SAME = ("header", "shards", "items", "left_out")
"""What all shards of a catalogue say alike."""


def seal_shard(folder: Path, header: Header, shard: int, shards: int, items: int, left_out: int) -> dict[str, Any]:
    """Write the manifest of a shard whose parts lie in `folder`, and return it. items: vectors of the whole; left_out:
    items of the catalogue without a field to read."""
    about = {"header": header.model_dump(), "shard": shard, "shards": shards, "items": items, "left_out": left_out}
    return _seal(folder, {"schema": KIND, **about})


def merge(folders: Sequence[Path], out: Path, kind: Kind = "flat") -> dict[str, Any]:
    """The parts of all shards in `out`, the index over them, and a manifest with the fingerprint that any number of
    shards gives; returns the manifest.

    Raises VectorIndexError that names a shard which is absent, unfinished, changed, there twice or of another catalogue
    or adapter.
    """
    manifests = [_manifest(folder) for folder in folders]
    first = manifests[0]
    for folder, manifest in zip(folders, manifests, strict=True):
        for key in SAME:
            if manifest[key] != first[key]:
                raise VectorIndexError(
                    f"{folder}: {key} is {manifest[key]}, and {first[key]} in {folders[0]}: not of one catalogue"
                )
        wrong = [name for name, digest in manifest["files"].items() if digest_of(folder / name) != digest]
        if wrong:
            raise VectorIndexError(f"{folder}: {', '.join(wrong)} gone or changed; embed this shard again")
    had = sorted(manifest["shard"] for manifest in manifests)
    if had != list(range(first["shards"])):
        raise VectorIndexError(f"shards {had} are given, and 0 to {first['shards'] - 1} are wanted, each once")
    target = out / PARTS
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for folder, manifest in zip(folders, manifests, strict=True):
        for name in manifest["files"]:
            place(folder / name, out / name)
    header = Header.model_validate(first["header"])
    about = build(out, header, kind)
    if about.count != first["items"]:
        raise VectorIndexError(f"{out}: {first['items']:,} items promised, {about.count:,} vectors found in all shards")
    return _seal(out, {"schema": WHOLE, **{key: first[key] for key in ("header", "items", "left_out")}, "index": kind})


def place(file: Path, target: Path) -> None:
    """A second name of the same file where the disk can, else a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(file, target)
    except OSError:
        shutil.copyfile(file, target)


def _seal(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    files = sorted((folder / PARTS).glob("part-*.parquet"))
    manifest = {**about, "files": {f"{PARTS}/{path.name}": digest_of(path) for path in files}}
    manifest["fingerprint"] = fingerprint(manifest)
    aside = folder / f".{MANIFEST}"
    aside.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    os.replace(aside, folder / MANIFEST)
    return manifest


def _manifest(folder: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise VectorIndexError(f"{folder}: no {MANIFEST}; this shard is missing or did not finish") from None
    except ValueError as error:
        raise VectorIndexError(f"{folder / MANIFEST}: not JSON: {error}") from None
    if manifest.get("schema") != KIND:
        raise VectorIndexError(f"{folder}: no shard of vectors (schema {manifest.get('schema')!r}, wanted {KIND!r})")
    return manifest

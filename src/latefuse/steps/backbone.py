"""The backbone, once for all steps that follow: the demo base is built, a folder is checked, a hub name is fetched,
or a tower and a language model (or sentence encoder) are put together."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from latefuse import usage
from latefuse.cluster.sources import module_digest
from latefuse.config import BackboneConfig
from latefuse.models import folder as folders
from latefuse.models.folder import BackboneError
from latefuse.models.hub import fetch
from latefuse.models.named import is_folder, located
from latefuse.models.tensors import check_tensors, family_of
from latefuse.sections import S, Section, checked
from latefuse.steps import backbone_parts as composed
from latefuse.steps.backbone_parts import DEMO, DEMO_TEXT
from latefuse.tracking import Tracker

BUILT = {DEMO: "latefuse.models.tiny", DEMO_TEXT: "latefuse.models.tiny_t5"}
"""What is made here out of nothing, and the code that it depends on."""


class NamedOptions(Section):
    """`backbone.options` for a folder or a hub name.

    side: pixels of a picture's side, for families without a fixed size. frame_marks: text before each frame of a clip.
    expect: the digest that the backbone must have, as an earlier `backbone.json` tells it.
    """

    side: int | None = None
    frame_marks: tuple[str, ...] | None = None
    expect: str | None = None


def run(config: BackboneConfig, out: Path, tracker: Tracker, cache: Path | None = None) -> dict[str, Any]:
    """Put the backbone of `config` into `out` with its `backbone.json`; returns the result that also lies in `out`.

    cache: where built and fetched backbones are kept, under a key of configuration and code; a folder is only linked.
    Raises BackboneError when it can't be had, is not safe to load, or has tensors missing or left over.
    """
    began = time.perf_counter()
    out.mkdir(parents=True, exist_ok=True)
    _forget(out)
    key = _key(config)
    kept = cache / "backbones" / key if cache and key else None
    hit = kept is not None and _intact(kept)
    if kept is None:
        content = _make(config, out, tracker, cache)
    else:
        if not hit:
            _make_aside(config, kept, tracker, cache)
        content = folders.read_seal(kept)
        _hand_over(kept, out)
    return _report(config, content, hit, out, tracker, time.perf_counter() - began)


def _key(config: BackboneConfig) -> str | None:
    """What a kept backbone depends on; None where it is looked at each time: a folder, a name without revision."""
    if config.name in composed.KINDS:
        return composed.key(config, lambda role: str(_key(composed.demo_of(config, role))))
    parts: dict[str, Any] = {"options": config.options, "frames": config.frames, "name": config.name}
    if config.name in BUILT:
        parts["code"] = module_digest(BUILT[config.name])
    elif config.revision is None or is_folder(config.name):
        return None
    parts["revision"] = config.revision
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _make(config: BackboneConfig, target: Path, tracker: Tracker, cache: Path | None) -> dict[str, Any]:
    """Build, link, fetch or compose into `target`, seal it, check its tensors; returns the seal."""
    if config.name == DEMO:
        content = _build_demo(config, target, tracker)
    elif config.name == DEMO_TEXT:
        content = _build_demo_text(config, target, tracker)
    elif config.name in composed.KINDS:
        content = _compose(config, target, tracker, cache)
    else:
        content = _take(config, target)
    check_tensors(target)
    return content


def _compose(config: BackboneConfig, target: Path, tracker: Tracker, cache: Path | None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:

        def demo_folder(role: str) -> Path:
            demo = composed.demo_of(config, role)
            kept = (cache or Path(scratch)) / "backbones" / str(_key(demo))
            if not _intact(kept):
                _make_aside(demo, kept, tracker, cache)
            return kept

        content = composed.make(config, target, demo_folder)
    _must_be_pinned(content, composed.options_of(config).expect, content["name"])
    return content


def _build_demo(config: BackboneConfig, target: Path, tracker: Tracker) -> dict[str, Any]:
    from latefuse.models import tiny
    from latefuse.models.tiny_tokenizer import FRAME_TOKENS

    options = checked(tiny.TinyOptions, {**config.options, "frames": config.frames}, "options of the demo base")
    tiny.build(
        options.model_dump(),
        target,
        lambda values, step: tracker.metrics({f"train/{k}": v for k, v in values.items()}, step),
    )
    return folders.seal(target, name=DEMO, frames=config.frames, frame_marks=list(FRAME_TOKENS[: config.frames]))


def _build_demo_text(config: BackboneConfig, target: Path, tracker: Tracker) -> dict[str, Any]:
    from latefuse.models import tiny_t5

    options = checked(tiny_t5.TinyT5Options, config.options, "options of the demo T5")
    tiny_t5.build(
        options.model_dump(),
        target,
        lambda values, step: tracker.metrics({f"train/{k}": v for k, v in values.items()}, step),
    )
    return folders.seal(target, name=DEMO_TEXT, frames=config.frames)


def _take(config: BackboneConfig, target: Path) -> dict[str, Any]:
    """A local folder or a hub repository, its files linked into `target`."""
    options = _checked(NamedOptions, config.options)
    commit: str | None = config.revision
    if is_folder(config.name):
        source = located(config.name, "backbone")
    else:
        source, commit = fetch(config.name, config.revision)
    folders.check(source)
    family_of(source)
    known = folders.read_seal(source) if (source / folders.SEAL).is_file() else {}
    if known:
        folders.verify(source, known)
    marks = options.frame_marks or known.get("frame_marks")
    _link(source, target)
    content = folders.seal(
        target,
        name=known.get("name") or (config.name if commit else Path(config.name).name),
        revision=commit or known.get("revision"),
        frames=config.frames,
        side=options.side or known.get("side"),
        frame_marks=list(marks) if marks else None,
    )
    _must_be_pinned(content, options.expect, source)
    return content


def _must_be_pinned(content: dict[str, Any], expected: str | None, source: Path | str) -> None:
    if expected and expected != content["digest"]:
        raise BackboneError(
            f"{source}: digest {content['digest']}, but backbone.options.expect says {expected}: it is not the "
            "backbone that was pinned"
        )


def _checked(schema: type[S], raw: dict[str, Any]) -> S:
    """`backbone.options` as `schema`. Raises BackboneError that names each wrong key."""
    try:
        return schema.model_validate(raw)
    except ValidationError as error:
        wrong = [f"backbone.options.{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors()]
        raise BackboneError(f"{'; '.join(wrong)}; known: {', '.join(sorted(schema.model_fields))}") from None


def _make_aside(config: BackboneConfig, kept: Path, tracker: Tracker, cache: Path | None) -> None:
    """Make it beside its place in the cache and move it there whole: a killed build leaves nothing half."""
    aside = kept.parent / f".{kept.name}.{os.getpid()}"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _make(config, aside, tracker, cache)
        shutil.rmtree(kept, ignore_errors=True)
        aside.rename(kept)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _intact(kept: Path) -> bool:
    try:
        folders.verify(kept, folders.read_seal(kept))
    except (BackboneError, OSError, ValueError):
        return False
    return True


def _forget(out: Path) -> None:
    """Take an earlier backbone out of `out`, so that nothing of it is sealed with this one."""
    for file in (*folders.allowed(out), out / folders.SEAL):
        file.unlink(missing_ok=True)


def _hand_over(kept: Path, out: Path) -> None:
    _link(kept, out)
    shutil.copyfile(kept / folders.SEAL, out / folders.SEAL)


def _link(source: Path, target: Path) -> None:
    """The files of a backbone as hard links, or as copies where the file system has none."""
    for file in folders.allowed(source):
        place = target / file.name
        try:
            os.link(file.resolve(), place)
        except OSError:
            shutil.copyfile(file, place)


def _report(
    config: BackboneConfig, content: dict[str, Any], hit: bool, out: Path, tracker: Tracker, wall: float
) -> dict[str, Any]:
    result = {
        "step": "backbone",
        "name": content["name"],
        "revision": content["revision"],
        "family": content["family"],
        "frames": content["frames"],
        "digest": content["digest"],
        "from_cache": hit,
        "inputs": {"name": config.name, "revision": config.revision, **content.get("parts", {})},
        "wall_s": round(wall, 3),
        **usage.peaks(),
        "run_id": tracker.run_id,
    }
    tracker.tags({"backbone": content["name"], "backbone_digest": content["digest"]})
    tracker.metrics({"sys/wall_s": wall, "sys/peak_rss_gib": result["peak_rss_gib"]})
    tracker.artifact(out / folders.SEAL)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    how = "kept from an earlier run" if hit else "made"
    print(
        f"backbone: {content['name']} ({content['family']}) {how}; {content['digest'][:12]} in {wall:.1f} s", flush=True
    )
    for key, commit in _unpinned(config, content).items():
        print(f"backbone: note: to repeat this run set {key}={commit}", flush=True)
    return result


def _unpinned(config: BackboneConfig, content: dict[str, Any]) -> dict[str, str]:
    """Keys of the recipe that would hold the commits which were found, where it names none."""
    parts = content.get("parts", {})
    found = {f"backbone.options.{role}_revision": part["revision"] for role, part in parts.items()}
    asked = {f"backbone.options.{role}_revision": config.options.get(f"{role}_revision") for role in parts}
    if config.name not in BUILT:
        found["backbone.revision"], asked["backbone.revision"] = content["revision"], config.revision
    return {key: commit for key, commit in found.items() if commit and not asked[key]}

"""Composed backbones in a recipe: `backbone.name` glued, light or encoder-decoder, their options, and where their parts
are found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from latefuse.cluster.sources import module_digest
from latefuse.config import BackboneConfig
from latefuse.models import folder as folders
from latefuse.models.bridge import BridgeOptions
from latefuse.models.folder import BackboneError
from latefuse.models.hub import fetch
from latefuse.models.named import PACKAGE, is_folder, located
from latefuse.sections import Section, checked

DEMO, DEMO_T5, DEMO_TEXT = "demo", "demo-t5", "demo-t5-text"
"""The demo base; the demo T5 beside the demo base's tower; the demo T5 alone."""


class TowerOptions(Section):
    """What both kinds have.

    A part is a local folder, which may begin with `$VARIABLE/`, a hub name with its revision, `pip:<package>` for the
    folder `model` of an installed package, or `demo` for that part of the demo base. side: pixels of the square that
    pictures become. expect: the digest that the backbone must have. demo: options of the demo base.
    """

    tower: str = DEMO
    tower_revision: str | None = None
    side: int | None = Field(None, ge=1)
    expect: str | None = None
    demo: dict[str, Any] = {}


class GluedOptions(TowerOptions):
    """`backbone.options` of a glued backbone. seed: draws the bridge. frame_marks: text before each frame of a clip,
    those of the language model's own folder unless given."""

    language: str = DEMO
    language_revision: str | None = None
    bridge: BridgeOptions = BridgeOptions()
    seed: int = 0
    frame_marks: tuple[str, ...] | None = None


class LightOptions(TowerOptions):
    """`backbone.options` of a light backbone. text: the sentence encoder."""

    text: str
    text_revision: str | None = None


class ReaderOptions(TowerOptions):
    """`backbone.options` of an encoder-decoder beside a tower. language: a T5. random: whether its weights are drawn
    anew by `seed`, the control that has read nothing. t5: options of the demo T5, where language is `demo`."""

    language: str
    language_revision: str | None = None
    random: bool = False
    seed: int = 0
    t5: dict[str, Any] = {}


class DemoReaderOptions(ReaderOptions):
    """`backbone.options` of the demo T5."""

    language: Literal["demo"] = "demo"


KINDS: dict[str, tuple[type[TowerOptions], str]] = {
    "glued": (GluedOptions, "language"),
    "light": (LightOptions, "text"),
    "encoder-decoder": (ReaderOptions, "language"),
    DEMO_T5: (DemoReaderOptions, "language"),
}
"""backbone.name -> its options, and the part beside the tower."""


@dataclass(frozen=True)
class Part:
    """A part where it lies. revision: the commit, for one from a hub."""

    name: str
    folder: Path
    revision: str | None


def options_of(config: BackboneConfig) -> TowerOptions:
    """The checked options of a composed backbone. Raises ConfigError that names each wrong key."""
    return checked(KINDS[config.name][0], config.options, "backbone.options")


def demo_of(config: BackboneConfig, role: str) -> BackboneConfig:
    """The demo backbone that a part is taken of: the one that a recipe with these options would build."""
    options = options_of(config)
    if isinstance(options, ReaderOptions) and role != "tower":
        return BackboneConfig(name=DEMO_TEXT, options={**options.t5, **({"steps": 0} if options.random else {})})
    return BackboneConfig(name=DEMO, frames=config.frames, options=options.demo)


def key(config: BackboneConfig, demo_key: Callable[[str], str]) -> str | None:
    """What a kept composed backbone depends on: options, the content of its parts, code; None where a part of a hub has
    no revision. demo_key: of the demo backbone that a part is taken of."""
    options = options_of(config)
    parts = {role: _identity(options, role, demo_key) for role in ("tower", KINDS[config.name][1])}
    if None in parts.values():
        return None
    rest = options.model_dump(mode="json", exclude={"demo", "t5", *parts, *(f"{role}_revision" for role in parts)})
    code = module_digest("latefuse.models.compose")
    text = json.dumps([config.name, config.frames, parts, rest, code], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def make(config: BackboneConfig, target: Path, demo: Callable[[str], Path]) -> dict[str, Any]:
    """Put the parts together in `target` and seal it; returns the seal. demo: gives the folder of the demo backbone
    that a part is taken of.

    Raises BackboneError for a part that can't be had, is not safe to load, or does not fit.
    """
    from latefuse.models import compose

    options, other = options_of(config), KINDS[config.name][1]
    parts = {role: _find(options, role, demo) for role in ("tower", other)}
    tower = compose.load_tower(parts["tower"].folder, options.side)
    marks: tuple[str, ...] | None = None
    if isinstance(options, GluedOptions):
        language = compose.load_language(parts[other].folder, options.seed)
        marks = options.frame_marks or _seal(parts[other].folder).get("frame_marks")
        model: Any = compose.glue(tower, language, options.bridge, options.seed)
        tokenizer = language.tokenizer
    elif isinstance(options, ReaderOptions):
        reader = compose.load_reader(parts[other].folder, options.seed if options.random else None)
        model, tokenizer = compose.beside(tower, reader), reader.tokenizer
    else:
        sentences = compose.load_sentences(parts[other].folder)
        model, tokenizer = compose.pair(tower, sentences), sentences.tokenizer
    compose.write(model, tokenizer, tower.processor, target)
    return folders.seal(
        target,
        name="+".join(part.name for part in parts.values()) + (" random" if getattr(options, "random", False) else ""),
        frames=config.frames,
        side=options.side,
        frame_marks=list(marks) if marks else None,
        parts={role: {"name": part.name, "revision": part.revision} for role, part in parts.items()},
    )


def _find(options: TowerOptions, role: str, demo: Callable[[str], Path]) -> Part:
    name, revision, where = getattr(options, role), getattr(options, f"{role}_revision"), f"backbone.options.{role}"
    if name == DEMO:
        folder = demo(role)
        return Part(_seal(folder)["name"], folder, None)
    if is_folder(name):
        folder = located(name, where)
        if _seal(folder):
            folders.verify(folder, _seal(folder))
        return Part(name.removeprefix(PACKAGE) if name.startswith(PACKAGE) else folder.name, folder, None)
    try:
        folder, commit = fetch(name, revision)
    except BackboneError as error:
        raise BackboneError(f"{where}: {error}") from error
    return Part(name, folder, commit)


def _identity(options: TowerOptions, role: str, demo_key: Callable[[str], str]) -> str | None:
    """What a part depends on, told without fetching it."""
    name, revision = getattr(options, role), getattr(options, f"{role}_revision")
    if name == DEMO:
        return demo_key(role)
    if not is_folder(name):
        return f"{name}@{revision}" if revision else None
    folder = located(name, f"backbone.options.{role}")
    beside = [folders.file_digest(folder / file) for file in folders.SENTENCE_FILES if (folder / file).is_file()]
    return " ".join([folders.digest(folder), *beside])


def _seal(folder: Path) -> dict[str, Any]:
    """The seal of a folder, empty where it has none."""
    return folders.read_seal(folder) if (folder / folders.SEAL).is_file() else {}

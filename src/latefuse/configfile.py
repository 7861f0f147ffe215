"""One recipe, one profile, a few overrides: read from files and put together to one checked configuration."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from latefuse.config import Config, Recipe
from latefuse.config_profile import Profile
from latefuse.config_zero import must_spread, spread
from latefuse.sections import ConfigError, checked, merged, nearest


def load(recipe: str | Path, profile: str | Path = "local", sets: Iterable[str] = ()) -> Config:
    """Read a recipe and a profile, apply `key.path=value` overrides, return the checked configuration.

    profile: a name under `configs/profiles` or a path. sets: overrides of the recipe; a bare `train.x` or
    `adapter.x` reaches every task, `tasks.<name>.train.x` one. Raises ConfigError.
    """
    profile_path = _profile_path(profile)
    checked_profile = _whole(checked(Profile, _read(profile_path), profile_path), profile_path)
    raw = _resized(_read(Path(recipe)), checked_profile, Path(recipe))
    for item in sets:
        key, sep, value = item.partition("=")
        if not sep or not key:
            raise ConfigError(f"--set {item!r}: expected key.path=value, for instance train.max_steps=20")
        _assign(raw, key.strip(), value)
    checked_recipe = checked(Recipe, raw, Path(recipe))
    for name, task in checked_recipe.variants().items():
        try:
            must_spread(spread(task, checked_profile.deepspeed), checked_profile.deepspeed)
        except ValueError as error:
            raise ConfigError(f"{profile_path}: deepspeed, with task {name!r} of {recipe}: {error}") from None
    return Config(recipe=checked_recipe, profile=checked_profile)


def _whole(profile: Profile, path: Path) -> Profile:
    """The profile with the content of its DeepSpeed file, which no container has and every digest must know."""
    if not isinstance(profile.deepspeed, str):
        return profile
    try:
        content = json.loads(Path(profile.deepspeed).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path}: deepspeed: {profile.deepspeed}: no such file") from None
    except ValueError as error:
        raise ConfigError(f"{path}: deepspeed: {profile.deepspeed}: not JSON: {error}") from None
    return checked(Profile, {**profile.model_dump(exclude_unset=True), "deepspeed": content}, path)


def _resized(raw: dict[str, Any], profile: Profile, path: Path) -> dict[str, Any]:
    """The recipe under the profile: overrides, of which a bare `train` or `adapter` reaches every task, and length."""
    every = {part: profile.recipe[part] for part in ("train", "adapter") if part in profile.recipe}
    tasks = raw.get("tasks") if isinstance(raw.get("tasks"), Mapping) else {}
    if every:
        raw = merged(raw, {"tasks": dict.fromkeys(tasks or {}, every)})
    raw = merged(raw, profile.recipe)
    if profile.lengthen != 1:
        for name, task in checked(Recipe, raw, path).tasks.items():
            _put(raw, ["tasks", name, "train", "max_steps"], max(1, round(task.train.max_steps * profile.lengthen)))
    return raw


def _profile_path(profile: str | Path) -> Path:
    path = Path(profile)
    if path.suffix in (".yaml", ".yml"):
        return path
    folder = Path("configs/profiles")
    path = folder / f"{profile}.yaml"
    if not path.exists():
        raise ConfigError(
            f"profile {str(profile)!r}: no {path}{nearest(str(profile), [p.stem for p in folder.glob('*.yaml')])}"
        )
    return path


def _read(path: Path) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        others = [str(p) for p in path.parent.glob("*.yaml")]
        raise ConfigError(f"{path}: no such file{nearest(str(path), others)}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected a mapping at the top, found {type(raw).__name__}")
    return raw


def _assign(raw: dict[str, Any], key: str, text: str) -> None:
    value = yaml.safe_load(text)
    parts = key.split(".")
    if parts[0] in ("train", "adapter"):
        for task in raw.get("tasks", {}).values():
            _put(task, parts, value)
    _put(raw, parts, value)


def _put(raw: dict[str, Any], parts: list[str], value: Any) -> None:
    for part in parts[:-1]:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise ConfigError(f"--set {'.'.join(parts)}: {part!r} is a value, not a section")
    raw[parts[-1]] = value

"""Names of model folders in a recipe: a path, a path below an environment variable, or a package that has the model."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path

from latefuse.models.folder import BackboneError
from latefuse.models.hub import NAME

PACKAGE = "pip:"
VARIABLE = "$"


def is_folder(name: str) -> bool:
    """Whether a name stands for a folder of this machine, there or not, and not for a hub's repository."""
    return Path(name).expanduser().is_dir() or not NAME.match(name)


def located(name: str, where: str = "model") -> Path:
    """The folder that a name stands for; where: the key of the recipe that says so.

    `$VARIABLE/x` is x below the folder that the environment variable names, `pip:<package>` the folder `model` of an
    installed package. Raises BackboneError where it is not there.
    """
    if name.startswith(PACKAGE):
        return _in_package(name.removeprefix(PACKAGE), where)
    source = Path(name).expanduser()
    if name.startswith(VARIABLE):
        variable, _, rest = name.removeprefix(VARIABLE).partition("/")
        if not os.environ.get(variable):
            raise BackboneError(f"{where}: {name} needs the environment variable {variable}, a folder of yours; set it")
        source = Path(os.environ[variable]) / rest
    if not source.is_dir():
        raise BackboneError(
            f"{where} {name!r}: no such folder, and not a hub name such as LanguageBind/Video-LLaVA-7B-hf; "
            "'demo' builds the demo base"
        )
    return source.resolve()


def _in_package(package: str, where: str) -> Path:
    """The folder `model` of an installed package, found without importing it."""
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    places = list(spec.submodule_search_locations or []) if spec else []
    for place in places:
        if (Path(place) / "model").is_dir():
            return Path(place).resolve() / "model"
    raise BackboneError(
        f"{where}: {'no folder `model` in the' if places else 'no'} package {package!r} here; install it "
        f"(`pip install {package.replace('_', '-')}`) or name a folder"
    )

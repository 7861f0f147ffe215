"""The digest of what a step is made of: its module, everything it can import from latefuse, and their data files.

The pipeline's caches know parameters, not code. This digest is a parameter of each step, so an edit re-runs exactly
the steps whose import closure holds the edited file.
"""

from __future__ import annotations

import ast
import hashlib
import re
from functools import lru_cache
from importlib import metadata
from pathlib import Path

PACKAGE = "latefuse"
ROOT = Path(__file__).resolve().parents[1]
CODE_SUFFIXES = frozenset({".py", ".pyc", ".pyi"})
# What numbers depend on beside our own code. A step that never imports one of them is not re-run for it.
LIBRARIES = ("torch", "transformers", "peft", "accelerate", "datasets", "pyarrow", "av", "pillow", "numpy", "scipy")
_IMPORT_NAMES = {"PIL": "pillow"}
_MODULE_TEXT = re.compile(rf"^{PACKAGE}(?:\.\w+)*\.?(?::\w+)?$")


def source_digest(step: str, root: Path = ROOT) -> str:
    """16 hex digits over the files behind `latefuse.steps.<step>` and the versions of the libraries they import."""
    return module_digest(f"{PACKAGE}.steps.{step}", root)


def module_digest(module: str, root: Path = ROOT) -> str:
    """The same for any module of the package."""
    files, libraries = closure(module, root)
    hasher = hashlib.sha256()
    for path in files:
        hasher.update(f"{path.relative_to(root).as_posix()}\0".encode())
        hasher.update(hashlib.sha256(path.read_bytes()).digest())
    for name in libraries:
        hasher.update(f"{name}=={_version(name)}\0".encode())
    return hasher.hexdigest()[:16]


def closure(module: str, root: Path = ROOT) -> tuple[list[Path], list[str]]:
    """The files and the libraries behind `module`, both sorted; root: the folder of the package `latefuse`.

    Imports inside functions count, and so do modules named in strings (`"latefuse.data.sources.demo:Demo"`); a string
    that ends in a dot stands for all modules of that package. Data files (YAML, templates) count with their folder.
    """
    seen: dict[str, Path] = {}
    libraries: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        path = _file(name, root)
        if path is None or name in seen:
            continue
        seen[name] = path
        waiting += _parents(name)
        for found in _imports(name, path, root):
            if found.partition(".")[0] == PACKAGE:
                waiting.append(found)
            else:
                top = found.partition(".")[0]
                libraries.add(_IMPORT_NAMES.get(top, top))
    data = {file for path in seen.values() if path.parent != root for file in _data_files(path.parent)}
    return sorted({*seen.values(), *data}), sorted(libraries & set(LIBRARIES))


def _imports(name: str, path: Path, root: Path) -> tuple[str, ...]:
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    return _imports_of(path.read_text(encoding="utf-8"), package, root)


@lru_cache(maxsize=1024)
def _imports_of(text: str, package: str, root: Path) -> tuple[str, ...]:
    """Every dotted name that a module may import: modules, and the names taken from them in case they are modules.

    A text that does not parse imports nothing; the step that needs it will say so with the line.
    """
    found: list[str] = []
    try:
        tree = ast.parse(text)
    except SyntaxError:
        return ()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                head = package.rsplit(".", node.level - 1)[0]
                base = f"{head}.{base}" if base else head
            found += [base, *(f"{base}.{alias.name}" for alias in node.names)]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and _MODULE_TEXT.match(node.value):
            target = node.value.partition(":")[0]
            found += _modules_below(target.rstrip("."), root) if target.endswith(".") else [target]
    return tuple(found)


def _modules_below(package: str, root: Path) -> list[str]:
    folder = root.joinpath(*package.split(".")[1:])
    return [f"{package}.{file.stem}" for file in sorted(folder.glob("*.py")) if file.stem != "__init__"]


def _file(name: str, root: Path) -> Path | None:
    base = root.joinpath(*name.split(".")[1:])
    candidates = (base.with_suffix(".py"), base / "__init__.py") if base != root else (root / "__init__.py",)
    return next((path for path in candidates if path.is_file()), None)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def _data_files(folder: Path) -> list[Path]:
    """Data of a package: files that are no code in its folder and in folders below that hold no modules."""
    found: list[Path] = []
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in CODE_SUFFIXES:
            found.append(path)
        elif path.is_dir() and path.name != "__pycache__" and not any(path.glob("*.py")):
            found += _data_files(path)
    return found


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "absent"

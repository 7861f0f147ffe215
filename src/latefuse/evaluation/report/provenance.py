"""What the page says of the data: where they come from, how they were split, what was refused, what was searched."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from importlib.metadata import version
from typing import Any

LIBRARIES = ("latefuse", "torch", "transformers", "peft")
EXAMPLES = 3  # of a failed check; the manifest holds more


def provenance(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A dataset's manifest as the template shows it."""
    return {
        "rows": dict(manifest.get("rows") or {}),
        "quarantine": dict(manifest.get("quarantine") or {}),
        "leaks": [_finding(name, said) for name, said in (manifest.get("leaks") or {}).items()],
        "splits": _splits(manifest.get("splits") or {}),
        "source": manifest.get("source", "unknown"),
        "licence": manifest.get("licence", "unknown"),
        "fingerprint": str(manifest.get("fingerprint", ""))[:16],
    }


def versions() -> str:
    """Python and the libraries that numbers depend on."""
    return ", ".join([f"Python {platform.python_version()}", *(f"{name} {version(name)}" for name in LIBRARIES)])


def _finding(check: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """One leak check, as `data.leaks.Finding.as_dict` leaves it."""
    return {
        "check": check,
        "passed": said["passed"],
        "count": f"{said['found']} of {said['checked']}",
        "detail": said["detail"],
        "elsewhere": said["elsewhere"],
        "examples": [] if said["passed"] else list(said["examples"][:EXAMPLES]),
    }


def _splits(splits: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(where, counts) of every split, however deep the manifest nests table and scheme."""
    found: list[tuple[str, str]] = []
    for name, value in splits.items():
        if isinstance(value, Mapping) and any(isinstance(one, Mapping) for one in value.values()):
            found += [(f"{name} / {inner}", counts) for inner, counts in _splits(value)]
        elif isinstance(value, Mapping):
            found.append((name, ", ".join(f"{split} {count}" for split, count in value.items())))
    return found

"""Fetching a backbone by its hub name: once, pinned to a commit, safetensors and JSON only."""

from __future__ import annotations

import re
from pathlib import Path

from latefuse.models.folder import ALLOWED, BackboneError, no_remote_code

NAME = re.compile(r"^[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*$")


def fetch(name: str, revision: str | None) -> tuple[Path, str]:
    """The folder of a hub repository and the commit it stands at, from the local hub cache where it lies there.

    The small files come first, so that a repository that can't be used is refused before its weights are fetched.
    Raises BackboneError for an unknown name or revision, a repository with code of its own, or no network.
    """
    small = [pattern for pattern in ALLOWED if "safetensors" not in pattern or pattern.endswith(".json")]
    folder = _snapshot(name, revision, small)
    for file in sorted(folder.glob("*.json")):
        no_remote_code(file)
    commit = folder.name
    folder = _snapshot(name, commit, list(ALLOWED))
    if not list(folder.glob("*.safetensors")):
        raise BackboneError(
            f"backbone {name!r} at {commit[:12]} has no *.safetensors; pickled weights are never read. Choose a "
            "revision with safetensors, or convert it where you trust it and name the local folder"
        )
    return folder, commit


def _snapshot(name: str, revision: str | None, patterns: list[str]) -> Path:
    from huggingface_hub import errors, snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns))
    except errors.RevisionNotFoundError:
        raise BackboneError(f"backbone {name!r} has no revision {revision!r}: check backbone.revision") from None
    except errors.GatedRepoError:
        raise BackboneError(f"backbone {name!r} is gated: accept its licence on the hub and set HF_TOKEN") from None
    except errors.RepositoryNotFoundError:
        raise BackboneError(
            f"backbone {name!r} is not on the hub (or private: set HF_TOKEN): check backbone.name; a local folder is "
            "given as ./folder"
        ) from None
    except (errors.HfHubHTTPError, errors.LocalEntryNotFoundError, errors.IncompleteSnapshotError, OSError) as error:
        raise BackboneError(
            f"backbone {name!r} can't be fetched and is not in the local hub cache ({_brief(error)}). Without network: "
            f"run `hf download {name}` elsewhere, copy the folder here and set backbone.name to its path; "
            "behind a mirror: set HF_ENDPOINT"
        ) from None


def _brief(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0][:160] if str(error).strip() else ''}"

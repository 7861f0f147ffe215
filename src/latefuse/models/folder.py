"""The folder of a backbone: which files it may hold, its digest, and the seal `backbone.json` that pins it."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from latefuse.errors import UserError

FROM_FOLDER: dict[str, Any] = {
    "local_files_only": True,
    "use_safetensors": True,
    "trust_remote_code": False,
    "output_loading_info": True,
    "ignore_mismatched_sizes": True,  # reported with everything else that did not land, and then raised
}
HARMLESS_EXTRA = re.compile(r"(^|\.)(position_ids|inv_freq)$")

SEAL = "backbone.json"
FILES = (
    "*.safetensors",
    "*.safetensors.index.json",
    "config.json",
    "generation_config.json",
    "preprocessor_config.json",
    "processor_config.json",
    "video_preprocessor_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
)
SENTENCE_FILES = ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json")
"""What sentence-transformers keeps beside a sentence encoder: read when it becomes part of a backbone."""
ALLOWED = (*FILES, *SENTENCE_FILES)
"""What is fetched from a hub."""
PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".npy", ".npz", ".msgpack", ".h5", ".joblib")


class BackboneError(UserError, RuntimeError):
    """A backbone that can't be used; the message names the file or tensor and what to do."""


def allowed(folder: Path) -> list[Path]:
    """The files of a backbone, sorted by name."""
    return sorted({path for pattern in FILES for path in folder.glob(pattern) if path.is_file()})


def file_digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def digest(path: str | Path) -> str:
    """SHA-256 over names and bytes of the weights, the configuration, the tokeniser and the pixel transform."""
    return _combined({file.name: file_digest(file) for file in allowed(Path(path))})


def _combined(files: dict[str, str]) -> str:
    return hashlib.sha256("".join(f"{name}\0{files[name]}\n" for name in sorted(files)).encode()).hexdigest()


def check(folder: Path, tokenizer: bool = True) -> None:
    """Raise BackboneError unless the folder has configuration, safetensors and tokenizer, and no code of its own.

    tokenizer: False for a vision tower, which needs none.
    """
    if not (folder / "config.json").is_file():
        raise BackboneError(f"{folder}: no config.json; a backbone is a Hugging Face model folder")
    if not list(folder.glob("*.safetensors")):
        pickles = sorted(p.name for p in folder.iterdir() if p.suffix in PICKLES)
        why = f" (found {', '.join(pickles[:3])}, which is never unpickled)" if pickles else ""
        raise BackboneError(
            f"{folder}: no *.safetensors{why}; load it where you trust it and save it again with model.save_pretrained"
        )
    names = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
    if tokenizer and not any((folder / name).is_file() for name in names):
        raise BackboneError(f"{folder}: no tokenizer; save it there with tokenizer.save_pretrained")
    for file in sorted(folder.glob("*.json")):
        no_remote_code(file)


def no_remote_code(file: Path) -> None:
    """Raise BackboneError when a JSON file of a model asks for code that came with the model."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, UnicodeDecodeError) as error:
        raise BackboneError(f"{file}: not valid JSON: {error}") from error
    if isinstance(raw, dict) and raw.get("auto_map"):
        raise BackboneError(
            f"{file}: auto_map asks for code of its own ({raw['auto_map']}); trust_remote_code stays off. Choose a "
            "checkpoint in the format that transformers itself supports (often the one whose name ends in -hf)"
        )


def seal(
    folder: Path,
    *,
    name: str,
    frames: int,
    revision: str | None = None,
    side: int | None = None,
    frame_marks: list[str] | None = None,
    parts: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Check the folder, write its `backbone.json` and return it.

    name, revision: where it comes from. side: pixels of a picture's side, for families without a fixed size.
    frame_marks: text that stands before each frame of a clip, one entry a frame; must be in the tokeniser.
    parts: where the parts of a composed backbone come from.
    """
    check(folder)
    files = {file.name: file_digest(file) for file in allowed(folder)}
    model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
    content = {
        "schema": 1,
        "name": name,
        "revision": revision,
        "family": model_type,
        "frames": frames,
        "side": side,
        "frame_marks": frame_marks,
        **({"parts": parts} if parts else {}),
        "digest": _combined(files),
        "files": files,
    }
    (folder / SEAL).write_text(json.dumps(content, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return content


def read_seal(folder: Path) -> dict[str, Any]:
    """The content of `backbone.json`. Raises BackboneError when it is not there."""
    path = folder / SEAL
    if not path.is_file():
        raise BackboneError(f"{folder}: no {SEAL}; make the folder with `latefuse step backbone`")
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("schema") != 1:
        raise BackboneError(f"{path}: schema {content.get('schema')!r}, this version reads 1: build the backbone again")
    return content


def verify(folder: Path, content: dict[str, Any]) -> None:
    """Raise BackboneError unless the folder holds exactly the sealed files."""
    check(folder)
    strangers = sorted(p.name for p in folder.iterdir() if p.suffix in (*PICKLES, ".py"))
    present = {file.name for file in allowed(folder)}
    sealed: dict[str, str] = content["files"]
    for names, what in (
        (strangers, "files that have no place in a backbone"),
        (sorted(set(sealed) - present), "sealed files that are gone"),
        (sorted(present - set(sealed)), "files that were not sealed"),
        (sorted(n for n in present & set(sealed) if file_digest(folder / n) != sealed[n]), "files that have changed"),
    ):
        if names:
            raise BackboneError(f"{folder}: {what}: {', '.join(names[:5])}; build the backbone again")
    if _combined(sealed) != content["digest"]:
        raise BackboneError(f"{folder / SEAL}: its digest does not fit its own files; build the backbone again")


def must_be_complete(folder: Path, info: Mapping[str, Any]) -> None:
    """Raise BackboneError unless what `from_pretrained` tells of its loading says that all is there, and no more."""
    wrong = {
        "missing": sorted(info["missing_keys"]),
        "left over": sorted(key for key in info["unexpected_keys"] if not HARMLESS_EXTRA.search(key)),
        "of another shape": sorted(str(key) for key in info["mismatched_keys"]),
        "not read": sorted(info.get("error_msgs") or ()),
    }
    found = [
        f"{what}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" for what, names in wrong.items() if names
    ]
    if found:
        raise BackboneError(f"{folder}: not every tensor landed ({'; '.join(found)})")

"""Where the sizes of a recipe's backbone come from without fetching it: published, a folder, the demo."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from latefuse.cluster.shapes import Shapes, UnknownShapes, UntoldShapes, shapes_of
from latefuse.config import BackboneConfig

PUBLISHED = Path("configs/backbones.json")


def backbone_shapes(backbone: BackboneConfig, published: Path = PUBLISHED) -> Shapes:
    """Raises UnknownShapes, with what to do, for a backbone whose sizes can't be told offline, and UntoldShapes for one
    that no file can make known."""
    if backbone.name == "demo":
        return shapes_of(_demo(backbone))
    if backbone.name in ("glued", "light", "demo-t5"):
        raise UntoldShapes(f"memory and work of a {backbone.name} backbone are not told in advance")
    known = json.loads(published.read_text(encoding="utf-8")) if published.exists() else {}
    if backbone.name in known:
        return shapes_of(known[backbone.name])
    folder = Path(backbone.name).expanduser()
    if (folder / "config.json").is_file():
        return shapes_of(_folder(folder))
    raise UnknownShapes(
        f"backbone {backbone.name!r} stands neither in {published} nor is it a folder here: add its sizes to that file"
    )


def _demo(backbone: BackboneConfig) -> dict[str, Any]:
    from latefuse.models.tiny import TinyOptions, architecture
    from latefuse.models.tiny_tokenizer import kitchen_tokenizer

    options = TinyOptions.model_validate({**backbone.options, "frames": backbone.frames})
    made: dict[str, Any] = architecture(kitchen_tokenizer(options.more), options).to_dict()
    return made


def _folder(folder: Path) -> dict[str, Any]:
    """Read by the library, which fills in what a file leaves out."""
    from transformers import AutoConfig

    made: dict[str, Any] = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False).to_dict()
    return made

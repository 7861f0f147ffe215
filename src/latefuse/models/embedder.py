"""The adapter of an embedding task: LoRA (or parts trained whole), and the head, in one folder with one card."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from latefuse.config import MODALITIES, Modality, Task
from latefuse.config_vectors import Embed
from latefuse.models import adapters, heads
from latefuse.models.adapter_files import CARD, PEFT_CONFIG, AdapterCard, AdapterError, read_card
from latefuse.models.backbone import Backbone
from latefuse.models.whole import load_whole, put_back, save_whole, train_whole


def attach(backbone: Backbone, task: Task, seed: int) -> None:
    """Put a new head, and what the task trains of the backbone, on it; first weights come from `seed` alone.

    A light backbone is frozen: its head is all that learns. The bridge of a glued one comes from nothing and learns
    whole. Raises AdapterError for a tower that should learn, since its raw feature goes to the gate and is stored.
    """
    assert task.embed is not None
    unread = [modality for modality in task.modality if modality not in backbone.modalities]
    if unread:
        raise AdapterError(
            f"backbone {backbone.name!r} reads {', '.join(backbone.modalities)}, not {', '.join(unread)}"
        )
    if "tower" in task.adapter.on:
        raise AdapterError("adapter.on: the tower stays frozen in a task of kind embed; take language and bridge")
    heads.build(backbone, task.embed, task.modality, seed)
    if backbone.family.kind == "light":
        return
    shown = shown_modalities(task.embed, task.modality)
    if task.adapter.language_full:
        train_whole(backbone, task.adapter, media=shown != ["text"])
    else:
        from_nothing = backbone.family.kind == "glued" and "bridge" in task.adapter.on
        whole = task.adapter.bridge_full or from_nothing
        adapters.attach(backbone, task.adapter.model_copy(update={"bridge_full": whole}), shown, seed)


def shown_modalities(settings: Embed, inputs: Sequence[Modality]) -> list[Modality]:
    """What the language model itself reads: not the media that come in by the gate alone."""
    return ["text"] if settings.prompt == "none" else [m for m in MODALITIES if m in inputs]


def save(backbone: Backbone, folder: Path, card: AdapterCard) -> AdapterCard:
    """Write all parts with their card, numbers of parameters filled in; read again and checked. Raises AdapterError."""
    assert backbone.head is not None
    folder.mkdir(parents=True, exist_ok=True)
    total = adapters.base_size(backbone.model)
    own = heads.save_head(backbone.head, folder) + save_whole(backbone, folder)
    if backbone.peft is not None:
        card = adapters.save(backbone.peft, folder, card)
    card = card.model_copy(update={"parameters": card.parameters + own, "total_parameters": total})
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return card


def load(backbone: Backbone, folder: Path) -> AdapterCard:
    """Put a saved embedding adapter on the backbone, frozen, in evaluation mode; an earlier one is taken off.

    Raises AdapterError when it is of another kind or backbone, and unless every tensor lands.
    """
    card = read_card(folder)
    if card.kind != "embed" or card.embed is None:
        raise AdapterError(f"{folder / CARD}: an adapter of kind {card.kind!r}; vectors need one of kind embed")
    if card.backbone_digest != backbone.digest:
        raise AdapterError(
            f"{folder / CARD}: made on a backbone of digest {card.backbone_digest[:16]}, this one ({backbone.name}) "
            f"has {backbone.digest[:16]}; load the backbone it was trained on"
        )
    unload(backbone)
    heads.load_head(backbone, folder, card.embed, card.modality)
    if (folder / PEFT_CONFIG).exists():
        adapters.load(backbone, folder)
    load_whole(backbone, folder)
    backbone.model.eval()
    return card


def unload(backbone: Backbone) -> None:
    """Take head and adapter off; the backbone is as it was loaded."""
    backbone.head = None
    adapters.detach(backbone)
    put_back(backbone)


def digest(folder: Path) -> str:
    """SHA-256 over what makes the vectors, the adapter's weights and card: what an index is bound to."""
    whole = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.suffix in (".safetensors", ".json"):
            whole.update(f"{path.name}\0".encode())
            whole.update(hashlib.sha256(path.read_bytes()).digest())
    return whole.hexdigest()

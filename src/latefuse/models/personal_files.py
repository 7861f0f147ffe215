"""The files of a personalised adapter: its network, norm scales, LoRA where it has some, and the card."""

from __future__ import annotations

from pathlib import Path

from latefuse.models import adapters, personal
from latefuse.models.adapter_files import CARD, AdapterCard, AdapterError, load_tensors, read_card, write_tensors
from latefuse.models.backbone import Backbone
from latefuse.models.bottleneck import norm_scales
from latefuse.models.whole import WHOLE, load_whole, save_whole

PERSONAL = "personal.safetensors"


def save(backbone: Backbone, folder: Path, card: AdapterCard) -> AdapterCard:
    """Write all parts with their card, numbers of parameters filled in; read again and checked. Raises AdapterError."""
    network = personal.network_of(backbone)
    if network.bottlenecks is not None and not any(bool(one.up.any()) for one in network.bottlenecks.each):
        raise AdapterError(f"{folder}: every bottleneck is zero: nothing was learned (no step, or no gradient arrived)")
    folder.mkdir(parents=True, exist_ok=True)
    trained, total = personal.account_of(backbone).own
    write_tensors(folder / PERSONAL, network.state_dict())
    save_whole(backbone, folder)
    if backbone.peft is not None:
        card = adapters.save(backbone.peft, folder, card)
    told = {"personalise": network.settings, "parameters": trained, "total_parameters": total}
    card = card.model_copy(update=told)
    (folder / CARD).write_text(card.model_dump_json(indent=1) + "\n", encoding="utf-8")
    return card


def load(backbone: Backbone, folder: Path) -> AdapterCard:
    """Put a saved network on the backbone, frozen, in evaluation mode; an earlier one is taken off.

    Raises AdapterError when it is of another kind or backbone, and unless every tensor lands; then none is on it.
    """
    card = read_card(folder)
    if card.kind != "personalise" or card.personalise is None:
        raise AdapterError(f"{folder / CARD}: an adapter of kind {card.kind!r}; prompts need one of kind personalise")
    if card.backbone_digest != backbone.digest:
        raise AdapterError(
            f"{folder / CARD}: made on a backbone of digest {card.backbone_digest[:16]}, this one ({backbone.name}) "
            f"has {backbone.digest[:16]}; load the backbone it was trained on"
        )
    personal.unload(backbone)
    try:
        if card.personalise.adapter == "lora":
            adapters.load(backbone, folder)
        network = personal.bare(backbone, card.personalise, 0)
        load_tensors(folder / PERSONAL, network, "personalise")
        load_whole(backbone, folder)
        scales = norm_scales(backbone.model, backbone.family.language) if card.personalise.norms else []
        if set(scales) != set(backbone.whole):
            raise AdapterError(
                f"{folder / WHOLE}: {len(backbone.whole)} norm scales, this backbone has {len(scales)}: every one of "
                "them must be there"
            )
    except BaseException:
        personal.unload(backbone)
        raise
    backbone.model.eval()
    return card

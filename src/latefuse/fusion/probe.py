"""The proof on outputs: logits of a few rows under a saved merge, against those of the separate adapters."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from latefuse.fusion.changes import Change, added, inside
from latefuse.fusion.folders import apply_dense, read_json
from latefuse.fusion.proof import Check, Merge, compare_logits, reference
from latefuse.models import adapters
from latefuse.models.adapter_files import CARD
from latefuse.models.backbone import Backbone
from latefuse.prompts.splice import IGNORE
from latefuse.tasks import instruct
from latefuse.tasks.instruct import Example
from latefuse.training.features import Features

LOADED = "merged"


class Probe:
    """A small batch of every task's rows; `logits` (tokens, V) at the positions that predict its answers."""

    def __init__(self, backbone: Backbone, rows: Sequence[Sequence[Example]], features: Features) -> None:
        self.backbone = backbone
        # One batch a task: rows with other media do not share one in every family.
        self.batches = [instruct.collate(part, backbone, features) for part in rows if part]

    @torch.no_grad()
    def logits(self) -> Tensor:
        """Under whatever is switched on at the moment."""
        found = []
        for batch in self.batches:
            device = self.backbone.device
            media = batch.media.to(device) if batch.media else None
            hidden = self.backbone.hidden(batch.input_ids.to(device), batch.attention_mask.to(device), media)
            asked = batch.labels[:, 1:].to(device) != IGNORE
            found.append(self.backbone.logits(hidden[:, :-1][asked]).float().cpu())
        return torch.cat(found)


def attachable(changes: Sequence[Change]) -> bool:
    """Whether PEFT can hold them side by side: not where one trains a module whole and another a part of it."""
    return not any(
        inside(parameter, one.whole) and not inside(parameter, other.whole)
        for one in changes
        for other in changes
        for parameter in other.parameters
    )


@contextlib.contextmanager
def acting(backbone: Backbone, change: Change) -> Iterator[None]:
    """Inside the context one adapter acts alone: the attached one of that name, else its change on the weights."""
    if backbone.peft is not None and change.name in backbone.peft.peft_config:
        with adapters.active(backbone, change.name):
            yield
    else:
        with adapters.active(backbone, None), added(backbone.model, change):
            yield


@contextlib.contextmanager
def scaled(backbone: Backbone, weights: Mapping[str, float]) -> Iterator[None]:
    """Inside the context the attached LoRA adapters act together, each `weight` times; afterwards all is as before."""
    before: list[tuple[dict[str, float], str, float]] = []
    wanted = {name: weight for name, weight in weights.items() if weight}
    try:
        for module in backbone.model.modules():
            scaling: dict[str, float] = getattr(module, "scaling", None) or {}
            for name in scaling.keys() & wanted.keys() if isinstance(scaling, dict) else ():
                before.append((scaling, name, scaling[name]))
                scaling[name] *= wanted[name]
        with adapters.active(backbone, list(wanted)):
            yield
    finally:
        for scaling, name, value in before:
            scaling[name] = value


@contextlib.contextmanager
def loaded(backbone: Backbone, folder: Path) -> Iterator[None]:
    """Inside the context a saved merge acts alone, the way anyone would load it."""
    if read_json(folder / CARD)["dense"]:
        with adapters.active(backbone, None), apply_dense(backbone, folder):
            yield
        return
    with adapters.kept(backbone):
        adapters.load(backbone, folder, LOADED)
        try:
            yield
        finally:
            adapters.remove(backbone, LOADED)


def prove_logits(
    probe: Probe, folder: Path, merged: Merge, changes: Sequence[Change], tolerance: float
) -> tuple[list[Check], dict[str, Any]]:
    """The claims on the logits of the probe, and how far the merge moves them from the bare backbone's.

    The adapters are attached under the names of their changes if they can be. Where the merge (or, for the other claim,
    its exact settings) is the weighted sum of LoRA adapters, they are compared with those adapters, active and scaled;
    else with the dense reference put on the weights.
    """
    backbone = probe.backbone
    linear = all(not change.dense for change in changes)
    with adapters.active(backbone, None):
        bare = probe.logits()
    with loaded(backbone, folder):
        found = probe.logits()
    if merged.is_exact and linear:
        expected, what = _active(probe, changes, merged.weights), "the active adapters, scaled"
    else:
        compute = reference(merged, changes)
        names = {p for c, w in zip(changes, merged.weights, strict=True) if w for p in c.parameters}
        expected, what = _with(probe, {name: compute(name).float() for name in sorted(names)}), "its dense reference"
    checks = [compare_logits(f"logits of the saved folder are those of {what}", found, expected, tolerance)]
    if not merged.is_exact:
        checks += _exact_logits(probe, merged, changes, linear, tolerance)
    return checks, {"logit_change": float((found - bare).norm() / bare.norm())}


def _exact_logits(
    probe: Probe, merged: Merge, changes: Sequence[Change], linear: bool, tolerance: float
) -> Iterator[Check]:
    """With nothing dropped or cut: DARE and SVD are all adapters together, TIES (it still elects signs) each alone."""
    exact = merged.exact
    if merged.method != "ties" and linear:
        found = _with(probe, exact.run(changes))
        claim = "with nothing dropped or cut its logits are those of the active adapters, scaled"
        yield compare_logits(claim, found, _active(probe, changes, merged.weights), tolerance)
        return
    for change in changes:
        alone = Merge(exact.method, (1.0,), exact.density, exact.rank, exact.seed)
        found = _with(probe, alone.run([change]))
        claim = f"with nothing dropped or cut adapter {change.name} alone keeps its logits"
        with acting(probe.backbone, change):
            expected = probe.logits()
        yield compare_logits(claim, found, expected, tolerance)


def _with(probe: Probe, changes: Mapping[str, Tensor] | Change) -> Tensor:
    with adapters.active(probe.backbone, None), added(probe.backbone.model, changes):
        return probe.logits()


def _active(probe: Probe, changes: Sequence[Change], weights: Sequence[float]) -> Tensor:
    names = [change.name for change in changes]
    with scaled(probe.backbone, dict(zip(names, weights, strict=True))):
        return probe.logits()

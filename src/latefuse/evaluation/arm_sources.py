"""What is measured of the arms of one task: trained ones under every seed, and floors, which nothing trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from latefuse.config import Evaluation, Task
from latefuse.data.dataset import Dataset
from latefuse.evaluation.arms_summary import MeasuredArm
from latefuse.evaluation.scores import NO_SEED
from latefuse.models.backbone import Backbone
from latefuse.training.features import Features


@dataclass(frozen=True)
class Unit:
    """What is measured in one go: a trained arm under one seed, or, without a seed, a floor."""

    seed: int
    source: str

    def __str__(self) -> str:
        return self.source if self.seed == NO_SEED else f"{self.source}, seed {self.seed}"


@dataclass
class ArmSources:
    """Everything that is measured. name: of the main arm. adapters: (seed, arm) -> folder."""

    backbone: Backbone
    features: Features
    dataset: Dataset
    name: str
    arms: Mapping[str, Task]
    adapters: Mapping[tuple[int, str], Path]
    evaluation: Evaluation

    @property
    def task(self) -> Task:
        """The main arm's task."""
        return self.arms[self.name]

    @property
    def lead(self) -> Unit:
        """The main arm under its lowest seed: whose findings are shown and exported."""
        return Unit(min(seed for seed, arm in self.adapters if arm == self.name), self.name)

    def units_beside(self, floors: Mapping[str, object]) -> list[Unit]:
        """Trained arms first, they take longest, then floors."""
        return [Unit(*key) for key in self.adapters] + [Unit(NO_SEED, name) for name in floors]

    def told(self, floors: Mapping[str, str], meaning: Callable[[Task], str]) -> list[MeasuredArm]:
        """Floors, controls and the main arm, with words for what each is. floors: name -> words."""
        found = [MeasuredArm(name, name, told, "floor") for name, told in floors.items()]
        for name, task in self.arms.items():
            if any(arm == name for _, arm in self.adapters):
                found.append(MeasuredArm(name, name, meaning(task), "main" if name == self.name else "control"))
        return sorted(found, key=lambda arm: ("floor", "control", "main").index(arm.group))
